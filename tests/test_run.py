"""``wattribute run``: what it passes through, what it reads, and figures worked out by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_library import compiled
from tests.needs import need
from tests.survival.processes import asked, ran, started, wait_until
from wattribute.commands import run
from wattribute.commands.ends import Worker
from wattribute.commands.measuring import Own
from wattribute.commands.progress import Lines, Patterns, Progress, follow, pattern, written
from wattribute.errors import BusError, UsageError
from wattribute.records import Record, Run, Unit
from wattribute.settings import Settings

# The command alone, as ``wattribute run`` starts it, without anything that measures.
PASSING = """
import os, sys
from wattribute.commands.passing import Command, end_as
seen = []
command = Command()
reader = (lambda: seen.append) if sys.argv[1] == "read" else None
command.start(sys.argv[2:], {**os.environ, "ADDED": "yes"}, reader)
status = command.wait()
command.release()
if reader:
    with open(os.environ["SEEN"], "wb") as file:
        file.write(b"".join(seen))
end_as(status)
"""
PYTHON = sys.executable


def passed(how: str, *words: str) -> list[str]:
    return [PYTHON, "-c", PASSING, how, *words]


@pytest.fixture(params=["untouched", "read"])
def how(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return str(request.param)


def test_what_goes_in_and_out_is_unchanged(how: str, tmp_path: Path) -> None:
    text = bytes(range(256)) * 1000 + b"\r 1%\r 2%\rno end"
    code = (
        "import sys; t = sys.stdin.buffer.read(); sys.stdout.buffer.write(t); sys.stderr.buffer.write(t[:99])"
    )
    done = subprocess.run(passed(how, PYTHON, "-c", code), input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, text[:99])
    if how == "read":
        assert len((tmp_path / "seen").read_bytes()) == len(text) + 99 + 2


def test_where_its_output_cannot_be_written_it_learns_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    # The engine blocks SIGPIPE in the process that runs the tests, and a command inherits that.
    heard = "import os, signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL);"
    heard += " signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE]); os.execlp('yes', 'yes')"
    with Path("/dev/full").open("wb") as full:
        writing = passed("read", PYTHON, "-c", heard)
        done = subprocess.run(writing, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGPIPE
    said = b"wattribute: the output of the command cannot be passed on: No space left on device\n"
    assert done.stderr == said


def test_the_order_of_two_outputs_into_one_file_is_kept(how: str) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    words = passed(how, PYTHON, "-c", code)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert done.stdout.split() == [b"%d" % number for number in range(2000)]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(0)", 0),
        ("import sys; sys.exit(77)", 77),
        ("import sys; sys.exit(130)", 130),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 15)", -15),
        ("import os; os.abort()", -6),
    ],
)
def test_it_ends_as_the_command_ends(how: str, code: str, status: int) -> None:
    done = subprocess.run(passed(how, PYTHON, "-c", code), capture_output=True, check=False)
    assert done.returncode == status


def test_what_a_command_inherits_is_what_it_would_have_inherited(how: str) -> None:
    code = (
        "import os, signal; print(os.environ['ADDED'], os.getpgrp(), signal.getsignal(signal.SIGHUP).name,"
        " sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),"
        # without 32 and 33, which belong to the C library
        " [int(line[7:], 16) & 0x7fffffff for line in open('/proc/self/status') if line[:7] == 'SigIgn:'])"
    )
    ours = subprocess.Popen(
        ["nohup", *passed(how, PYTHON, "-c", code)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    added, group, hangup, *_ = ours.communicate()[0].split()
    assert (added, group, hangup) == ("yes", str(ours.pid), "SIG_IGN")
    bare = subprocess.run(
        [PYTHON, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "ADDED": ""}
    )
    mine = subprocess.run(passed(how, PYTHON, "-c", code), capture_output=True, text=True, check=True)
    assert mine.stdout.split()[2:] == bare.stdout.split()[1:]


COUNTING = """
import os, signal, sys, time
seen = []  # os.write: one may come while another prints
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, _: (seen.append(number), os.write(1, b"%d\\n" % number)))
print("ready", flush=True)
while len(seen) < 6:
    time.sleep(0.01)
time.sleep(0.3)  # one too many would come now
print("end", *map(int, seen), flush=True)
"""


@contextmanager
def counting(how: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is ready to be sent six signals; nothing of it is left afterwards."""
    words = passed(how, PYTHON, "-c", COUNTING)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as ours:
        try:
            assert ours.stdout is not None
            assert ours.stdout.readline() == "ready\n"
            yield ours
        except BaseException:
            os.killpg(ours.pid, signal.SIGKILL)
            raise


def test_every_signal_comes_once_whether_sent_to_us_or_to_the_group(how: str) -> None:
    """As programs that save at a first SIGTERM and leave at a second need it."""
    # Never the same one twice while the first may still wait: two that wait are one.
    sent = [
        (os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT),
        (os.kill, signal.SIGUSR1), (os.kill, signal.SIGINT), (os.killpg, signal.SIGHUP),
    ]  # fmt: skip
    with counting(how) as ours:
        assert ours.stdout is not None
        for send, number in sent:
            send(ours.pid, number)
            assert ours.stdout.readline() == f"{int(number)}\n"
        assert ours.stdout.readline() == f"end {' '.join(str(int(number)) for _, number in sent)}\n"
    assert ours.returncode == 0


def test_a_signal_comes_once_however_late_a_machine_is_to_note_it(how: str) -> None:
    with counting(how) as ours:
        children = Path(f"/proc/{ours.pid}/task/{ours.pid}/children").read_text(encoding="ascii").split()
        sentinel = int(children[0])  # forked before the command is started
        os.kill(sentinel, signal.SIGSTOP)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.killpg(ours.pid, number)
        time.sleep(0.5)
        os.kill(sentinel, signal.SIGCONT)
        os.kill(ours.pid, signal.SIGUSR1)
        assert ours.stdout is not None
        seen = [ours.stdout.readline() for _ in range(3)]
        assert sorted(seen) == ["10\n", "15\n", "2\n"]
        for _ in range(3):  # it ends after six
            os.kill(ours.pid, signal.SIGUSR1)
            assert ours.stdout.readline() == "10\n"
        assert ours.stdout.readline().endswith(" 10 10 10\n")
    assert ours.returncode == 0


def on_a_terminal(words: list[str], typed: bytes) -> bytes:
    """What a terminal of 33 columns shows of a command when something is typed."""
    import fcntl
    import pty
    import struct
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 33, 0, 0))
    shown = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            shown += chunk
            if b"go\r\n" in shown and typed:  # the whole line, or the echo stands within it
                os.write(terminal, typed)
                typed = b""
    except OSError:  # so a terminal ends
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return shown + b"status %d" % os.waitstatus_to_exitcode(status)


def test_on_a_terminal_it_stays_a_terminal(how: str) -> None:
    code = (
        "import os, sys, time; time.sleep(0.3); columns = os.get_terminal_size(1).columns;"
        " print(*map(os.isatty, range(3)), columns, 'go');"
        " print(input() + '!'); sys.stderr.write('\\r50%\\r100%\\n')"
    )
    shown = on_a_terminal(passed(how, PYTHON, "-c", code), b"typed\n")
    assert b"True True True 33 go\r\n" in shown
    assert b"typed!\r\n" in shown
    assert shown.endswith(b"\r50%\r100%\r\nstatus 0")


def test_ctrl_c_reaches_the_command_once(how: str) -> None:
    code = (
        "import time, sys\n"
        "try:\n  print('go', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n  time.sleep(0.2); print('saved'); sys.exit(4)"
    )
    shown = on_a_terminal(passed(how, PYTHON, "-c", code), b"\x03")
    assert shown.endswith(b"saved\r\nstatus 4")


# What is read.


def reading_of(patterns: Mapping[str, str]) -> Progress:
    looked_for = {name: pattern(name, text, 0, 2) for name, text in patterns.items()}
    whose = {"run": "r", "model": "m", "model_version": "v", "phase": "training"}
    return Progress(whose, Patterns(**looked_for), None)


def read_of(
    *lines: str, attempt: int = 0, kept: int | None = None, **patterns: str
) -> tuple[Progress, list[Record]]:
    progress = reading_of(patterns)
    progress.start(attempt, kept)
    reading = Lines(progress.read)
    for line in lines:
        reading.feed(line.encode())
    return progress, progress.records()


def events_of(records: list[Record]) -> list[tuple[str, int | None]]:
    return [(record.event, record.step) for record in records if isinstance(record, Run)]


def test_steps_are_read_from_lines_and_from_progress_bars() -> None:
    bar = "\r 10%|█ | 5/50 [00:01<00:09]\r 20%|██ | 1", "0/50 [00:02<00:08]\r\x1b[A"
    progress, (start, unit) = read_of(*bar, progress=r"(\d+)/(\d+) \[")
    assert isinstance(start, Run)
    assert isinstance(unit, Unit)
    assert (start.event, start.step) == ("start", 0)
    assert (unit.unit, unit.quantity, unit.run, unit.model) == ("steps", 10, "r", "m")
    assert unit.period_ns is not None
    assert progress.step == 10
    assert progress.records() == []
    progress.end(0)
    (end,) = progress.records()
    assert isinstance(end, Run)
    assert (end.event, end.step, end.steps) == ("finish", 10, 50)


def test_a_pattern_may_hold_bytes_that_are_not_utf_8() -> None:
    looked_for = pattern("--progress", os.fsdecode(b"\xe9tape (\\d+)"), 1, 2)
    assert looked_for is not None
    assert looked_for.search(b"\xe9tape 7") is not None


def test_of_no_steps_is_not_how_many_there_are() -> None:
    """As of a loader whose length is not known."""
    progress, _ = read_of("step 3/0\n", progress=r"step (\d+)/(\d+)")
    progress.end(0)
    (end,) = progress.records()
    assert isinstance(end, Run)
    assert (end.step, end.steps) == (3, None)


def test_a_group_that_may_be_left_out() -> None:
    lines = "step 3/9\nstep 4\nsaved\nstep 5\nsaved at 4\n"
    progress, records = read_of(lines, progress=r"step (\d+)(?:/(\d+))?", checkpoint=r"saved(?: at (\d+))?")
    assert progress.unread == 0
    assert events_of(records) == [("start", 0), ("checkpoint", 4), ("checkpoint", 4)]


def test_what_counts_from_anew_and_what_is_no_number_is_no_progress() -> None:
    progress, records = read_of(
        "epoch 1 step 9\nepoch 2 step 3\n", "step x\n", "step 1,200\n", progress=r"step ([\dx,]+)"
    )
    assert progress.step == 1200
    assert progress.unread == 1
    assert progress.went_back == 1
    assert sum(record.quantity for record in records if isinstance(record, Unit)) == 1200


def test_of_lines_that_come_together_the_greatest_step_counts() -> None:
    """As a program that buffers its output writes them: an epoch that counts anew, and an evaluation."""
    progress, records = read_of("step 1/90\nstep 88/90\neval step 3/5\n", progress=r"step (\d+)/(\d+)")
    assert progress.step == 88
    assert sum(record.quantity for record in records if isinstance(record, Unit)) == 88
    progress.end(0)
    (end,) = progress.records()
    assert isinstance(end, Run)
    assert (end.step, end.steps) == (88, 90)


def test_no_step_is_told_of_the_time_before_the_first_of_a_retry() -> None:
    """Of it the cost is in vain, and how long it was is what the period of the first steps must not hide."""
    progress = reading_of({"progress": r"step (\d+)"})
    progress.start(1, 40)
    time.sleep(0.2)
    before_ns = time.time_ns()
    progress.read([b"step 41"])
    progress.read([b"step 44"])
    (unit,) = [record for record in progress.records() if isinstance(record, Unit)]
    assert unit.quantity == 4
    assert unit.t - (unit.period_ns or 0) >= before_ns


@pytest.mark.parametrize(
    ("lines", "reached", "resumed", "made"),
    [
        ("step 51\nstep 100\n", 50, 50, 50),
        ("resumed at 40\nstep 41\nstep 100\n", 50, 40, 50),  # ten of them are made again
        ("resumed at 70\nstep 71\nstep 100\n", 50, 70, 30),
        ("step 41\nstep 45\n", 50, 50, 0),
        ("step 51\nstep 100\n", None, 0, 100),  # nobody knows
    ],
)
def test_a_part_tells_the_steps_beyond_those_that_its_attempt_has_made(
    lines: str, reached: int | None, resumed: int, made: int
) -> None:
    looked_for = {"progress": r"step (\d+)", "resume": r"resumed at (\d+)"}
    progress = reading_of(looked_for)
    progress.start(0, None, is_part=True, reached=reached)
    progress.read([line.encode() for line in lines.splitlines()])
    records = progress.records()
    assert events_of(records) == [("start", resumed)]
    assert sum(record.quantity for record in records if isinstance(record, Unit)) == made
    assert progress.told_before == (None if made else reached)


@pytest.mark.parametrize(
    ("lines", "kept", "resumed"),
    [
        ("resumed at 6\nstep 7\n", None, 6),
        ("resumed at 6\nstep 7\n", 4, 6),
        ("step 7\n", 6, 6),  # from the last checkpoint
        ("step 6\n", 6, 5),  # made again
        ("step 3\n", 6, 2),  # from an earlier one that nobody told of
        ("step 7\n", None, 6),
    ],
)
def test_what_an_attempt_goes_on_from(lines: str, kept: int | None, resumed: int) -> None:
    looked_for = {"progress": r"step (\d+)", "resume": r"resumed at (\d+)"}
    _, records = read_of(lines, attempt=1, kept=kept, **looked_for)
    assert events_of(records) == [("start", None), ("start", resumed)]
    (unit,) = [record for record in records if isinstance(record, Unit)]
    assert unit.quantity == int(re.findall(r"step (\d+)", lines)[0]) - resumed


def test_a_checkpoint_is_of_its_own_step_or_of_the_last_one() -> None:
    _, records = read_of("step 5\nsaved 4\n", progress=r"step (\d+)", checkpoint=r"saved (\d+)")
    assert events_of(records) == [("start", 0), ("checkpoint", 4)]
    _, records = read_of("step 5\nsaved\n", progress=r"step (\d+)", checkpoint="saved")
    assert events_of(records) == [("start", 0), ("checkpoint", 5)]


def test_of_a_line_without_end_little_is_kept() -> None:
    import tracemalloc

    found: list[bytes] = []
    reading = Lines(found.extend)
    chunk = b"x" * (1 << 16)
    tracemalloc.start()
    for _ in range(2000):
        reading.feed(chunk)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reading.feed(b" step 5\nstep 6\n")
    assert peak_bytes < 1 << 20
    assert [len(line) for line in found] == [4096, 6]


def test_a_file_that_comes_later_and_begins_anew_is_followed(tmp_path: Path) -> None:
    import threading

    found: list[bytes] = []
    ended = threading.Event()
    path = tmp_path / "log"
    follower = threading.Thread(target=follow, args=(path, Lines(found.extend), ended))
    follower.start()

    def holds(count: int) -> None:
        deadline_s = time.monotonic() + 60
        while len(found) < count:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    path.write_text("first, which is long\nsecond\n")
    holds(2)
    path.write_text("third\n")
    holds(3)
    with path.open("a") as file:
        file.write("fourth, without an end")
    ended.set()
    follower.join()
    assert found == [b"first, which is long", b"second", b"third", b"fourth, without an end"]


def test_what_an_earlier_attempt_left_in_a_file_is_not_read(tmp_path: Path) -> None:
    """Programs append to their log: those steps were made before."""
    import threading

    path = tmp_path / "log"
    assert written(path) == 0
    path.write_text("resumed at 0\nstep 1\n")
    place = written(path)
    with path.open("a") as file:
        file.write("resumed at 1\nstep 2")
    found: list[bytes] = []
    ended = threading.Event()
    ended.set()
    follow(path, Lines(found.extend), ended, place)
    assert found == [b"resumed at 1", b"step 2"]


def test_steps_of_an_earlier_attempt_in_the_same_file_are_not_told(tmp_path: Path) -> None:
    log, store = tmp_path / "log", f"chdb://{tmp_path}/store"
    log.write_text("step 1/9\nstep 5/9\n")
    words = ("--progress", r"step (\d+)/(\d+)", "--progress-file", log, "--run", "r", "--attempt", "1")
    where = ("--store", store, "--bus", f"local://{tmp_path}/bus")
    ran("run", "--simulate", *words, *where, "--", "sh", "-c", f"echo step 6/9 >> {log}")
    told = "SELECT event, step FROM run_event FINAL WHERE run = 'r' AND step IS NOT NULL ORDER BY t, event"
    assert asked(store, told) == [[{"event": "start", "step": 5}, {"event": "finish", "step": 6}]]


def test_a_progress_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = ("run", "--simulate", "--progress", r"(\d+)", "--progress-file", str(tmp_path / "pipe"))
    refused = ran(*words, "--store", f"chdb://{tmp_path}/store", "--", "true", status=2)
    assert "is not a regular file" in refused.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [("step", "has 0 groups"), ("(a)(b)(c)", "has 3 groups"), ("(", "not a regular expression")],
)
def test_a_pattern_that_finds_no_step_is_refused(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        pattern("--progress", text, 1, 2)


# The whole, on a simulated device.

# 100 W, whoever holds it: joules follow from seconds alone.
STEADY = """
[host]
name = "lab"
provider = "nebius"
region = "eu-north1"
pricing = "on_demand"

[[gpu]]
name = "NVIDIA H200"
noise_ratio = 0
idle_w = 100
context_w = 0

[[tenant]]
name = "command"
command = true
gpus = [0]
pattern = "train"
watts_per_sm_percent = 0
"""
# Ten steps, a checkpoint after the fourth and the eighth; it fails after the sixth, hangs after the eighth,
# and then comes to its end.
TRAIN = """
import os, pathlib, sys, time
attempt = int(os.environ["WATTRIBUTE_ATTEMPT"])
first = (0, 4, 8)[attempt]
print(f"resumed at {first}", flush=True)
time.sleep(0.7)
for step in range(first + 1, 11):
    time.sleep(0.25)
    print(f"step {step}/10", flush=True)
    if step in (4, 8):
        print(f"saved {step}", flush=True)
    if (attempt, step) == (0, 6):
        sys.exit(3)
    if (attempt, step) == (1, 8):
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(600)
"""
USD_PER_NS = Fraction("3.5") / 3_600_000_000_000  # bundled: an hour of an H200 at Nebius on demand
LOOKED_FOR = (
    *("--progress", r"step (\d+)/(\d+)"),
    *("--checkpoint", r"saved (\d+)", "--resume", r"resumed at (\d+)"),
)
KEPT = (4, 8, None)  # by attempt, the step that the next one goes on from
WINDOW_MS = "200"


class Hand:
    """Run r worked out by hand: the GPU time of its windows, and what of each was in vain."""

    def __init__(self, store: str) -> None:
        self.windows, self.events, self.units = asked(
            store,
            "SELECT attempt, toUnixTimestamp64Milli(window_start) * 1000000 AS begin_ns,"
            " begin_ns + window_ms * 1000000 AS end_ns, gpu_time_equal_ns AS time_ns,"
            " active_energy_uj + idle_energy_equal_uj AS energy_uj"
            " FROM attribution FINAL WHERE run = 'r' ORDER BY begin_ns",
            "SELECT attempt, toUnixTimestamp64Nano(t) AS t, event, step FROM run_event FINAL"
            " WHERE run = 'r' ORDER BY t",
            "SELECT attempt, toUnixTimestamp64Nano(t) AS t, period_ns, quantity FROM unit FINAL"
            " WHERE run = 'r' AND unit = 'steps' ORDER BY t",
        )

    def told(self, attempt: int) -> list[tuple[str, int | None]]:
        return [(e["event"], e["step"]) for e in self.events if e["attempt"] == attempt]

    def at(self, attempt: int, event: str, step: int | None = None) -> int | None:
        found = (e for e in self.events if (e["attempt"], e["event"]) == (attempt, event))
        return next((e["t"] for e in found if step is None or e["step"] == step), None)

    def steps(self, attempt: int) -> int:
        return int(sum(unit["quantity"] for unit in self.units if unit["attempt"] == attempt))

    def time_ns(self, attempt: int) -> int:
        return sum(window["time_ns"] for window in self.windows if window["attempt"] == attempt)

    def cost_usd(self, *attempts: int) -> float:
        return float(sum(map(self.time_ns, attempts)) * USD_PER_NS)

    def wasted_usd(self, *attempts: int, most: bool = False) -> float:
        return float(sum(self.wasted_ns(attempt, most) for attempt in attempts) * USD_PER_NS)

    def working_from_ns(self, attempt: int, most: bool = False) -> Fraction:
        """When its first step ended: of q steps in a period, after one q-th of it; with all at most."""
        first = next(unit for unit in self.units if unit["attempt"] == attempt)
        rest = 0 if most else 1 - 1 / Fraction(first["quantity"])
        return Fraction(first["t"]) - Fraction(first["period_ns"]) * rest

    def wasted_ns(self, attempt: int, most: bool = False) -> Fraction:
        wasted_ns = Fraction(0)
        is_followed = any(event["attempt"] > attempt for event in self.events)
        lost_from_ns = self.at(attempt, "checkpoint", KEPT[attempt]) if is_followed else None
        for window in (window for window in self.windows if window["attempt"] == attempt):
            from_ns = max(window["begin_ns"], self.at(attempt, "start") or 0)
            ended_ns = self.at(attempt, "fail") or self.at(attempt, "finish") or window["end_ns"]
            to_ns = min(window["end_ns"], ended_ns) if ended_ns > from_ns else window["end_ns"]
            lost_ns = (
                Fraction(0) if lost_from_ns is None else Fraction(max(0, to_ns - max(from_ns, lost_from_ns)))
            )
            if attempt > 0:
                working_ns = self.working_from_ns(attempt, most)
                lost_ns += max(Fraction(0), min(Fraction(to_ns), working_ns) - from_ns)
            wasted_ns += Fraction(window["time_ns"]) * min(lost_ns / (to_ns - from_ns), Fraction(1))
        return wasted_ns


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("chdb")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "steady.toml").write_text(STEADY)
    (folder / "train.py").write_text(TRAIN)
    return folder


def training(lab: Path, *more: str) -> tuple[str, ...]:
    """The command line of an attempt."""
    of_run = ("--run", "r", "--model", "llama", "--model-version", "v3", "--team", "research")
    simulated = ("--simulate", "--scenario", f"{lab}/steady.toml", "--store", f"chdb://{lab}/store")
    return ("run", *simulated, *of_run, *LOOKED_FOR, *more, "--", PYTHON, f"{lab}/train.py", f"{lab}/hangs")


@dataclass(frozen=True)
class State:
    """What the store said after an attempt, and what it said itself."""

    hand: Hand
    row: dict[str, Any]
    stdout: str = ""
    stderr: str = ""


def state_of(lab: Path, stdout: str = "", stderr: str = "") -> State:
    store = f"chdb://{lab}/store"
    (row,) = json.loads(ran("runs", "--store", store, "--format", "json").stdout)
    return State(Hand(store), row, stdout, stderr)


@pytest.fixture(scope="module")
def failed(lab: Path) -> State:
    """After the first attempt, which failed."""
    done = ran(*training(lab, "--output", f"{lab}/first.json"), status=3, window_ms=WINDOW_MS)
    return state_of(lab, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def killed(lab: Path, failed: State) -> State:
    """After the second attempt: ``wattribute run`` was killed while it went on, and then its command too."""
    store = f"chdb://{lab}/store"
    running = started(*training(lab), window_ms=WINDOW_MS)
    wait_until((lab / "hangs").exists, running)
    told = "SELECT sum(quantity) AS steps, max(t) AS until FROM unit FINAL WHERE run = 'r' AND attempt = 1"
    wait_until(lambda: asked(store, told)[0][0]["steps"] == 4, running)
    # While it runs, a step counts once the window in which it ended is there.
    measured = f"SELECT max(last_at) > (SELECT until FROM ({told})) AS past FROM measured WHERE run = 'r'"
    wait_until(lambda: asked(store, measured)[0][0]["past"], running)
    running.kill()
    running.communicate()
    os.kill(int((lab / "hangs").read_text()), signal.SIGKILL)  # the command goes on without us
    ran("stream", "--bus", f"local://{lab}/bus", "--store", store, "--until-idle", window_ms=WINDOW_MS)
    return state_of(lab)


@pytest.fixture(scope="module")
def finished(lab: Path, killed: State) -> State:
    """After the third attempt, which came to the end."""
    done = ran(*training(lab), window_ms=WINDOW_MS)
    return state_of(lab, done.stdout, done.stderr)


exactly = partial(pytest.approx, rel=1e-9)


@pytest.mark.long
def test_an_attempt_that_failed(lab: Path, failed: State) -> None:
    hand = failed.hand
    assert failed.stdout.splitlines()[:3] == ["resumed at 0", "step 1/10", "step 2/10"]
    assert "What run r cost (SIMULATED DATA)" in failed.stderr
    assert re.search(r"^attempt 0 +failed +6 of 10 ", failed.stderr, re.MULTILINE)
    assert "measured by the GPU's energy counter; it had the GPU alone" in failed.stderr
    assert hand.told(0) == [("start", None), ("start", 0), ("checkpoint", 4), ("fail", 6)]
    assert hand.steps(0) == 6
    this, all_of_it = json.loads((lab / "first.json").read_text())
    assert (this["attempt"], this["outcome"], this["position"]) == (0, "failed", 6)
    assert (all_of_it["attempt"], all_of_it["attempts"]) == (None, 1)
    assert this["cost_usd"] == all_of_it["cost_usd"] == exactly(hand.cost_usd(0))
    # nobody has resumed it yet: what came after the checkpoint is lost at least, at most all of it
    assert 0 < this["wasted_usd"] < this["wasted_most_usd"] == exactly(hand.cost_usd(0))


@pytest.mark.long
def test_an_attempt_that_goes_on_costs_what_is_worked_out_by_hand(killed: State) -> None:
    hand, row = killed.hand, killed.row
    assert hand.told(1) == [("start", None), ("start", 4), ("checkpoint", 8)]
    assert hand.steps(1) == 4
    assert (row["attempts"], row["outcome"]) == (2, "running")  # nobody was there to tell its end
    assert (row["position"], row["target_position"]) == (8, 10)
    assert row["cost_usd"] == exactly(hand.cost_usd(0, 1))
    assert row["wasted_usd"] == exactly(hand.wasted_usd(0, 1))
    assert row["wasted_most_usd"] == exactly(hand.wasted_usd(0, 1, most=True))
    assert row["cost_usd_per_step"] == exactly(hand.cost_usd(0, 1) / 8)
    # the last 3 of its 4 steps tell the pace; what came after is part of what is told next
    until_ns = max(window["end_ns"] for window in hand.windows)
    told = [unit["t"] for unit in hand.units if unit["attempt"] == 1]
    paced_ns = max(told) - hand.working_from_ns(1)
    step_ns = paced_ns / 3
    apart_ns = step_ns * 4 / len(told)
    rest_ns = max(Fraction(0), 2 * step_ns - min(until_ns - max(told), apart_ns))
    usd_per_ns = (hand.cost_usd(1) - hand.wasted_usd(1)) / float(until_ns - hand.working_from_ns(1))
    assert row["projected_cost_usd"] == exactly(hand.cost_usd(0, 1) + float(rest_ns) * usd_per_ns)
    ends_ns = until_ns + rest_ns
    ends_s = datetime.fromisoformat(row["projected_end"]).timestamp()
    assert ends_s == pytest.approx(float(ends_ns) / 1e9, abs=0.002)


@pytest.mark.long
def test_a_run_that_has_come_to_its_end_costs_what_is_worked_out_by_hand(lab: Path, finished: State) -> None:
    hand, row = finished.hand, finished.row
    assert finished.stdout.splitlines() == ["resumed at 8", "step 9/10", "step 10/10"]
    assert re.search(r"^all 3 attempts +finished +10 of 10 ", finished.stderr, re.MULTILINE)
    assert (row["attempts"], row["outcome"], row["position"]) == (3, "finished", 10)
    assert row["cost_usd"] == exactly(hand.cost_usd(0, 1, 2))
    assert row["wasted_usd"] == exactly(hand.wasted_usd(0, 1, 2))
    assert row["wasted_most_usd"] == exactly(hand.wasted_usd(0, 1, 2, most=True))
    assert hand.wasted_usd(0, 1, 2) > hand.wasted_usd(0, 1) > hand.wasted_usd(0) > 0
    assert row["cost_usd_per_step"] == exactly(hand.cost_usd(0, 1, 2) / 10)
    assert row["projected_cost_usd"] is None
    energy_uj = sum(window["energy_uj"] for window in hand.windows)
    assert row["energy_j"] == exactly(energy_uj / 1e6)
    # 100 W are 100 J a second. The driver publishes its counter each 99 to 104 ms, at once when it starts:
    # what an attempt's last reading does not tell is up to 10.4 J, and each attempt has a driver of its own.
    watts, seconds = 100, sum(map(hand.time_ns, range(3))) / 1e9
    assert row["energy_j"] == pytest.approx(watts * seconds, abs=3 * 0.104 * watts)
    assert asked(f"chdb://{lab}/store", "SELECT * FROM conservation") == [[]]


@pytest.mark.long
def test_whose_a_process_is_comes_from_its_tags(lab: Path, finished: State) -> None:
    (rows,) = asked(
        f"chdb://{lab}/store",
        "SELECT DISTINCT model, model_version, team, phase, identity_source FROM process FINAL"
        " WHERE run = 'r'",
    )
    due = {"model": "llama", "model_version": "v3", "team": "research", "phase": "training"}
    assert rows == [due | {"identity_source": "tag"}]


@pytest.mark.long
@pytest.mark.usefixtures("lab")
def test_where_a_collector_is_here_it_is_only_told(tmp_path: Path) -> None:
    store, bus = f"chdb://{tmp_path}/store", f"local://{tmp_path}/bus"
    up = started("up", "--simulate", "--duration", "10m", "--store", store, window_ms=WINDOW_MS)
    try:
        wait_until((tmp_path / "store" / "query.sock").exists, up)
        wait_until(lambda: asked(store, "SELECT count() AS n FROM attribution")[0][0]["n"] > 0, up)
        code = "print('step 1/3', flush=True); print('step 2/3')"
        words = ("run", "--run", "told", "--progress", r"step (\d+)/(\d+)", "--store", store, "--bus", bus)
        done = ran(*words, "--", PYTHON, "-c", code)
        assert done.stdout == "step 1/3\nstep 2/3\n"
        assert "it was not seen on a GPU" in done.stderr  # of the simulated host
        refused = ran("run", "--simulate", "--store", store, "--", PYTHON, "-c", code, status=2)
        assert "a collector already sends to" in refused.stderr
        told = "SELECT event, step, steps FROM run_event FINAL WHERE run = 'told' ORDER BY t, step"
        counted = "SELECT sum(quantity) AS steps FROM unit FINAL WHERE run = 'told'"
        wait_until(lambda: asked(store, counted)[0][0]["steps"] == 2, up)
        ((start, end),) = asked(store, told)
        assert (start, end) == (
            {"event": "start", "step": 0, "steps": None},
            {"event": "finish", "step": 2, "steps": 3},
        )
        code = (
            f"import os, time; os.kill({up.pid}, 15)\n"
            f"while os.path.exists('/proc/{up.pid}/fd/0'): time.sleep(0.1)\ntime.sleep(1.5)"
        )
        alone = ran("run", "--run", "told", "--store", store, "--", PYTHON, "-c", code)
        print(alone.stderr)
        assert "the collector has ended: from now on nothing is measured" in alone.stderr
        ((last,),) = asked(
            store, "SELECT max(attempt) AS attempt, count() AS n FROM run_event WHERE run = 'told'"
        )
        assert last == {"attempt": 1, "n": 4}
    finally:
        up.kill()
        up.communicate()


def test_a_command_that_there_is_not(tmp_path: Path) -> None:
    done = ran(
        "run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--", "no-such-command", status=127
    )
    assert done.stderr == "wattribute: cannot run no-such-command: there is no such command\n"
    assert not (tmp_path / "store").exists()


def test_a_command_that_may_not_be_looked_at_ends_as_one_that_may_not_be_run(tmp_path: Path) -> None:
    word = f"/{'x' * 300}"  # as one in a folder of somebody else
    done = ran("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--", word, status=126)
    assert done.stderr == f"wattribute: cannot run {word}: File name too long\n"


def test_a_run_within_another_counts_its_own_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script that is run, and tries again what it starts."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    command = ("--", "sh", "-c", "echo $WATTRIBUTE_RUN $WATTRIBUTE_ATTEMPT")

    def attempt_of(*words: str) -> str:
        return ran("run", "--simulate", *where, *words, *command, run="outer", attempt="3").stdout

    assert attempt_of("--run", "inner") == "inner 0\n"
    assert attempt_of("--run", "inner") == "inner 1\n"
    assert attempt_of("--run", "inner", "--attempt", "3") == "inner 3\n"
    assert attempt_of() == "outer 3\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert attempt_of("--run", "inner") == "inner 2\n"


def test_a_command_that_sets_its_title_keeps_its_tags(tmp_path: Path) -> None:
    """setproctitle writes over what /proc shows of an environment, unless this is in it."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus", "--run", "r")
    assert ran("run", "--simulate", *where, "--", "sh", "-c", "echo $SPT_NOENV").stdout == "1\n"


def test_what_stops_the_command_stops_us_too(tmp_path: Path) -> None:
    """As Ctrl-Z does: the shell waits for us."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    words = ("run", "--simulate", *where, "--run", "r", "--", "sh", "-c", "echo begun; read line; exit 7")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([PYTHON, "-m", "wattribute", *words], text=True, process_group=0, **pipes) as ours:  # type: ignore[call-overload]
        assert ours.stdout.readline()
        os.killpg(ours.pid, signal.SIGTSTP)
        stopped = partial(os.waitid, os.P_PID, ours.pid, os.WSTOPPED | os.WNOHANG)
        wait_until(lambda: stopped() is not None, ours)
        os.killpg(ours.pid, signal.SIGCONT)
        ours.communicate("go on\n")
    assert ours.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_its_cost_is_worked_out_ends_it_as_the_command_ended(
    tmp_path: Path, number: signal.Signals
) -> None:
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    # Some windows: SM time is told a second late, and of the last one nobody waits for it.
    code = "echo begun; sleep 4; exit 7"
    words = ("run", "--simulate", *where, "--run", "r", "--", "sh", "-c", code)
    with subprocess.Popen(
        [PYTHON, "-m", "wattribute", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout is not None
        assert ours.stderr is not None
        assert ours.stdout.readline()
        children = Path(f"/proc/{ours.pid}/task/{ours.pid}/children")
        sentinel = children.read_text(encoding="ascii").split()[0]  # it ends when signals are ours again
        wait_until(lambda: sentinel not in children.read_text(encoding="ascii").split(), ours)
        ours.send_signal(number)
        said = [line for line in ours.stderr if "compiling" not in line]  # as on a busy machine
    assert ours.returncode == 7
    assert [line.partition(": not waiting for what it cost: ")[0] for line in said] == ["wattribute"]
    ran("run", "--simulate", *where, "--run", "other", "--", "true")  # the next one takes what is on the bus
    attempts, cost = asked(
        f"chdb://{tmp_path}/store",
        "SELECT outcome FROM attempt FINAL WHERE run = 'r'",
        "SELECT sum(active_energy_uj) > 0 AS any FROM attribution FINAL WHERE run = 'r'",
    )
    assert (attempts, cost) == ([{"outcome": "failed"}], [{"any": True}])


@pytest.mark.parametrize("number", [None, signal.SIGHUP])
def test_where_nobody_reads_what_it_cost_it_ends_as_the_command_ended(
    tmp_path: Path, number: signal.Signals | None
) -> None:
    """As in a terminal that is closed, of which a signal tells, or not."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    words = ("run", "--simulate", *where, "--run", "r", "--", "sh", "-c", "echo begun; sleep 1; exit 7")
    with subprocess.Popen(
        [PYTHON, "-m", "wattribute", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout is not None
        assert ours.stderr is not None
        assert ours.stdout.readline() == "begun\n"
        children = Path(f"/proc/{ours.pid}/task/{ours.pid}/children")
        wait_until(lambda: not children.read_text(encoding="ascii"), ours)
        ours.stderr.close()
        if number is not None:
            ours.send_signal(number)
        assert ours.wait() == 7


def test_a_run_within_itself_is_one_attempt_that_starts_and_ends_once(tmp_path: Path) -> None:
    """As a script that is run, and runs its parts so, of which one may fail."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    part = f"{PYTHON} -m wattribute run --run r --progress 's(.)/(.)' -- sh -c"
    code = f"{part} 'echo s1/2; exit 3'; {part} 'echo s2/2'"
    ran("run", "--simulate", *where, "--run", "r", "--", "sh", "-c", code)
    events, attempts, steps = asked(
        f"chdb://{tmp_path}/store",
        "SELECT event, attempt, step, steps FROM run_event FINAL ORDER BY t",
        "SELECT count() AS all, any(outcome) AS outcome FROM attempt FINAL",
        "SELECT position FROM attempt_progress",
    )
    begun = {"event": "start", "attempt": 0, "step": 0}
    assert events == [
        {**begun, "steps": None},
        {**begun, "steps": 2},  # where the steps of a part begin, and how many there are
        {**begun, "steps": 2, "step": 1},  # and of the next: when it was 0, 150 of 100 were made
        {"event": "finish", "attempt": 0, "step": None, "steps": None},
    ]
    assert attempts == [{"all": 1, "outcome": "finished"}]
    assert steps == [{"position": 2}]


def test_a_part_that_outlives_its_attempt_tells_how_it_ended(tmp_path: Path) -> None:
    """As what sbatch or setsid leaves behind has the environment of an attempt that is over."""
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    within = tmp_path / "within"
    words = ("--run", "r", "--progress", "s(.)/4", "--", "sh", "-c")
    ran("run", "--simulate", *where, *words, f"echo $WATTRIBUTE_WITHIN > {within}; echo s2/4")
    # a folder of the same name on another machine is another bus
    assert Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() in within.read_text()
    late = ("--attempt", "0", *words, "echo s3/4; echo s4/4; exit 3")
    ran("run", "--simulate", *where, *late, status=3, within=within.read_text().strip())
    events, steps = asked(
        f"chdb://{tmp_path}/store",
        "SELECT event, attempt, step FROM run_event FINAL ORDER BY t",
        "SELECT position FROM attempt_progress",
    )
    told = [("start", 0), ("finish", 2), ("start", None), ("start", 2), ("fail", 4)]
    assert [(row["event"], row["step"]) for row in events] == told
    assert {row["attempt"] for row in events} == {0}
    assert steps == [{"position": 4}]  # it was 6: they were counted from 0 anew


@pytest.mark.parametrize("outer", ["without a GPU", "on another bus"])
def test_a_run_within_one_that_tells_nobody_here_tells_its_start_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outer: str
) -> None:
    """As a batch script that is run on a machine without a GPU, and runs its part on another."""
    (tmp_path / "libnvidia-ml.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    where = f"--store chdb://{tmp_path}/store --bus local://{tmp_path}/bus"
    other = ("--store", f"chdb://{tmp_path}/other", "--bus", f"local://{tmp_path}/other-bus", "--simulate")
    part = f"{PYTHON} -m wattribute run --simulate {where} --run r -- true"
    words = other if outer == "on another bus" else where.split()
    done = ran("run", *words, "--run", "r", "--", "sh", "-c", part)
    assert ("nothing is measured: no GPU to read" in done.stderr) == (outer == "without a GPU")
    (attempts,) = asked(f"chdb://{tmp_path}/store", "SELECT run, attempt, outcome FROM attempt FINAL")
    assert attempts == [{"run": "r", "attempt": 0, "outcome": "finished"}]


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--attempt", str(1 << 32), "attempt 4294967296 is outside 0 to 4294967295"),
        ("--steps", str(1 << 63), "steps 9223372036854775808 is outside 0 to"),
        ("--price-per-gpu-hour", "inf", "--price-per-gpu-hour"),
    ],
)
def test_a_number_that_no_record_takes_is_refused_before_the_command_runs(
    tmp_path: Path, option: str, value: str, what: str
) -> None:
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", option, value)
    refused = ran(*words, "--", "touch", tmp_path / "ran", status=2)
    assert what in refused.stderr
    assert not (tmp_path / "ran").exists()


def test_a_name_that_is_not_utf_8_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--run", os.fsdecode(b"caf\xe9"))
    refused = ran(*words, "--", "touch", tmp_path / "ran", status=2)
    assert refused.stderr == "wattribute: run holds control characters\n"
    assert not (tmp_path / "ran").exists()


def test_a_name_is_told_as_a_collector_reads_it_from_the_environment(tmp_path: Path) -> None:
    """Else its steps were of one run, and what it cost of another."""
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--run")
    refused = ran(*words, "r" * 257, "--", "touch", tmp_path / "ran", status=2)
    assert refused.stderr == "wattribute: run is 257 characters long; 256 at most\n"
    assert not (tmp_path / "ran").exists()
    named = ran(*words, " sft\u200b7 ", "--", "sh", "-c", 'echo "<$WATTRIBUTE_RUN>"')
    assert named.stdout == "<sft 7>\n"
    nameless = ran(*words, " \u200b", "--", "sh", "-c", 'echo "<$WATTRIBUTE_RUN>"')
    assert nameless.stdout.startswith("<sh-")


def test_of_processes_that_are_not_seen_it_does_not_say_that_they_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a PID namespace of its own: NVML names the host's processes."""
    library = compiled(Path(__file__).parents[1] / "benchmarks" / "eight_gpus.c", "libnvidia-ml.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_PIDS", ",".join(["4194304"] * 8))  # no process has this number
    where = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus", "--run", "r")
    said = ran("run", *where, "--", "sleep", "1").stderr
    assert "it was not seen on a GPU\n" in said
    assert re.search(r"\d entries of lists of a GPU's processes match no process in /proc", said)


def test_where_what_was_read_is_lost_it_does_not_say_that_there_is_nothing_to_pay() -> None:
    """As on a full disk, or under ``ulimit -f``."""

    def collect() -> None:
        raise BusError("2 messages that waited in memory are lost")

    source: Any = SimpleNamespace(complaints=lambda health: ())
    own = Own(Settings(), source, "r", list)
    own._collector = Worker(collect, Event(), "collector")
    own._collector.wait()
    assert own.complaints() == ["2 messages that waited in memory are lost"]


def test_a_bug_in_the_report_does_not_change_how_the_command_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def end(self, ask: object) -> None:
            raise TypeError("not this")

    report: Any = run._report
    report(None, Broken(), 0, None)
    assert "because of a bug in wattribute: TypeError: not this" in capsys.readouterr().err


def test_a_script_that_does_not_say_what_runs_it_is_run_by_the_shell(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$0" "$@"; exit 3')
    script.chmod(0o755)
    done = subprocess.run(passed(how, str(script), "a b"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, f"{script} a b\n")


def test_a_file_on_the_path_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").write_text("no program")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--", "notes")
    assert ran(*words, status=126).stderr == "wattribute: cannot run notes: Permission denied\n"


def test_runs_that_nobody_named_and_that_begin_together_are_several() -> None:
    names = {run._made_up_name("/usr/bin/python3") for _ in range(20)}
    assert len(names) > 10  # they differ within a second, but for a rare chance
    assert all(re.fullmatch(r"python3-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in names)


def test_steps_that_do_not_count_are_pointed_out(tmp_path: Path) -> None:
    """Of three epochs the steps of one are told: a step seems to cost three times what it does."""
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--progress", r"step (\d+)/(\d+)")
    epochs = "for epoch in 1 2 3; do for step in 1 2 2; do echo step $step/2; done; done"
    done = ran(*words, "--bus", f"local://{tmp_path}/bus", "--", "sh", "-c", epochs)
    assert "wattribute: 2 steps were below an earlier one and do not count" in done.stderr
    again = ran(*words, "--bus", f"local://{tmp_path}/bus", "--", "sh", "-c", "echo step 1/2; echo step 1/2")
    assert "do not count" not in again.stderr


def test_a_file_that_may_not_be_run(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no program")
    words = ("run", "--simulate", "--store", f"chdb://{tmp_path}/store", "--", f"{tmp_path}/notes")
    assert ran(*words, status=126).stderr.endswith("Permission denied\n")


@pytest.mark.parametrize(
    ("told", "attempt"),
    [
        ({"SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "3"}, 1003),
        ({"SLURM_RESTART_COUNT": "2"}, 2),
    ],
)
def test_attempts_are_numbered_as_emit_numbers_them(
    tmp_path: Path, told: dict[str, str], attempt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    words = (
        "run",
        "--simulate",
        "--store",
        f"chdb://{tmp_path}/store",
        "--",
        "sh",
        "-c",
        "echo $WATTRIBUTE_ATTEMPT",
    )
    assert ran(*words, status=0).stdout == f"{attempt}\n"


def test_a_scenario_without_a_place_for_a_command_is_refused(tmp_path: Path) -> None:
    words = ("run", "--simulate", "--scenario", "churn", "--store", f"chdb://{tmp_path}/store", "--", "true")
    assert "has no place for a command" in ran(*words, status=2).stderr


def test_where_nothing_can_be_measured_the_command_runs_all_the_same(tmp_path: Path) -> None:
    """A folder that is no store; what is not ours of the command line is the command's."""
    (tmp_path / "other").write_text("not a store")
    words = (
        "run",
        "--simulate",
        "--store",
        f"chdb://{tmp_path}",
        "--bus",
        f"local://{tmp_path}/bus",
        "--run",
        "r",
    )
    code = "import sys; print(sys.argv[1:]); sys.exit(5)"
    done = ran(*words, "--", PYTHON, "-c", code, "--debug", "--help", "--", "-x", status=5)
    assert done.stdout == "['--debug', '--help', '--', '-x']\n"
    assert "what it cost is not known: " in done.stderr
    assert "holds other files and is not a store" in done.stderr
