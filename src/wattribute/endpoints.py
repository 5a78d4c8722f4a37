"""The ``[[endpoints]]`` of wattribute.toml: serving engines that are not found automatically, or that need a
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
    """The address where an engine serves its counters. ``model``, ``model_version`` and ``pod`` replace
    what the engine reports; ``token_file`` contains the bearer token that the engine requires."""

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
        """The host's name or IP address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port in the URL, or the default of its scheme."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def path(self) -> str:
        """The path with its query; /metrics where the URL has no path."""
        parts = urlsplit(self.url)
        path = parts.path if parts.path.strip("/") else _PATH
        return f"{path}?{parts.query}" if parts.query else path


def parse_endpoints(raw: object) -> tuple[Endpoint, ...]:
    """The endpoints in a TOML value. Raises UsageError."""
    if not isinstance(raw, list) or not all(isinstance(table, Mapping) for table in raw):
        raise UsageError("endpoints must be tables in the configuration file: [[endpoints]], then url = …")
    return tuple(_endpoint(table) for table in raw)


def _endpoint(table: Mapping[str, object]) -> Endpoint:
    known = [item.name for item in fields(Endpoint)]
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"endpoints: unknown key {key!r}; {meant(key, known)}")
        if not isinstance(value, str) or not value.isprintable():
            raise UsageError(f"endpoints: {key} is not a text of one line")
        if key in _NAMES and len(value) > NAME_MAX:
            raise UsageError(f"endpoints: {key} is longer than {NAME_MAX} characters")
    if "url" not in table:
        raise UsageError("endpoints: an entry has no url")
    url = str(table["url"])
    if "@" in url.partition("//")[2].partition("/")[0]:  # do not show the url: it contains a secret
        raise UsageError("endpoints: a url must contain no user and no password; use token_file")
    endpoint = Endpoint(**{key: str(value) for key, value in table.items()})
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:
        usable = False
    if not usable:
        shown = url.partition("?")[0]  # the query may contain a secret
        raise UsageError(f"endpoints: url {shown!r} is not http://host:port or http://host:port/path")
    return endpoint
