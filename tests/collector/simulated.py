"""A simulated host whose clock the test moves, and scenarios whose figures can be said beforehand."""

from __future__ import annotations

from typing import Any

import pynvml

from wattribute.collector.scenario import load_scenario, parse_scenario
from wattribute.collector.simulate import SimulatedHost, VirtualTime

START_NS = 1_790_000_000_000_000_000
STEADY = {"pattern": "serve", "busy_s": 3600, "sm_percent": 40, "watts_per_sm_percent": 5.0}


def host_of(scenario: str | dict[str, Any], seed: int = 7) -> SimulatedHost:
    plan = load_scenario(scenario) if isinstance(scenario, str) else parse_scenario(scenario)
    host = SimulatedHost(plan, VirtualTime(START_NS), seed, pynvml)
    host.nvml.nvmlInit()
    return host


def to(host: SimulatedHost, seconds: float) -> int:
    """Move the host's clock to ``seconds`` after the start."""
    t = START_NS + round(seconds * 1e9)
    host.clock.sleep_until_ns(t)
    return t


def one_gpu(*tenants: dict[str, Any], **gpu: Any) -> dict[str, Any]:
    """A scenario without noise, so that power can be said beforehand."""
    named = [{"name": f"t{number}", "gpus": [0], **tenant} for number, tenant in enumerate(tenants)]
    return {"host": {"name": "h"}, "gpu": [{"noise_ratio": 0, **gpu}], "tenant": named}
