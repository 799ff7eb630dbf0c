"""What has a load shown so far, that other processes are still sending, and is that enough?

Read from the raw files that they write as they go: the same that the account of the whole load is made from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.analysis.metrics import StageInput
from harness.analysis.steady_state import Span
from harness.client.decode import Decoded, decode_part, joined
from harness.client.journal import read_ledger, whole_end
from harness.clock import monotonic_ns
from harness.execution.reconcile import Source, gathered, read_begun
from harness.results import store
from harness.results.request_table import Events, Requests
from harness.tuning.evaluation import Watch
from harness.tuning.trial_series import so_far
from harness.tuning.types import Measurement
from harness.units import NS_PER_S

_SETTLED_S = 0.1  # after a time until what was answered by then is surely in the spool: workers write in idle moments
_SPAN = ("stage", "repeat", "start_ns", "stop_ns", "end_ns")


def stage_in(folder: Path, requests: Requests, events: Events, row: dict[str, int]) -> StageInput:
    """The only stage of a result folder, from its rows and its span in the timeline."""
    told = store.read_json(folder, store.RUN)
    span = Span(**{name: int(row[name]) for name in _SPAN})
    slo, stream = told.get("slo") or {}, told.get("stream", True)
    return StageInput(requests, events, span, told["stages"][0], slo, stream=stream)


@dataclass(slots=True)
class _Spool:
    """A worker's answers as far as they were read."""

    path: Path
    end: int = 0
    known: Decoded | None = None

    def read(self) -> Decoded:
        """All answers that are there in full by now; each is decoded once."""
        end = whole_end(self.path, self.end)
        if self.known is None or end > self.end:
            new = decode_part(self.path, self.end, end)
            self.known = new if self.known is None else joined([self.known, new])
            self.end = end
        return self.known


@dataclass(slots=True)
class Following:
    """A load of one stage under way, into a result folder, and who watches it.

    `ended` is what it had shown when it was ruled to be enough; None until then.
    """

    folder: Path
    seed: int
    watch: Watch
    simulated: bool
    ended: Measurement | None = None
    _looks: int = 0
    _spools: dict[Path, _Spool] = field(default_factory=dict)

    def enough(self) -> bool:
        """Whether the load can end here: asked of the watch where the time to look has come, else no."""
        raw = self.folder / store.RAW
        begun = read_begun(raw)
        if not begun.begin_ns or self._due(begun.zero_ns) <= self._looks:
            return False
        stage = self._stage(raw)
        looks = self._due(begun.zero_ns + stage.span.start_ns)
        if looks <= self._looks:
            return False
        self._looks = looks
        part = so_far(stage, looks * self.watch.every_s, self.seed, simulated=self.simulated)
        if self.watch(part).stop:
            self.ended = part
        return self.ended is not None

    def _due(self, begin_ns: int) -> int:
        """How many times to look have passed since then."""
        passed_s = (monotonic_ns() - begin_ns) / NS_PER_S - _SETTLED_S
        return int(passed_s / self.watch.every_s) if self.watch.every_s > 0 else 0

    def _stage(self, raw: Path) -> StageInput:
        requests, events, timeline = gathered(raw, list(self._sources(raw)))
        return stage_in(self.folder, requests, events, timeline[0])

    def _sources(self, raw: Path) -> Iterator[Source]:
        """What each worker has sent and heard; what it heard is read first, as it was sent before."""
        for number in range(len(list(raw.glob("ledger-*.bin")))):
            path = raw / f"spool-{number}.bin"
            decoded = self._spools.setdefault(path, _Spool(path)).read()
            rows = read_ledger(raw / f"ledger-{number}.bin")
            whole = len(rows) - int((rows["sent_ns"][-1:] == 0).sum())  # the last row may be half written
            yield rows[:whole], decoded
