from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wattribute.collector.trace import LINE_MAX_BYTES, Line, TraceWriter, read_trace
from wattribute.errors import WattributeError
from wattribute.records import Device, Gap, Gpu, Process, Record, Trace, Workload

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "exclusive.ndjson"
FIRST = b'{"kind":"trace","version":1,"host":"n1","boot_id":"b1"}\n'
HEAD = Trace(version=1, host="n1", boot_id="b1")
SUFFIXES = ("ndjson", "ndjson.gz", "ndjson.zst")


def device(t: int) -> Device:
    return Device(t=t, gpu="GPU-1", energy_mj=t * 7, power_mw=56120, sm_percent=71.0)


def line(t: int) -> bytes:
    return b'{"kind":"device","t":%d,"gpu":"GPU-1"}\n' % t


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def records_in(path: Path) -> list[Record]:
    items = list(read_trace(path))
    assert [item for item in items if item.error is not None] == []
    return [item.record for item in items if item.record is not None]


def bad_in(items: list[Line]) -> list[tuple[int, str]]:
    return [(item.number, item.error) for item in items if item.error is not None]


def read_times(items: list[Line]) -> list[int]:
    return [item.record.t for item in items if isinstance(item.record, Device)]


def test_golden_trace_is_read_whole() -> None:
    items = list(read_trace(GOLDEN))
    assert bad_in(items) == []
    assert [item.number for item in items] == list(range(1, len(GOLDEN.read_bytes().splitlines()) + 1))
    assert items[0].record == Trace(
        version=1, host="golden-1", boot_id="b00710ad-0000-4000-8000-000000000001"
    )
    assert sum(isinstance(item.record, Device) for item in items) == 301


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trace.{suffix}"
    records: list[Record] = [
        Gpu(t=1, gpu="GPU-1", name="NVIDIA H200", index=0),
        *(device(t) for t in range(2, 5000)),
        Process(t=5001, gpu="GPU-1", pid=1, start_ns=0, period_ns=5, sm_percent=0.0),
        Workload(t=5001, pid=1, start_ns=0, model="µ-llama", attempt=0, labels={"a": "b"}),
        Gap(t=5003, from_ns=1, to_ns=2, reason="it slept"),
    ]
    with TraceWriter(path, "n1", "b1") as writer:
        writer.write(records[:3])
        writer.write([])
        writer.write(records[3:])
    assert records_in(path) == [HEAD, *records]
    compressed = {"ndjson": b"{", "ndjson.gz": b"\x1f\x8b", "ndjson.zst": b"\x28\xb5\x2f\xfd"}
    assert path.read_bytes().startswith(compressed[suffix])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_loses_only_what_came_after_the_last_flush(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 10**12
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns)
    path = tmp_path / f"trace.{suffix}"
    with TraceWriter(path, "n1", "b1") as writer:
        writer.write([device(2)])
        now_ns += 1_000_000_000
        writer.write([device(3)])
        now_ns += 999_999_999
        writer.write([device(4)])
        as_killed = written(tmp_path / "copy", path.read_bytes())
    items = list(read_trace(as_killed))
    assert read_times(items) == [2, 3]
    # A compressed file says that it has no end; of a plain one nothing is missing that could be told.
    assert len(bad_in(items)) == (0 if suffix == "ndjson" else 1)


def test_an_existing_trace_is_kept_unless_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.ndjson", b"precious")
    with pytest.raises(WattributeError, match="exists already"):
        TraceWriter(path, "n1", "b1")
    assert path.read_bytes() == b"precious"
    with TraceWriter(path, "n1", "b1", overwrite=True) as writer:
        writer.write([device(2)])
    assert records_in(path) == [HEAD, device(2)]


@pytest.mark.parametrize("name", ["no/such/folder/trace.ndjson", "."])
def test_a_path_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(WattributeError, match=r"^cannot write|exists already") as caught:
        TraceWriter(tmp_path / name, "n1", "b1")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_full_disk_is_an_error_in_one_line() -> None:
    with pytest.raises(WattributeError, match="cannot write /dev/full: No space left on device"):
        TraceWriter("/dev/full", "n1", "b1", overwrite=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_later_is_an_error_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"full.{suffix}"
    path.symlink_to("/dev/full")

    def record() -> None:
        with TraceWriter(path, "n1", "b1", overwrite=True) as writer:
            for t in range(1, 100_000, 1000):
                writer.write([device(t + step) for step in range(1000)])

    with pytest.raises(WattributeError, match="No space left on device"):
        record()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"kind":"device","t":', "not JSON"),
        (b"\xff\xfe\x00garbage", "not JSON"),
        (b'{"kind":"device","t":2,"gpu":"\xff"}', "not JSON"),
        (b'{"kind":"device","t":2,"gpu":"G","power_mw":NaN}', "not JSON"),
        (b'{"kind":"device","t":2,"gpu":"G","power_mw":-5}', "power_mw -5 is outside"),
        (b'{"kind":"device","t":2,"gpu":"G","sm_percent":2147483632}', "sm_percent 2147483632"),
        (b'{"kind":"device","t":2}', "device without gpu"),
        (b'{"kind":"device","t":2,"gpu":""}', "device without gpu"),
        (b'{"kind":"device","gpu":"G"}', "device without t"),
        (b'{"kind":"device","t":"2","gpu":"G"}', "not a whole number"),
        (b'{"kind":"teapot","t":2}', "unknown kind 'teapot'"),
        (b'{"kind":["device"],"t":2}', "unknown kind"),
        (b'{"kind":"instance","t":2,"gpu":"G","gpu_instance":-1,"slices":3}', "means the whole GPU"),
        (
            b'{"kind":"instance","t":2,"gpu":"G","gpu_instance":1,"profile":"x"}',
            "an instance has neither slices nor a profile",
        ),
        (b'{"kind":"unit","t":2,"unit":"a,b","quantity":1}', "unit 'a,b' has a comma"),
        (b'{"t":2}', "unknown kind None"),
        (b"[1,2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":' * 2000, "not JSON"),
    ],
)
def test_a_bad_line_is_told_and_its_neighbours_kept(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = written(tmp_path / "t", FIRST + line(1) + bad + b"\n" + line(3))
    items = list(read_trace(path))
    assert read_times(items) == [1, 3]
    ((number, error),) = bad_in(items)
    assert number == 3
    assert reason in error
    assert items[2].raw == bad[:200]


def test_empty_lines_and_unknown_keys_are_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t",
        FIRST.replace(b"\n", b"\r\n") + b"\n  \r\n" + b'{"kind":"device","t":1,"gpu":"G","x":[{}]}\r\n\n',
    )
    assert [(item.number, item.record) for item in read_trace(path)] == [
        (1, HEAD),
        (4, Device(t=1, gpu="G")),
    ]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", gzip.compress(b"", mtime=0)], ids=["nothing", "lines", "gzip"]
)
def test_an_empty_file_is_an_error_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WattributeError, match="t is empty: it contains no trace"):
        list(read_trace(written(tmp_path / "t", content)))


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path) -> None:
    assert read_times(list(read_trace(written(tmp_path / "t", b"\xef\xbb\xbf" + FIRST + line(1))))) == [1]


def test_records_without_a_host_are_bad(tmp_path: Path) -> None:
    items = list(read_trace(written(tmp_path / "t", line(1) + FIRST + line(2))))
    assert bad_in(items) == [(1, "no usable trace line before it: its host is unknown")]
    assert read_times(items) == [2]


def test_records_after_a_trace_line_of_another_version_are_bad(tmp_path: Path) -> None:
    content = FIRST + line(1) + FIRST.replace(b":1,", b":2,") + line(2) + FIRST + line(3)
    items = list(read_trace(written(tmp_path / "t", content)))
    assert [number for number, _ in bad_in(items)] == [3, 4]
    assert "trace version 2" in bad_in(items)[0][1]
    assert read_times(items) == [1, 3]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_a_line_too_long_is_never_held_whole(tmp_path: Path, compress: type[bytes]) -> None:
    huge = b'{"kind":"device","t":2,"gpu":"' + b"x" * (64 * LINE_MAX_BYTES) + b'"}\n'
    path = written(tmp_path / "t", compress(FIRST + line(1) + huge + line(3) + huge.rstrip()))
    del huge
    tracemalloc.start()
    items = list(read_trace(path))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read_times(items) == [1, 3]
    assert [number for number, _ in bad_in(items)] == [3, 5]
    assert "longer than" in bad_in(items)[0][1]
    assert len(items[2].raw) == 200
    # zstd makes 8 MiB of the 256 bytes that are decompressed at a time, and joins blocks to do so
    assert peak_bytes < 24 * LINE_MAX_BYTES


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("cut", [1, 3, 9, 200])
def test_a_compressed_file_cut_off_gives_what_it_has_and_one_error(
    tmp_path: Path, compress: type[bytes], cut: int
) -> None:
    content = FIRST + b"".join(line(t) for t in range(1, 30_000))
    items = list(read_trace(written(tmp_path / "t", compress(content)[:-cut])))
    assert len(bad_in(items)) == 1
    assert "cut off or damaged" in (items[-1].error or "")
    assert items[-1].number == len(items)
    assert read_times(items) == list(range(1, len(items) - 1))
    assert len(items) > 1000 or cut == 200


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_damage_inside_a_compressed_file_ends_it_with_one_error(
    tmp_path: Path, compress: type[bytes]
) -> None:
    content = bytearray(compress(FIRST + b"".join(line(t) for t in range(1, 30_000))))
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(range(215, 255))
    items = list(read_trace(written(tmp_path / "t", bytes(content))))
    assert "cut off or damaged" in (items[-1].error or "")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_files_put_together_are_one(tmp_path: Path, compress: type[bytes]) -> None:
    content = compress(FIRST + line(1)) + compress(line(2)) + compress(FIRST + line(3))
    items = list(read_trace(written(tmp_path / "t", content)))
    assert bad_in(items) == []
    assert read_times(items) == [1, 2, 3]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_standard_input(compress: type[bytes]) -> None:
    code = (
        "from wattribute.collector.trace import read_trace\n"
        "import json\n"
        "print(json.dumps([item.record.t for item in read_trace('-')]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        input=compress(FIRST + line(1) + line(2)),
        capture_output=True,
        check=True,
    )
    assert json.loads(process.stdout) == [0, 1, 2]


@pytest.mark.parametrize("name", ["absent.ndjson", "."])
def test_a_path_that_cannot_be_read_is_an_error_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(WattributeError, match="cannot read") as caught:
        next(read_trace(tmp_path / name))
    assert "\n" not in str(caught.value)


@given(st.lists(st.binary(max_size=120), max_size=8), st.sampled_from([bytes, gzip.compress]))
def test_any_bytes_give_one_item_a_line(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes], compress: type[bytes]
) -> None:
    content = FIRST + b"\n".join(garbage) + b"\n" + line(9)
    path = written(tmp_path_factory.getbasetemp() / "garbage", compress(content))
    items = list(read_trace(path))
    assert items[0].record == HEAD
    assert items[-1].record is not None or b"trace" in content[len(FIRST) :]
    assert len(items) == sum(bool(part.strip()) for part in content.split(b"\n"))
    assert all((item.record is None) == (item.error is not None) for item in items)
