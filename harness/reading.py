"""How exactly the events of an answer are stamped, from how its reads went.

The kernel stamps the last byte of a read. An event that was read together with a later one is known to have come
no later than that, and no earlier than the first byte may have: the spread of its read.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import MISSING


@dataclass(frozen=True, slots=True)
class Reading:
    """What is uncertain about one answer's stamps, in ns.

    `first_bound_ns` is how much earlier than its stamp the first token event may have come, `late_ns` how late the
    latest read was, and `blurred` how many token events came in a late read together with a later one.
    """

    first_bound_ns: int
    late_ns: int
    blurred: int


UNKNOWN = Reading(MISSING, MISSING, MISSING)
"""Of an answer without the kernel's stamps."""


def reading(
    at_ns: Sequence[int], sent_ns: int, stamps: Sequence[int], lates: Sequence[int], spreads: Sequence[int]
) -> Reading:
    """The uncertainty of an answer whose token events arrived `at_ns`, from its reads.

    Args:
        at_ns: the stamp of each token event, nondecreasing; that of the read that completed it.
        sent_ns: when the request had left.
        stamps: the stamp of each read.
        lates: how much later than its stamp each was read; negative where the kernel gave none.
        spreads: number and spread of reads that were late, flat: number, spread, number, spread.
    """
    if not lates or min(lates) < 0:
        return UNKNOWN
    late_ns = max(lates)
    if not spreads:
        return Reading(0, late_ns, 0)
    first_bound_ns = blurred = 0
    for place, spread_ns in zip(spreads[::2], spreads[1::2], strict=True):
        stamp_ns = stamps[place]
        begin = bisect_left(at_ns, stamp_ns)
        count = bisect_left(at_ns, stamp_ns + 1) - begin
        if count < 2:
            continue
        blurred += count - 1
        if begin == 0:
            before_ns = stamps[place - 1] if place else sent_ns
            first_bound_ns = max(0, min(spread_ns, stamp_ns - before_ns))
    return Reading(first_bound_ns, late_ns, blurred)
