"""Numbers with units from texts, and texts from numbers.

The only place that makes text of numbers. Inside the project times are integer
nanoseconds (`_ns`) or float seconds (`_s`), sizes are bytes, rates are per second.
"""

import math
import re

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

_DURATIONS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ]*)\s*")
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40))
_THOUSAND, _BINARY = 1000, 1024
_IN_MINUTES_S, _HOUR_S = 120, 3600
_MOST_DECIMALS = 12
_DAY_S = 86400
_FINEST_S = 1e-6  # of what a client can say that it was off by
_ROUGHLY = ((1.0, 90, "s"), (60.0, 90, "min"), (3600.0, 36, "h"))  # size, the most that is told in it, name


def parse_duration(value: float | str) -> float:
    """Seconds of a duration such as `60s`, `80ms`, `5m`, `1.5h`; a bare number is seconds.

    Raises:
        ValueError: with what was expected, where the text is no duration.
    """
    if isinstance(value, bool):
        raise ValueError("expected a duration such as 60s, 80ms or 5m")  # noqa: TRY004 - pydantic maps ValueError to a fault
    if isinstance(value, int | float):
        return float(value)
    match = _NUMBER.fullmatch(value)
    unit = (match.group(2) if match else "") or "s"
    if match is None or unit not in _DURATIONS_S:
        raise ValueError(
            f"{value!r} is not a duration; expected a number with ns, us, ms, s, m or h, such as 60s or 80ms"
        )
    return float(match.group(1)) * _DURATIONS_S[unit]


def seconds_to_ns(seconds: float) -> int:
    """Whole nanoseconds nearest to `seconds`."""
    return round(seconds * NS_PER_S)


def time_scale(seconds: float) -> tuple[float, str]:
    """The one unit (its size in seconds, its name) that suits a group of times whose largest is `seconds`.

    The smallest in which that time, rounded as it is printed, stays below a thousand.
    """
    if seconds == 0 or not math.isfinite(seconds):
        return _SCALES[1]
    fits = (scale for scale in reversed(_SCALES) if _shown(seconds / scale[0]) < _THOUSAND)
    return next(fits, _SCALES[0])


def format_about(seconds: float) -> str:
    """A time that is known roughly, rounded up: `40 s`, `12 min`, `3 h`, `2 d`."""
    for size, most, name in _ROUGHLY:
        if math.ceil(seconds / size) <= most:
            return f"{max(1, math.ceil(seconds / size))} {name}"
    return f"{math.ceil(seconds / _DAY_S)} d"


def format_duration(seconds: float | None) -> str:
    """A time with three significant digits and its unit; from two minutes on such as `2m 05s`, then `1h 05m`.

    `–` where there is none.
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if _shown(seconds) >= _IN_MINUTES_S:
        return ("-" if seconds < 0 else "") + _clock(abs(seconds))
    size, name = time_scale(seconds)
    return f"{significant(seconds / size)} {name}"


def format_error(seconds: float | None) -> str:
    """A time by which something was off, as `format_duration` has it; `< 1 µs` where no stamp could show it."""
    if seconds is not None and abs(seconds) < _FINEST_S:
        return "< 1 µs"
    return format_duration(seconds)


def format_clock(seconds: float | None) -> str:
    """A time as a clock shows it, to whole seconds: `0:24`, `12:05`, `1:05:09`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: rounded first and split then, so that no part is ever 60."""
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}m {rest:02d}s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours:,}h {rest:02d}m"


def _shown(value: float) -> float:
    """The size of a number once `significant` has rounded it."""
    return abs(float(significant(value).replace(",", "")))


def significant(value: float, digits: int = 3) -> str:
    """A number with about `digits` significant digits, thousands apart, no exponent; whole digits are never cut."""
    if not math.isfinite(value):
        return "–"
    power = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded number: 9.996 is 10.0
    text = f"{value:,.{min(max(0, digits - 1 - power), _MOST_DECIMALS)}f}"
    return text if float(text.replace(",", "")) else "0"


def format_count(value: float | None) -> str:
    """A count with thousands apart; `–` where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{round(value):,}"


def format_rate(value: float | None, unit: str) -> str:
    """A rate with three significant digits, such as `12.3 req/s`."""
    return "–" if value is None or not math.isfinite(value) else f"{significant(value)} {unit}"


def format_share(value: float | None) -> str:
    """A share of one as per cent, such as `97.3 %`."""
    return "–" if value is None or not math.isfinite(value) else f"{significant(100 * value)} %"


def format_change(percent: float, *, signed: bool = True) -> str:
    """A change in per cent to a tenth, from a hundred on to whole ones, with its sign unless it is nothing."""
    text = f"{abs(percent):.1f}"
    text = text if float(text) < 100 else f"{abs(percent):,.0f}"
    sign = "" if float(text.replace(",", "")) == 0 else "+" if percent > 0 else "−"  # noqa: RUF001 - a minus
    return f"{sign}{text}" if signed else text


def format_bytes(value: float | None) -> str:
    """A size in binary units, such as `1.50 GiB`: in the smallest in which it stays below 1024, as printed."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(round(value)) < _BINARY:
        return f"{round(value)} B"
    name, size = next((unit for unit in _SIZES if _shown(value / unit[1]) < _BINARY), _SIZES[-1])
    return f"{significant(value / size)} {name}"
