"""Run a command in our place: its streams, signals and exit are the same as without us.

The command is in our process group, so that the terminal, job control and signals to the group reach it as
usual. A signal that is sent to us alone is passed on. A sentinel tells the two apart: a process of the group
that only notes which signals come. A signal that reached the sentinel has reached the command too, and is not
passed on: programs that save a checkpoint at the first SIGTERM would take a second one for "at once".
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
# The lowest pending signal is taken first, so this one comes after all of the above.
_ASKED: Final = signal.SIGRTMIN
NOT_FOUND: Final = 127  # as in shells
_NOT_EXECUTABLE: Final = 126
_SENTINEL_S: Final = 0.05  # the kernel signals a group at once; systemd and Slurm one process after the other
_ANSWER_S: Final = 10.0
_ORPHANED_S: Final = 1.0
_CHUNK_BYTES: Final = 1 << 16
_QUIET_MS: Final = 1_000  # what outlives the command may still write, until it is silent for so long

Reader = Callable[[bytes], None]


class NotStartedError(WattributeError):
    """The command could not be started; ``status`` is what a shell would exit with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Command:
    """One command. Create it before any thread is started: it blocks signals, and forks the sentinel."""

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
        """Start the command. ``reader`` is called for each output, and returns a function that is given each
        chunk after it was passed on. None: the outputs are not touched. Raises NotStartedError."""
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
        # A script without #! is run by the shell, as env and nohup do.
        return self._spawn(["/bin/sh", shutil.which(words[0]) or words[0], *words[1:]], environ, actions)

    def check(self) -> None:
        """Raise NotStartedError if a signal came that ends us: there is no command yet to pass it on to."""
        came = signal.sigpending() & ENDING
        if came:
            number = min(came)
            raise NotStartedError(
                f"{signal.Signals(number).name} came before the command was started", 128 + number
            )

    def wait(self) -> int:
        """Pass signals on until the command has ended, and all of its output is passed on. Return its exit
        status, or the negative number of the signal that killed it."""
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
        """Call it when the command has ended: drop signals that came for it. Later ones stay pending."""
        while signal.sigtimedwait(PASSED, 0) is not None:
            pass
        self._sentinel.close()

    def release(self) -> None:
        """Handle signals as before; drop those that came for the command."""
        self.forget()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _between(self) -> list[_Pair]:
        """Open channels from the command to our two outputs: a single one if both are the same file, so that
        order is kept; a pseudo-terminal if they are a terminal, else a pipe."""
        same = os.path.sameopenfile(1, 2)
        pairs = []
        for numbers in [(1, 2)] if same else [(1,), (2,)]:
            if os.isatty(numbers[0]):
                ours, theirs = pty.openpty()
                tty.setraw(theirs, termios.TCSANOW)  # the real terminal does all processing
                self._terminal = ours
                _copy_size(ours)
            else:
                ours, theirs = os.pipe()
            pairs.append(_Pair(ours, theirs, numbers))
        return pairs


def end_as(status: int) -> None:
    """End this process as the command ended: with its status, or by the signal that killed it."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has dumped its own core
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
        """Whether a signal that has just come to us has come to the sentinel, too."""
        until_s = time.monotonic() + _SENTINEL_S
        while not self._noted[number] and (left_s := until_s - time.monotonic()) > 0:
            if not self._read_notes(left_s):
                break
        if not self._noted[number]:
            # It may not have run yet. Its answer to _ASKED comes after all signals that it was sent before.
            os.kill(self._pid, _ASKED)
            while not self._noted[_ASKED] and self._read_notes(_ANSWER_S):
                pass
            del self._noted[_ASKED]
        if not self._noted[number]:
            return False
        self._noted[number] -= 1
        if number not in signal.sigpending():  # it noted twice what came to us, late, as one
            del self._noted[number]
        return True

    def close(self) -> None:
        """Kill the sentinel."""
        os.close(self._read)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _read_notes(self, timeout_s: float) -> bool:
        """Whether any notes came within the time; none come once the sentinel has ended."""
        if not select.select([self._read], [], [], timeout_s)[0]:
            return False
        came = os.read(self._read, 1024)
        self._noted.update(came)
        return bool(came)


def _note_signals(write: int, parent: int) -> None:
    os.dup2(write, 0)
    for path in list(Path("/proc/self/fd").iterdir()):  # not up to the limit, which may be 10^9
        if path.name != "0":
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(int(path.name))  # else a pipe of ours would stay open
    while os.getppid() == parent:  # if we are killed, nobody ends it
        came = signal.sigtimedwait(PASSED | {_ASKED}, _ORPHANED_S)
        if came is not None:
            os.write(0, bytes([came.si_signo]))


class _Relay(threading.Thread):
    """Passes on what the command writes, unchanged and at once, and then gives it to ``read``."""

    def __init__(self, source: int, sink: int, read: Reader, ended: threading.Event) -> None:
        super().__init__(name=f"output-{sink}", daemon=True)
        self._source, self._sink, self._read, self._ended = source, sink, read, ended
        self.start()

    def run(self) -> None:
        """Run until the command, and all that inherited its output, have closed it."""
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
            note(f"wattribute: the output of the command cannot be passed on: {error.strerror}")
        finally:
            os.close(self._source)
            self._read(b"\n")  # the last line may lack its end

    def _next(self) -> bytes:
        try:
            return os.read(self._source, _CHUNK_BYTES)
        except OSError as error:
            if error.errno == errno.EIO:  # the end of a pseudo-terminal
                return b""
            raise


def _write(number: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:  # another process that shares the file made it non-blocking
            select.select([], [number], [])


def _copy_size(terminal: int) -> None:
    """Give the pseudo-terminal the size of ours."""
    for number in (1, 2):
        if os.isatty(number):
            size = fcntl.ioctl(number, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
            return
