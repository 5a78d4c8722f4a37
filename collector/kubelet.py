"""The pods of this node, read from its kubelet, without rights beyond the node.

The kubelet is read in a thread of its own, with limits on time and size: one that is slow, unreachable or
answers with garbage delays nothing else; its pods then become known later. Its answer contains secrets, so no
error quotes it; see ``pods`` for what is kept.
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
"""Instead of the file of a certificate authority: any certificate is accepted."""
_PERIOD_S: Final = 30.0  # labels and restart counts of a pod may change
_RETRY_S: Final = 1.0  # shortest time between two readings; it doubles while they fail
_RETRY_MAX_S: Final = 60.0
_TIMEOUT_S: Final = 5.0  # of a single read
_DEADLINE_S: Final = 10.0  # of a whole answer, even one that trickles in
_BREATH_S: Final = 0.0005  # between two pods: lets other threads run
# 250 pods of 30 kB are 7.5 MB.
_ANSWER_MAX_BYTES: Final = 16 << 20


class Kubelet:
    """The pods of this node, as last read from ``url``: a kubelet's URL, or the path of a file.

    ``start`` reads in the background from then on; ``refresh`` reads now. ``readings`` and ``failures`` are
    counted, as are ``unusable`` pods of the last list. ``problem`` describes the last failure in one line.
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
        self._listing = Listing({}, 0)  # replaced as a whole, because other threads read it
        self._by_name: dict[tuple[str, str], tuple[str, Pod]] = {}
        self._digest = b""
        self._wanted = threading.Event()
        self._closing = threading.Event()

    def start(self) -> None:
        """Read every 30 s, and sooner when somebody asks for an unknown pod or container."""
        threading.Thread(target=self._work, name="kubelet", daemon=True).start()

    def close(self) -> None:
        """Stop reading; a reading in progress is not waited for."""
        self._closing.set()
        self._wanted.set()

    def pod(self, uid: str, container: str = "") -> Pod | None:
        """The pod, as far as it is known; never waits. An unknown pod or container triggers a reading."""
        pod = self._listing.pods.get(uid)
        if pod is None or (container and container not in pod.containers):
            self._wanted.set()
        return pod

    @property
    def pod_count(self) -> int:
        """How many pods are known."""
        return len(self._listing.pods)

    def named(self, namespace: str, name: str) -> tuple[str, Pod] | None:
        """Uid and pod, by namespace and name; never waits."""
        found = self._by_name.get((namespace, name))
        if found is None:
            self._wanted.set()
        return found

    def refresh(self) -> bool:
        """Read now; return whether that succeeded."""
        try:
            raw = fetch(self._url, self._token_file, self._ca_file)
            digest = hashlib.blake2b(raw).digest()
            if digest == self._digest:  # nearly always: the list has not changed
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
    """The answer at ``url``, or the content of the file of that path. The token is sent over https only.

    Raises WattributeError: what is wrong, and after a semicolon what to do. It quotes nothing of the answer.
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
        # The socket is passed now: the connection later hands it over to the answer.
        alarm = threading.Timer(_DEADLINE_S, _hang_up, [connection.sock])
        alarm.daemon = True
        alarm.start()
        connection.request("GET", urlsplit(url).path or "/pods", headers=headers)
        with connection.getresponse() as answer:  # redirects are not followed: they would get the token
            if answer.status != 200:
                raise WattributeError(_refusal(url, answer.status, bool(token_file)))
            return _body(url, answer)
    except ssl.SSLCertVerificationError as error:
        raise WattributeError(
            f"{url}: the kubelet's certificate cannot be verified ({error.verify_message});"
            f" set kubelet_ca to the file of its certificate authority, or to '{UNCHECKED}'"
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise WattributeError(
            f"{url}: {why}; check that the kubelet listens there and that this host may reach it"
        ) from None
    except (HTTPException, ValueError) as error:
        raise WattributeError(
            f"{url}: the answer is not HTTP ({type(error).__name__}); check that this is the kubelet's URL"
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
        lack = "does not exist" if isinstance(error, FileNotFoundError) else "contains no certificates"
        raise WattributeError(
            f"kubelet_ca {ca_file} {lack}; set it to the file of the kubelet's certificate authority"
        ) from None
    # A kubelet's certificate names the node, not the loopback address at which the node reaches it.
    context.check_hostname = not is_loopback(host) and ca_file != UNCHECKED
    if ca_file == UNCHECKED:
        context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


def _token(token_file: str) -> str:
    """The token, read from its file each time: the kubelet renews it about every hour."""
    try:
        token = Path(token_file).read_text("ascii").strip() if token_file else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        raise WattributeError(
            f"kubelet_token {token_file} cannot be read; run the collector as a user who may read it"
        ) from None
    if not token.isprintable():
        raise WattributeError(f"kubelet_token {token_file} is not the file of a token")
    return token


def _hang_up(sock: socket.socket) -> None:
    """End an answer that trickles in: the time limit of a single read would not."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _body(url: str, answer: HTTPResponse) -> bytes:
    raw = answer.read(_ANSWER_MAX_BYTES + 1)
    if len(raw) > _ANSWER_MAX_BYTES:
        raise WattributeError(
            f"{url}: the answer has more than {_ANSWER_MAX_BYTES >> 20} MiB;"
            " check that this is the kubelet's URL"
        )
    if answer.length:
        raise WattributeError(
            f"{url}: the answer was not complete within {_DEADLINE_S:g} s;"
            " check whether the kubelet is overloaded"
        )
    return raw


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_ANSWER_MAX_BYTES + 1)
    except OSError as error:
        raise WattributeError(
            f"{path}: {error.strerror}; set kubelet to the kubelet's URL, or to a file with its list of pods"
        ) from None
    if len(raw) > _ANSWER_MAX_BYTES:
        raise WattributeError(f"{path}: the file has more than {_ANSWER_MAX_BYTES >> 20} MiB")
    return raw


def _refusal(url: str, status: int, with_token: bool) -> str:
    if status == 401:
        lack = "the kubelet does not accept the token" if with_token else "the kubelet requires a token"
        return f"{url}: {lack} (HTTP 401); set kubelet_token to the file of a service account's token"
    if status == 403:
        return (
            f"{url}: the service account may not list pods (HTTP 403); grant it 'get' on nodes/pods, or on"
            " nodes/proxy if the kubelet is older than Kubernetes 1.33"
        )
    return f"{url}: HTTP {status}; set kubelet to the URL of this node's kubelet"
