"""Split a piece of a device that MIG cuts over its instances."""

from wattribute.kernels.apportion import apportion, to_ratios
from wattribute.kernels.jit import part
from wattribute.kernels.result import NO_SM
from wattribute.kernels.scratch import (
    ACTIVE,
    ACTIVE_UJ,
    END,
    IDLE_UJ,
    LENGTH_NS,
    MEMBER,
    PERCENT,
    SLICES,
    UNSURE,
    WEIGHT,
    Scratch,
)
from wattribute.kernels.series import I64, Holders


@part
def _group(holders: Holders, work: Scratch, n: int, count: int) -> None:
    """Sort the n processes present by the instances that they name, those that name none of them last, and
    note where each instance's processes end."""
    present, at = work.present, 0
    for g in range(count):
        number = holders.gpu_instance[work.members[work.instances[MEMBER, g]]]
        for k in range(at, n):
            if holders.gpu_instance[work.members[present[k]]] == number:
                own = present[k], work.sm_percent[k], work.unsure[k], work.memory_bytes[k]
                for j in range(k, at, -1):
                    present[j], work.sm_percent[j] = present[j - 1], work.sm_percent[j - 1]
                    work.unsure[j], work.memory_bytes[j] = work.unsure[j - 1], work.memory_bytes[j - 1]
                present[at], work.sm_percent[at], work.unsure[at], work.memory_bytes[at] = own
                at += 1
        work.instances[END, g] = at
    work.instances[END, count] = n


@part
def _weigh_instances(work: Scratch, count: int, slices: int) -> tuple[float, float]:
    """Compute how active each instance was, in watts: by its own activity, else by its processes. Return (Σ
    watts, the variance of that)."""
    instances, activity = work.instances, work.activity
    drawn = spread = 0.0
    begin = 0
    for g in range(count + 1):
        end = instances[END, g]
        weight = variance = 0.0
        if g < count and activity[PERCENT, g] >= 0.0:
            weight = activity[PERCENT, g] * work.watts[instances[MEMBER, g]]
            variance = activity[PERCENT, g] ** 2 * activity[UNSURE, g]
        else:  # by the SM time of its processes, scaled to its part of the device
            part_of_device = instances[SLICES, g] / slices
            for k in range(begin, end):
                weight += work.sm_percent[k] * work.watts[work.present[k]] * part_of_device
                variance += (work.sm_percent[k] * part_of_device) ** 2 * work.unsure[k]
        activity[WEIGHT, g], activity[UNSURE, g] = weight, variance
        drawn += weight
        spread += variance
        begin = end
    return drawn, spread


@part
def _give_instances(work: Scratch, groups: int, what: int, total: int) -> None:
    """Split a total over MIG instances by the first row of ``work.shares``, into row ``what`` of
    ``work.instances``."""
    apportion(total, work.shares, 0, groups, work.parts, work.rests)
    for g in range(groups):
        work.instances[what, g] = work.parts[g]


@part
def _is_held(instances: I64, g: int) -> bool:
    """Whether anybody holds instance g. The last one stands for slices in no instance; where there are no
    such slices, nobody can hold it."""
    return bool(instances[SLICES, g] > 0 and instances[END, g] > (instances[END, g - 1] if g > 0 else 0))


@part
def portion(
    holders: Holders, work: Scratch, n: int, count: int, slices: int, active_uj: int, idle_uj: int,
    length_ns: int,
) -> tuple[float, float, int]:  # fmt: skip
    """Split a piece over ``count`` MIG instances, into ``work``. Return (Σ watts that all draw, the variance
    of that, flags).

    Time and idle energy are split by compute slices; those of the device's ``slices`` that are in no instance
    come last. Active energy is split by activity × watts; where no activity is known, it goes to the only
    instance that is held, or else to residual."""
    flags, groups = 0, count + 1
    instances, activity, shares = work.instances, work.activity, work.shares
    taken = held = 0
    for g in range(count):
        taken += instances[SLICES, g]
    instances[SLICES, count] = max(slices - taken, 0)
    _group(holders, work, n, count)
    for g in range(groups):
        shares[0, g] = instances[SLICES, g]
        held += _is_held(instances, g)
    to_ratios(shares, groups)
    _give_instances(work, groups, LENGTH_NS, length_ns)
    _give_instances(work, groups, IDLE_UJ, idle_uj)
    drawn, spread = _weigh_instances(work, count, max(slices, taken))
    if drawn <= 0.0 and held > 1:
        work.sums[work.sums.shape[0] - 1, ACTIVE] += active_uj
        active_uj, flags = 0, NO_SM
    if drawn > 0.0 or held == 1:
        for g in range(groups):
            own = 1.0 if _is_held(instances, g) else 0.0
            shares[0, g] = activity[WEIGHT, g] if drawn > 0.0 else own
        to_ratios(shares, groups)
    _give_instances(work, groups, ACTIVE_UJ, active_uj)
    return drawn, spread, flags
