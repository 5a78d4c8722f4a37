"""A real intake on a real port, and applications that a real OpenTelemetry SDK instruments."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from wattribute.collector.intake import Intake
from wattribute.collector.told import Told
from wattribute.records import Record
from wattribute.settings import load_settings


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Running:
    """An intake that is listening."""

    intake: Intake
    told: Told

    @property
    def url(self) -> str:
        return f"http://{self.intake.at}"

    def post(self, path: str, body: bytes | str, method: str = "POST", **headers: str) -> Answer:
        """Send one request. Headers are named with _ in place of -."""
        host, _, port = self.intake.at.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def units(self) -> dict[tuple[str, str, str], float]:
        """The units reported since the last call: quantity by source, model and unit."""
        found: dict[tuple[str, str, str], float] = {}
        for record in self.told.take():
            told: Any = record
            key = (told.source, told.model, told.unit)
            found[key] = found.get(key, 0.0) + told.quantity
        return found

    def records(self) -> list[Record]:
        return list(self.told.take())


@pytest.fixture
def listen() -> Iterator[Callable[..., Running]]:
    """A function that opens an intake with the settings given; all are closed at the end."""
    opened: list[Running] = []

    def open_one(**settings: object) -> Running:
        told = Told()
        made = load_settings(settings, None, {"HOME": "/nowhere"})
        opened.append(Running(Intake(("127.0.0.1", 0), made, told), told))
        return opened[-1]

    yield open_one
    for running in opened:
        running.intake.close()


@pytest.fixture
def running(listen: Callable[..., Running]) -> Running:
    """An intake with default settings."""
    return listen()
