"""``wattribute top``: who is burning the watts now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from wattribute.commands.options import ConfigOption, FormatOption, StoreOption
from wattribute.commands.output import (
    Format,
    Grid,
    lines_below,
    on_terminal,
    rendered,
    shown_number,
    too_much,
    write_grid,
    write_rows,
)
from wattribute.commands.rounding import shown_money
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

_IDENTITY: Final = ("user", "team", "application", "model", "model_version", "run")
COLUMNS: Final = (
    *("host", "gpu", "gpu_model", "account", "pid", *_IDENTITY),
    *("watts", "sm_percent", "memory_bytes", "usd_per_hour"),
)
_PERIOD_S: Final = 1.0
_LOOK_BACK_S: Final = 30.0  # older windows are not "now"
# Readings of processes come up to 2 s after those of their GPU: until then a window's split is a guess.
_SETTLED_MS: Final = 2_000
_AVERAGED_MS: Final = 5_000
_NOBODY: Final = (
    f"nothing was measured in the last {_LOOK_BACK_S:.0f} s:"
    " is 'wattribute up' or 'wattribute stream' running on this store?"
)
_HOLDER: Final = "host, gpu, account, pid, process_start_ns"
_LATEST: Final = f"""
WITH latest AS
(
    SELECT *
    FROM attribution AS a FINAL
    INNER JOIN
    (
        SELECT host,
            greatest(max(window_start) - toIntervalMillisecond({_SETTLED_MS}), min(window_start)) AS newest
        FROM attribution
        WHERE window_start >= {{since:DateTime64(3, 'UTC')}}
        GROUP BY host
    ) AS n USING (host)
    WHERE window_start >= {{since:DateTime64(3, 'UTC')}}
        AND window_start <= newest AND window_start > newest - toIntervalMillisecond({_AVERAGED_MS})
)
SELECT {_HOLDER}, any(gpu_model), {", ".join(f"any({name})" for name in _IDENTITY)},
    sum(active_energy_uj + idle_energy_equal_uj) / any(span_ns) * 1e3 AS watts,
    100 * sum(active_time_ns) / any(span_ns) AS sm_percent,
    max(memory_bytes),
    sum(gpu_time_equal_ns) / any(span_ns) AS gpu_ratio
FROM latest
INNER JOIN
(
    SELECT host, gpu, sum(covered) AS span_ns
    FROM
    (
        SELECT host, gpu, window_start, any(covered_ns) AS covered
        FROM latest GROUP BY host, boot_id, gpu, window_start
    )
    GROUP BY host, gpu
) AS spans USING (host, gpu)
WHERE span_ns > 0
GROUP BY {_HOLDER}
ORDER BY watts DESC
"""  # noqa: S608 - names of ours


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Who is burning the watts now: by process and GPU, with the cost per hour.

    Averages of the last 5 complete seconds; the idle part of a shared GPU is split evenly. On a terminal it
    runs until Ctrl-C; into a pipe it prints once.
    """
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        if shape is not Format.table:
            write_rows(top_rows(opened), shape, COLUMNS)
        elif once or not on_terminal():
            write_grid(top_grid(top_rows(opened)))
        else:
            try:
                show_live(lambda: top_grid(top_rows(opened)), lambda: True)
            except KeyboardInterrupt:
                return


def show_live(grid: Callable[[], Grid], going_on: Callable[[], bool]) -> None:
    """Show a table and renew it every second, as long as ``going_on`` returns True."""
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while going_on():
            due_s = time.monotonic() + _PERIOD_S
            shown = grid()
            without = too_much(shown, console.width)
            table, notes = rendered(shown, True, without), Text("\n".join(lines_below(shown, without)))
            live.update(Group(Text(shown.title, style="bold"), table, notes), refresh=True)
            while going_on() and (left_s := due_s - time.monotonic()) > 0:
                time.sleep(min(0.1, left_s))


def top_rows(store: Readable) -> list[dict[str, Any]]:
    """The holders of the last complete seconds, the greatest power first."""
    since = datetime.now(UTC) - timedelta(seconds=_LOOK_BACK_S)
    moment = f"{since:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    found = store.query(_LATEST, {"since": moment}).rows
    prices = {
        (host, gpu): price
        for host, gpu, price in store.query(
            "SELECT host, gpu, max(price_per_gpu_hour_usd) FROM"
            " cost(policy = 'equal', since = {since:String}, until = '2200-01-01') GROUP BY host, gpu",
            {"since": moment},
        ).rows
    }
    rows = []
    for host, gpu, account, pid, _, gpu_model, *identity, watts, sm_percent, memory_bytes, gpu_ratio in found:
        price = prices.get((host, gpu))
        row = {"host": host, "gpu": gpu, "gpu_model": gpu_model, "account": account, "pid": None}
        row |= dict(zip(_IDENTITY, identity, strict=True))
        row |= {"watts": watts, "sm_percent": None, "memory_bytes": None}
        if account == "process":
            row |= {"pid": pid, "sm_percent": sm_percent, "memory_bytes": memory_bytes}
        row["usd_per_hour"] = None if price is None else price * gpu_ratio
        rows.append(row)
    return rows


def top_grid(rows: list[dict[str, Any]], title: str = "", waiting: str = _NOBODY) -> Grid:
    """The table of ``top_rows``, with a total; ``waiting`` is the note if there is nothing to show."""
    if not rows:
        return Grid(["GPU", "who", "W"], [], title=title, notes=[waiting])
    several_hosts = len({row["host"] for row in rows}) > 1
    cells = []
    for row in rows:
        gpu = row["gpu"][:12]
        who = " ".join(filter(None, (row["model"], row["model_version"], row["run"]))) or row["application"]
        cells.append(
            [
                f"{row['host']} {gpu}" if several_hosts else gpu,
                (who or row["user"] or "process") if row["account"] == "process" else row["account"],
                str(row["pid"] or ""),
                row["team"],
                shown_number(row["watts"], 1),
                "" if row["sm_percent"] is None else shown_number(row["sm_percent"], 0),
                "" if row["memory_bytes"] is None else shown_number(row["memory_bytes"] / 2**30, 1),
                shown_money(row["usd_per_hour"], 2),
            ]
        )
    priced = [row["usd_per_hour"] for row in rows if row["usd_per_hour"] is not None]
    watts = math.fsum(row["watts"] for row in rows)
    usd = shown_number(math.fsum(priced), 2) if priced else "-"
    cells.append(["total", "", "", "", shown_number(watts, 1), "", "", usd])
    return Grid(
        headers=["GPU", "who", "pid", "team", "W", "SM %", "GiB", "USD/h"],
        rows=cells,
        numeric=frozenset({2, 4, 5, 6, 7}),
        styles=[*("" if row["account"] == "process" else "yellow" for row in rows), "bold"],
        title=title,
        spare=(3, 6, 5, 2),
    )
