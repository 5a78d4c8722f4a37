"""The subcommands of ``wattribute``, a file each: its options, and how it puts the parts together.

What takes time to import (numba, ClickHouse, NVML) is imported within the commands that need it, so that
``--help`` answers at once and a GPU host collects without what only ``stream`` needs.
"""
