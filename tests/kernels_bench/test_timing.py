"""Sampling stops when it should, marks what is unsure, and rotates what it launches."""

import gc
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_bench.cases import Work
from kernels_bench.marks import launch_bound, marks_of, throttled
from kernels_bench.providers.base import Sample
from kernels_bench.roofline import Limits, distance
from kernels_bench.stopping import Rule, Stop, decide, interval_of, median, median_interval, noise_of
from kernels_bench.timing import batch_size, sample
from kernels_bench.verify import Errors, verdict
from kernels_bench.waits import waited_share, waits

RULE = Rule(noise=0.02, min_samples=10, max_samples=50, min_time_s=0.1, max_time_s=2.0)
QUIET = [100.0 + (index % 3) * 0.1 for index in range(20)]
WILD = [100.0, 200.0] * 10


@pytest.mark.parametrize(
    ("values", "spent_s", "reason"),
    [
        ([], 9.0, None),
        (QUIET[:9], 1.0, None),
        (QUIET[:10], 0.05, None),
        (QUIET[:10], 0.1, "quiet"),
        (WILD, 1.0, None),
        (WILD, 2.0, "time"),
        ([100.0], 2.0, "time"),
        (WILD * 3, 1.0, "samples"),
    ],
)
def test_the_rule_stops_where_it_should(values, spent_s, reason):
    """Low noise ends it between the least and the most; a bound ends it whatever the noise."""
    stop = decide(values, spent_s, RULE)

    assert (stop and stop.reason) == reason


def test_a_single_sample_has_no_noise_to_tell():
    """Fewer than six values hold no interval of the median."""
    assert median_interval(QUIET[:5]) is None
    assert math.isinf(noise_of(QUIET[:5]))


@given(st.integers(6, 400))
def test_the_interval_holds_the_median_often_enough(n):
    """The ranks cover the median of any distribution with nearly 95 %, by the binomial itself."""
    low, high = median_interval([float(value) for value in range(1, n + 1)])
    outside = sum(math.comb(n, k) for k in range(int(low))) / 2**n

    assert low + high == n + 1
    assert 1 - 2 * outside >= 0.935


def regimes(seed):
    """A hundred times around 100, of which always ten or more in a row share a clock that is up to 10 % off."""
    draw = np.random.default_rng(seed)
    levels = np.repeat(draw.normal(100, 4, size=10), draw.integers(10, 20, size=10))[:100]
    return (levels + draw.normal(0, 0.5, size=100)).tolist()


def test_times_that_follow_each_other_do_not_narrow_the_interval():
    """Of changing clocks the ranks hold the middle in half of all series, the interval in nine of ten."""
    series = [regimes(seed) for seed in range(300)]
    shares = [
        sum(low <= 100 <= high for low, high in map(interval, series)) / len(series)
        for interval in (median_interval, interval_of)
    ]

    assert shares[0] < 0.6
    assert shares[1] > 0.88


@given(st.lists(st.floats(1, 1e9), min_size=6, max_size=80))
def test_the_interval_is_never_narrower_than_that_of_ranks(values):
    """It holds it, and below twenty values it is it."""
    (low, high), ranks = interval_of(values), median_interval(values)

    assert low <= ranks[0] <= ranks[1] <= high
    assert len(values) >= 20 or (low, high) == ranks


def test_long_series_are_not_judged_at_every_sample():
    """At 400 values every twentieth more is a look; a bound ends a series between two looks all the same."""
    looked = [n for n in range(400, 480) if decide([100.0] * n, 1.0, Rule(max_samples=10**6))]

    assert looked == [400, 420, 440, 460]
    assert decide([100.0] * 401, 9.0, Rule(max_samples=10**6)).reason == "time"


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=40))
def test_the_median_splits_the_values(values):
    """At most half of the values lie on either side."""
    middle = median(values)

    assert sum(value < middle for value in values) <= len(values) / 2
    assert sum(value > middle for value in values) <= len(values) / 2


def test_noise_and_drift_are_marked():
    """Spread of a series that a bound ended, and a last third that is slower than the first."""
    rising = [100.0 + index for index in range(30)]

    assert marks_of(QUIET, Stop("quiet", 0.001), RULE) == []
    assert marks_of(WILD, Stop("samples", 0.3), RULE) == ["noisy"]
    assert marks_of(rising, Stop("quiet", 0.01), RULE) == ["slower-later"]
    assert marks_of(rising[::-1], Stop("quiet", 0.01), RULE) == ["faster-later"]


def test_a_falling_clock_is_throttling():
    """A clock lower by more than three per cent; a device that tells none is not judged."""
    assert throttled({"clock_mhz": 1800}, {"clock_mhz": 1700})
    assert not throttled({"clock_mhz": 1800}, {"clock_mhz": 1790})
    assert not throttled({}, {"clock_mhz": 1000})


def test_a_device_that_waits_for_the_host_is_launch_bound():
    """Host time a launch near device time; where there is no device time nothing is said."""
    assert launch_bound(95.0, 100.0)
    assert not launch_bound(50.0, 100.0)
    assert not launch_bound(100.0, None)


def test_waiting_for_a_core_is_the_schedulers_own_account(tmp_path):
    """The thread that waited longest counts, from its first number to its second; one that is gone counts nothing."""
    for thread, account in {"7": "900 40 3", "8": "900 10 3", "9": "nonsense"}.items():
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(account)
    before = {"7": 30, "8": 10, "6": 10**9}

    assert dict(waits(tmp_path)) == {"7": 40, "8": 10, "9": 0}
    assert waited_share(before, waits(tmp_path), 100) == 0.1
    assert waited_share(before, waits(tmp_path / "none"), 100) == 0.0


class Device:
    """A provider whose launches take told times, on a clock of its own."""

    def __init__(self, took_ns, *, events=False):
        self.took_ns, self.events, self.ran = took_ns, events, []

    def time(self, batch):
        for launch in batch:
            launch()
        whole = sum(self.took_ns(name) for name in self.ran[-len(batch) :])
        return Sample(len(batch), whole // 2, whole, whole if self.events else None)

    def launches(self, names):
        return tuple(lambda name=name: self.ran.append(name) for name in names)


def test_cold_launches_rotate_and_hot_ones_repeat():
    """Every launch has its turn before any comes again; a single one is always the same."""
    device = Device(lambda _name: 300_000)
    sample(device, device.launches("abc"), Rule(max_samples=12, min_time_s=0, max_time_s=60))

    assert "".join(device.ran).startswith("abcabcabc")
    assert set("".join(device.ran).split("abc")) <= {"", "a", "ab"}


def test_short_launches_are_timed_in_batches():
    """A launch of a few µs is repeated until the batch can be timed; samples are then a launch's share."""
    device = Device(lambda _name: 10_000, events=True)
    series = sample(device, device.launches("a"), Rule(max_samples=10, min_samples=5, min_time_s=0, max_time_s=60))

    assert {one.launches for one in series.samples} == {100}
    assert series.median_ns == 10_000
    assert series.stop.reason == "quiet"


def test_one_interruption_does_not_shorten_the_batches():
    """A batch's size comes from the shortest launch of the warm-up, not from whichever was the last."""
    times = iter([10_000_000] * 4 + [100_000] * 10 + [8_000_000])
    device = Device(lambda _name: next(times, 100_000))
    series = sample(device, device.launches("a"), Rule(max_samples=5, min_time_s=0, max_time_s=60))

    assert {one.launches for one in series.samples} == {10}


def test_no_garbage_is_collected_inside_a_sample():
    """The collector is off while launches are timed, and afterwards as it was."""
    found = []
    device = Device(lambda _name: 9_000_000)
    sample(device, (lambda: (device.ran.append("a"), found.append(gc.isenabled())),), Rule(max_samples=2))

    assert set(found) == {False}
    assert gc.isenabled()


def test_slow_launches_are_not_warmed_for_long():
    """A launch of seconds is warmed once and timed alone."""
    device = Device(lambda _name: 5_000_000_000)
    series = sample(device, device.launches("ab"), Rule(max_samples=2, min_samples=1, max_time_s=60))

    assert len(device.ran) == 1 + 2
    assert [one.launches for one in series.samples] == [1, 1]


def test_what_warms_up_is_not_a_sample():
    """The first launches are slow and leave no trace in the times."""
    slow = iter([9_000_000] * 8)
    device = Device(lambda _name: next(slow, 1_000_000))
    series = sample(device, device.launches("abcdefgh"), Rule(max_samples=20, min_time_s=0, max_time_s=60))

    assert max(series.times_ns) == 1_000_000


def test_a_device_that_waits_is_marked():
    """Where the host takes nearly as long as the device, the series says so."""
    device = Device(lambda _name: 2_000_000, events=True)
    plain = device.time
    device.time = lambda batch: Sample(len(batch), 1_990_000 * len(batch), 2_000_000, plain(batch).device_ns)
    series = sample(device, device.launches("a"), Rule(max_samples=10, min_time_s=0, max_time_s=60))

    assert series.marks == ("launch-bound",)


def test_batches_have_a_size_between_one_and_the_most():
    """Long launches alone, endless short ones no more than 512 together."""
    assert batch_size(Sample(1, 0, 10**9)) == 1
    assert batch_size(Sample(1, 0, 1)) == 512
    assert batch_size(Sample(1, 0, 10**9, device_ns=250_000)) == 4


MEASURED = Limits("measured", 1e9, {"bfloat16": 1e12})


def test_the_longer_limit_is_the_bound():
    """Few FLOPs a byte wait for memory, many for arithmetic; the gap is what is left above the ideal."""
    reading = distance(Work(10**6, 10**6, 0), "bfloat16", 0.002, MEASURED)
    counting = distance(Work(10**12, 10**6, 0), "bfloat16", 4.0, MEASURED)

    assert (reading.bound, reading.ideal_s, reading.fraction) == ("memory", 0.001, 0.5)
    assert reading.gap_s == pytest.approx(0.001)
    assert (counting.bound, counting.fraction) == ("compute", 0.25)


def test_a_limit_that_does_not_know_the_dtype_says_nothing():
    """Work in a type without a rate has no distance; a write needs no rate."""
    assert distance(Work(1, 1, 1), "float32", 1.0, MEASURED) is None
    assert distance(Work(0, 10**9, 0), "float32", 2.0, MEASURED).fraction == 0.5


@pytest.mark.parametrize(
    ("errors", "dtype", "told"),
    [
        (Errors(0.006, 0.0034, 0, 100), "bfloat16", None),
        (Errors(0.006, 0.0034, 0, 100), "float32", "relative error 0.0034; float32 allows 1e-05"),
        (Errors(0.5, 0.0034, 0, 100), "bfloat16", "an element is off by 0.5 of its size; bfloat16 allows 0.04"),
        (
            Errors(math.nan, math.nan, 7, 100),
            "bfloat16",
            "7 of 100 elements are not numbers: not written, or overflown",
        ),
        (Errors(math.nan, math.nan, 0, 100), "bfloat16", "relative error inf; bfloat16 allows 0.008"),
    ],
)
def test_outputs_are_judged_by_their_dtype(errors, dtype, told):
    """What bfloat16 explains, float32 does not; poison that is left, and errors that are no numbers, are wrong."""
    wrong = verdict(errors, dtype)

    assert (wrong and str(wrong)) == told


def test_interval_approximation_uses_the_normal_quantile():
    """The constant is the two-sided 95 % point."""
    assert NormalDist().inv_cdf(0.975) == pytest.approx(1.96, abs=1e-4)
