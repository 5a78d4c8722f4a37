"""The work of ``peers`` in polars: a module of its own, since polars is installed only with the extra
``bench``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.kernel import IDLE_MW
from benchmarks.synthetic import I64, SECOND_NS, START_NS, Readings

_SUMS = ("active", "idle_equal", "idle_memory", "idle_active", "used", "equal", "memory", "all_active")


@dataclass(frozen=True, slots=True)
class Frames:
    """The input of polars: samples by device and time, and process records by device, time and process."""

    samples: pl.LazyFrame
    records: pl.LazyFrame


def frames(made: Readings) -> Frames:
    """The readings as frames; this conversion is not measured."""
    device = np.arange(made.devices)
    samples = {
        "device": np.repeat(device, made.t_ns.shape[1]),
        "t_ns": made.t_ns.reshape(-1),
        "energy_mj": made.energy_mj.reshape(-1),
    }
    shape = made.sm_percent.shape
    by_time = (0, 2, 1)
    columns = {
        "device": device[:, None, None],
        "process": np.arange(shape[1])[:, None],
        "t_ns": made.record_ns(),
        "sm": made.sm_percent.astype(np.float64),
        "bytes": made.memory_bytes.astype(np.float64),
    }
    records = {
        name: np.broadcast_to(column, shape).transpose(by_time).reshape(-1)
        for name, column in columns.items()
    }
    return Frames(pl.LazyFrame(samples), pl.LazyFrame(records))


def split_by_polars(made: Readings, given: Frames) -> I64:
    """The result (11, devices, seconds, processes)."""
    records = given.records.with_columns(_at(made)).select("at", "process", "sm", "bytes").set_sorted("at")
    pieces = _pieces(made, given.samples, records).with_row_index("piece")
    record_times = records.select(pl.col("at"), pl.col("at").alias("record_at")).unique(maintain_order=True)
    parts = (
        pieces.set_sorted("to")
        .join_asof(record_times.set_sorted("at"), left_on="to", right_on="at", strategy="forward")
        .join(records, left_on="record_at", right_on="at", maintain_order="left_right")
    )
    alone = made.processes == 1
    length, idle, sm = pl.col("length_ns"), pl.col("idle_uj"), pl.col("sm")
    parts = parts.with_columns((sm * length / 100.0).cast(pl.Int64).alias("used"), one=pl.lit(1.0))
    if not alone:
        scaled = pl.col("used").sum().over("piece") > length
        parts = parts.with_columns(
            pl.when(scaled).then(_apportioned(length, sm, alone)).otherwise(pl.col("used")).alias("used")
        )
    spare = length - (pl.col("used") if alone else pl.col("used").sum().over("piece"))
    weights = {"equal": pl.col("one"), "memory": pl.col("bytes"), "active": sm}
    split = {f"idle_{policy}": _apportioned(idle, weight, alone) for policy, weight in weights.items()}
    times = {"equal": weights["equal"], "memory": weights["memory"], "all_active": weights["active"]}
    split |= {name: pl.col("used") + _apportioned(spare, weight, alone) for name, weight in times.items()}
    split |= {"active": _apportioned(pl.col("energy_uj") - idle, sm, alone)}
    found = (
        parts.with_columns(**split, held=pl.col("bytes") * length)
        .group_by("window", "process")
        .agg(
            pl.col("energy_uj", "length_ns", *_SUMS).sum(),
            (pl.col("held").sum() / length.sum()).cast(pl.Int64).alias("bytes"),
        )
        .sort("window", "process")
        .select("energy_uj", "length_ns", *_SUMS, "bytes")
        .collect()
    )
    result: I64 = np.stack([column.to_numpy() for column in found])
    return result.reshape(len(found.columns), made.devices, made.seconds, made.processes)


def ratio_by_polars(made: Readings, given: Frames) -> NDArray[np.float64]:
    """The plain ratio: energies in mJ by device, window and process."""
    keys = ("device", "window")
    t_ns, energy_mj = pl.col("t_ns"), pl.col("energy_mj")
    window = (t_ns // SECOND_NS).alias("window")
    before_ns, before_mj = pl.col("last_ns").shift(1), pl.col("last_mj").shift(1)
    share = (pl.col("window") * SECOND_NS - before_ns) / (pl.col("first_ns") - before_ns)
    at_mj = before_mj + (pl.col("first_mj") - before_mj) * share
    follows = pl.col("device") == pl.col("device").shift(1)
    gains = (
        given.samples.with_columns(window)
        .group_by(*keys, maintain_order=True)
        .agg(first_ns=t_ns.first(), last_ns=t_ns.last(), first_mj=energy_mj.first(), last_mj=energy_mj.last())
        .with_columns(at_mj=pl.when(follows).then(at_mj).otherwise("first_mj"))
        .with_columns(gain_mj=pl.col("at_mj").shift(-1) - pl.col("at_mj"))
    )
    used = given.records.with_columns(window).filter(pl.col("window") < START_NS // SECOND_NS + made.seconds)
    sums = used.group_by(*keys, maintain_order=True).agg(all_sm=pl.col("sm").sum())
    each = gains.join(sums, on=keys, maintain_order="left").select(
        *keys, per_percent_mj=pl.col("gain_mj") / pl.col("all_sm")
    )
    split = used.join(each, on=keys, maintain_order="left")
    return split.select(pl.col("per_percent_mj") * pl.col("sm")).collect().to_series().to_numpy()


def _at(made: Readings) -> pl.Expr:
    """Time, shifted to a range of its own for each device: a join on one ascending column is faster than one
    by device and time."""
    stretch_ns = (made.seconds + 10) * SECOND_NS
    return (pl.col("t_ns") - START_NS + pl.col("device") * stretch_ns).alias("at")


def _pieces(made: Readings, samples: pl.LazyFrame, records: pl.LazyFrame) -> pl.LazyFrame:
    """The pieces between the edges of windows and of records: end, window, length, energy and idle part."""
    at, before, counter = pl.col("at"), pl.col("before"), pl.col("counter_uj")
    edges = pl.LazyFrame({"t_ns": START_NS + np.arange(made.seconds + 1) * SECOND_NS})
    devices = samples.group_by("device").agg(first_ns=pl.col("t_ns").first()).sort("device")
    starts = devices.select(pl.col("first_ns").alias("t_ns"), "device").select(
        _at(made).alias("first"), "device"
    )
    windows = devices.join(edges, how="cross").select(_at(made))
    cuts = (
        pl.concat([windows, records.select("at")])
        .unique()
        .sort("at")
        .with_columns((at // ((made.seconds + 10) * SECOND_NS)).alias("device"))
        .join(starts, on="device", maintain_order="left")
        .with_columns((at // SECOND_NS).alias("window"), pl.max_horizontal("at", "first").alias("at"))
    )
    steps = (
        samples.select(_at(made), "energy_mj")
        .set_sorted("at")
        .with_columns(
            at.alias("before"),
            at.shift(-1).alias("after"),
            ((pl.col("energy_mj").shift(-1) - pl.col("energy_mj")) * 1000).alias("gain_uj"),
        )
    )
    gain_uj = (
        pl.when(at > before)
        .then(pl.col("gain_uj") * (at - before) // (pl.col("after") - before))
        .otherwise(0)
    )
    return (
        cuts.set_sorted("at")
        .join_asof(steps, on="at", strategy="backward")
        .with_columns((pl.col("energy_mj") * 1000 + gain_uj).alias("counter_uj"))
        .with_columns(
            at.shift(-1).alias("to"),
            (counter.shift(-1) - counter).alias("energy_uj"),
            (at.shift(-1) - at).alias("length_ns"),
        )
        .filter(pl.col("window") % (made.seconds + 10) < made.seconds)
        .with_columns(
            pl.min_horizontal("energy_uj", IDLE_MW * pl.col("length_ns") // 1_000_000).alias("idle_uj")
        )
        .select("to", "window", "energy_uj", "length_ns", "idle_uj")
    )


def _apportioned(total: pl.Expr, weight: pl.Expr, alone: bool) -> pl.Expr:
    """Split a total by weight over the processes of a piece, by largest remainder; equal remainders go in
    order."""
    if alone:
        return total
    exact = total * (weight / weight.sum().over("piece"))
    part = exact.cast(pl.Int64)
    left = total - part.sum().over("piece")
    return part + ((part - exact).rank("ordinal").over("piece") <= left).cast(pl.Int64)
