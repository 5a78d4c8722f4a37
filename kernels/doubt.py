"""Readings that are not believed, or only once a second reading confirms them."""

from wattribute.kernels.counter import COUNTER_MAX_MJ
from wattribute.kernels.jit import part
from wattribute.kernels.messages import ABSURD, ACCEPTED, REPEATED, Sample
from wattribute.kernels.series import HORIZON_NS, SECOND_NS, Devices, Drops, Hosts

TIME_MAX_NS = 4_102_444_800_000_000_000
POWER_MAX_MW = 10_000_000
FAR_NS = 86_400 * SECOND_NS


@part
def drop(drops: Drops, message: int, t: int, reason: int) -> None:
    """Count a reading that cannot be used, and list it while there is room."""
    drops.total[reason] += 1
    n = drops.listed[0]
    if n < drops.where.shape[0]:
        drops.where[n, 0] = message
        drops.where[n, 1] = reason
        drops.where[n, 2] = t
        drops.listed[0] = n + 1


@part
def is_far_ahead(hosts: Hosts, host: int, d: int, now_ns: int, t: int) -> bool:
    """Whether a time lies so far ahead of its host's clock that only a second reading makes it credible.

    Otherwise one garbled time would end every window up to it, and everything that follows would be too
    late."""
    if now_ns == 0 or t <= now_ns + FAR_NS:
        return False
    sent_twice = t == hosts.ahead_ns[host] and d == hosts.ahead_device[host]
    if abs(t - hosts.ahead_ns[host]) < HORIZON_NS and not sent_twice:
        return False
    hosts.ahead_ns[host], hosts.ahead_device[host] = t, d
    return True


@part
def stands_alone(hosts: Hosts, devices: Devices, d: int, t: int) -> bool:
    """Whether the only reading of a device lies more than a day ahead of its second one, at ``t``, and no
    other device of its host has such a reading: then the first one is garbled."""
    if devices.t_ns[d, 0] - t <= FAR_NS:
        return False
    other = hosts.first_device[devices.host[d]]
    while other >= 0:
        n = devices.length[other]
        if other != d and n > 0 and devices.t_ns[other, n - 1] - t > FAR_NS:
            return False
        other = devices.next_device[other]
    return True


@part
def _is_absurd(sample: Sample) -> bool:
    t, energy_mj, power_mw, average_mw, _ = sample
    return (
        t > TIME_MAX_NS
        or energy_mj < -1
        or energy_mj > COUNTER_MAX_MJ
        or min(power_mw, average_mw) < -1
        or max(power_mw, average_mw) > POWER_MAX_MW
    )


@part
def fault(devices: Devices, d: int, sample: Sample) -> int:
    """Return why a sample is refused regardless of its neighbours; ACCEPTED if it is not refused."""
    if _is_absurd(sample):
        return ABSURD
    return REPEATED if 0 < sample[0] <= devices.repeated_to_ns[d] else ACCEPTED
