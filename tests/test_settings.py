"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattribute.errors import UsageError
from wattribute.settings import load_settings, local_folder
from wattribute.sinks.folder import folder_of

HOME = {"HOME": "/home/ada"}


def written(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "wattribute.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_an_option_wins_over_environment_file_and_default(tmp_path: Path) -> None:
    path = written(tmp_path, 'host = "file"\nfast_hz = 20\nslow_s = 2\nflush_s = 0.5\n')
    environ = HOME | {"WATTRIBUTE_HOST": "environment", "WATTRIBUTE_FAST_HZ": "30"}
    settings = load_settings({"host": "option", "store": None}, path, environ)
    assert (settings.host, settings.fast_hz, settings.slow_s, settings.window_ms) == (
        "option",
        30.0,
        2.0,
        1000,
    )
    origins = {row["key"]: row["from"] for row in settings.shown()}
    assert origins["host"] == "option --host"
    assert origins["fast_hz"] == "WATTRIBUTE_FAST_HZ"
    assert origins["slow_s"] == str(path)
    assert origins["window_ms"] == "default"


def test_the_file_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}, None, HOME).generation == 0
    written(tmp_path, "generation = 3")
    assert load_settings({}, None, HOME).generation == 3


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load_settings({}, written(tmp_path, "\ufeffgeneration = 3"), HOME).generation == 3


def test_store_and_bus_lie_in_the_users_data_folder() -> None:
    settings = load_settings({}, None, HOME)
    assert settings.store == "chdb:///home/ada/.local/share/wattribute/store"
    assert settings.bus == "local:///home/ada/.local/share/wattribute/bus"
    assert load_settings({}, None, HOME | {"XDG_DATA_HOME": "/d"}).store == "chdb:///d/wattribute/store"


def test_a_folder_of_any_name_is_found_again() -> None:
    settings = load_settings({}, None, {"XDG_DATA_HOME": "/d/100%25 #1?"})
    assert local_folder(settings.bus) == Path("/d/100%25 #1?/wattribute/bus")
    assert folder_of(settings.store) == Path("/d/100%25 #1?/wattribute/store")
    other = "chdb:///d/store?database=an-other"
    assert load_settings({"store": other}, None, HOME).store == other


def test_the_bus_lies_beside_the_store() -> None:
    assert load_settings({"store": "chdb:///srv/w/store"}, None, HOME).bus == "local:///srv/w/bus"


def test_tables_come_from_toml_and_from_texts(tmp_path: Path) -> None:
    text = """
        [labels]
        rack = "a7"
        [idle_watts]
        "NVIDIA H200" = 77.7
        [kafka]
        "enable.ssl.certificate.verification" = false
    """
    settings = load_settings({}, written(tmp_path, text), HOME | {"WATTRIBUTE_LABELS": "team=search, tier=1"})
    assert settings.labels == {"team": "search", "tier": "1"}
    assert settings.idle_watts == {"NVIDIA H200": 77.7}
    assert settings.kafka == {"enable.ssl.certificate.verification": "false"}


def test_all_problems_are_told_at_once_with_the_nearest_key(tmp_path: Path) -> None:
    path = written(tmp_path, 'stroe = "chdb:///x"\nwindow_ms = 0\n')
    environ = HOME | {"WATTRIBUTE_FAST_HERTZ": "10", "WATTRIBUTE_SLOW_S": "soon"}
    with pytest.raises(UsageError) as raised:
        load_settings({"bus": "kafka"}, path, environ)
    text = str(raised.value)
    assert "\n" not in text
    for part in (
        "unknown key 'stroe'; did you mean store?",
        "window_ms is 0: it must be 100 to 60000",
        "unknown variable WATTRIBUTE_FAST_HERTZ; did you mean WATTRIBUTE_FAST_HZ?",
        "WATTRIBUTE_SLOW_S: slow_s is 'soon', not a number",
        "option --bus: bus 'kafka' is neither",
    ):
        assert part in text


def test_a_key_that_is_near_to_none_gets_no_name_that_was_not_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load_settings({}, written(tmp_path, 'policy = "memory"\n'), HOME | {"WATTRIBUTE_POLICY": "memory"})
    text = str(raised.value)
    assert "unknown key 'policy'; remove it: 'wattribute check-config' lists all settings" in text
    assert "unknown variable WATTRIBUTE_POLICY; remove it" in text
    assert "did you mean" not in text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fast_hz = nan", "must be 1 to 100"),
        ("fast_hz = true", "not a number"),
        (f"fast_hz = 1{'0' * 400}", r"fast_hz is 10+\.\.\., not a number"),
        (f"window_ms = 1{'0' * 400}", r"window_ms is 10+\.\.\., not a whole number"),
        (f"window_ms = 1{'0' * 5000}", "not a TOML file"),
        (f"labels = {'[' * 3000}", "not a TOML file"),
        ("window_ms = 1.5", "not a whole number"),
        ("host = 3", "not a text"),
        ('host = "a\\u0007b"', "control characters"),
        ('host = "a\\u009bb"', "host holds control characters"),
        (f"team = '{'x' * 1025}'", "team is 1025 characters long; 1024 at most"),
        (f"labels = {{{', '.join(f'k{n} = 1' for n in range(65))}}}", "object of at most 64 texts"),
        ("labels = 3", "not a table"),
        (f"kubelet_labels = '{'a,' * 17}'", "kubelet_labels has 17 names; 16 at most"),
        ('labels = "team"', "write key=value"),
        ("[labels]\nteam = [1]", "not a plain value"),
        ("[idle_watts]\nH200 = -1", "0 to 10000 W"),
        ('[kafka]\n"sasl.password" = "x"', "set kafka_password"),
        ('store = "chdb://relative"', "^[^;]*neither chdb:///[^;]*$"),  # not of the bus, which nobody named
        ('store = "clickhouse://h:99999/d"', "neither chdb:///"),
        ('store = "clickhouse://h:http/d"', "neither chdb:///"),
        ('store = "clickhouse://[::1/d"', "neither chdb:///"),
        ('store = "clickhouse:///d"', "neither chdb:///"),
        ('store = "clickhouse://h:8123/d?password=hunter2"', r"/d\?…' is neither chdb:///"),
        ('store = "chdb:///w/a#b/store"', "'chdb:///w/a#b/store' is neither chdb:///"),
        ('store = "chdb:///w/%00/store"', "neither chdb:///"),
        ('bus = "local:///w/a?b/bus"', "neither kafka://"),
        ("scrape_s = 0.0001", "scrape_s is 0.0001: it must be 0, or 0.1 to 3600"),
        ("spool_max_bytes = 3", "is 3: it must be 1048576 to 17592186044416"),
        ("host", "not a TOML file"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        load_settings({}, written(tmp_path, text), HOME)


def test_a_configuration_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read"):
        load_settings({}, tmp_path / "none.toml", HOME)
    with pytest.raises(UsageError, match=r"cannot be read"):
        load_settings({}, None, HOME | {"WATTRIBUTE_CONFIG": str(tmp_path / "none.toml")})


def test_a_configuration_file_that_is_a_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wattribute.toml").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"wattribute\.toml cannot be read: Is a directory"):
        load_settings({}, None, HOME)


def test_a_configuration_file_that_is_a_link_to_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wattribute.toml").symlink_to(tmp_path / "not mounted")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"wattribute.toml cannot be read: No such file"):
        load_settings({}, environ={})


def test_variables_that_are_not_settings_are_left_alone() -> None:
    environ = HOME | {
        "WATTRIBUTE_MODEL": "llama",
        "WATTRIBUTE_RUN_ID": "r1",
        "WATTRIBUTE_STORE_PASSWORD": "x",
        "WATTRIBUTE_SERVICE_HOST": "10.0.0.1",
        "WATTRIBUTE_PORT_8123_TCP_ADDR": "10.0.0.1",
        "WATTRIBUTE_STREAM_PORT": "tcp://10.0.0.1:1",
        "WATTRIBUTE_STORE": "",
    }
    assert load_settings({}, None, environ).origins == {}


def test_secrets_come_from_closed_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    settings = load_settings({}, None, HOME | {"WATTRIBUTE_KAFKA_PASSWORD_FILE": str(secret)})
    assert settings.kafka_password == "hunter2"
    assert "hunter2" not in str(settings.shown())
    assert {row["key"]: row["value"] for row in settings.shown()}["kafka_password"] == "(set)"
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        load_settings({}, None, HOME | {"WATTRIBUTE_KAFKA_PASSWORD_FILE": str(secret)})
    with pytest.raises(UsageError, match="chmod 600"):
        load_settings({}, written(tmp_path, 'kafka_password = "x"', 0o644), HOME)
    with pytest.raises(UsageError, match=r"password cannot be read: No such file or directory$"):
        load_settings({}, None, HOME | {"WATTRIBUTE_KAFKA_PASSWORD_FILE": "/no/password"})
    assert load_settings({}, written(tmp_path, 'kafka_password = "x"', 0o600), HOME).kafka_password == "x"


def test_secrets_among_the_settings_of_kafka_are_not_shown() -> None:
    oauth = ("sasl.oauthbearer.client.secret", "sasl.oauthbearer.assertion.private.key.passphrase")
    secrets = ("ssl.key.password", "ssl.key.pem", *oauth)
    kafka = {"WATTRIBUTE_KAFKA": ",".join(f"{name}=hunter2" for name in secrets) + ",acks=all"}
    shown = str(load_settings({}, None, HOME | kafka).shown())
    assert "acks=all" in shown
    assert "hunter2" not in shown
    url = {"WATTRIBUTE_KAFKA": "sasl.oauthbearer.token.endpoint.url=https://me:hunter2@h/token"}
    assert "=https://me:(set)@h/token" in str(load_settings({}, None, HOME | url).shown())


def test_a_password_that_is_a_number_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kafka_password is not a text$"):
        load_settings({}, written(tmp_path, "kafka_password = 271828", 0o600), HOME)


@pytest.mark.parametrize("password", ["hunter2", "hun@ter2", "hunter2/@hunter2:"])
def test_a_password_in_a_url_is_not_shown(password: str) -> None:
    store = f"clickhouse://me:{password}@h:8123/d"
    if "/" not in password:
        shown = {row["key"]: row["value"] for row in load_settings({"store": store}, None, HOME).shown()}
        assert shown["store"] == "clickhouse://me:(set)@h:8123/d"
    for options in ({"store": store.replace("h:8123", "h:x")}, {"bus": f"kafka://me:{password}@h:9092"}):
        with pytest.raises(UsageError, match=r"me:\(set\)@h") as raised:
            load_settings(options, None, HOME)
        assert "ter2" not in str(raised.value)


@pytest.mark.parametrize(
    "bus",
    [
        *(
            "kafka://",
            "kafka://b:9092/topic",
            "kafka://b:abc",
            "kafka://b:99999",
            "kafka://a:9092,",
            "kafka://a@b",
        ),
        *("local://folder", "local:///", "redis://x", "redis://[x", ""),
    ],
)
def test_a_bus_is_kafka_or_a_folder(bus: str) -> None:
    with pytest.raises(UsageError, match="neither kafka://"):
        local_folder(bus)
    assert local_folder("kafka://a:9092,b:9092") is None
    assert local_folder("kafka://[::1]:9092,b/") is None
    assert local_folder("local:///var/lib/w%20a/bus") == Path("/var/lib/w a/bus")


RULES = """
[[rules]]
command = "*train_qwen.py*"
user = "/^(ada|bob)$/"
model = "qwen3-8b"
team = "search"

[[rules]]
namespace = "vision-*"
team = "vision"
"""


def test_rules_come_from_the_file_and_are_shown(tmp_path: Path) -> None:
    settings = load_settings({}, written(tmp_path, RULES), HOME)
    first, second = settings.rules
    assert first.fits({"command": "python3 train_qwen.py --lr 1", "user": "ada"})
    assert not first.fits({"command": "python3 train_qwen.py", "user": "adam"})
    assert not first.fits({"command": "python3 train_qwen.py"})  # whose user is not known
    assert second.fits({"namespace": "vision-eu"})
    shown = {row["key"]: row["value"] for row in settings.shown()}["rules"]
    assert "-> model=qwen3-8b, team=search; namespace ~ " in shown


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[[rules]]\ncomand = "x"\nteam = "t"', "rule 1: unknown key 'comand'; did you mean command?"),
        ('[[rules]]\nuser = "x"\nteem = "t"', "rule 1: unknown key 'teem'; did you mean team?"),
        ('[[rules]]\nuser = "/(/"\nteam = "t"', "rule 1: user is no regular expression"),
        ('[[rules]]\nuser = 3\nteam = "t"', "rule 1: user is 3, not a text"),
        ('[[rules]]\nuser = ""\nteam = "t"', "rule 1: user is '', not a text"),
        ('[[rules]]\nuser = "x"\nteam = "a\\u0007"', "control characters"),
        ('[[rules]]\nuser = "x"', "rule 1 has no field: add at least one of model"),
        (
            '[[rules]]\nuser = "x"\nteam = "t"\n[[rules]]\nteam = "t"',
            "rule 2 has no pattern: add at least one",
        ),
        ('rules = ["x"]', "rule 1 is 'x', not a table"),
        ('rules = "x"', r"write \[\[rules\]\]"),
        ('kubelet = "https://me:secret@node:10250/pods"', "kubelet is neither"),
        ('kubelet = "https://node/pods"', "kubelet is neither"),
        ('kubelet = "http://node:port/pods"', "kubelet is neither"),
    ],
)
def test_wrong_rules_and_kubelets_are_refused_in_a_line(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what.replace("?", r"\?")) as raised:
        load_settings({}, written(tmp_path, text), HOME)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_rules_do_not_fit_into_a_variable() -> None:
    with pytest.raises(UsageError, match="tables in the configuration file"):
        load_settings({}, None, HOME | {"WATTRIBUTE_RULES": "x"})


def test_endpoints_are_tables_of_the_file(tmp_path: Path) -> None:
    text = """
        scrape_s = 0
        [[endpoints]]
        url = "http://gpu-1:8000"
        model = "chat"
        [[endpoints]]
        url = "https://[::1]/prometheus/metrics?key=s3cret"
        token_file = "/run/token"
    """
    settings = load_settings({}, written(tmp_path, text), HOME)
    first, second = settings.endpoints
    assert (settings.scrape_s, first.host, first.port, first.path, first.tls) == (
        *(0.0, "gpu-1", 8000, "/metrics", False),
    )
    assert (second.host, second.port, second.path, second.tls) == (
        *("::1", 443, "/prometheus/metrics?key=s3cret", True),
    )
    (row,) = [row for row in settings.shown() if row["key"] == "endpoints"]
    assert row["value"] == "http://gpu-1:8000, https://[::1]/prometheus/metrics"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('endpoints = "http://a"', "endpoints must be tables"),
        ("[[endpoints]]\nmodel = 'm'", "an entry has no url"),
        ("[[endpoints]]\nurl = 'http://a'\nmodle = 'm'", "did you mean model"),
        ("[[endpoints]]\nurl = 'http://a'\nMODEL = 'm'", "did you mean model"),
        ("[[endpoints]]\nurl = 'http://a'\nsecret = 'm'", "it is one of url, model, model_version, pod,"),
        ("[[endpoints]]\nurl = 8000", "url is not a text"),
        ("[[endpoints]]\nurl = 'a:8000'", "'a:8000' is not http://host:port"),
        ("[[endpoints]]\nurl = 'http://a:99999/m?token=x'", "'http://a:99999/m' is not http://host:port"),
        ("[[endpoints]]\nurl = 'http://a b'", "is not http://host:port"),
        ("[[endpoints]]\nurl = 'http://a:0/metrics'", "is not http://host:port"),
        (f"[[endpoints]]\nurl = 'http://a'\nmodel = '{'m' * 257}'", "model is longer than 256 characters"),
        ("[[endpoints]]\nurl = 'http://ada:s3cret@a:1x'", "no user and no password; use token_file"),
    ],
)
def test_a_wrong_endpoint_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        load_settings({}, written(tmp_path, text), HOME)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
