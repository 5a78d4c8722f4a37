"""Rules: how the configuration names processes that nothing else names.

A rule is a table of the configuration file. Some of its keys are patterns, which must all match a process;
the others say whose the process then is:

    [[rules]]
    command = "*train_qwen.py*"     # a glob, which must match the whole text
    user = "/^(ada|bob)$/"          # between slashes: a regular expression, found anywhere
    model = "qwen3-8b"
    team = "search"
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wattribute.errors import UsageError, meant
from wattribute.records import NAME_MAX

PATTERNS: Final = ("command", "image", "user", "namespace", "container")
"""What a rule can match of a process: its command line, its user, the image and name of its container, …"""
FIELDS: Final = ("model", "model_version", "run", "team", "application", "workload", "phase")
"""What a rule can set for a process."""
TAGS: Final = (*FIELDS, "attempt")
"""What a process and its pod can declare about themselves."""
COMMAND_MAX: Final = 4096
"""So many characters of a command line are matched: a regular expression takes too long on megabytes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Where all ``patterns`` match, a process gets the fields in ``says``."""

    patterns: Mapping[str, re.Pattern[str]]
    says: Mapping[str, str]

    def fits(self, seen: Mapping[str, str]) -> bool:
        """Whether all patterns match ``seen``, the values seen of a process."""
        # A value that is not known matches no pattern, not even '*'.
        return all(seen.get(name) and pattern.search(seen[name]) for name, pattern in self.patterns.items())

    def __str__(self) -> str:
        """The rule in one line; a glob is shown as a regular expression."""
        asked = [f"{name} ~ {pattern.pattern}" for name, pattern in self.patterns.items()]
        return f"{', '.join(asked)} -> {', '.join(f'{name}={text}' for name, text in self.says.items())}"


def parse_rules(raw: object) -> tuple[Rule, ...]:
    """The rules of a configuration file. Raises UsageError, which gives the rule's number, from 1 on."""
    if not isinstance(raw, list):
        raise UsageError("rules must be tables in the configuration file: write [[rules]] above each")
    return tuple(_rule(f"rule {place}", table) for place, table in enumerate(raw, 1))


def _rule(name: str, table: object) -> Rule:
    if not isinstance(table, Mapping):
        raise UsageError(f"{name} is {table!r}, not a table: write [[rules]] above its keys")
    patterns: dict[str, re.Pattern[str]] = {}
    says: dict[str, str] = {}
    for key, text in table.items():
        if key not in (*PATTERNS, *FIELDS):
            raise UsageError(f"{name}: unknown key {key!r}; {meant(key, (*PATTERNS, *FIELDS))}")
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{name}: {key} is {text!r}, not a text")
        if key in PATTERNS:
            patterns[key] = _pattern(name, key, text)
        elif len(text) > NAME_MAX or not text.isprintable():
            raise UsageError(f"{name}: {key} holds control characters or more than {NAME_MAX} characters")
        else:
            says[key] = text
    for keys, given, what in ((PATTERNS, patterns, "no pattern"), (FIELDS, says, "no field")):
        if not given:
            raise UsageError(f"{name} has {what}: add at least one of {', '.join(keys)}")
    return Rule(patterns, says)


def _pattern(name: str, key: str, text: str) -> re.Pattern[str]:
    is_regex = len(text) > 2 and text.startswith("/") and text.endswith("/")
    try:
        return re.compile(text[1:-1] if is_regex else rf"\A{fnmatch.translate(text)}")
    except re.error as error:
        raise UsageError(f"{name}: {key} is no regular expression: {error}") from None


def said(rules: Sequence[Rule], seen: Mapping[str, str]) -> dict[str, str]:
    """The fields set by the rules that match; where two set the same field, the first rule counts."""
    found: dict[str, str] = {}
    for rule in rules:
        if rule.fits(seen):
            found = {**rule.says, **found}
    return found
