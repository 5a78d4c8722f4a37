"""What each process draws per percent of SM time, and what the device draws idle (docs/attribution.md).

Over each stretch between two readings of SM time, the mean power of a device that several processes share
is taken to be

    power = idle level + Σ watts per percent × SM percent of each process

and solved for by ridge regression: a prior says what is likely, the readings of two minutes say what is so,
the newer the more. As SM readings may be dated late or early against those of energy, they are shifted
such that they explain the power best.

What is learned for a block of 5 s is a function of the readings of that block and of the 23 before it, and
of nothing else: it is found again after a restart, and a late reading changes what lies up to two minutes
after it.
"""

import math

import numpy as np

from wattribute.kernels.jit import kernel, part
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    BLOCK_NS,
    BLOCKS,
    DEVICES,
    ENERGY_AHEAD_NS,
    F64,
    FEATURES,
    FOREVER,
    HAS_COUNTER,
    HAS_INSTANT,
    HOLDERS,
    HOSTS,
    I32,
    I64,
    LATENESS_NS,
    LEARNED,
    MARKS,
    SHIFT_MAX_NS,
    WATTS,
    WATTS_HOLDERS,
    WATTS_PRIOR,
    WATTS_PRIOR_SD,
    Devices,
    Holders,
    Hosts,
    Learned,
    Marks,
    Watts,
    types,
)

OTHERS = -2
"""In place of a holder: all those that found no room among the features."""
_IDLE = FEATURES - 1  # the last feature is the idle level
_EDGES = 64  # different times at which SM time was read in a block; 30 where a driver tells it each 1/6 s
_SHORTEST_NS, _LONGEST_NS = 50_000_000, 60_000_000_000  # of other stretches the mean power says little

# Chosen on simulated devices, by the error of what each process is charged (wattribute verify). To forget in
# 40 s keeps up with watts that swing by a quarter within 5 min, and costs nothing where they are steady.
_FORGET_S = 40.0
_NOISE_W2 = 10.0  # variance over 1 s of what the sum leaves unexplained: so much the prior is worth
IDLE_SD_W = 40.0  # of the prior
_IDLE_LOW, _IDLE_HIGH = 0.6, 1.6  # of the prior: what lies beyond is a bad fit
_LEAST = 0.25  # of the prior: a process that works draws something
_BETTER = 0.9  # of the variance, at most, must be left for a shift to be believed: chance seldom does that

# How much later than it was so an SM reading is dated, in the order in which that is tried.
_SHIFTS_NS = np.array([0, -50, 50, -100, 100, 200, 300, 400, 500, 600, 800, 1000], np.int64) * 1_000_000
_SHIFTS = len(_SHIFTS_NS)
# Moments of a block: features × features; features × power and power² of each shift.
_FIRST = FEATURES * FEATURES
_SQUARES = _FIRST + _SHIFTS * FEATURES
MOMENTS = _SQUARES + _SHIFTS


@part
def block_of(window: int, window_ns: int, settled_ns: int) -> int:
    """The block that the split of a window rests on: the one in which it ends, where the window is final.
    Before that, readings of that block are still to come, and the window would have to be written again with
    each: so it is the last one that was final when the window ended."""
    to_ns = (window + 1) * window_ns
    if to_ns > settled_ns:
        return (to_ns - LATENESS_NS) // BLOCK_NS - 1
    return (to_ns - 1) // BLOCK_NS


@part
def _first_after(ns: I64, row: int, n: int, instant_ns: int, near: int) -> int:
    """The first of n ascending times that lies after an instant; n if none does. Looked for from ``near`` on,
    with steps that double: what is asked for block after block is never far."""
    low, high, step = 0, n, 1
    near = min(near, n)
    if near < n and ns[row, near] <= instant_ns:
        low = near + 1
        while low + step < n and ns[row, low + step] <= instant_ns:
            low += step + 1
            step *= 2
        high = min(low + step, n)
    else:
        high = near
        while high - step >= 0 and ns[row, high - step] > instant_ns:
            high -= step
            step *= 2
        low = max(high - step, 0)
    while low < high:
        middle = (low + high) // 2
        if ns[row, middle] > instant_ns:
            high = middle
        else:
            low = middle + 1
    return low


@part
def _counter_j(devices: Devices, d: int, i: int, instant_ns: int) -> float:
    """The counter at an instant, in J, interpolated between its changes; NaN where that is not known.
    ``i``: the last sample at or before the instant."""
    energy_mj = devices.energy_mj
    k = i
    while k > 0 and energy_mj[d, k] < 0:
        k -= 1
    mj = energy_mj[d, k]
    following = i + 1
    while following < devices.length[d] and (energy_mj[d, following] < 0 or energy_mj[d, following] == mj):
        following += 1
    if mj < 0 or following >= devices.length[d]:
        return math.nan
    while k > 0 and (energy_mj[d, k - 1] == mj or energy_mj[d, k - 1] < 0):
        k -= 1
    while energy_mj[d, k] < 0:
        k += 1
    share = (instant_ns - devices.t_ns[d, k]) / (devices.t_ns[d, following] - devices.t_ns[d, k])
    return float(mj + share * (energy_mj[d, following] - mj)) / 1e3


@part
def _power_j(t_ns: I64, power_mw: I32, d: int, i: int, from_ns: int, to_ns: int) -> float:
    """Integrated power between two instants, in J; NaN where a reading is missing. ``i``: a sample at or
    before ``from_ns``."""
    total = 0.0
    while t_ns[d, i + 1] <= from_ns:
        i += 1
    while t_ns[d, i] < to_ns:
        from_mw, to_mw = float(power_mw[d, i]), float(power_mw[d, i + 1])
        if from_mw < 0.0 or to_mw < 0.0:
            return math.nan
        length = t_ns[d, i + 1] - t_ns[d, i]
        begin, end = max(from_ns, t_ns[d, i]), min(to_ns, t_ns[d, i + 1])
        middle = ((begin - t_ns[d, i]) + (end - t_ns[d, i])) / 2 / length
        total += (from_mw + middle * (to_mw - from_mw)) * (end - begin)
        i += 1
    return total / 1e12


@part
def _is_broken(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether a gap or a reset of the counter lies between two instants, or one of them is not covered."""
    if devices.t_ns[d, 0] > from_ns or devices.t_ns[d, devices.length[d] - 1] < to_ns:
        return True
    for g in range(devices.gap_length[d]):
        if devices.gap_from_ns[d, g] < to_ns and devices.gap_to_ns[d, g] > from_ns:
            return True
    for r in range(devices.reset_length[d]):
        if devices.reset_from_ns[d, r] < to_ns and devices.reset_to_ns[d, r] > from_ns:
            return True
    return False


@part
def _joules(devices: Devices, d: int, from_ns: int, to_ns: int, joules: F64, near: I64) -> bool:
    """The energy between two instants, for each shift, in J; whether all are known. ``near[0]``: where to
    look for them, which moves on."""
    last_ns = from_ns - SHIFT_MAX_NS
    if _is_broken(devices, d, last_ns, to_ns + ENERGY_AHEAD_NS):
        return False
    n = devices.length[d]
    first = near[0] = _first_after(devices.t_ns, d, n, last_ns, near[0]) - 1
    for s in range(_SHIFTS):
        begin_ns, end_ns = from_ns - _SHIFTS_NS[s], to_ns - _SHIFTS_NS[s]
        if devices.sources[d] & HAS_COUNTER:
            i = first
            while devices.t_ns[d, i + 1] <= begin_ns:
                i += 1
            begin_j = _counter_j(devices, d, i, begin_ns)
            while devices.t_ns[d, i + 1] <= end_ns:
                i += 1
            joules[s] = _counter_j(devices, d, i, end_ns) - begin_j
        else:
            i = first
            if devices.sources[d] & HAS_INSTANT:
                joules[s] = _power_j(devices.t_ns, devices.power_mw, d, i, begin_ns, end_ns)
            else:
                begin_ns, end_ns = begin_ns + AVERAGE_SHIFT_NS, end_ns + AVERAGE_SHIFT_NS
                joules[s] = _power_j(devices.t_ns, devices.average_mw, d, i, begin_ns, end_ns)
        if math.isnan(joules[s]):
            return False
    return True


@part
def _used(holders: Holders, h: int, k: int, from_ns: int, to_ns: int) -> float:
    """Percent × ns of SM time between two instants; k: the first record that ends after ``from_ns``."""
    total = 0.0
    while k < holders.used_length[h] and holders.used_from_ns[h, k] < to_ns:
        begin, end = max(from_ns, holders.used_from_ns[h, k]), min(to_ns, holders.used_ns[h, k])
        total += holders.used_percent[h, k] * (end - begin)
        k += 1
    return total


@part
def _choose_features(
    devices: Devices,
    holders: Holders,
    d: int,
    slot: int,
    start_ns: int,
    own: I64,
    at: I64,
    worked: F64,
    feature: I64,
    near: I64,
    learned: Learned,
) -> int:
    """Those of whom SM time was read in the block from ``start_ns`` on, into ``own``, with their first record
    there and which feature each is, -1 for who did not work; how many. Where too many worked, those who
    worked least are one feature."""
    n = working = 0
    h = devices.first_holder[d]
    while h >= 0:
        k = _first_after(holders.used_ns, h, holders.used_length[h], start_ns, near[h + 1])
        near[h + 1] = k
        if k < holders.used_length[h] and holders.used_from_ns[h, k] < start_ns + BLOCK_NS:
            own[n], at[n], feature[n] = h, k, -1
            worked[n] = _used(holders, h, k, start_ns, start_ns + BLOCK_NS)
            working += 1 if worked[n] > 0.0 else 0
            n += 1
        h = holders.next_holder[h]
    alone = working if working <= _IDLE else _IDLE - 1
    for f in range(FEATURES):
        learned.named[d, slot, f] = -1
    for f in range(alone):
        best = -1
        for m in range(n):
            if feature[m] < 0 and worked[m] > 0.0 and (best < 0 or worked[m] > worked[best]):
                best = m
        feature[best] = f
        learned.named[d, slot, f] = own[best]
    if working > alone:
        learned.named[d, slot, alone] = OTHERS
        for m in range(n):
            if feature[m] < 0 and worked[m] > 0.0:
                feature[m] = alone
    return n


@part
def _edges(holders: Holders, own: I64, at: I64, n: int, end_ns: int, edges_ns: I64) -> int:
    """The different times up to ``end_ns`` at which records of those n end, ascending; how many."""
    count = 0
    for m in range(n):
        k = at[m]
        while k < holders.used_length[own[m]] and holders.used_ns[own[m], k] <= end_ns and count < _EDGES:
            edge_ns = holders.used_ns[own[m], k]
            place = count
            while place > 0 and edges_ns[place - 1] > edge_ns:
                place -= 1
            if place == 0 or edges_ns[place - 1] != edge_ns:
                for other in range(count, place, -1):
                    edges_ns[other] = edges_ns[other - 1]
                edges_ns[place] = edge_ns
                count += 1
            k += 1
    return count


@part
def _observe(
    devices: Devices,
    holders: Holders,
    d: int,
    block: int,
    own: I64,
    at: I64,
    worked: F64,
    feature: I64,
    edges_ns: I64,
    joules: F64,
    x: F64,
    near: I64,
    learned: Learned,
) -> None:
    """The moments of one block, of the stretches that end in it, into ``learned``."""
    slot = block % BLOCKS
    start_ns = block * BLOCK_NS
    moments = learned.moments
    learned.block[d, slot] = block
    for i in range(MOMENTS):
        moments[d, slot, i] = 0.0
    n = _choose_features(devices, holders, d, slot, start_ns, own, at, worked, feature, near, learned)
    count = _edges(holders, own, at, n, start_ns + BLOCK_NS, edges_ns)
    before_ns = 0  # when the stretch before the first ended
    for m in range(n):
        if at[m] > 0:
            before_ns = max(before_ns, holders.used_ns[own[m], at[m] - 1])
    for e in range(count):
        to_ns = edges_ns[e]
        from_ns = to_ns
        for m in range(n):
            k = at[m]
            while k < holders.used_length[own[m]] and holders.used_ns[own[m], k] < to_ns:
                k += 1
            if k < holders.used_length[own[m]] and holders.used_ns[own[m], k] == to_ns:
                from_ns = min(from_ns, holders.used_from_ns[own[m], k])
        from_ns = max(from_ns, before_ns)
        before_ns = to_ns
        length_ns = to_ns - from_ns
        if not _SHORTEST_NS <= length_ns <= _LONGEST_NS or not _joules(
            devices, d, from_ns, to_ns, joules, near
        ):
            continue
        for f in range(FEATURES):
            x[f] = 0.0
        x[_IDLE] = 1.0
        for m in range(n):
            k = at[m]
            while k > 0 and holders.used_ns[own[m], k - 1] > from_ns:
                k -= 1
            while k < holders.used_length[own[m]] and holders.used_ns[own[m], k] <= from_ns:
                k += 1
            if feature[m] >= 0:
                x[feature[m]] += _used(holders, own[m], k, from_ns, to_ns) / length_ns
        weight = length_ns / 1e9 / _NOISE_W2
        for i in range(FEATURES):
            if x[i] == 0.0:
                continue
            for j in range(FEATURES):
                moments[d, slot, i * FEATURES + j] += weight * x[i] * x[j]
            for s in range(_SHIFTS):
                moments[d, slot, _FIRST + i * _SHIFTS + s] += weight * x[i] * (joules[s] / length_ns * 1e9)
        for s in range(_SHIFTS):
            moments[d, slot, _SQUARES + s] += weight * (joules[s] / length_ns * 1e9) ** 2


@part
def _is_named_alike(learned: Learned, d: int, slot: int, other: int) -> bool:
    """Whether the features of two blocks are those of the same processes."""
    alike = True
    for f in range(_IDLE):
        alike &= learned.named[d, slot, f] == learned.named[d, other, f]
    return alike


@part
def _gather(learned: Learned, d: int, block: int, who: I64, second: F64, first: F64, squares: F64) -> int:
    """Whose watts the moments of a block and of those before it tell of, into ``who``, the others first;
    how many; clears room for their sums: ``second`` (17, 17), ``first`` (17, shifts), ``squares``."""
    who[0] = OTHERS
    n = 1
    for back in range(BLOCKS):
        slot = (block - back) % BLOCKS
        if back > 0 and _is_named_alike(learned, d, slot, (slot + 1) % BLOCKS):
            continue
        for f in range(_IDLE):
            named = learned.named[d, slot, f]
            if named < 0 or n == WATTS_HOLDERS:
                break
            k = 0
            while k < n and who[k] != named:
                k += 1
            if k == n:
                who[n] = named
                n += 1
    for i in range(n + 1):
        for j in range(n + 1):
            second[i, j] = 0.0
        for s in range(_SHIFTS):
            first[i, s] = 0.0
    for s in range(_SHIFTS):
        squares[s] = 0.0
    return n


@part
def _place_features(learned: Learned, d: int, slot: int, who: I64, n: int, place: I64) -> int:
    """Which of ``who`` each feature of a block is, into ``place``; how many features are processes."""
    used = 0
    while used < _IDLE and learned.named[d, slot, used] != -1:
        place[used] = 0  # who has no room is one of the others
        for k in range(1, n):
            if who[k] == learned.named[d, slot, used]:
                place[used] = k
        used += 1
    place[used] = n
    return used


@part
def _add_block(
    learned: Learned,
    d: int,
    slot: int,
    left: float,
    used: int,
    place: I64,
    second: F64,
    first: F64,
    squares: F64,
) -> None:
    """Add a block's moments, of which ``left`` is left, at the places of its features."""
    moments = learned.moments
    for f in range(used + 1):
        i = f if f < used else _IDLE
        for g in range(used + 1):
            j = g if g < used else _IDLE
            second[place[f], place[g]] += left * moments[d, slot, i * FEATURES + j]
        for s in range(_SHIFTS):
            first[place[f], s] += left * moments[d, slot, _FIRST + i * _SHIFTS + s]
    for s in range(_SHIFTS):
        squares[s] += left * moments[d, slot, _SQUARES + s]


@part
def _decompose(a: F64, n: int) -> None:
    """Cholesky: the lower triangle L of the first n rows of ``a``, in place, such that L Lᵀ was ``a``; the
    reciprocals of its diagonal in that place, for to divide takes as long as ten products."""
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= a[i, k] * a[j, k]
            a[i, j] = 1.0 / math.sqrt(total) if i == j else total * a[j, j]


@part
def _solve_forward(lower: F64, n: int, b: F64) -> None:
    """The y of L y = b for each column of ``b``, in its place."""
    for i in range(n):
        for k in range(i):
            for s in range(_SHIFTS):
                b[i, s] -= lower[i, k] * b[k, s]
        for s in range(_SHIFTS):
            b[i, s] *= lower[i, i]


@part
def _solve_back(lower: F64, n: int, y: F64, s: int, x: F64) -> None:
    """The x of Lᵀ x = y, of a column s of ``y``."""
    for i in range(n - 1, -1, -1):
        total = y[i, s]
        for k in range(i + 1, n):
            total -= lower[k, i] * x[k]
        x[i] = total * lower[i, i]


@part
def _variance(lower: F64, n: int, i: int, x: F64) -> float:
    """The i-th of the diagonal of (L Lᵀ)⁻¹: the squares of the i-th column of L⁻¹."""
    total = 0.0
    for j in range(i, n):
        entry = 1.0 if j == i else 0.0
        for k in range(i, j):
            entry -= lower[j, k] * x[k]
        x[j] = entry * lower[j, j]
        total += x[j] ** 2
    return total


@part
def _fit(
    holders: Holders,
    n: int,
    idle_w: float,
    who: I64,
    second: F64,
    first: F64,
    squares: F64,
    x: F64,
    out: Watts,
    row: int,
) -> None:
    """Watts of the n holders, idle level, shift, and how sure they are, into row ``row`` of ``out``."""
    weight = second[n, n]  # of all stretches, in seconds over the noise
    spent = 0.0  # of the prior: Σ prior² / variance
    for i in range(n + 1):
        prior, sd = idle_w, IDLE_SD_W
        if i < n:
            prior, sd = WATTS_PRIOR if i == 0 else holders.watts[who[i]], WATTS_PRIOR_SD
        second[i, i] += 1.0 / sd**2
        spent += (prior / sd) ** 2
        for s in range(_SHIFTS):
            first[i, s] += prior / sd**2
    _decompose(second, n + 1)
    _solve_forward(second, n + 1, first)
    for s in range(_SHIFTS):  # what is left unexplained: Σ power² - |L⁻¹ b|²
        squares[s] += spent
        for i in range(n + 1):
            squares[s] -= first[i, s] ** 2
    best, least = 0, squares[0]
    for s in range(1, _SHIFTS):
        if weight > 0.0 and squares[s] < (_BETTER * least if best == 0 else least):
            best, least = s, squares[s]
    _solve_back(second, n + 1, first, best, x)
    out.shift_ns[row] = _SHIFTS_NS[best]
    low, high = _IDLE_LOW * idle_w, _IDLE_HIGH * idle_w
    out.idle_mw[row] = int(min(max(x[n], low), high) * 1000.0)
    for i in range(n):
        out.holder[row, i] = who[i]
        out.watts[row, i] = max(x[i], _LEAST * (WATTS_PRIOR if i == 0 else holders.watts[who[i]]))
    noise = max(least, 0.0) / max(weight, 1e-9)  # how much larger than taken
    out.noise_w[row] = math.sqrt(noise * _NOISE_W2)
    for i in range(n + 1):
        sd = math.sqrt(_variance(second, n + 1, i, x) * max(noise, 1.0))
        if i < n:
            out.sd[row, i] = sd
        else:
            out.idle_sd_w[row] = sd
    out.known[row] = n


@kernel(types.void(MARKS, types.int64, LEARNED))
def forget_blocks(marks: Marks, window_ns: int, learned: Learned) -> None:
    """Forget the moments of the blocks whose readings the marks say have changed."""
    for i in range(marks.made[0]):
        d = marks.device[i]
        if d >= learned.block.shape[0]:
            continue
        from_block = (marks.first[i] * window_ns - ENERGY_AHEAD_NS) // BLOCK_NS
        to_block = (marks.last[i] + 1) * window_ns // BLOCK_NS
        for slot in range(BLOCKS):
            if from_block <= learned.block[d, slot] <= to_block:
                learned.block[d, slot] = -1


@kernel(
    types.void(
        HOSTS,
        DEVICES,
        HOLDERS,
        MARKS,
        types.Array(types.int64, 1, "C"),
        types.Array(types.int64, 1, "C"),
        types.Array(types.int64, 1, "C"),
        types.int64,
        types.boolean,
        LEARNED,
        WATTS,
    )
)
def learn(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    marks: Marks,
    order: I64,
    bounds: I64,
    idle_mw: I64,
    window_ns: int,
    ended: bool,
    learned: Learned,
    out: Watts,
) -> None:
    """Learn for every block that a marked window rests on, into ``out``.

    ``order`` (marks): the marks by device; those of device d are order[bounds[d]:bounds[d + 1]]. ``idle_mw``
    (devices): the prior of the idle level. ``learned``: moments found before. ``ended``: nothing more will
    come."""
    members = holders.silent.shape[0]
    own, at, feature = np.empty(members, np.int64), np.empty(members, np.int64), np.empty(members, np.int64)
    worked = np.empty(members)
    edges_ns, joules, x = np.empty(_EDGES, np.int64), np.empty(_SHIFTS), np.empty(WATTS_HOLDERS + 1)
    who, place = np.empty(WATTS_HOLDERS, np.int64), np.empty(FEATURES, np.int64)
    second = np.empty((WATTS_HOLDERS + 1, WATTS_HOLDERS + 1))
    first, squares = np.empty((WATTS_HOLDERS + 1, _SHIFTS)), np.empty(_SHIFTS)
    near = np.zeros(members + 1, np.int64)  # where to look: in a device's samples, in those of each holder
    left = np.exp(-np.arange(BLOCKS) * (BLOCK_NS / 1e9 / _FORGET_S))  # of what a block so far back says
    for d in range(bounds.shape[0] - 1):
        near[0] = 0
        low, rows = out.first_block[d], out.begin[d + 1] - out.begin[d]
        if rows == 0:
            continue
        h, sharing = devices.first_holder[d], 0
        while h >= 0:
            sharing += 1 if holders.used_length[h] > 0 else 0
            h = holders.next_holder[h]
        if sharing < 2:
            continue
        over = ended or hosts.ended_ns[devices.host[d]] == hosts.now_ns[devices.host[d]]
        settled_ns = FOREVER if over else hosts.now_ns[devices.host[d]] - LATENESS_NS
        newest = devices.t_ns[d, devices.length[d] - 1] // window_ns
        for i in range(bounds[d], bounds[d + 1]):
            mark = order[i]
            for window in range(marks.first[mark], min(marks.last[mark], newest) + 1):
                block = block_of(window, window_ns, settled_ns)
                if low <= block < low + rows and out.known[out.begin[d] + block - low] == 0:
                    out.known[out.begin[d] + block - low] = -1  # wanted
        for block in range(low, low + rows):
            row = out.begin[d] + block - low
            if out.known[row] != -1:
                continue
            out.known[row] = 0
            for back in range(BLOCKS - 1, -1, -1):
                if learned.block[d, (block - back) % BLOCKS] != block - back:
                    _observe(
                        devices,
                        holders,
                        d,
                        block - back,
                        own,
                        at,
                        worked,
                        feature,
                        edges_ns,
                        joules,
                        x,
                        near,
                        learned,
                    )
            n = _gather(learned, d, block, who, second, first, squares)
            if n < 3:  # one process alone gets all there is, whatever it draws
                continue
            used = 0
            for back in range(BLOCKS):
                slot = (block - back) % BLOCKS
                if back == 0 or not _is_named_alike(learned, d, slot, (slot + 1) % BLOCKS):
                    used = _place_features(learned, d, slot, who, n, place)
                _add_block(learned, d, slot, left[back], used, place, second, first, squares)
            _fit(holders, n, idle_mw[d] / 1e3, who, second, first, squares, x, out, row)
