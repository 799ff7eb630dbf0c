"""Which doubts of the runs themselves hold for a comparison of them as well, and is a side not valid at all?

Repeats and stages mostly share a doubt: it is told once, with the runs and stages that have it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.warnings import DOUBT, INVALID, Doubt
from harness.comparison.repeats import Repeat, Side

_SIDES = ("BASE", "NEW")
_OWN = frozenset({"wrong_kernel"})  # costs a kernel its own time, which is judged as lost, and no other's
_NO_NUMBER = frozenset({"errors", "few_samples", "slo_unmeasured", "unverified"})
"""Doubts that change no number that is compared; of failed requests and too few samples a comparison tells itself."""
_MOST_NAMED = 6  # runs of a side
_AGAIN = "A difference to an invalid result means nothing: run it again."


@dataclass(frozen=True, slots=True)
class _Told:
    """A doubt of one run: of which side (0: BASE), and as summary.json has it."""

    side: int
    run: str
    doubt: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.doubt.get("name") or self.doubt["text"])


def invalid(base: Side, new: Side) -> Iterator[Doubt]:
    """Why a side is not valid: then nothing is judged."""
    for own in _by_name(base, new, _why_invalid):
        are = "are" if len({one.side for one in own}) > 1 else "is"
        yield Doubt("invalid", INVALID, f"{_sides(own)} {are} not valid ({_runs(own)}): {_text(own)}", _AGAIN)


def carried(base: Side, new: Side) -> Iterator[Doubt]:
    """Doubts of either side's numbers, which are as much doubts of their difference."""
    for own in _by_name(base, new, _doubted):
        both = len({one.side for one in own}) > 1
        where = f"In {_sides(own)}" if both else f"In {_sides(own)} only"
        mend = str(own[0].doubt.get("next") or "")
        yield Doubt(own[0].name, DOUBT, f"{where} ({_runs(own)}): {_text(own)}", mend)


def _why_invalid(run: Repeat) -> list[Mapping[str, Any]]:
    verdict = run.summary.get("verdict") or {}
    if verdict.get("valid"):
        return []
    found = [one for one in verdict.get("doubts") or () if one["severity"] == INVALID]
    found = found or [{"name": "not_ended", "text": "its run did not end."}]
    return [one for one in found if one.get("name") not in _OWN]


def _doubted(run: Repeat) -> list[Mapping[str, Any]]:
    doubts = (run.summary.get("verdict") or {}).get("doubts") or ()
    return [
        one
        for one in doubts
        if (one["severity"] == DOUBT and one.get("name") not in _NO_NUMBER)
        or (one["severity"] == INVALID and one.get("name") in _OWN)
    ]


def _by_name(base: Side, new: Side, pick: Callable[[Repeat], list[Mapping[str, Any]]]) -> list[list[_Told]]:
    """What was picked of every run, each doubt's own beside each other, in the order in which they come."""
    found: dict[str, list[_Told]] = {}
    for number, side in enumerate((base, new)):
        for run in side.runs:
            for doubt in pick(run):
                told = _Told(number, run.name, doubt)
                found.setdefault(told.name, []).append(told)
    return list(found.values())


def _sides(own: Sequence[_Told]) -> str:
    return " and ".join(_SIDES[side] for side in sorted({one.side for one in own}))


def _runs(own: Sequence[_Told]) -> str:
    """The runs that have it: `1, 2, 3`, and where both sides have it `1, 2, 3; 1, 2, 3`."""
    parts = []
    for side in sorted({one.side for one in own}):
        names = list(dict.fromkeys(one.run for one in own if one.side == side))
        parts.append(", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else ""))
    return "; ".join(parts)


def _text(own: Sequence[_Told]) -> str:
    """The doubt's words; where runs or stages tell other numbers, those of the first, with the stages before them."""
    stages = sorted({int(one.doubt["stage"]) + 1 for one in own if one.doubt.get("stage") is not None})
    several = len({one.doubt["text"] for one in own}) > 1
    first = "of the first: " if several else ""
    where = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}: " if stages else ""
    return f"{where}{first}{own[0].doubt['text']}"
