"""One line of HTTP tells units, qualities and run events; what makes no sense is refused in a line."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from contextlib import closing

import pytest

from tests.intake.conftest import Running
from wattribute.records import Quality, Run, Unit

_H: int = 3_600_000_000_000


def test_a_line_is_a_record(running: Running) -> None:
    before = time.time_ns()
    answer = running.post("/v1/units", '{"unit":"images","quantity":64,"model":"sdxl"}')
    assert (answer.status, json.loads(answer.body)) == (200, {"accepted": 1})
    lines = '{"metric":"mmlu","value":0.61,"model":"m"}\n\n'
    lines += '{"metric":"loss","value":2,"run":"r","higher_is_better":false}\n'
    assert json.loads(running.post("/v1/quality", lines).body) == {"accepted": 2}
    assert running.post("/v1/runs/", '{"kind":"run","run":"r","event":"start","steps":50}').status == 200

    unit, first, second, run = running.records()
    assert isinstance(unit, Unit)
    assert (unit.unit, unit.quantity, unit.model, unit.source) == ("images", 64, "sdxl", "emit")
    assert before <= unit.t <= time.time_ns()
    assert len(unit.event_id) == 32
    assert isinstance(first, Quality)
    assert isinstance(second, Quality)
    assert (first.metric, first.value, second.run, second.higher_is_better) == ("mmlu", 0.61, "r", False)
    assert isinstance(run, Run)
    assert (run.run, run.event, run.steps, run.step) == ("r", "start", 50, None)


def test_all_parts_of_a_body_that_was_compressed_in_parts_count(running: Running) -> None:
    parts = [gzip.compress(b'{"unit":"images","quantity":%d,"model":"sdxl"}\n' % count) for count in (1, 2)]
    answer = running.post("/v1/units", b"".join(parts), Content_Encoding="gzip")
    assert json.loads(answer.body) == {"accepted": 2}
    assert running.post("/v1/units", parts[0] + b"and more", Content_Encoding="gzip").status == 400
    assert len(running.records()) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_that_comes_in_chunks_is_taken_in(running: Running, packed: bool) -> None:
    """As Node.js sends what is piped into a request: without a Content-Length."""
    body = b'{"unit":"images","quantity":64,"model":"sdxl"}'
    body = gzip.compress(body) if packed else body
    host, _, port = running.intake.at.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        headers = {"Content-Encoding": "gzip"} if packed else {}
        connection.request("POST", "/v1/units", iter([body[:9], body[9:]]), headers, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"accepted": 1})
    (unit,) = running.records()
    assert isinstance(unit, Unit)
    assert unit.quantity == 64


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/units", "", "the body is empty"),
        ("/v1/units", "unit=images", "not a JSON object"),
        ("/v1/units", "[1]", "not a JSON object"),
        ("/v1/units", "[" * 100_000, "not a JSON object"),
        ("/v1/units", '{"unit":"images","model":"m"}', "unit without quantity"),
        ("/v1/units", '{"unit":"images","quantity":-1,"model":"m"}', "quantity -1 is outside 0"),
        ("/v1/units", '{"unit":"images","quantity":NaN,"model":"m"}', "not a JSON object"),
        ("/v1/units", '{"unit":"images","quantity":"64","model":"m"}', "quantity is '64', not a number"),
        ("/v1/units", '{"unit":"images","quantity":1}', "model or run"),
        ("/v1/units", '{"unit":"i","quantity":1,"modle":"m"}', "unknown field 'modle'; did you mean model?"),
        ("/v1/units", '{"unit":"i","quantity":1,"model":"a\\u001b[2J"}', "model holds control characters"),
        ("/v1/units", '{"unit":"i","quantity":1,"model":"a\\u009b2J"}', "model holds control characters"),
        ("/v1/units", '{"unit":"i","quantity":1,"model":"m","t":-5}', "t -5 is outside"),
        ("/v1/units", '{"unit":"i","quantity":1,"model":"m"}\n{"unit":"i"}', "line 2: no owner is named"),
        (
            "/v1/quality",
            '{"kind":"unit","metric":"q","value":1,"model":"m"}',
            "kind is 'unit'; this path accepts only quality",
        ),
        ("/v1/runs", '{"run":"r","event":"halt"}', "none of start, checkpoint, finish, fail"),
        ("/v1/runs", '{"run":"r","event":"start","step":8,"steps":7}', "step 8 lies beyond the last of 7"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(running: Running, path: str, body: str, said: str) -> None:
    answer = running.post(path, body)
    assert answer.status == 400
    assert said in answer.body.decode()
    assert answer.body.count(b"\n") == 1
    assert running.records() == []  # none of a request, where one of its lines is bad


def test_a_clock_that_is_off_is_not_believed(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    now = time.time_ns()
    times = (now - 2 * _H, now + _H, now - _H // 2, now)
    lines = [f'{{"unit":"i","quantity":1,"model":"m","application":"desk","t":{t}}}' for t in times]
    answer = running.post("/v1/units", "\n".join(lines))
    assert json.loads(answer.body) == {"accepted": 4, "put_at_receipt": 2}
    told = [record.t for record in running.records()]
    assert told[2:] == list(times[2:])
    assert all(now <= t <= time.time_ns() for t in told[:2])
    assert running.told.health.moved == 2
    assert caplog.text.count("the clock of desk is off by -7200 s") == 1
    assert len(caplog.records) == 1
