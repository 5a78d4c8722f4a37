"""Processes, their utilisation and MIG instances, against the fake libnvidia-ml.so.1."""

from __future__ import annotations

import pytest

from tests.collector.readings import GIB, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN, US, S, T
from tests.fake_nvml.library import GRAPHICS, MPS, FakeNvml
from wattribute.collector.nvml import GpuReader, Nvml, SlowReading
from wattribute.collector.nvml_calls import IMPLAUSIBLE
from wattribute.collector.nvml_processes import Resident, Sample
from wattribute.records import Instance


def slow(gpu: GpuReader, t: int = T) -> SlowReading:
    return gpu.read_slow(lambda: t)


def primed(gpu: GpuReader) -> SlowReading:
    """The first reading, a second before T, learns where the buffer ends."""
    return slow(gpu, T - S)


def test_slow_reading(fake: FakeNvml) -> None:
    fake.process(0, 100, 5 * GIB)
    fake.fail(1, "nvmlDeviceGetMemoryInfo", NOT_SUPPORTED)  # GB10
    here, other = Nvml().gpus
    reading = slow(here)
    assert (reading.t, reading.memory_used_bytes, reading.temperature_c, reading.sm_clock_mhz) == (
        T,
        10 * GIB,
        60,
        1980,
    )
    assert reading.residents == (Resident(100, -1, 5 * GIB),)
    reading = slow(other)
    assert (reading.memory_used_bytes, reading.residents, other.identity.memory_bytes) == (None, (), None)


def test_process_lists_are_merged(fake: FakeNvml) -> None:
    fake.process(0, 100, 5 * GIB)
    fake.process(0, 100, 6 * GIB, GRAPHICS)  # in two lists: it is one process
    fake.process(0, 200, (1 << 64) - 1, MPS)  # its memory is not available
    residents = slow(Nvml().gpus[0]).residents
    assert residents == (Resident(100, -1, 6 * GIB), Resident(200, -1, None))


def test_a_list_that_cannot_be_read_is_not_an_empty_one(fake: FakeNvml) -> None:
    nvml = Nvml()
    for kind in ("Compute", "Graphics", "MPSCompute"):
        fake.fail(0, f"nvmlDeviceGet{kind}RunningProcesses_v3", NO_PERMISSION)
    # the name of the symbol fails; the binding's function is what is counted
    assert slow(nvml.gpus[0]).residents is None
    assert nvml.errors["nvmlDeviceGetComputeRunningProcesses", NO_PERMISSION] == 1


@pytest.mark.parametrize("code", [UNKNOWN, NOT_SUPPORTED])
@pytest.mark.parametrize(("is_scrambled", "version"), [(0, "v3"), (1, "v2")])
def test_a_list_that_fails_for_once_is_not_an_empty_one(
    fake: FakeNvml, code: int, is_scrambled: int, version: str
) -> None:
    fake.set(0, wide_v3=is_scrambled)
    held = (Resident(100, -1, GIB), Resident(200, -1, GIB))
    for resident in held:
        fake.process(0, resident.pid, GIB)
    gpu = Nvml().gpus[0]
    assert slow(gpu).residents == held
    fake.fail(0, f"nvmlDeviceGetComputeRunningProcesses_{version}", code)
    for _ in range(3):
        assert slow(gpu).residents is None  # the other lists answer, and are empty
    fake.fail(0, f"nvmlDeviceGetComputeRunningProcesses_{version}", 0)
    assert slow(gpu).residents == held


@pytest.mark.parametrize("code", [UNKNOWN, NOT_SUPPORTED])
def test_a_mode_that_fails_for_once_does_not_switch_mig_off(fake: FakeNvml, code: int) -> None:
    fake.set(0, mig=1)
    fake.instance(0, 2, 3, "NVIDIA H200 MIG 3g.71gb")
    gpu = Nvml().gpus[0]
    for _ in range(2):  # in the first it is switched on, and all is probed anew
        assert len(slow(gpu).instances) == 1
    fake.fail(0, "nvmlDeviceGetMigMode", code)
    for _ in range(3):
        assert len(slow(gpu).instances) == 1
    fake.fail(0, "nvmlDeviceGetMigMode", 0)
    fake.set(0, mig=0)
    assert slow(gpu).instances == ()


def test_what_fails_of_an_instance_that_just_went_is_asked_of_the_next(fake: FakeNvml) -> None:
    fake.set(0, mig=1)
    gpu = Nvml().gpus[0]
    assert slow(gpu).instances == ()
    fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")
    fake.fail(0, "nvmlDeviceGetAttributes_v2", 2)  # INVALID_ARGUMENT
    assert [instance.slices for instance in slow(gpu).instances] == [None]
    fake.fail(0, "nvmlDeviceGetAttributes_v2", 0)
    assert [instance.slices for instance in slow(gpu).instances] == [3]


@pytest.mark.parametrize("times", [1, 2])
def test_a_list_that_grows_while_it_is_read_is_read_again(fake: FakeNvml, times: int) -> None:
    fake.process(0, 100, GIB)
    nvml = Nvml()
    fake.set(0, grow=times)
    assert slow(nvml.gpus[0]).residents == (Resident(100, -1, GIB),)
    assert nvml.errors == {}


def test_scrambled_lists_of_driver_535_are_read_by_the_older_call(fake: FakeNvml) -> None:
    for pid in (100, 200, 300):
        fake.process(0, pid, GIB)
    fake.set(0, wide_v3=1)
    nvml = Nvml()
    residents = slow(nvml.gpus[0]).residents
    assert residents is not None
    assert [resident.pid for resident in residents] == [100, 200, 300]
    assert nvml.errors["nvmlDeviceGetComputeRunningProcesses", IMPLAUSIBLE] == 1


def test_utilisation_is_asked_from_the_last_seen_microsecond(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US - 1_300_000, 90)
    gpu = Nvml().gpus[0]
    assert primed(gpu).samples == ()  # an average over the whole buffer is nobody's second
    assert fake.get(0, "last_seen") == 0
    fake.sample(0, 100, US - 300_000, 55, 30)
    assert slow(gpu).samples == (Sample(100, T - 300_000_000, S, 55.0, 30.0),)
    assert fake.get(0, "last_seen") == US - 1_300_000
    assert slow(gpu, T + S).samples == ()  # NOT_FOUND: nothing new
    assert fake.get(0, "last_seen") == US - 300_000


def test_samples_that_come_again_are_not_counted_again(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US - 1_300_000, 90)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.set(0, repeat=1)  # the driver pays no heed to the timestamp
    assert slow(gpu).samples == ()


@pytest.mark.parametrize("empty_success", [0, 1])
def test_nothing_new_is_not_an_error(fake: FakeNvml, empty_success: int) -> None:
    """NOT_FOUND, or success with an empty list."""
    fake.set(0, empty_success=empty_success)
    fake.process(0, 100, GIB)
    nvml = Nvml()
    for t in (T, T + S):
        assert slow(nvml.gpus[0], t).samples == ()
    assert nvml.errors == {}


def test_utilisation_filters(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.process(0, 200, GIB)
    fake.sample(0, 100, US - 2_000_000, 1)
    nvml = Nvml()
    primed(nvml.gpus[0])
    fake.sample(0, 999, US - 100_000, 50)  # a zombie: not on any list
    fake.sample(0, 200, US - 100_000, 2_147_483_632)  # NVML's blank value
    fake.sample(0, 200, US - 200_000, 101)
    fake.sample(0, 100, US - 500_000, 10)  # a process twice: the newest counts
    fake.sample(0, 100, US - 400_000, 20, 2_147_483_632)
    fake.sample(0, 100, US - 600_000, 30)
    samples = slow(nvml.gpus[0]).samples
    assert samples == (
        Sample(100, T - 400_000_000, 1_600_000_000, 20.0, None),
        Sample(200, T - 400_000_000, 1_600_000_000, 0.0, None),
    )
    assert nvml.errors["nvmlDeviceGetProcessUtilization", IMPLAUSIBLE] == 3


def test_a_process_that_ended_leaves_its_last_sample(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US - 1_100_000, 40)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.clear(0)
    fake.sample(0, 100, US - 600_000, 40)
    assert slow(gpu).samples == (Sample(100, T - 600_000_000, 500_000_000, 40.0, 0.0),)
    assert slow(gpu, T + S).samples == ()
    fake.sample(0, 100, US + 400_000, 40)  # by now it is a zombie's
    assert slow(gpu, T + 2 * S).samples == ()


def test_idle_processes_are_at_zero_as_far_as_the_driver_has_told(fake: FakeNvml) -> None:
    for pid in (100, 200):
        fake.process(0, pid, GIB)
    fake.sample(0, 100, US - 1_500_000, 40)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.process(0, 300, GIB)  # a newcomer: nothing is known of it yet
    fake.sample(0, 100, US - 500_000, 40)
    assert slow(gpu).samples == (
        Sample(100, T - 500_000_000, S, 40.0, 0.0),
        Sample(200, T - 500_000_000, S, 0.0, None),
    )
    assert slow(gpu, T + S).samples == ()  # silence is not a reading of 0


@pytest.mark.parametrize("empty_success", [0, 1])
def test_in_silence_the_question_moves_on(fake: FakeNvml, empty_success: int) -> None:
    """An old timestamp would bring the first sample after it as an average over the idle time."""
    fake.set(0, empty_success=empty_success)
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US - 1_300_000, 40)
    gpu = Nvml().gpus[0]
    primed(gpu)
    for second in range(10):
        slow(gpu, T + second * S)
    fake.sample(0, 100, US + 9_900_000, 80)
    # 10 s after the last sample was read, less 1 s for what comes late
    assert slow(gpu, T + 10 * S).samples == (Sample(100, T + 9_900_000_000, 2_200_000_000, 80.0, 0.0),)
    assert fake.get(0, "last_seen") == US + 7_700_000


def test_the_first_sample_is_not_stretched_back_to_an_old_buffer(fake: FakeNvml) -> None:
    for number, pid in enumerate((100, 200)):
        fake.process(number, pid, GIB)
    fake.sample(0, 100, US - 3_600_000_000, 40)  # one buffer holds an hour old sample, the other is empty
    gpus = Nvml().gpus
    for gpu in gpus:
        primed(gpu)
    for number, pid in enumerate((100, 200)):
        fake.sample(number, pid, US - 100_000, 80)
        assert slow(gpus[number]).samples == (Sample(pid, T - 100_000_000, 2 * S, 80.0, 0.0),)


def test_the_newer_utilisation_call_takes_over_where_the_older_says_zero(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.set(0, legacy_zero=1)  # RTX PRO Blackwell
    fake.sample(0, 100, US - 1_100_000, 40)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.sample(0, 100, US - 100_000, 70)
    assert [sample.sm_percent for sample in slow(gpu).samples] == [70.0]
    assert fake.get(0, "info_last_seen") == US - 1_100_000


@pytest.mark.parametrize("call", ["nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo"])
def test_one_utilisation_call_is_enough(fake: FakeNvml, call: str) -> None:
    fake.fail(0, call, NOT_SUPPORTED)
    fake.process(0, 100, GIB)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.sample(0, 100, US - 100_000, 70)
    assert [sample.sm_percent for sample in slow(gpu).samples] == [70.0]


def test_a_foreign_timestamp_domain_falls_back_to_the_time_of_reading(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.sample(0, 100, 5_000_000, 40)  # µs since boot
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.sample(0, 100, 6_000_000, 70)
    assert slow(gpu).samples == (Sample(100, T, S, 70.0, 0.0),)
    assert fake.get(0, "last_seen") == 5_000_000


def test_a_driver_whose_clock_is_ahead_is_heard_at_once(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    gpu = Nvml().gpus[0]
    seen = []
    for at in range(4):
        fake.sample(0, 100, US + (300 + at) * 1_000_000, 50)
        seen.append([(sample.t - T, sample.sm_percent) for sample in slow(gpu, T + at * S).samples])
    assert seen == [[], *([(at * S, 50.0)] for at in range(1, 4))]


def test_a_clock_that_was_set_back_begins_anew(fake: FakeNvml) -> None:
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US, 40)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.clear(0)
    fake.process(0, 100, GIB)
    earlier = T - 3600 * S
    fake.sample(0, 100, earlier // 1000, 40)
    gpu.read_slow(lambda: earlier, fresh=True)
    fake.sample(0, 100, (earlier + S) // 1000, 60)
    assert gpu.read_slow(lambda: earlier + S).samples == (Sample(100, earlier + S, S, 60.0, 0.0),)


def test_mig_instances(fake: FakeNvml) -> None:
    fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")
    fake.instance(0, 2, 3, "NVIDIA H200 MIG 1c.3g.71gb")
    fake.instance(0, 2, 3, "NVIDIA H200 MIG 2c.3g.71gb")
    fake.process(0, 100, GIB, instance=2)
    gpu = Nvml().gpus[0]
    assert slow(gpu).instances == ()
    fake.set(0, mig=1)  # switched while we run
    fake.fail(0, "nvmlDeviceGetProcessUtilization", NOT_SUPPORTED)
    fake.fail(0, "nvmlDeviceGetProcessesUtilizationInfo", NOT_SUPPORTED)
    reading = slow(gpu)
    assert reading.instances == (
        Instance(t=T, gpu="GPU-fake-0", gpu_instance=1, profile="3g.71gb", slices=3),
        Instance(t=T, gpu="GPU-fake-0", gpu_instance=2, profile="3g.71gb", slices=3),
    )
    assert reading.residents == (Resident(100, 2, GIB),)
    assert gpu.mig_uuids == {"MIG-fake-0-0": 1, "MIG-fake-0-1": 2, "MIG-fake-0-2": 2}
    fake.set(0, mig=0)  # and back: what MIG lacks is asked for again
    for call in ("nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo"):
        fake.fail(0, call, 0)
    slow(gpu)
    assert gpu.mig_uuids == {}
    fake.sample(0, 100, US + 500_000, 70)
    assert [sample.sm_percent for sample in slow(gpu, T + S).samples] == [70.0]


def test_activity_of_mig_instances(fake: FakeNvml) -> None:
    """Of what GPM counted between two readings; an instance that is made anew begins anew."""
    fake.set(0, mig=1, gpm=1)
    gpu = Nvml().gpus[0]

    def read(second: float, *busy_ms: float, name: str = "NVIDIA H200 MIG 3g.71gb") -> list[float | None]:
        fake.clear(0)
        for number, busy in enumerate(busy_ms, start=1):
            fake.instance(0, number, 3, name)
            fake.activity(0, number, busy, second * 1000)
        return [instance.sm_percent for instance in slow(gpu, T + int(second * S)).instances]

    assert read(1, 100.0, 0.0) == [None, None]
    assert read(2, 900.0, 0.0) == [80.0, 0.0]
    assert read(2.05, 950.0, 0.0) == [None, None]  # too soon: GPM wants 100 ms
    assert read(3, 1000.0, 1300.0) == [10.0, 100.0]  # 130 % has been seen
    assert read(4, 1100.0) == [10.0]
    assert read(5, 1200.0, 100.0) == [10.0, None]
    assert read(6, 100.0, 100.0) == [None, 0.0]  # the counter fell
    assert read(90, 200.0, 200.0) == [None, None]
    assert all(code in (2, -1) for _, code in gpu._nvml.errors), gpu._nvml.errors
    fake.fail(0, "nvmlGpmMigSampleGet", NOT_SUPPORTED)
    assert read(91, 300.0, 300.0) == [None, None]
    fake.fail(0, "nvmlGpmMigSampleGet", 0)
    fake.set(0, gpm=0)
    assert read(92, 300.0) == [None]


def test_activity_goes_on_after_the_wall_clock_was_set_back(fake: FakeNvml) -> None:
    fake.set(0, mig=1, gpm=1)
    fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")
    gpu = Nvml().gpus[0]
    seen = []
    for second, shown_s in enumerate((0, 1, -3598, -3597, -3596), start=1):
        fake.activity(0, 1, 600.0 * second, 1000.0 * second)
        seen += [instance.sm_percent for instance in slow(gpu, T + shown_s * S).instances]
    assert seen == [None, 60.0, None, 60.0, 60.0]


def test_samples_that_come_late_are_waited_for_in_silence(fake: FakeNvml) -> None:
    """Where one has been 6 s old before it could be read, the next may be too."""
    fake.process(0, 100, GIB)
    gpu = Nvml().gpus[0]
    primed(gpu)
    fake.sample(0, 100, US - 500_000, 40)
    slow(gpu)
    fake.sample(0, 100, US + 500_000, 60)
    assert slow(gpu, T + 6 * S + S // 2).samples == (Sample(100, T + S // 2, S, 60.0, 0.0),)  # 6 s late
    slow(gpu, T + 12 * S)  # nothing yet: by 1 s behind, what follows would be asked for too late
    fake.sample(0, 100, US + 5_500_000, 80)
    assert slow(gpu, T + 13 * S).samples == (Sample(100, T + 5_500_000_000, 5 * S, 80.0, 0.0),)


@pytest.mark.parametrize(("back_s", "quiet_s"), [(5, 5), (3600, 1)])
def test_samples_go_on_after_the_wall_clock_was_set_back(fake: FakeNvml, back_s: int, quiet_s: int) -> None:
    """Once the times that the driver's buffer told of have come again; at once where they lie far ahead."""
    fake.process(0, 100, GIB)
    fake.sample(0, 100, US - 300_000, 90)
    gpu = Nvml().gpus[0]
    slow(gpu)

    heard: list[Sample] = []
    for second in range(1, quiet_s + 6):
        at_us = US + (second - back_s) * 1_000_000
        fake.sample(0, 100, at_us - 200_000, second)
        reading = gpu.read_slow(lambda: at_us * 1000, fresh=second == 1)  # noqa: B023 - read at once
        heard += reading.samples

    assert [sample.sm_percent for sample in heard] == [float(quiet_s + more) for more in range(1, 6)]
    assert all(0 < sample.period_ns <= 2 * S for sample in heard)
