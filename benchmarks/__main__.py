"""``python -m benchmarks``: run the benchmarks, print the table, and keep it under ``results``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import (
    answers,
    collector_cost,
    end_to_end,
    inserts,
    kernel,
    latency,
    peers,
    ratio,
    wire_format,
)
from benchmarks.machine import machine
from benchmarks.table import Row, as_markdown, load, store, write_readme

TOPICS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "kernel": kernel.rows,
    "peers": peers.rows,
    "ratio": ratio.rows,
    "wire": wire_format.rows,
    "end-to-end": end_to_end.rows,
    "latency": latency.rows,
    "collector": collector_cost.rows,
    "inserts": inserts.rows,
    "answers": answers.rows,
}


def main(arguments: Sequence[str]) -> None:
    """Run the topics that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "topics", nargs="*", metavar="TOPIC", help=f"some of {', '.join(TOPICS)}; all by default"
    )
    parser.add_argument("--small", action="store_true", help="small sizes, which only show that it works")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="run nothing, but put this result into README.md"
    )
    asked = parser.parse_args(arguments)
    if asked.readme:
        write_readme(*load(asked.readme))
        return
    if unknown := [topic for topic in asked.topics if topic not in TOPICS]:
        parser.error(f"unknown topic {', '.join(unknown)}: choose from {', '.join(TOPICS)}")
    facts = machine()
    rows: list[Row] = []
    for topic in asked.topics or TOPICS:
        begin_s = time.monotonic()
        rows += TOPICS[topic](asked.small)
        print(f"{topic}: {time.monotonic() - begin_s:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    print(f"\n{as_markdown(rows)}\n\nkept in {store(rows, facts, asked.small)}")


if __name__ == "__main__":
    main(sys.argv[1:])
