"""How the intake handles each OTLP signal; OTLP's libraries are optional and may be missing."""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING, Final

from wattribute.collector.told import Told
from wattribute.settings import Settings, names_in

if TYPE_CHECKING:
    from wattribute.collector.otlp_metrics import MetricReader
    from wattribute.collector.otlp_spans import SpanReader

_NEEDED: Final = ("opentelemetry.proto", "google.rpc")


class Otlp:
    """Reads requests of metrics and traces. Logs are accepted but not used: they contain nothing that counts.

    ``is_installed``: whether the libraries are installed. ``began_ns``: when collecting began.
    """

    def __init__(self, settings: Settings, told: Told, began_ns: int) -> None:
        self.is_installed = all(_is_there(name) for name in _NEEDED)
        self._told = told
        self._reading = threading.Lock()  # the readers remember series and traces
        self._readers: dict[str, MetricReader | SpanReader] = {}  # by signal
        if self.is_installed:
            from wattribute.collector import otlp  # noqa: PLC0415 - an extra
            from wattribute.collector.otlp_metrics import MetricReader  # noqa: PLC0415
            from wattribute.collector.otlp_spans import SpanReader  # noqa: PLC0415

            self._otlp = otlp
            more = {name.lower() for name in names_in(settings.gateways)}
            naming = otlp.Naming(settings.model_aliases, otlp.GATEWAYS | more)
            metrics, traces = MetricReader(naming, told, began_ns), SpanReader(naming, told)
            self._readers = {"metrics": metrics, "traces": traces}

    def read(self, signal: str, body: bytes, is_json: bool, now_ns: int) -> bytes:
        """Take in a request; return the body of the answer. Raises RecordError, FullError."""
        request = self._otlp.decode(signal, body, is_json)
        reader = self._readers.get(signal)
        if reader is None:
            return self._otlp.answer(signal, {}, is_json)
        with self._reading:
            self._told.ensure_room()
            reading = reader.read(request, now_ns)
            self._told.put(reading.records)
        self._told.reject(reading.rejected)
        return self._otlp.answer(signal, reading.rejected, is_json)

    def refusal(self, why: str, is_json: bool) -> bytes:
        """The body of a failure."""
        return self._otlp.refusal(why, is_json)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
