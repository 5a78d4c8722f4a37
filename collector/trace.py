"""The trace file (docs/trace.md): NDJSON, one record per line, plain, gzip or zstd.

``TraceWriter`` writes one, ``read_trace`` reads one; ``raw_lines`` reads the lines of any text file with
bounded memory, whoever wrote it.
"""

from __future__ import annotations

import gzip
import io
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self, cast

import orjson
import zstandard

from wattribute.errors import RecordError, WattributeError
from wattribute.records import TRACE_VERSION, Record, Trace, as_json, parse

LINE_MAX_BYTES: Final = 1 << 20
_SHOWN_BYTES: Final = 200  # kept of a bad line: enough to recognise it, and fits a dead letter
_FLUSH_NS: Final = 1_000_000_000
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some editors begin a file with it
# zstd can expand 4 bytes to a block of 128 KiB: with this much input a hostile file gives 8 MiB at once.
_ZSTD_INPUT_BYTES: Final = 256


class Line(NamedTuple):
    """An item of line ``number`` (from 1): a record, or the reason why there is none and the beginning of the
    line. A line with several records gives several items with its number."""

    number: int
    record: Record | None
    error: str | None = None
    raw: bytes = b""


def bad_line(number: int, error: str, raw: bytes) -> Line:
    """The item of a line that cannot be used; only the beginning of a long line is kept."""
    return Line(number, None, error, raw[:_SHOWN_BYTES])


def read_trace(path: Path | str) -> Iterator[Line]:
    """One item for each non-empty line of a trace; ``-`` reads standard input.

    A bad line becomes an item with the reason and does not affect its neighbours. A record before the first
    ``trace`` line, or after a ``trace`` line that cannot be used, is bad: its host is unknown. Raises
    WattributeError, at the first item, where the file is empty or cannot be opened or read.
    """
    in_trace = False
    number = 0
    for number, raw, error in raw_lines(path):
        if error is not None:
            yield bad_line(number, error, raw)
            continue
        obj: Any = None
        try:
            obj = orjson.loads(raw.removeprefix(_BYTE_ORDER_MARK))
            record = parse(obj)
        except (orjson.JSONDecodeError, RecordError) as problem:
            if isinstance(obj, dict) and obj.get("kind") == Trace.kind:
                in_trace = False
            reason = str(problem) if isinstance(problem, RecordError) else f"not JSON: {problem}"
            yield bad_line(number, reason, raw)
            continue
        in_trace = in_trace or isinstance(record, Trace)
        if in_trace:
            yield Line(number, record)
        else:
            yield bad_line(number, "no usable trace line before it: its host is unknown", raw)
    if not number:
        raise WattributeError(f"{path} is empty: it contains no trace")


def raw_lines(path: Path | str) -> Iterator[tuple[int, bytes, str | None]]:
    """(number, line, error) for each non-empty line, without its line end; ``-`` is standard input.

    The first bytes show whether the file is gzip or zstd. Of a line over LINE_MAX_BYTES only the beginning
    comes, with an error, and it is never in memory whole. Where compressed bytes end early or are damaged,
    all readable lines come first, then one error. Raises WattributeError where the file cannot be opened or
    read.
    """
    number = 0
    try:
        with _opened(path) as stream:
            while line := stream.readline(LINE_MAX_BYTES + 1):
                number += 1
                if len(line) > LINE_MAX_BYTES:
                    beginning = line[:_SHOWN_BYTES]
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(LINE_MAX_BYTES)
                    yield number, beginning, f"longer than {LINE_MAX_BYTES} bytes"
                elif line := line.strip():
                    yield number, line, None
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as problem:
        yield number + 1, b"", f"the compressed file is cut off or damaged here: {problem}"
    except OSError as problem:
        raise WattributeError(f"cannot read {path}: {problem.strerror or problem}") from problem


@contextmanager
def _opened(path: Path | str) -> Iterator[io.BufferedIOBase]:
    if str(path) == "-":
        yield _decompressed(cast(io.BufferedReader, sys.stdin.buffer))
        return
    with Path(path).open("rb") as file:
        yield _decompressed(file)


def _decompressed(file: io.BufferedReader) -> io.BufferedIOBase:
    magic = file.peek(len(_ZSTD_MAGIC))
    if magic.startswith(_GZIP_MAGIC):
        # not buffered again: a buffer would lose what precedes a cut in the last block
        return gzip.GzipFile(fileobj=file, mode="rb")
    if magic.startswith(_ZSTD_MAGIC):
        return io.BufferedReader(_ZstdReader(file))
    return file


class _ZstdReader(io.RawIOBase):
    """The bytes of one or more zstd frames. Unlike zstandard's own reader, it raises EOFError where the file
    ends inside a frame."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            chunk = self._input or self._file.read(_ZSTD_INPUT_BYTES)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(chunk))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


class TraceWriter:
    """Writes a trace; a path that ends in ``.gz`` or ``.zst`` is compressed.

    ``write`` flushes where the last flush is a second ago, so that a kill loses little more than the last
    second. An existing file is refused unless ``overwrite``. Raises WattributeError where the file cannot be
    created or written, for example on a full disk.
    """

    def __init__(self, path: Path | str, host: str, boot_id: str, *, overwrite: bool = False) -> None:
        self._path = Path(path)
        try:
            self._file = self._path.open("wb" if overwrite else "xb")
        except FileExistsError as problem:
            raise WattributeError(
                f"{path} exists already: choose another name, or replace it with --overwrite"
            ) from problem
        except OSError as problem:
            raise self._failed(problem) from problem
        self._stream: Any = self._file
        if self._path.suffix == ".gz":
            self._stream = gzip.GzipFile(fileobj=self._file, mode="wb")
        elif self._path.suffix == ".zst":
            self._stream = zstandard.ZstdCompressor().stream_writer(self._file, closefd=False)
        self._flushed_ns = 0
        try:
            self.write([Trace(version=TRACE_VERSION, host=host, boot_id=boot_id)])
        except WattributeError:
            with suppress(WattributeError):
                self.close()
            raise

    def write(self, records: Iterable[Record]) -> None:
        """Append records in the order given."""
        text = b"".join(orjson.dumps(as_json(record), option=orjson.OPT_APPEND_NEWLINE) for record in records)
        try:
            self._stream.write(text)
            now_ns = time.monotonic_ns()
            if now_ns - self._flushed_ns >= _FLUSH_NS:
                self._flush()
                self._flushed_ns = now_ns
        except OSError as problem:
            raise self._failed(problem) from problem

    def close(self) -> None:
        """Complete and close the file."""
        if self._file.closed:
            return
        try:
            with self._file:
                if self._stream is not self._file:
                    self._stream.close()
        except OSError as problem:
            raise self._failed(problem) from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self) -> None:
        self._stream.flush()
        self._file.flush()  # zstandard's and gzip's writers leave bytes in the buffer of the file below

    def _failed(self, problem: OSError) -> WattributeError:
        return WattributeError(f"cannot write {self._path}: {problem.strerror or problem}")
