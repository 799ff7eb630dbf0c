"""Whether an output is right: tolerances by dtype, and the verdict on the errors found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


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


def verdict(errors: Errors, dtype: str) -> str | None:
    """What is wrong with an output, in words; None where it is right."""
    allowed = TOLERANCES[dtype]
    if errors.not_finite:
        return f"{errors.not_finite} of {errors.elements} elements are not numbers: not written, or overflown"
    if not errors.typical <= allowed.typical:
        return f"relative error {_short(errors.typical)}; {dtype} allows {_short(allowed.typical)}"
    if not errors.worst <= allowed.worst:
        return f"an element is off by {_short(errors.worst)} of its size; {dtype} allows {_short(allowed.worst)}"
    return None


def _short(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "inf"
