"""Warnings of the runs themselves that hold for a comparison of them as well, and why a side is not valid.

Repeats and stages mostly share a warning: it is given once, with the runs and stages that have it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.analysis.warnings import INVALID, WARNING, Warning, warnings_of
from harness.comparison.repeats import Repeat, Side
from harness.messages import plain

_SIDES = ("BASE", "NEW")
_OWN = frozenset({"wrong_kernel"})  # costs a kernel its own time, which is judged as lost, and no other's
_NO_NUMBER = frozenset({"errors", "few_samples", "slo_unmeasured", "unverified"})
"""Warnings that change no number that is compared; of failed requests and too few samples a comparison tells itself."""
_MOST_NAMED = 6  # runs of a side
_AGAIN = "A difference to an invalid result means nothing: run it again."


@dataclass(frozen=True, slots=True)
class _RunWarning:
    """A warning of one run, and of which side it is (0: BASE)."""

    side: int
    run: str
    warning: Warning


def invalid(base: Side, new: Side) -> Iterator[Warning]:
    """Why a side is not valid: then nothing is judged."""
    for own in _by_code(base, new, _why_invalid):
        are = "are" if len({one.side for one in own}) > 1 else "is"
        yield Warning(
            "invalid", INVALID, plain(f"{_sides(own)} {are} not valid ({_runs(own)}): {_text(own)}"), plain(_AGAIN)
        )


def carried(base: Side, new: Side) -> Iterator[Warning]:
    """Warnings of either side's numbers, which hold for their difference as well."""
    for own in _by_code(base, new, _carried):
        both = len({one.side for one in own}) > 1
        where = f"In {_sides(own)}" if both else f"In {_sides(own)} only"
        yield Warning(own[0].warning.code, WARNING, plain(f"{where} ({_runs(own)}): {_text(own)}"), own[0].warning.next)


def _why_invalid(run: Repeat) -> list[Warning]:
    if (run.summary.get("verdict") or {}).get("valid"):
        return []
    found = [warning for warning in warnings_of(run.summary) if warning.severity == INVALID]
    found = found or [Warning("not_ended", INVALID, plain("its run did not end."), plain(""))]
    return [warning for warning in found if warning.code not in _OWN]


def _carried(run: Repeat) -> list[Warning]:
    return [
        warning
        for warning in warnings_of(run.summary)
        if (warning.severity == WARNING and warning.code not in _NO_NUMBER)
        or (warning.severity == INVALID and warning.code in _OWN)
    ]


def _by_code(base: Side, new: Side, pick: Callable[[Repeat], list[Warning]]) -> list[list[_RunWarning]]:
    """What was picked of every run, each warning's own beside each other, in the order in which they come."""
    found: dict[str, list[_RunWarning]] = {}
    for number, side in enumerate((base, new)):
        for run in side.runs:
            for warning in pick(run):
                found.setdefault(warning.code, []).append(_RunWarning(number, run.name, warning))
    return list(found.values())


def _sides(own: Sequence[_RunWarning]) -> str:
    return " and ".join(_SIDES[side] for side in sorted({one.side for one in own}))


def _runs(own: Sequence[_RunWarning]) -> str:
    """The runs that have it: `1, 2, 3`, and where both sides have it `1, 2, 3; 1, 2, 3`."""
    parts = []
    for side in sorted({one.side for one in own}):
        names = list(dict.fromkeys(one.run for one in own if one.side == side))
        parts.append(", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else ""))
    return "; ".join(parts)


def _text(own: Sequence[_RunWarning]) -> str:
    """The warning's words; where runs or stages tell other numbers, those of the first, with the stages before them."""
    stages = sorted({one.warning.stage + 1 for one in own if one.warning.stage is not None})
    several = len({str(one.warning.text) for one in own}) > 1
    first = "of the first: " if several else ""
    where = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}: " if stages else ""
    return f"{where}{first}{own[0].warning.text}"
