"""How do texts become numbers with units, and numbers become texts?

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
_SIZES = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


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
    """The one unit (its size in seconds, its name) that suits a group of times whose largest is `seconds`."""
    for size, name in _SCALES:
        if abs(seconds) >= size:
            return size, name
    return _SCALES[-1] if 0 < abs(seconds) < 1e-9 else _SCALES[1]


def format_duration(seconds: float | None) -> str:
    """A time with three significant digits and its unit; `–` where there is none."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if abs(seconds) >= 120:
        minutes, rest = divmod(abs(seconds), 60)
        return f"{'-' if seconds < 0 else ''}{int(minutes)}m {rest:02.0f}s"
    size, name = time_scale(seconds)
    return f"{significant(seconds / size)} {name}"


def significant(value: float, digits: int = 3) -> str:
    """A number with about `digits` significant digits, thousands apart, no exponent."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def format_count(value: float | None) -> str:
    """A count with thousands apart; `–` where there is none."""
    return "–" if value is None else f"{value:,.0f}"


def format_rate(value: float | None, unit: str) -> str:
    """A rate with three significant digits, such as `12.3 req/s`."""
    return "–" if value is None or not math.isfinite(value) else f"{significant(value)} {unit}"


def format_share(value: float | None) -> str:
    """A share of one as per cent, such as `97.3 %`."""
    return "–" if value is None or not math.isfinite(value) else f"{significant(100 * value)} %"


def format_bytes(value: float | None) -> str:
    """A size in binary units, such as `1.50 GiB`."""
    if value is None:
        return "–"
    for name, size in _SIZES:
        if value >= size:
            return f"{significant(value / size)} {name}"
    return f"{value:.0f} B"
