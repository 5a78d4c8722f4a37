"""Idle levels: the power of a device on which a process is resident but does nothing. They are priors, until
the level is learned.

Never 0: an idle level of 0 would charge all idle energy to whoever happened to work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# Watts by GPU model, a word of NVML's name. Clocks stay up while there is a context, so a GPU with a process
# that does nothing may draw far more than an empty one: an A40 draws 30 W empty and 110 with a process
# (NVIDIA/open-gpu-kernel-modules, issue 874). A level lies between the two, because it is learned from 0.2 to
# 1.6 of it. Empty and with memory in use at 0 %: H200 73 to 78 W (captures of nvidia_gpu_exporter) and 122 to
# 127, H100 67 to 70 and 112 to 145, B200 136 to 145 and 187 to 196 (NVIDIA/TensorRT-LLM, issue 10278), A100
# 43 to 65 and 56 to 61 (logs published with "Part-time Power Measurements"), V100 27 to 40 and 36 to 53
# (zai-org/GLM-130B, issue 32), L4 9 to 19 and 27 to 28, T4 9 to 10 and 26 to 31. Figures without a source are
# from tables of nvidia-smi in public repositories, looked for on 2026-11-29.
_PRIOR_W: Final = {
    "B200": 122.0,
    "H200": 77.7,
    "H100": 91.0,
    "A100": 56.0,
    "A40": 69.0,
    "V100": 40.0,
    "L4": 18.0,
    "T4": 19.0,
}
_DEFAULT_W: Final = 60.0  # of a GPU that is not listed
_SD_W: Final = 40.0  # an idle context, and heat, add tens of watts to that


def idle_level(gpu_model: str, configured_w: Mapping[str, float]) -> tuple[int, float]:
    """Return the idle level of a GPU model in mW, and its standard deviation in W. ``configured_w`` (model
    name -> watts) wins over the prior, with a deviation of 0: a level that is configured is not learned."""
    if gpu_model in configured_w:
        return round(configured_w[gpu_model] * 1000), 0.0
    words = re.split(r"[ -]", gpu_model)  # of "NVIDIA A100-SXM4-80GB": L4 is not L40
    return round(next((_PRIOR_W[word] for word in words if word in _PRIOR_W), _DEFAULT_W) * 1000), _SD_W
