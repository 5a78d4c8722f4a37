"""``wattribute check-config``: show the settings in force, and where each came from."""

from __future__ import annotations

from wattribute.commands.options import BusOption, ConfigOption, FormatOption, HostOption, StoreOption
from wattribute.commands.output import Format, Grid, write_grid, write_rows
from wattribute.settings import load_settings


def check_config(
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    bus: BusOption = None,
    host: HostOption = None,
    config: ConfigOption = None,
) -> None:
    """Check options, environment (WATTRIBUTE_…) and configuration file; show what is in force and from where.

    Options take precedence over the environment, that over wattribute.toml, and that over defaults. Secrets
    are not shown. The file that watts_file names is checked too.
    """
    settings = load_settings({"store": store, "bus": bus, "host": host}, config)
    if settings.watts_file:
        from wattribute.stream.fleet import load_fleet_watts

        load_fleet_watts(settings.watts_file)
    rows = settings.shown()
    if shape is not Format.table:
        write_rows(rows, shape)
        return
    headers = ("key", "value", "from", "what it is")
    cells = [[row["key"], row["value"], row["from"], row["about"]] for row in rows]
    styles = ["" if row["from"] == "default" else "bold" for row in rows]
    write_grid(Grid(headers, cells, styles=styles))
