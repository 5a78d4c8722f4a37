"""``wattribute collect``: send this host's readings to the bus."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from wattribute.collector.publish import Publisher
from wattribute.commands.ends import collecting, open_sending_end, stopping, tell_of_another
from wattribute.commands.intake import open_intake
from wattribute.commands.options import (
    BusOption,
    ConfigOption,
    DurationOption,
    FastHzOption,
    HostOption,
    ScenarioOption,
    SeedOption,
    SimulateOption,
)
from wattribute.commands.output import note
from wattribute.commands.since import parse_duration_s
from wattribute.commands.source import open_source
from wattribute.records import Record
from wattribute.settings import load_settings


def collect(
    bus: BusOption = None,
    config: ConfigOption = None,
    simulate: SimulateOption = False,
    scenario: ScenarioOption = None,
    seed: SeedOption = 1,
    host: HostOption = None,
    fast_hz: FastHzOption = None,
    duration: DurationOption = None,
) -> None:
    """Sample this host's GPUs and processes, and send the readings to the bus.

    While Kafka cannot be reached, readings wait in a spool on disk. SIGTERM or Ctrl-C ends it; what cannot be
    sent by then stays in the spool.
    """
    settings = load_settings({"bus": bus, "host": host, "fast_hz": fast_hz}, config)
    duration_s = parse_duration_s(duration) if duration else None
    source = open_source(settings, simulate, scenario, seed)
    producer, log = open_sending_end(settings)
    if source.simulated is None:
        tell_of_another(settings)
    with closing(producer), closing(source), collecting(settings), stopping() as stop:
        publisher = Publisher(producer, log, source.name, source.boot_id)

        def publish(records: Sequence[Record]) -> None:
            publisher(records, sampler.epoch)

        with open_intake(settings, source.simulated is not None, publish) as told:
            sampler = source.sampler(settings, publish, told.take)
            note(f"collecting {source.shown()} -> {settings.bus}")
            health = sampler.run(stop, duration_s)
        publisher.end()
    for complaint in source.complaints(health):
        note(complaint)
    kept = (
        f", {publisher.unsent_messages:,} of them still in {settings.spool}"
        if publisher.unsent_messages
        else ""
    )
    lost = "".join(
        f"; {count:,} messages to {topic} were lost" for topic, count in publisher.lost_messages.items()
    )
    note(
        f"{health.records:,} records in {publisher.message_count:,} messages{kept}{lost};"
        f" 99 % of ticks were at most {health.late_percentile_ns(99) / 1e6:.1f} ms late,"
        f" {health.missed_ticks:,} were missed"
    )
    if scraped := source.scraped():
        note(scraped)
