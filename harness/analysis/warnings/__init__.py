"""Warnings: why a number of a run may not mean what it seems to, and the next step; and what the checks look at.

An `invalid` one says that the client, or nothing, was measured; a `warning` that the numbers need care; a `note` is
something a reader should know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.engine_balance import UNKNOWN_BALANCE, Balance
from harness.analysis.metrics import StageInput, StageSummary
from harness.analysis.server_side import PrefixHits
from harness.messages import Message, message, stored
from harness.results.request_table import Samples
from harness.statistics.intervals import Floats

NOTE = "note"
WARNING = "warning"
INVALID = "invalid"
DIED = "died"
"""The code of the warning that an engine, or a load worker, died in the run."""
SEVERITIES = (NOTE, WARNING, INVALID)


@dataclass(frozen=True, slots=True)
class Warning:
    """Why a number may not mean what it seems to (`text`), and what to do about it (`next`).

    `code` is short and stable, `stage` the index of the stage (from 0), or None for the whole run, `repeat` which
    repeat of it (from 0), or None where there is one.
    """

    code: str
    severity: str
    text: Message
    next: Message
    stage: int | None = None
    repeat: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it: both messages, and beside each its English sentence."""
        return {
            "code": self.code,
            "severity": self.severity,
            "stage": self.stage,
            "repeat": self.repeat,
            "message": self.text.as_dict(),
            "text": str(self.text),
            "next": self.next.as_dict(),
            "next_text": str(self.next),
        }


def is_invalid(warnings: Sequence[Warning], stage: int, repeat: int) -> bool:
    """Whether a warning says that the numbers of this stage and repeat, or of the whole run, are not valid."""
    return any(
        warning.severity == INVALID
        and (warning.stage is None or (warning.stage == stage and warning.repeat in (None, repeat)))
        for warning in warnings
    )


def warnings_of(summary: Mapping[str, Any]) -> list[Warning]:
    """The warnings of a summary.json (of any kind of run), as they stand there."""
    return [
        Warning(
            code=str(kept.get("code") or kept.get("text")),
            severity=kept["severity"] if kept.get("severity") in SEVERITIES else WARNING,
            text=stored(kept.get("message"), str(kept.get("text") or "")),
            next=stored(kept.get("next"), str(kept.get("next_text") or "")),
            stage=kept.get("stage"),
            repeat=kept.get("repeat"),
        )
        for kept in (summary.get("verdict") or {}).get("warnings") or ()
    ]


def verdict_of(summary: Mapping[str, Any]) -> Message:
    """The verdict of a summary.json in a few words."""
    verdict = summary["verdict"]
    if not verdict["valid"]:
        cut = verdict.get("interrupted")
        return message("analysis.verdict_invalid_interrupted" if cut else "analysis.verdict_invalid")
    return message("analysis.verdict_interrupted" if verdict.get("interrupted") else "analysis.verdict_valid")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One stage as it was measured and summed up, what was watched meanwhile, and the last selfcheck, if any.

    `endpoint` is chat or completions, empty where it is not known. `balance` is what is found of its engines,
    `prefix` of their prefix caches.
    """

    stage: StageInput
    summary: StageSummary
    samples: Samples
    selfcheck: Mapping[str, Any] | None
    endpoint: str = ""
    balance: Balance = UNKNOWN_BALANCE
    prefix: PrefixHits | None = None

    def watched(self, source: str, name: str) -> Floats:
        """Values of a name within the stage's window, of all sources that begin so."""
        window, s = self.summary.window, self.samples
        rows = np.flatnonzero((s.at_ns >= window.start_ns) & (s.at_ns <= window.end_ns) & (s.name == name))
        return np.asarray([s.value[row] for row in rows if str(s.source[row]).startswith(source)], dtype=np.float64)
