"""Texts of numbers: read back they are the number within what is shown, and no part is a whole of the next unit."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.units import (
    format_about,
    format_bytes,
    format_change,
    format_count,
    format_duration,
    format_rate,
    format_share,
    parse_duration,
    significant,
    time_scale,
)
from reports.headline import interval
from reports.loads import short_duration, trimmed

_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TIMES = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_CLOCK = re.compile(r"(?:([\d,]+)h )?(\d+)m(?: (\d\d)s)?")
_HALF = 0.5 + 1e-6

times = st.one_of(
    st.floats(1e-9, 1e7),
    st.tuples(st.sampled_from([1e-6, 1e-3, 1.0, 60.0, 120.0, 3600.0, 7200.0]), st.floats(-1e-3, 1e-3)).map(
        lambda pair: pair[0] * (1 + pair[1])
    ),
)
numbers = st.one_of(
    st.floats(1e-9, 1e12),
    st.tuples(st.integers(-8, 11), st.floats(-1e-3, 1e-3)).map(lambda pair: 10.0 ** pair[0] * (1 + pair[1])),
)
sizes = st.one_of(
    st.floats(0, 1 << 50),
    st.tuples(st.sampled_from(sorted(_SIZES.values())), st.floats(-1e-3, 1e-3)).map(lambda p: p[0] * (1 + p[1])),
)


def _read(text: str) -> tuple[float, float]:
    """A printed number, and the size of its last digit."""
    decimals = len(text.partition(".")[2])
    return float(text.replace(",", "")), 10.0**-decimals


def _seconds(text: str) -> tuple[float, float]:
    """A printed time in seconds, and the size of its last digit; its parts are checked."""
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        number, unit = text.split(" ")
        value, digit = _read(number)
        assert value < 1000, text
        return value * _TIMES[unit], digit * _TIMES[unit]
    hours, minutes, seconds = clock.groups()
    assert int(minutes) < 60, text
    assert int(seconds or 0) < 60, text
    whole = int((hours or "0").replace(",", "")) * 3600 + int(minutes) * 60 + int(seconds or 0)
    return whole, 1.0 if seconds else 60.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(179.6, "3m 00s"), (3599.7, "1h 00m"), (119.97, "2m 00s"), (125, "2m 05s"), (7322, "2h 02m"), (0.9996, "1.00 s"),
     (0.0123, "12.3 ms"), (59.99, "60.0 s"), (9.996, "10.0 s"), (0, "0 ms"), (None, "–"), (-179.6, "-3m 00s")],
)  # fmt: skip
def test_times_are_rounded_before_they_are_split(seconds: float | None, text: str) -> None:
    """179.6 s are three minutes, not two minutes and sixty seconds."""
    assert format_duration(seconds) == text


@given(times)
@example(179.6)
@example(3599.7)
@example(0.9996)
def test_a_printed_time_reads_back(seconds: float) -> None:
    """A time read back is the time within half of its last digit; three digits at least stand, no part is full."""
    value, digit = _seconds(format_duration(seconds))

    assert abs(value - seconds) <= _HALF * digit
    assert digit <= 0.0101 * seconds or digit <= 1.01e-9 or seconds > 3500
    assert format_duration(-seconds) == f"-{format_duration(seconds)}"


@given(times, times)
def test_printed_times_keep_their_order(one: float, other: float) -> None:
    """A longer time is never printed as a shorter one."""
    low, high = sorted((one, other))

    assert _seconds(format_duration(low))[0] <= _seconds(format_duration(high))[0] * (1 + 1e-12)


@given(times)
def test_the_unit_of_a_group_holds_its_largest_time(seconds: float) -> None:
    """A group's largest time is below a thousand of its unit, as printed, and not below one unless there is no less."""
    size, unit = time_scale(seconds)
    value, _ = _read(significant(seconds / size))

    assert unit == "s" or value < 1000
    assert value >= 0.999 or unit == "ns"


@given(st.integers(1, 10**6), st.sampled_from(["ns", "us", "ms", "s", "m", "h"]))
def test_durations_are_read_as_written(count: int, unit: str) -> None:
    """A duration is its number times its unit."""
    sizes_s = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}

    assert parse_duration(f"{count}{unit}") == pytest.approx(count * sizes_s[unit])


@given(numbers, st.integers(1, 5))
@example(9.996, 3)
@example(99.96, 3)
@example(0.0009996, 3)
def test_significant_digits(value: float, digits: int) -> None:
    """A number has the digits asked for, no more behind its point, and reads back within half of the last."""
    text = significant(value, digits)
    shown, digit = _read(text)

    assert abs(shown - value) <= _HALF * digit
    if digit > 1.1e-12:
        kept = text.replace(",", "").replace(".", "").lstrip("0")
        assert len(kept) == digits or ("." not in text and len(kept) > digits)
    assert float(trimmed(value).replace(",", "")) == _read(significant(value))[0]


@given(st.lists(numbers, min_size=2, max_size=6))
def test_printed_numbers_keep_their_order(values: list[float]) -> None:
    """A larger number, rate or share is never printed as a smaller one."""
    for low, high in itertools.pairwise(sorted(values)):
        for form in (significant, trimmed, format_count, _rate, _share):
            assert _read(form(low))[0] <= _read(form(high))[0]


def _rate(value: float) -> str:
    return format_rate(value, "req/s").removesuffix(" req/s")


def _share(value: float) -> str:
    return format_share(value).removesuffix(" %")


@given(numbers)
def test_rates_shares_and_counts_read_back(value: float) -> None:
    """A rate, a share in per cent, a count: each reads back within half of its last digit."""
    for text, meant in ((_rate(value), value), (_share(value), 100 * value), (format_count(value), value)):
        shown, digit = _read(text)

        assert abs(shown - meant) <= _HALF * digit * (1 + 1e-9)


@given(sizes)
@example(1023.7)
@example((1 << 20) - 1)
@example((1 << 40) - 1)
def test_a_printed_size_reads_back(size: float) -> None:
    """A size reads back within its last digit, and is never 1024 of a unit that has a next one."""
    number, unit = format_bytes(size).split(" ")
    shown, digit = _read(number)

    assert unit == "TiB" or shown < 1024
    assert abs(shown * _SIZES[unit] - size) <= _HALF * digit * _SIZES[unit]


@given(sizes, sizes)
def test_printed_sizes_keep_their_order(one: float, other: float) -> None:
    """A larger size is never printed as a smaller one."""
    low, high = ((float(n.replace(",", "")) * _SIZES[unit]) for n, unit in
                 (format_bytes(size).split(" ") for size in sorted((one, other))))  # fmt: skip

    assert low <= high


@given(times, times)
def test_an_interval_names_the_unit_of_both_ends(one: float, other: float) -> None:
    """An interval reads back to both ends; minutes are said at both."""
    low, high = sorted((one, other))
    text = interval((low, high))
    left, right = re.split(" ?– ?", text)
    left = left if " " in left else left if left.endswith(("m", "s")) else f"{left} {right.split(' ')[1]}"

    assert left == format_duration(low)
    assert right == format_duration(high)


@given(times.filter(lambda seconds: seconds < 900))
def test_a_limit_is_the_time_without_zeros(seconds: float) -> None:
    """A limit's short text reads back to the same number as the long one."""
    number, unit = short_duration(seconds).split(" ")

    assert _read(number)[0] * _TIMES[unit] == pytest.approx(seconds, rel=0.0051, abs=1e-11)


@given(numbers.filter(lambda value: value < 1e6), st.sampled_from([1, -1]))
@example(99.96, 1)
def test_changes_in_per_cent_read_back(percent: float, way: int) -> None:
    """A change has a tenth of a per cent, from a hundred on whole ones, and its sign where it is not nothing."""
    text = format_change(way * percent)
    shown, digit = _read(text.lstrip("+−"))  # noqa: RUF001 - a minus

    assert abs(shown - percent) <= _HALF * digit
    assert digit == (0.1 if shown < 100 else 1)
    assert format_change(percent, signed=False) == text.lstrip("+−")  # noqa: RUF001 - a minus
    assert text.startswith(("+" if way > 0 else "−") if shown else "0")  # noqa: RUF001 - a minus


@pytest.mark.parametrize("form", [significant, format_count, format_share, format_bytes, format_duration])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_a_dash(form, value: float) -> None:
    """No formatter prints nan or inf."""
    assert form(value) == "–"


@given(st.floats(0, 1e8))
def test_a_rough_time_is_rounded_up_by_less_than_half(seconds: float) -> None:
    """`90 s`, `2 min`, `90 min`, `2 h`, `2 d`: never less than the time itself, and at most the next whole unit."""
    number, unit = format_about(seconds).split(" ")
    size = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]

    assert seconds <= int(number) * size <= max(1, seconds + size)
    assert int(number) <= 90 or unit == "d"


@given(st.floats(1e-3, 1e7), st.floats(1e-3, 1e7))
def test_a_rough_time_is_no_less_than_the_time(one: float, other: float) -> None:
    """A time that is rounded up covers what it stands for, and a longer one is never printed shorter."""
    low, high = (_roughly(format_about(seconds)) for seconds in sorted((one, other)))

    assert low >= min(one, other) * (1 - 1e-12)
    assert low <= high


def _roughly(text: str) -> float:
    number, unit = text.split(" ")
    size = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert int(number) * size < {"s": 120, "min": 7200, "h": 2 * 86400 + 1}.get(unit, float("inf")) + 1
    return int(number) * size
