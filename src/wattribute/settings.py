"""Settings: the values that a command runs with, and where each value came from.

An option wins over the environment (``WATTRIBUTE_STORE``), the environment over the configuration file
(``wattribute.toml``), and the file over the default. An unknown key is an error. All problems are reported
at once.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from wattribute.endpoints import Endpoint, parse_endpoints
from wattribute.errors import RecordError, UsageError, has_controls, meant
from wattribute.records import parse, shown
from wattribute.rules import Rule, parse_rules

FILE: Final = "wattribute.toml"
PREFIX: Final = "WATTRIBUTE_"
CONFIG: Final = "WATTRIBUTE_CONFIG"
SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
INTAKE: Final = "127.0.0.1:4318"  # OTLP's port over HTTP
KAFKA_PASSWORD_FILE: Final = "WATTRIBUTE_KAFKA_PASSWORD_FILE"  # noqa: S105 - the name of the variable

# Variables of ours that are not settings: the store's secrets, and what says whose a process is.
_OTHER_VARIABLES: Final = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("CONFIG", "STORE_PASSWORD", "STORE_PASSWORD_FILE", "KAFKA_PASSWORD_FILE"),
        *("APPLICATION", "WORKLOAD", "PHASE", "MODEL", "MODEL_VERSION", "RUN", "RUN_ID", "ATTEMPT", "WITHIN"),
    )
)
# Kubernetes sets these in every pod for a service that is named wattribute.
_KUBERNETES: Final = re.compile(
    r"WATTRIBUTE(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT.*)|PORT(_\d+_(TCP|UDP|SCTP).*)?)"
)
# Names of librdkafka's settings that are secret.
_SECRET: Final = re.compile(r"password|passphrase|secret|key\.pem")
_NO_SETTING: Final = "remove it: 'wattribute check-config' lists all settings"
_ESCAPES: Final = str.maketrans({"%": "%25", "#": "%23", "?": "%3F"})
_WRITTEN: Final = " (in a path %25 stands for %, %23 for #, %3F for ?)"
# Every host record has these: if one value is refused, the host, team and price are lost with the record.
_OF_HOST: Final = ("host", "provider", "region", "pricing", "cluster", "team", "labels")
_POD_LABELS_MAX: Final = 16  # a workload has at most 64 labels, and the collector adds some itself
_PASSWORD: Final = re.compile(r"(?<=://)([^/:@]*):.*@")  # it may contain an unescaped / or @


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of a user's store and bus by default."""
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local/share")
    return Path(base) / "wattribute"


def _number(default: float, least: float, most: float, about: str, or_0: bool = False) -> Any:
    return field(default=default, metadata={"least": least, "most": most, "about": about, "or_0": or_0})


def _text(about: str, default: str = "", secret: bool = False) -> Any:
    return field(default=default, metadata={"about": about, "secret": secret})


def _table(about: str) -> Any:
    return field(default_factory=lambda: MappingProxyType({}), metadata={"about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked values. ``origins`` maps each key to where its value came from."""

    store: str = _text("where results are stored: chdb:///folder or clickhouse://user@host:8123/database")
    bus: str = _text("the bus that samples are sent to: local:///folder or kafka://broker:9092")
    host: str = _text("the name of this host in every row")
    window_ms: int = _number(1000, 100, 60_000, "length of a window")
    fast_hz: float = _number(10.0, 1, 100, "readings of energy and power a second")
    slow_s: float = _number(1.0, 0.1, 60, "seconds between readings of processes and memory")
    flush_s: float = _number(1.0, 0.05, 60, "seconds between messages to the bus")
    scrape_s: float = _number(
        5.0, 0.1, 3600, "seconds between readings of serving engines' counters; 0: none", or_0=True
    )
    endpoints: tuple[Endpoint, ...] = field(
        default=(), metadata={"about": "serving engines that are not found automatically: [[endpoints]]"}
    )
    spool: str = _text("folder that keeps samples while Kafka is away")
    spool_max_bytes: int = _number(1 << 30, 1 << 20, 1 << 44, "largest size of the spool or the local bus")
    generation: int = _number(
        0, 0, 255, "raise it when the topics are created anew, so that new rows replace old ones"
    )
    # The store's times end in 2106: rows that were to be deleted later than that were deleted at once.
    retention_days: int = _number(0, 0, 20_000, "days that stream keeps rows of single windows; 0: for ever")
    provider: str = _text("who rents the host out, as the price book names it: nebius, aws, …")
    region: str = _text("where the host is, as the price book names it")
    pricing: str = _text("what the host is charged as: on_demand, spot, …")
    cluster: str = _text("the cluster that the host belongs to")
    team: str = _text("the team that the host belongs to; a process may name another")
    labels: Mapping[str, str] = _table("labels of every row of this host")
    idle_watts: Mapping[str, float] = _table("idle level by GPU model, in W, instead of the learned one")
    watts_file: str = _text("file of what models draw on which GPU, from 'wattribute watts --format csv'")
    kafka: Mapping[str, str] = _table("settings of librdkafka: security.protocol, sasl.username, …")
    kafka_password: str = _text("sasl.password; only from a file or the environment", secret=True)
    kafka_group: str = _text("consumer group of stream", "wattribute")
    kafka_partitions: int = _number(12, 1, 10_000, "partitions of the samples topic, if it has to be created")
    kafka_replication: int = _number(1, 1, 10, "replicas of a topic that has to be created")
    kubelet: str = _text(
        "where to read this node's pods: https://ADDRESS:10250/pods, http://127.0.0.1:10255/pods, a file,"
        " or off; default in a pod: https://127.0.0.1:10250/pods"
    )
    kubelet_ca: str = _text(
        "file of the authority that signed the kubelet's certificate; unchecked: trust any",
        f"{SERVICE_ACCOUNT}/ca.crt",
    )
    kubelet_token: str = _text(
        "file of the token that is sent to the kubelet, over https only", f"{SERVICE_ACCOUNT}/token"
    )
    kubelet_labels: str = _text("further labels and annotations of pods to keep, by name: a,b,c")
    pod_resources: str = _text(
        "socket that reports which GPU is given to which pod, or off",
        "/var/lib/kubelet/pod-resources/kubelet.sock",
    )
    rules: tuple[Rule, ...] = field(
        default=(), metadata={"about": "[[rules]]: whose a process is, where nothing else names it"}
    )
    intake: str = _text("where applications report their units (OTLP, HTTP): address:port, or off", INTAKE)
    model_aliases: Mapping[str, str] = _table(
        "names of a model in requests, and the name of the model in the store"
    )
    gateways: str = _text("names of further services that are gateways, beside the known ones: name,name")
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def shown(self) -> list[dict[str, str]]:
        """Key, value and origin of each setting, without secrets."""
        rows = []
        for item in _keys():
            value = getattr(self, item.name)
            if item.name == "rules":
                value = "; ".join(map(str, value))
            elif isinstance(value, Mapping):
                value = ", ".join(
                    f"{key}={'(set)' if _SECRET.search(key) else _without_password(str(part))}"
                    for key, part in sorted(value.items())
                )
            elif isinstance(value, tuple):
                value = ", ".join(endpoint.url.partition("?")[0] for endpoint in value)
            elif item.metadata.get("secret"):
                value = "(set)" if value else ""
            elif item.name in ("store", "bus"):
                value = _without_password(value)
            origin = self.origins.get(item.name, "default")
            rows.append(
                {"key": item.name, "value": str(value), "from": origin, "about": item.metadata["about"]}
            )
        return rows


def load_settings(
    options: Mapping[str, object], config: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings in force. ``options`` are those of the command line; None means not given.

    Raises UsageError with every problem found, in one line.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources = [
        *_from_file(config, environ, problems),
        *_from_environment(environ, problems),
        *(
            (f"option --{key.replace('_', '-')}", key, value)
            for key, value in options.items()
            if value is not None
        ),
    ]
    known = {item.name: item for item in _keys()}
    for origin, key, raw in sources:
        try:
            values[key] = _value(known[key], raw)
            origins[key] = origin
        except UsageError as problem:
            problems.append(f"{origin}: {problem}")
    values["host"] = values.get("host") or socket.gethostname()
    values["store"] = values.get("store") or folder_url("chdb", data_folder(environ) / "store")
    values["bus"] = values.get("bus") or folder_url("local", _beside(values["store"], environ) / "bus")
    values["spool"] = values.get("spool") or str(data_folder(environ) / "spool")
    problems += _url_problems(values["store"], values["bus"], origins)
    problems += _kubelet_problems(values.get("kubelet", ""), origins)
    if (count := len(names_in(values.get("kubelet_labels", "")))) > _POD_LABELS_MAX:
        problems.append(
            f"{origins['kubelet_labels']}: kubelet_labels has {count} names; {_POD_LABELS_MAX} at most"
        )
    problems += _record_problems(values, origins)
    try:
        intake_address(values.get("intake", INTAKE))
    except UsageError as problem:
        problems.append(f"{origins['intake']}: {problem}")
    if problems:
        raise UsageError("; ".join(problems))
    return Settings(**values, origins=origins)


def local_folder(bus: str) -> Path | None:
    """The folder of a ``local://`` bus, None for Kafka. Raises UsageError for a URL that is neither."""
    scheme, _, rest = bus.partition("://")
    if scheme == "kafka" and "@" not in rest and all(map(_is_place, rest.rstrip("/").split(","))):
        return None
    if scheme == "local" and _is_path(rest):
        return Path(unquote(rest))
    raise UsageError(
        f"bus {_without_secrets(bus)!r} is neither kafka://broker:9092 nor local:///path/of/a/folder{_WRITTEN}"
    )


def folder_url(scheme: str, folder: Path) -> str:
    """The URL of a folder of any name, from which ``local_folder`` and the store get the folder back."""
    return f"{scheme}://{str(folder).translate(_ESCAPES)}"


def intake_address(intake: str) -> tuple[str, int] | None:
    """Address and port of ``address:port`` or ``[address]:port``, None for ``off``. Raises UsageError."""
    host, _, port = intake.rpartition(":")
    if intake == "off":
        return None
    if not host or not port.isdecimal() or int(port) > 65_535 or (":" in host) != host.startswith("["):
        raise UsageError(f"intake {intake!r} is neither address:port, such as {INTAKE}, nor off")
    return host.strip("[]"), int(port)


def names_in(text: str) -> list[str]:
    """The names in ``a,b,c``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_loopback(host: str) -> bool:
    """Whether a name or address is loopback, which no other machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keys() -> list[Field[Any]]:
    return [item for item in fields(Settings) if item.name != "origins"]


def _from_file(
    config: Path | None, environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[str, str, object]]:
    named = config or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    path = named or Path(FILE)
    if named is None and not path.exists() and not path.is_symlink():
        return  # but a broken link was put there on purpose, and is reported below
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # an editor may write a byte order mark
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return
    except (ValueError, RecursionError) as error:
        problems.append(f"{path} is not a TOML file: {error}")
        return
    known = [item.name for item in _keys()]
    for key, value in table.items():
        if key not in known:
            problems.append(f"{path}: unknown key {key!r}; {meant(key, known, _NO_SETTING)}")
        elif key == "kafka_password" and path.stat().st_mode & 0o077:
            problems.append(f"{path} contains a password and can be read by others: chmod 600 {path}")
        else:
            yield str(path), key, value


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str, object]]:
    known = {f"{PREFIX}{item.name.upper()}": item.name for item in _keys()}
    for name, value in environ.items():
        if name in known and value:
            yield name, known[name], value
        elif (
            name.startswith(PREFIX)
            and name not in known.keys() | _OTHER_VARIABLES
            and not _KUBERNETES.fullmatch(name)
        ):
            # Compared without their common prefix, which makes any two names similar.
            rests = [each.removeprefix(PREFIX) for each in (*known, *_OTHER_VARIABLES)]
            problems.append(f"unknown variable {name}; {meant(name, rests, _NO_SETTING, PREFIX)}")
    path = environ.get(KAFKA_PASSWORD_FILE)
    if path:
        try:
            if Path(path).stat().st_mode & 0o077:
                problems.append(f"{KAFKA_PASSWORD_FILE} {path} can be read by others: chmod 600 {path}")
            yield KAFKA_PASSWORD_FILE, "kafka_password", Path(path).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"{KAFKA_PASSWORD_FILE} {path} cannot be read: {reason}")


def _value(item: Field[Any], raw: object) -> Any:
    """The value of a key, from a TOML value or a text. Raises UsageError."""
    if item.name == "rules":
        return parse_rules(raw)
    if item.default is MISSING:
        return _mapping(item, raw)
    if item.name == "endpoints":
        return parse_endpoints(raw)
    if isinstance(item.default, str):
        if not isinstance(raw, str):
            told = "not a text" if item.metadata.get("secret") else f"{raw!r}, not a text"
            raise UsageError(f"{item.name} is {told}")
        if any(ord(char) < 32 for char in raw):
            raise UsageError(f"{item.name} holds control characters")
        return raw
    whole = isinstance(item.default, int)
    value = _as_number(item.name, raw, whole)
    least, most = item.metadata["least"], item.metadata["most"]
    if not (least <= value <= most or (item.metadata["or_0"] and value == 0)):  # NaN fails this too
        or_0 = "0, or " if item.metadata["or_0"] else ""
        raise UsageError(f"{item.name} is {value:.15g}: it must be {or_0}{least:.15g} to {most:.15g}")
    return value


def _as_number(name: str, raw: object, whole: bool) -> float:
    try:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        if whole and isinstance(raw, float) and not raw.is_integer():
            raise ValueError
        number = float(raw)
        return int(raw) if whole else number
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is {shown(raw)}, not a {'whole ' if whole else ''}number") from None


def _mapping(item: Field[Any], raw: object) -> Mapping[str, Any]:
    if isinstance(raw, str):
        pairs = [part.partition("=") for part in raw.split(",") if part.strip()]
        if any(not (equals and key.strip()) for key, equals, _ in pairs):
            raise UsageError(f"{item.name} is {raw!r}: write key=value,key=value")
        raw = {key.strip(): value.strip() for key, _, value in pairs}
    if not isinstance(raw, Mapping):
        raise UsageError(f"{item.name} is {raw!r}, not a table of keys and values")
    if item.name == "idle_watts":
        watts = {key: _as_number(f"idle_watts of {key}", value, whole=False) for key, value in raw.items()}
        if wrong := [key for key, value in watts.items() if not 0 <= value <= 10_000]:
            raise UsageError(f"idle_watts of {', '.join(wrong)} must be 0 to 10000 W")
        return MappingProxyType(watts)
    if item.name == "kafka" and "sasl.password" in raw:
        raise UsageError(
            "kafka: a password does not belong here; set kafka_password or WATTRIBUTE_KAFKA_PASSWORD"
        )
    if wrong := [key for key, value in raw.items() if isinstance(value, Mapping | list)]:
        raise UsageError(f"{item.name}: {', '.join(wrong)} is a table or a list, not a plain value")
    return MappingProxyType({key: _plain(value) for key, value in raw.items()})


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1:(set)@", url)


def _without_secrets(url: str) -> str:
    """A refused URL as it may be shown."""
    return re.sub(r"\?.*", "?…", _without_password(url))


def _is_path(text: str) -> bool:
    """Whether a text is a folder's path in a URL, with no query or fragment, which would be ignored."""
    is_whole = text.startswith("/") and bool(text.strip("/")) and not {"?", "#"} & set(text)
    return is_whole and not has_controls(unquote(text))


def _is_place(text: str) -> bool:
    """Whether a text is host or host:port, with or without user@ before it."""
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0 and parts.netloc == text
    except ValueError:  # not a valid port
        return False


def _is_store(store: str) -> bool:
    scheme, _, rest = store.partition("://")
    if scheme == "chdb":
        return _is_path(re.sub(r"\?database=[^?#&]+$", "", rest))
    return scheme == "clickhouse" and not {"?", "#"} & set(rest) and _is_place(rest.partition("/")[0])


def _url_problems(store: str, bus: str, origins: Mapping[str, str]) -> Iterator[str]:
    if not _is_store(store):
        yield (
            f"{origins.get('store', 'store')}: store {_without_secrets(store)!r} is neither"
            f" chdb:///path/of/a/folder nor clickhouse://user@host:8123/database{_WRITTEN}"
        )
        if "bus" not in origins:
            return  # the default bus is a folder beside the store
    try:
        local_folder(bus)
    except UsageError as problem:
        yield f"{origins.get('bus', 'bus')}: {problem}"


def _kubelet_problems(kubelet: str, origins: Mapping[str, str]) -> Iterator[str]:
    try:
        parts = urlsplit(kubelet)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port is not None
    except ValueError:  # not a valid port
        parts, plain = urlsplit(""), False
    if kubelet in ("", "off") or kubelet.startswith("/") or (plain and "@" not in parts.netloc):
        return
    yield (  # do not show the value: it may contain a password
        f"{origins.get('kubelet', 'kubelet')}: kubelet is neither https://ADDRESS:10250/pods, nor"
        " http://127.0.0.1:10255/pods, nor the path of a file, nor off"
    )


def _record_problems(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    for key in _OF_HOST:
        value = values.get(key)
        said = dict(value) if isinstance(value, Mapping) else value
        try:
            parse({"kind": "trace" if key == "host" else "host", "t": 1, "version": 1, key: said})
        except RecordError as problem:
            yield f"{origins.get(key, key)}: {problem}"


def _beside(store: str, environ: Mapping[str, str]) -> Path:
    is_folder = store.startswith("chdb:///")
    return Path(unquote(urlsplit(store).path)).parent if is_folder else data_folder(environ)
