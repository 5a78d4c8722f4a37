"""Power of a device on which a process is resident but does nothing: the prior, until it is learned.

Never 0: an idle level of 0 charges all idle energy to whoever happened to work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# Watts by GPU model, a word of NVML's name. Sources: H200 idle 77.7 W (real
# readings of nvidia_gpu_exporter's captures); A100 56 to 61 W (first and last readings of the logs published
# with "Part-time Power Measurements", P0 with a context); the others: H200's share of the power cap, 11 %.
# A GPU that is not named: one plain figure.
_PRIOR_W: Final = {"H200": 77.7, "H100": 77.0, "A100": 56.0, "B200": 110.0, "L40S": 38.5, "L4": 8.0}
_DEFAULT_W: Final = 60.0
_SD_W: Final = 40.0  # a context that does nothing, and heat, put tens of watts on that


class IdleLevels:
    """Idle level by GPU model; ``configured_w`` (model name -> watts) wins over the prior."""

    def __init__(self, configured_w: Mapping[str, float] | None = None) -> None:
        self._configured_w = dict(configured_w or {})
        self._levels: dict[str, tuple[int, float]] = {}  # by model, as asked

    def resident(self, gpu_model: str) -> tuple[int, float]:
        """Milliwatts of a resident but idle process's device, and their standard deviation in watts: 0 where
        the level is configured, for then it is not learned."""
        level = self._levels.get(gpu_model)
        if level is None:
            watts, sd_w = self._configured_w.get(gpu_model), 0.0
            if watts is None:
                words = re.split(r"[ -]", gpu_model)  # of "NVIDIA A100-SXM4-80GB": L4 is not L40
                watts, sd_w = next((_PRIOR_W[word] for word in words if word in _PRIOR_W), _DEFAULT_W), _SD_W
            level = self._levels[gpu_model] = (round(watts * 1000), sd_w)
        return level
