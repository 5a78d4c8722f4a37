"""Fixtures of the collector's tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.collector.engine_server import EngineServer, engine_server, exposition
from tests.fake_nvml.library import FakeNvml, loaded
from tests.needs import missing


@pytest.fixture
def fake() -> Iterator[FakeNvml]:
    """The fake libnvidia-ml.so.1 with two devices, which NVIDIA's binding loads."""
    with loaded(gpus=2) as fake:
        yield fake


@pytest.fixture
def certified(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A function that makes a self-signed certificate and its key for a name: DNS:node-1, IP:127.0.0.1."""
    if shutil.which("openssl") is None:
        missing("openssl is not installed: it makes a certificate for the test")

    def make(name: str) -> tuple[Path, Path]:
        certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        made += ["-subj", "/CN=wattribute"]
        made += ["-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(made, check=True, capture_output=True)
        return certificate, key

    return make


@pytest.fixture
def server() -> Iterator[EngineServer]:
    """A server that answers as vLLM does."""
    with engine_server(exposition("vllm")) as made:
        yield made
