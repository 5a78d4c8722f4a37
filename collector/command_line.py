"""A server's model, from its command line and environment: only values of allow-listed words are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from wattribute.collector.endpoints import Key, Server
from wattribute.collector.engines import ENGINES, Engine
from wattribute.collector.fetch import Address
from wattribute.collector.proc import read_file
from wattribute.records import clean


def described(root: Path, process: Key, address: Address, engine: Engine) -> Server:
    """The server of a process, with the model that its command line and environment name."""
    words = read_file(root, process[0], "cmdline").decode(errors="replace").split("\0")
    environ = _variables(read_file(root, process[0], "environ"), engine.model_variables)
    path = _option(words, engine.model_options) or next(iter(environ.values()), "")
    alias = _option(words, engine.alias_options) or path
    if alias.startswith(("/", ".")):  # a path: only its last part is a name
        alias = PurePath(alias).name
    return Server(process, address, engine, alias, path)


def silent_engine(root: Path, process: Key) -> str:
    """What to do about a process that looks like an engine but has no counters; '' for others."""
    words = read_file(root, process[0], "cmdline").decode(errors="replace").split("\0")
    for engine in ENGINES:
        if engine.program and engine.switch not in words and any(engine.program in word for word in words):
            return f"pid {process[0]} looks like {engine.name}: start it with {engine.switch} to have it read"
    return ""


def _option(words: Sequence[str], names: Sequence[str]) -> str:
    """The word after the first of ``names``, or after its equals sign. Nothing else is read."""
    for name in names:
        for word, value in zip(words, [*words[1:], ""], strict=True):
            if PurePath(word).name == name if not name.startswith("-") else word == name:
                if value and not value.startswith("-") and value not in names:
                    return _clean(value)
            elif name.startswith("-") and word.startswith(f"{name}="):
                return _clean(word.partition("=")[2])
    return ""


def _variables(environ: bytes, names: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for entry in environ.split(b"\0"):
        name, _, value = entry.decode(errors="replace").partition("=")
        if name in names and (text := _clean(value)):
            found.setdefault(name, text)
    return {name: found[name] for name in names if name in found}


def _clean(text: str) -> str:
    """The name of a model; '' for a URL with a user in it, which may contain a password."""
    return "" if "://" in text and "@" in text else clean(text)
