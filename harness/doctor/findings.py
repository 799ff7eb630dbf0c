"""What does the doctor say of one thing, and how are its lines written?"""

from collections.abc import Iterable
from dataclasses import dataclass

OK = "ok"
NOTE = "note"
MISSING = "missing"
WRONG = "wrong"
FAULTS = (MISSING, WRONG)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at (`topic`), how it is (`state`), what was seen, and the command that mends it, if any."""

    topic: str
    state: str
    text: str
    mend: str = ""


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """A line for each finding, and below it, after an arrow, what mends it."""
    told = list(findings)
    wide = max((len(one.topic) for one in told), default=0)
    lines: list[str] = []
    for one in told:
        lines.append(f"{one.state:<8} {one.topic:<{wide}}  {one.text}")
        if one.mend:
            lines.append(f"{'':<8} {'':<{wide}}  -> {one.mend}")
    return lines


def closing_line(findings: Iterable[Finding]) -> str:
    """How it stands in one sentence."""
    states = [one.state for one in findings]
    counts = [f"{states.count(state)} {state}" for state in FAULTS if state in states]
    return f"{', '.join(counts)}: see the arrows." if counts else "Nothing is missing or wrong."
