"""The subcommands of ``wattribute``, one file each: its options, and how it puts the parts together.

Slow imports (numba, ClickHouse, NVML) are inside the commands that need them, so that ``--help`` answers at
once, and a GPU host collects without the packages that only ``stream`` needs.
"""
