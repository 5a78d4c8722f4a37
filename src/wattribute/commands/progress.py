"""Read the progress of a run from its output: lines in, run records and units out."""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wattribute.errors import UsageError
from wattribute.records import Record, Run, Unit, is_plausible

_LINE_MAX_BYTES: Final = 4_096  # how much of a line is searched: a line may be gigabytes
_FILE_S: Final = 0.2
_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Patterns:
    """What to look for in a line: a group is the step, and a second group of ``progress`` the number of
    steps."""

    progress: re.Pattern[bytes] | None = None
    checkpoint: re.Pattern[bytes] | None = None
    resume: re.Pattern[bytes] | None = None

    def __bool__(self) -> bool:
        return any((self.progress, self.checkpoint, self.resume))


def pattern(option: str, text: str | None, least: int, most: int) -> re.Pattern[bytes] | None:
    """The regular expression of an option, with ``least`` to ``most`` groups. Raises UsageError."""
    if text is None:
        return None
    try:
        compiled = re.compile(os.fsencode(text))  # the bytes as they were given, whatever the locale
    except re.error as error:
        raise UsageError(f"{option} {text!r} is not a regular expression: {error}") from error
    if not least <= compiled.groups <= most:
        raise UsageError(
            f"{option} {text!r} has {compiled.groups} groups: put the step in parentheses: 'step (\\d+)'"
        )
    return compiled


class Lines:
    """Cuts chunks of text into lines, and passes on the beginning of each. A carriage return, with which a
    progress bar restarts its line, ends a line too."""

    def __init__(self, read: Callable[[list[bytes]], None]) -> None:
        self._read = read
        self._begun = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk."""
        lines = (self._begun + chunk).splitlines()
        self._begun = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()[:_LINE_MAX_BYTES]
        if lines:
            self._read([line[:_LINE_MAX_BYTES] for line in lines])


class Progress:
    """The progress of one attempt of a run. Lines may come from several threads; one calls ``records``.

    ``whose`` has the fields of a unit that say whose it is: run, phase, model, model_version.
    """

    def __init__(self, whose: Mapping[str, str], patterns: Patterns, steps: int | None) -> None:
        self.step: int | None = None
        self.went_back = 0  # steps below an earlier one
        self.unread = 0  # matches that hold no whole number
        self._whose = whose
        self._attempt = 0
        self._is_part = False
        self._patterns = patterns
        self._steps = steps
        self._checkpoint_step: int | None = None
        self._reached: int | None = None  # how far the attempt was before; such steps count once
        self._base: int | None = None  # the step that the attempt resumed from
        self._step_ns = 0  # when the step was read
        self._told = 0  # the step up to which units were reported, and when
        self._told_ns = 0
        self._waiting: list[Record] = []
        self._lock = threading.Lock()

    def start(
        self,
        attempt: int,
        checkpoint_step: int | None,
        is_part: bool = False,
        reached: int | None = None,
    ) -> None:
        """Call it when the command starts. ``checkpoint_step``: the last checkpoint of an earlier attempt.
        ``is_part``: the command is a part of an attempt, and whoever started that reports its start and end.
        ``reached``: the step that the attempt has already reached, if known."""
        self._attempt, self._checkpoint_step, self._is_part = attempt, checkpoint_step, is_part
        self._reached = reached
        self._told_ns = time.time_ns()
        if is_part:  # its first step reports where its steps begin, and how many there are
            return
        fresh = attempt == 0 and self._patterns.resume is None and reached is None
        self._base = 0 if fresh else None
        with self._lock:
            self._tell("start", self._base, self._told_ns)

    def end(self, status: int) -> None:
        """Call it when the command has ended."""
        if self._is_part:
            return
        with self._lock:
            self._tell("finish" if status == 0 else "fail", self.step, time.time_ns())

    @property
    def told_before(self) -> int | None:
        """The step that the attempt had reached before, if no step that was read goes beyond it."""
        return self._reached if self.step is not None and self.step <= (self._reached or 0) else None

    def read(self, lines: Sequence[bytes]) -> None:
        """Take lines of the output that came together."""
        with self._lock:
            now_ns = time.time_ns()
            for line in lines:
                self._read_line(line, now_ns)

    def _read_line(self, line: bytes, now_ns: int) -> None:
        looked_for = self._patterns
        if looked_for.resume and (found := looked_for.resume.search(line)):
            step = self._number(found, 1)
            if step is not None and self.step is None:
                self._resume(step, now_ns)
        self._read_step(line, now_ns)
        if looked_for.checkpoint and (found := looked_for.checkpoint.search(line)):
            kept = self.step if found.lastindex is None else self._number(found, 1)
            if kept is not None:
                self._tell("checkpoint", kept, now_ns)

    def records(self) -> list[Record]:
        """The records since the last call."""
        with self._lock:
            records, self._waiting = self._waiting, []
            if self.step is not None and self.step > self._told:
                unit = Unit(
                    t=self._step_ns,
                    unit="steps",
                    quantity=float(self.step - self._told),
                    period_ns=max(1, self._step_ns - self._told_ns),
                    source="run",
                    event_id=uuid.uuid4().hex,
                    attempt=self._attempt,
                    run=self._whose["run"],
                    model=self._whose["model"],
                    model_version=self._whose["model_version"],
                    phase=self._whose["phase"],
                )
                self._told, self._told_ns = self.step, self._step_ns
                records.append(unit)
            return records

    def _read_step(self, line: bytes, now_ns: int) -> None:
        found = self._patterns.progress.search(line) if self._patterns.progress else None
        if found is None:
            return
        step = self._number(found, 1)
        if step is None or (self.step is not None and step <= self.step):
            self.went_back += step is not None and step != self.step
            return  # an epoch that counts from 0 again, an evaluation, or a repeated step
        if found.re.groups == 2 and (steps := self._number(found, 2)):  # 0: not known
            self._steps = steps
        if self._base is None:
            known = self._checkpoint_step
            first = 0 if self._attempt == 0 else max(0, step - 1)
            base = known if known is not None and known < step else first
            self._resume(base if self._reached is None else self._reached, now_ns)
        self.step, self._step_ns = step, now_ns

    def _resume(self, step: int, now_ns: int) -> None:
        """Go on from this step. An earlier part of the attempt may have made the steps up to ``_reached``."""
        self._base, self._told = step, max(step, self._reached or 0)
        self._told_ns = now_ns
        self._tell("start", step, now_ns)

    def _tell(self, event: str, step: int | None, now_ns: int) -> None:
        record = Run(
            t=now_ns, run=self._whose["run"], attempt=self._attempt, event=event, step=step, steps=self._steps
        )
        self._waiting.append(record)

    def _number(self, found: re.Match[bytes], group: int) -> int | None:
        if found[group] is None:  # an optional group that did not match
            return None
        try:
            number = int(found[group].replace(b",", b""))
        except ValueError:
            number = -1
        if not is_plausible("step", number):
            self.unread += 1
            return None
        return number


def written(path: Path) -> int:
    """The size of a file in bytes; 0 if it does not exist yet. Raises UsageError if it is not a regular file:
    to open a named pipe would wait for a writer, for good."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"--progress-file {path} is not a regular file")
        return path.stat().st_size
    except OSError:
        return 0


def follow(path: Path, lines: Lines, ended: threading.Event, place: int = 0) -> None:
    """Read a growing file from ``place`` on, until ``ended`` is set, and then to its end. The file may appear
    later, or be truncated."""
    while True:
        last = ended.wait(_FILE_S)
        try:
            with path.open("rb") as file:
                if path.stat().st_size < place:
                    place = 0
                file.seek(place)
                while chunk := file.read(_FILE_BYTES):
                    lines.feed(chunk)
                place = file.tell()
        except OSError:  # not there yet, or not readable
            pass
        if last:
            lines.feed(b"\n")  # the last line may lack its end
            return
