"""A command run in our place: its streams, signals and end are those that it would have without us.

It stands in our process group, so that the terminal, job control and whoever signals the group reach it as
ever. A signal that is sent to us alone is passed on. To tell the two apart there is a sentinel: a process of
the group that only notes which signals come. What reached it has reached the command too; passed on again, a
second SIGTERM would be taken for "at once" by programs that save a checkpoint at the first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import resource
import select
import shutil
import signal
import termios
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wattribute.commands.output import note
from wattribute.errors import WattributeError

PASSED: Final = frozenset(
    (
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGALRM, signal.SIGWINCH, signal.SIGPWR),
    )
)
ENDING: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM))
_AWAITED: Final = PASSED | {signal.SIGCHLD}
# Taken after all of the above that wait with it: the lowest number comes first.
_ASKED: Final = signal.SIGRTMIN
NOT_FOUND: Final = 127  # as shells say it
_NOT_EXECUTABLE: Final = 126
_SENTINEL_S: Final = 0.05  # the kernel tells a group in one go; systemd and Slurm one process after the other
_ANSWER_S: Final = 10.0
_ORPHANED_S: Final = 1.0
_CHUNK_BYTES: Final = 1 << 16
_QUIET_MS: Final = 1_000  # what outlives the command may still write; silent for so long, it is left

Reader = Callable[[bytes], None]


class NotStartedError(WattributeError):
    """The command could not be started; ``status`` is what a shell would end with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Command:
    """One command. Make it before any thread is started: signals are blocked, and the sentinel is forked."""

    def __init__(self) -> None:
        self.pid = 0
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED | {_ASKED})
        self._sentinel = _Sentinel()
        self._relays: list[_Relay] = []
        self._ended = threading.Event()
        self._terminal: int | None = None  # the side of a pseudo-terminal that the command does not see

    def start(
        self, words: Sequence[str], environ: Mapping[str, str], reader: Callable[[], Reader] | None
    ) -> None:
        """Start it. ``reader`` makes, for each output, what is given all that it writes, after that has been
        written on; None: its outputs are not touched. Raises NotStartedError."""
        self.check()
        actions: list[tuple[int, int, int]] = []
        pairs = self._between() if reader is not None else []
        for pair in pairs:
            actions += ((os.POSIX_SPAWN_DUP2, pair.theirs, number) for number in pair.numbers)
        try:
            self.pid = self._spawn(words, environ, actions)
        except OSError as error:
            status = NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            raise NotStartedError(f"cannot run {words[0]}: {error.strerror}", status) from error
        for pair in pairs:
            os.close(pair.theirs)
            if reader is not None:
                self._relays.append(_Relay(pair.ours, pair.numbers[0], reader(), self._ended))

    def _spawn(
        self, words: Sequence[str], environ: Mapping[str, str], actions: Sequence[tuple[int, int, int]]
    ) -> int:
        try:
            return os.posix_spawnp(
                words[0],
                list(words),
                environ,
                file_actions=actions,
                setsigmask=self._mask,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, and ignoring is inherited
            )
        except OSError as error:
            if error.errno != errno.ENOEXEC or words[0] == "/bin/sh":
                raise
        # A script without a first line that says what runs it is the shell's, as for env and nohup.
        return self._spawn(["/bin/sh", shutil.which(words[0]) or words[0], *words[1:]], environ, actions)

    def check(self) -> None:
        """Raise NotStartedError where a signal has come that ends us: there is no command yet to have it."""
        came = signal.sigpending() & ENDING
        if came:
            number = min(came)
            raise NotStartedError(
                f"{signal.Signals(number).name} came before the command was started", 128 + number
            )

    def wait(self) -> int:
        """Pass signals on until it has ended, and all that it wrote has been written on; its exit status, or
        the negative number of the signal that killed it."""
        while True:
            number = signal.sigwaitinfo(_AWAITED).si_signo
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if number == signal.SIGWINCH and self._terminal is not None:
                _copy_size(self._terminal)
                os.kill(self.pid, number)
            elif number in PASSED and not self._sentinel.saw(number):
                os.kill(self.pid, number)
        self._ended.set()
        for relay in self._relays:
            relay.join()
        return os.waitstatus_to_exitcode(status)

    def forget(self) -> None:
        """It has ended: the signals that came for it are forgotten, and those that come now wait."""
        while signal.sigtimedwait(PASSED, 0) is not None:
            pass
        self._sentinel.close()

    def release(self) -> None:
        """Take signals as before; those that came for the command are forgotten."""
        self.forget()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _between(self) -> list[_Pair]:
        """Stand between the command and our two outputs: one way for both where they are the same file, so
        that order is kept; a pseudo-terminal where they are a terminal, else a pipe."""
        same = os.path.sameopenfile(1, 2)
        pairs = []
        for numbers in [(1, 2)] if same else [(1,), (2,)]:
            if os.isatty(numbers[0]):
                ours, theirs = pty.openpty()
                tty.setraw(theirs, termios.TCSANOW)  # the real terminal does what is to be done
                self._terminal = ours
                _copy_size(ours)
            else:
                ours, theirs = os.pipe()
            pairs.append(_Pair(ours, theirs, numbers))
        return pairs


def end_as(status: int) -> None:
    """End this process as the command ended: with its status, or by the signal that killed it."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-status])
        os.kill(os.getpid(), -status)
    raise SystemExit(status)


class _Pair(NamedTuple):
    ours: int
    theirs: int
    numbers: tuple[int, ...]


class _Sentinel:
    """A forked process that notes the signals that come to our group."""

    def __init__(self) -> None:
        self._noted: Counter[int] = Counter()
        self._read, write = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _note_signals(write, parent)
            finally:
                os._exit(0)
        os.close(write)

    def saw(self, number: int) -> bool:
        """Whether a signal that has just come to us has come to it, too."""
        until_s = time.monotonic() + _SENTINEL_S
        while not self._noted[number] and (left_s := until_s - time.monotonic()) > 0:
            if not self._read_notes(left_s):
                break
        if not self._noted[number]:
            # It may have had no processor yet; what it says when asked comes after all that it has been sent.
            os.kill(self._pid, _ASKED)
            while not self._noted[_ASKED] and self._read_notes(_ANSWER_S):
                pass
            del self._noted[_ASKED]
        if not self._noted[number]:
            return False
        self._noted[number] -= 1
        if number not in signal.sigpending():  # it noted twice what we, being late, had as one
            del self._noted[number]
        return True

    def close(self) -> None:
        """End it."""
        os.close(self._read)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _read_notes(self, timeout_s: float) -> bool:
        """Whether there were any within the time; none come once it has ended."""
        if not select.select([self._read], [], [], timeout_s)[0]:
            return False
        came = os.read(self._read, 1024)
        self._noted.update(came)
        return bool(came)


def _note_signals(write: int, parent: int) -> None:
    os.dup2(write, 0)
    for path in list(Path("/proc/self/fd").iterdir()):  # the limit may be a thousand million: too many to try
        if path.name != "0":
            with contextlib.suppress(OSError):  # that of the listing is closed already
                os.close(int(path.name))  # a pipe of ours would stay open with it
    while os.getppid() == parent:  # killed, we could not end it
        came = signal.sigtimedwait(PASSED | {_ASKED}, _ORPHANED_S)
        if came is not None:
            os.write(0, bytes([came.si_signo]))


class _Relay(threading.Thread):
    """Writes on what the command writes, unchanged and at once, and then has it read."""

    def __init__(self, source: int, sink: int, read: Reader, ended: threading.Event) -> None:
        super().__init__(name=f"output-{sink}", daemon=True)
        self._source, self._sink, self._read, self._ended = source, sink, read, ended
        self.start()

    def run(self) -> None:
        """Until the command, and who has its output from it, have closed it."""
        waiting = select.poll()
        waiting.register(self._source, select.POLLIN)
        try:
            while True:
                if not waiting.poll(_QUIET_MS):
                    if self._ended.is_set():
                        return
                    continue
                chunk = self._next()
                if not chunk:
                    return
                _write(self._sink, chunk)
                self._read(chunk)
        except BrokenPipeError:  # nobody reads it: closing our side lets the command know
            return
        except OSError as error:  # a full disk: the command's next write fails, too
            note(f"wattribute: what the command writes cannot be written on: {error.strerror}")
        finally:
            os.close(self._source)
            self._read(b"\n")  # its last line may have no end

    def _next(self) -> bytes:
        try:
            return os.read(self._source, _CHUNK_BYTES)
        except OSError as error:
            if error.errno == errno.EIO:  # so ends a pseudo-terminal
                return b""
            raise


def _write(number: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:  # whoever shares the file has made it so
            select.select([], [number], [])


def _copy_size(terminal: int) -> None:
    """Give the pseudo-terminal the size of ours."""
    for number in (1, 2):
        if os.isatty(number):
            size = fcntl.ioctl(number, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
            return
