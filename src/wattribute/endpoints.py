"""The ``[[endpoints]]`` of wattribute.toml: serving engines that are not found by themselves, or that want a
name or a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

from wattribute.errors import UsageError, meant
from wattribute.records import NAME_MAX

_PATH = "/metrics"
_NAMES = ("model", "model_version", "pod")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an engine shows its counters. ``model``, ``model_version`` and ``pod`` stand in for what it says
    of itself; ``token_file`` holds the bearer token that it asks for."""

    url: str
    model: str = ""
    model_version: str = ""
    pod: str = ""
    token_file: str = ""

    @property
    def tls(self) -> bool:
        """Whether it is https."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """Name or number."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """As given, or the scheme's."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def path(self) -> str:
        """With its query; /metrics where none is given."""
        parts = urlsplit(self.url)
        path = parts.path if parts.path.strip("/") else _PATH
        return f"{path}?{parts.query}" if parts.query else path


def parse_endpoints(raw: object) -> tuple[Endpoint, ...]:
    """The endpoints in a TOML value. Raises UsageError."""
    if not isinstance(raw, list) or not all(isinstance(table, Mapping) for table in raw):
        raise UsageError("endpoints are tables of the configuration file: [[endpoints]], then url = …")
    return tuple(_endpoint(table) for table in raw)


def _endpoint(table: Mapping[str, object]) -> Endpoint:
    known = [item.name for item in fields(Endpoint)]
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"endpoints: unknown key {key!r}; {meant(key, known)}")
        if not isinstance(value, str) or not value.isprintable():
            raise UsageError(f"endpoints: {key} is not a text of one line")
        if key in _NAMES and len(value) > NAME_MAX:
            raise UsageError(f"endpoints: {key} is longer than {NAME_MAX}")
    if "url" not in table:
        raise UsageError("endpoints: one has no url")
    url = str(table["url"])
    if "@" in url.partition("//")[2].partition("/")[0]:  # told without the url, which holds a secret
        raise UsageError("endpoints: a url holds no user and no password; use token_file")
    endpoint = Endpoint(**{key: str(value) for key, value in table.items()})
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:
        usable = False
    if not usable:
        shown = url.partition("?")[0]  # what follows may be a secret
        raise UsageError(f"endpoints: url {shown!r} is not http://host:port or http://host:port/path")
    return endpoint
