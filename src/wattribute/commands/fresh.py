"""Empty the folders of a store and of a local bus, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from wattribute.collector.log_file import FILE_NAME
from wattribute.commands.ends import is_used
from wattribute.errors import UsageError, WattributeError
from wattribute.settings import Settings, local_folder

# What chDB and wattribute create in the folder of a store.
_STORE: Final = frozenset(
    (
        *("owner.lock", "query.sock", "data", "metadata", "metadata_dropped", "store", "tmp", "uuid"),
        *("status", "flags", "access", "disks", "user_files", "user_defined", "format_schemas"),
        *("named_collections", "dictionaries_lib", "user_scripts", "preprocessed_configs"),
    )
)


def empty_folders(settings: Settings) -> None:
    """Empty the folders of the store and the bus. Raises UsageError where they contain anything else, or
    are not folders; WattributeError where the store or the bus is in use."""
    from wattribute.sinks.folder import folder_of, is_another_s, owner_of

    store, bus = folder_of(settings.store), local_folder(settings.bus)
    if store is None or bus is None:
        raise UsageError("--fresh can only empty folders: use it with chdb:// and local://")
    found: list[Path] = []
    for folder, is_ours in (
        (store, lambda name: name in _STORE),
        (bus, lambda name: name.startswith(FILE_NAME)),
    ):
        try:
            entries = list(folder.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"--fresh does not empty {folder}: {error.strerror}") from error
        if strange := sorted(entry.name for entry in entries if not is_ours(entry.name)):
            raise UsageError(
                f"--fresh does not empty {folder}: it contains {strange[0]}, which is not wattribute's"
            )
        if folder == store and is_another_s(folder):
            raise UsageError(f"--fresh does not empty {folder}: it belongs to another program")
        found += entries
    if owner := owner_of(store):
        raise WattributeError(f"the store {store} is in use by {owner}: stop it first")
    if is_used(bus):
        raise WattributeError(f"the bus {bus} is in use: stop what collects into it or streams from it first")
    for entry in found:
        _remove(entry)


def _remove(entry: Path) -> None:
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    except OSError as error:
        raise WattributeError(f"cannot remove {entry}: {error.strerror}") from error
