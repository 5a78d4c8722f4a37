"""The folder of a chDB store: one process at a time holds it, and nobody but its owner may look into it."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from wattribute.errors import StoreError, UsageError

SOCKET: Final = "query.sock"  # of an owner that stays, and answers for the store
_LOCK: Final = "owner.lock"
_PATIENCE_S: Final = 0.5  # who merely asks for the owner holds the lock for an instant
# What holds it without a socket is a command with a question, which ends by itself, or is yet to open one.
PATIENCE_WITHOUT_SOCKET_S: Final = 15.0


def folder_of(url: str) -> Path | None:
    """The folder of a ``chdb://`` store, None for a server. Raises UsageError where no path is given."""
    parts = urlsplit(url)
    if parts.scheme != "chdb":
        return None
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/"):
        raise UsageError(f"store {url!r} names no folder: write chdb:///path/of/the/folder")
    return Path(path)


def is_another_s(folder: Path) -> bool:
    """Whether what is there is neither a store of ours nor an empty folder."""
    return not has_store(folder) and folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def has_store(folder: Path) -> bool:
    """Whether there is one of ours in a folder. Raises StoreError where that cannot be looked at."""
    try:
        (folder / _LOCK).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(folder, error) from error
    return True


def hold(folder: Path, create: bool) -> int:
    """Take the folder for this process; the lock ends when the number is closed or the process ends, however.
    What holds it for a question is waited for: a stream need not start again because someone asked.

    Raises StoreError where another process has it, where it cannot be used, or where it holds something else.
    """
    if not create and not has_store(folder):
        raise StoreError(f"there is no store in {folder}; 'wattribute up' or 'wattribute replay' makes one")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_another_s(folder):
            raise StoreError(f"{folder} holds other files and is no store; name an empty or a new folder")
        folder.chmod(0o700)
        began = time.monotonic()
        while (lock := _lock(folder)) is None:
            stays = (folder / SOCKET).exists()
            if time.monotonic() - began > (_PATIENCE_S if stays else PATIENCE_WITHOUT_SOCKET_S):
                raise StoreError(f"the store {folder} is in use by {_written(folder)}; stop that first")
            time.sleep(0.02)
        (folder / SOCKET).unlink(missing_ok=True)  # ours is the only process here: its owner was killed
        os.ftruncate(lock, 0)
        os.pwrite(
            lock, f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])})".encode(), 0
        )
    except OSError as error:
        raise _unusable(folder, error) from error
    return lock


def owner_of(folder: Path) -> str | None:
    """Who holds a store's folder, for an error line; None if nobody does. Raises StoreError."""
    if not has_store(folder):  # whatever folder it is: to ask leaves nothing in it
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
