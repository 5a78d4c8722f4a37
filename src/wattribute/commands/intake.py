"""Open the intake of a command that collects."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wattribute.collector.intake import Intake
from wattribute.collector.told import Told
from wattribute.commands.output import note
from wattribute.errors import UsageError
from wattribute.records import Record
from wattribute.settings import Settings, intake_address, is_loopback


@contextmanager
def open_intake(
    settings: Settings, simulated: bool, emit: Callable[[Sequence[Record]], None]
) -> Iterator[Told]:
    """Receive what applications report, to be taken at each flush. What arrives after the last flush goes to
    ``emit``.

    A simulated host listens only if the setting intake is given: real tokens must not be mixed with made-up
    joules. If the port is in use, print a warning and collect without an intake. Raises UsageError for an
    address that is not this machine's.
    """
    told = Told()
    address = intake_address(settings.intake)
    intake = None
    if address is not None and not (simulated and "intake" not in settings.origins):
        intake = _listening(address, settings, told)
    try:
        yield told
    finally:
        if intake is not None:
            intake.close()
            if left := told.take():
                emit(left)
            if told.health.requests or told.health.refused:
                note(f"intake: {told.health.shown()}")


def _listening(address: tuple[str, int], settings: Settings, told: Told) -> Intake | None:
    try:
        intake = Intake(address, settings, told)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            note(
                f"warning: {settings.intake} is in use, so applications cannot report tokens there;"
                " set intake to another port, or to off"
            )
            return None
        raise UsageError(f"cannot listen at intake {settings.intake}: {error.strerror or error}") from error
    reads = (
        "OTLP and plain HTTP" if intake.otlp.is_installed else "plain HTTP (OTLP needs 'wattribute[otlp]')"
    )
    open_to = "" if is_loopback(address[0]) else "; anyone who can reach this address can report tokens"
    note(f"applications can report tokens and quality at http://{intake.at}: {reads}{open_to}")
    return intake
