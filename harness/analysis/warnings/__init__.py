"""What is a doubt, and what is there to judge a stage by?

A doubt is a sentence about why a number may not mean what it seems to, and the next step. An
`invalid` one says that the client, or nothing, was measured; a `doubt` that the numbers need
care; a `note` is something a reader should know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.analysis.metrics import StageInput, StageSummary
from harness.results.request_table import Samples
from harness.statistics.intervals import Floats

NOTE = "note"
DOUBT = "doubt"
INVALID = "invalid"
SEVERITIES = (NOTE, DOUBT, INVALID)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a number may not mean what it seems to (`text`), and what to do about it (`next`).

    `name` is short and stable, `stage` the index of the stage (from 0), or None for the whole run, `repeat` which
    repeat of it (from 0), or None where there is one.
    """

    name: str
    severity: str
    text: str
    next: str
    stage: int | None = None
    repeat: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One stage as it was measured and summed up, what was watched meanwhile, and the last selfcheck, if any.

    `endpoint` is chat or completions, empty where it is not known.
    """

    stage: StageInput
    summary: StageSummary
    samples: Samples
    selfcheck: Mapping[str, Any] | None
    endpoint: str = ""

    def watched(self, source: str, name: str) -> Floats:
        """Values of a name within the stage's window, of all sources that begin so."""
        window, s = self.summary.window, self.samples
        rows = np.flatnonzero((s.at_ns >= window.start_ns) & (s.at_ns <= window.end_ns) & (s.name == name))
        return np.asarray([s.value[row] for row in rows if str(s.source[row]).startswith(source)], dtype=np.float64)
