"""Whether an output is right: tolerances by dtype, and the verdict on the errors found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kernels_bench.reasons import Reason, reason


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest error allowed against the float32 reference."""

    worst: float
    """Of any single element, relative to its own size and the root mean square of its row together."""
    typical: float
    """Of rows (one token, one head), relative to their root mean square; root mean square over all rows."""


# The unit roundoff is 2^-24, 2^-11 and 2^-8. Output and weights are rounded once or twice, so that the root mean
# square stays within one unit and a half; a single element of millions may be several times as far off. A wrong
# block, a shifted mask or a missing head gives an error near 1; an edge of a sequence left out or read beyond shows
# because values there are made large.
TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(worst=1e-4, typical=1e-5),
    "float16": Tolerance(worst=5e-3, typical=1e-3),
    "bfloat16": Tolerance(worst=4e-2, typical=8e-3),
}


@dataclass(frozen=True, slots=True)
class Errors:
    """How an output differs from its reference, in the measures of `Tolerance`."""

    worst: float
    typical: float
    not_finite: int
    """Elements that are not numbers: poison that was not written over, or an overflow."""
    elements: int


def verdict(errors: Errors, dtype: str) -> Reason | None:
    """What is wrong with an output, in words; None where it is right."""
    allowed = TOLERANCES[dtype]
    if errors.not_finite:
        sentence = "{count} of {elements} elements are not numbers: not written, or overflown"
        return reason("bench.not_numbers", sentence, count=errors.not_finite, elements=errors.elements)
    if not errors.typical <= allowed.typical:
        sentence = "relative error {error}; {dtype} allows {allowed}"
        return _beyond("bench.error_typical", sentence, (errors.typical, allowed.typical), dtype)
    if not errors.worst <= allowed.worst:
        sentence = "an element is off by {error} of its size; {dtype} allows {allowed}"
        return _beyond("bench.error_worst", sentence, (errors.worst, allowed.worst), dtype)
    return None


def _beyond(code: str, sentence: str, sizes: tuple[float, float], dtype: str) -> Reason:
    error, allowed = (float(f"{size:.2g}") if math.isfinite(size) else "inf" for size in sizes)
    return reason(code, sentence, error=error, allowed=allowed, dtype=dtype)
