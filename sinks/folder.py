"""The folder of a chDB store: one process at a time holds it, and only the user who owns it may look into
it."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from wattribute.errors import StoreError, UsageError

SOCKET: Final = "query.sock"  # of a long-running owner, which answers queries
_LOCK: Final = "owner.lock"
_PATIENCE_S: Final = 0.5  # to outlast owner_of() in another process, which holds the lock only for an instant
# A holder without a socket is a short command, like a query or 'price add', or has not opened its socket yet.
PATIENCE_WITHOUT_SOCKET_S: Final = 15.0


def folder_of(url: str) -> Path | None:
    """The folder of a ``chdb://`` store, None for a server. Raises UsageError if the URL has no path."""
    parts = urlsplit(url)
    if parts.scheme != "chdb":
        return None
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/"):
        raise UsageError(f"store {url!r} names no folder: write chdb:///path/to/the/folder")
    return Path(path)


def is_another_s(folder: Path) -> bool:
    """Whether ``folder`` exists, but is neither a store of wattribute nor an empty folder."""
    return not has_store(folder) and folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def has_store(folder: Path) -> bool:
    """Whether a folder contains a store of wattribute. Raises StoreError if that cannot be checked."""
    try:
        (folder / _LOCK).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(folder, error) from error
    return True


def hold(folder: Path, create: bool) -> int:
    """Lock the folder for this process. Returns the lock, a file descriptor: closing that unlocks the folder,
    and so does the end of the process, even by a kill. Waits for a short command: a query must not make a
    stream fail.

    Raises StoreError if another process has the folder, if it cannot be used, or if it holds other files.
    """
    if not create and not has_store(folder):
        raise StoreError(f"there is no store in {folder}; 'wattribute up' or 'wattribute replay' creates one")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_another_s(folder):
            raise StoreError(f"{folder} holds other files and is not a store; name an empty or new folder")
        folder.chmod(0o700)
        began = time.monotonic()
        while (lock := _lock(folder)) is None:
            stays = (folder / SOCKET).exists()
            if time.monotonic() - began > (_PATIENCE_S if stays else PATIENCE_WITHOUT_SOCKET_S):
                raise StoreError(f"the store {folder} is in use by {_written(folder)}; stop it first")
            time.sleep(0.02)
        (folder / SOCKET).unlink(missing_ok=True)  # we have the lock, so whoever left it was killed
        os.ftruncate(lock, 0)
        os.pwrite(
            lock, f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])})".encode(), 0
        )
    except OSError as error:
        raise _unusable(folder, error) from error
    return lock


def owner_of(folder: Path) -> str | None:
    """The process that holds a store's folder, for an error line; None if none does. Raises StoreError."""
    if not has_store(folder):  # _lock() would create a file in any folder
        return None
    try:
        lock = _lock(folder)
    except OSError as error:
        raise _unusable(folder, error) from error
    if lock is None:
        return _written(folder)
    os.close(lock)
    return None


def _unusable(folder: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot use the folder {folder} as a store: {error.strerror}")


def _written(folder: Path) -> str:
    return (folder / _LOCK).read_text(encoding="utf-8", errors="replace").strip() or "another process"


def _lock(folder: Path) -> int | None:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
