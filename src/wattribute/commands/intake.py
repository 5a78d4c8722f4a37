"""The intake of a command that collects."""

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
    """What applications tell, to be asked at each flush; what came after the last goes to ``emit``.

    A simulated host listens only where that is asked for: real tokens do not belong to made-up joules. Where
    the port is taken, it says so and collecting goes on without. Raises UsageError for an address that is not
    this machine's.
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
                f"warning: {settings.intake} is taken, so no application can tell it tokens;"
                " set intake to another port, or to off"
            )
            return None
        raise UsageError(
            f"intake {settings.intake} cannot be listened at: {error.strerror or error}"
        ) from error
    reads = (
        "OTLP and plain HTTP" if intake.otlp.is_installed else "plain HTTP (OTLP needs 'wattribute[otlp]')"
    )
    open_to = "" if is_loopback(address[0]) else "; whoever reaches this address can tell tokens here"
    note(f"applications can tell tokens and quality at http://{intake.at}: {reads}{open_to}")
    return intake
