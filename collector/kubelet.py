"""The kubelet of this node: which pods it runs, without rights beyond the node.

It is asked in a thread of its own, with a limit to time and size: a kubelet that is slow, away or answers
with garbage delays nobody, and what it says later is told later. Its answer holds secrets, so nothing of it
is in an error; see ``pods`` for what is kept.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wattribute.collector.pods import Listing, Pod, read_pods
from wattribute.errors import WattributeError
from wattribute.settings import is_loopback

UNCHECKED: Final = "unchecked"
"""In place of the file of an authority: any certificate will do."""
_PERIOD_S: Final = 30.0  # labels and restart counts of a pod may change
_RETRY_S: Final = 1.0  # least time between two readings; doubles while they fail
_RETRY_MAX_S: Final = 60.0
_TIMEOUT_S: Final = 5.0  # of a single read
_DEADLINE_S: Final = 10.0  # of an answer, however it trickles in
_BREATH_S: Final = 0.0005  # between two pods: others may want the interpreter
# 250 pods of 30 kB are 7.5 MB.
_ANSWER_MAX_BYTES: Final = 16 << 20


class Kubelet:
    """The pods of this node, as last read from ``url``: that of a kubelet, or the path of a file.

    ``start`` reads in the background from then on; ``refresh`` reads now. ``readings``, ``failures`` and
    ``unusable`` pods of the last list are counted; ``problem`` says in one line what was wrong the last time.
    """

    def __init__(
        self, url: str, token_file: str = "", ca_file: str = "", kept_labels: Iterable[str] = ()
    ) -> None:
        self.readings = 0
        self.failures = 0
        self.unusable = 0
        self.problem = ""
        self._url, self._token_file, self._ca_file = url, token_file, ca_file
        self._kept_labels = tuple(kept_labels)
        self._listing = Listing({}, 0)  # replaced as a whole: others read it while the thread is at work
        self._by_name: dict[tuple[str, str], tuple[str, Pod]] = {}
        self._digest = b""
        self._wanted = threading.Event()
        self._closing = threading.Event()

    def start(self) -> None:
        """Read now and then, and soon where somebody asks for what is not known."""
        threading.Thread(target=self._work, name="kubelet", daemon=True).start()

    def close(self) -> None:
        """Read no more; what is on its way is left to itself."""
        self._closing.set()
        self._wanted.set()

    def pod(self, uid: str, container: str = "") -> Pod | None:
        """The pod, as far as it is known; never waits. What is not known of it is asked for."""
        pod = self._listing.pods.get(uid)
        if pod is None or (container and container not in pod.containers):
            self._wanted.set()
        return pod

    @property
    def pod_count(self) -> int:
        """How many pods are known."""
        return len(self._listing.pods)

    def named(self, namespace: str, name: str) -> tuple[str, Pod] | None:
        """Uid and pod of a name; never waits."""
        found = self._by_name.get((namespace, name))
        if found is None:
            self._wanted.set()
        return found

    def refresh(self) -> bool:
        """Read now; whether that went well."""
        try:
            raw = fetch(self._url, self._token_file, self._ca_file)
            digest = hashlib.blake2b(raw).digest()
            if digest == self._digest:  # as nearly always: nothing that is listed has changed
                listing = self._listing
            else:
                listing = read_pods(raw, self._kept_labels, lambda: time.sleep(_BREATH_S))
        except (WattributeError, ValueError) as error:
            self.failures += 1
            self.problem = str(error) if isinstance(error, WattributeError) else f"{self._url}: {error}"
            return False
        self.readings += 1
        self.unusable = listing.unusable
        self._by_name = {(pod.namespace, pod.name): (uid, pod) for uid, pod in listing.pods.items()}
        self._listing, self._digest = listing, digest
        return True

    def _work(self) -> None:
        pause_s = _RETRY_S
        while not self._closing.is_set():
            self._wanted.clear()
            pause_s = _RETRY_S if self.refresh() else min(2 * pause_s, _RETRY_MAX_S)
            if not self._closing.wait(pause_s):
                self._wanted.wait(max(0.0, _PERIOD_S - pause_s))


def fetch(url: str, token_file: str = "", ca_file: str = "") -> bytes:
    """The answer at ``url``, or what is in the file of that path. The token goes out over https alone.

    Raises WattributeError: what is wrong, and after a semicolon what to do; nothing of the answer is in it.
    """
    if url.startswith("/"):
        return _from_file(Path(url))
    connection = _connection(url, ca_file)
    headers = {"Accept": "application/json"}
    if isinstance(connection, HTTPSConnection) and (token := _token(token_file)):
        headers["Authorization"] = f"Bearer {token}"
    alarm: threading.Timer | None = None
    try:
        connection.connect()
        alarm = threading.Timer(_DEADLINE_S, _hang_up, [connection.sock])  # it gives that to the answer
        alarm.daemon = True
        alarm.start()
        connection.request("GET", urlsplit(url).path or "/pods", headers=headers)
        with connection.getresponse() as answer:  # no redirection is followed: it would take the token along
            if answer.status != 200:
                raise WattributeError(_refusal(url, answer.status, bool(token_file)))
            return _body(url, answer)
    except ssl.SSLCertVerificationError as error:
        raise WattributeError(
            f"{url}: its certificate is not to be trusted ({error.verify_message});"
            f" set kubelet_ca to the file of its authority, or to '{UNCHECKED}'"
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise WattributeError(f"{url}: {why}; is the kubelet there, and may this host reach it?") from None
    except (HTTPException, ValueError) as error:
        raise WattributeError(
            f"{url}: {type(error).__name__}, no answer of HTTP; is it the kubelet?"
        ) from None
    finally:
        if alarm is not None:
            alarm.cancel()
        connection.close()


def _connection(url: str, ca_file: str) -> HTTPConnection:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https":
        return HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        context = ssl.create_default_context(cafile=None if ca_file in ("", UNCHECKED) else ca_file)
    except OSError as error:  # ssl's own errors are of this kind
        lack = "is not there" if isinstance(error, FileNotFoundError) else "holds no certificates"
        raise WattributeError(
            f"kubelet_ca {ca_file} {lack}; set it to the file of the kubelet's authority"
        ) from None
    # A kubelet's certificate names the node, not the loopback address that the node reaches it at.
    context.check_hostname = not is_loopback(host) and ca_file != UNCHECKED
    if ca_file == UNCHECKED:
        context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


def _token(token_file: str) -> str:
    """Read each time: the kubelet renews it every hour or so."""
    try:
        token = Path(token_file).read_text("ascii").strip() if token_file else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        raise WattributeError(f"kubelet_token {token_file} cannot be read; run as a user who may") from None
    if not token.isprintable():
        raise WattributeError(f"kubelet_token {token_file} holds no token")
    return token


def _hang_up(sock: socket.socket) -> None:
    """End an answer that trickles in, which no time limit of a single read would."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _body(url: str, answer: HTTPResponse) -> bytes:
    raw = answer.read(_ANSWER_MAX_BYTES + 1)
    if len(raw) > _ANSWER_MAX_BYTES:
        raise WattributeError(f"{url}: more than {_ANSWER_MAX_BYTES >> 20} MiB; is it the kubelet?")
    if answer.length:
        raise WattributeError(f"{url}: not all came within {_DEADLINE_S:g} s; is the kubelet overloaded?")
    return raw


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_ANSWER_MAX_BYTES + 1)
    except OSError as error:
        raise WattributeError(f"{path}: {error.strerror}; set kubelet to where the pods are") from None
    if len(raw) > _ANSWER_MAX_BYTES:
        raise WattributeError(f"{path}: more than {_ANSWER_MAX_BYTES >> 20} MiB")
    return raw


def _refusal(url: str, status: int, with_token: bool) -> str:
    if status == 401:
        lack = "it does not know the token" if with_token else "it wants a token"
        return f"{url}: {lack} (HTTP 401); set kubelet_token to the file of a service account's token"
    if status == 403:
        return (
            f"{url}: the service account may not (HTTP 403); grant it 'get' on nodes/pods, or on nodes/proxy"
            " where the kubelet is older than Kubernetes 1.33"
        )
    return f"{url}: HTTP {status}; set kubelet to where this node's pods are"
