"""Results of a scenario over runs and versions, and the runs at which they changed significantly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.comparison.judging import BETTER, SINGLE_RUNS, UNDETERMINED, WORSE, ComparisonRow, judge
from harness.comparison.measures import in_view, value_of
from harness.comparison.repeats import Side
from harness.comparison.sides import read_side
from harness.messages import Message, message
from harness.scenario.metrics import Measure, measure_of

NO_WHOLE_RUN = message("comparison.no_whole_run")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One run of a history, and the measures that a comparison with the last whole run before showed to have changed.

    A run that is not valid, or that was interrupted, is a base of none. `unjudged` says why nothing of it could be
    judged, None where something was.
    """

    folder: Path
    side: Side
    changed: Sequence[ComparisonRow] = ()
    unjudged: Message | None = None

    @property
    def run(self) -> Mapping[str, Any]:
        """Its run.json."""
        return self.side.repeats[0].run

    @property
    def summary(self) -> Mapping[str, Any]:
        """Its summary.json."""
        return self.side.repeats[0].summary

    @property
    def is_whole(self) -> bool:
        """Whether it is valid and came to its end."""
        verdict = self.summary.get("verdict") or {}
        return bool(verdict.get("valid")) and not verdict.get("interrupted")

    @property
    def version(self) -> str:
        """Versions of the engine's packages, else of the harness."""
        packages = (self.run.get("environment") or {}).get("packages") or {}
        engine = [f"{name} {packages[name]}" for name in ("vllm", "vllm-ascend") if name in packages]
        own = (self.run.get("client") or {}).get("version")
        return ", ".join(engine) or (f"npu-harness {own}" if own else "–")


@dataclass(frozen=True, slots=True)
class History:
    """Runs that are alike, oldest first: a scenario on one model and device."""

    name: str
    question: str
    model: str
    entries: Sequence[HistoryEntry]

    @property
    def simulated(self) -> bool:
        """Whether a simulator answered."""
        return any(bool(entry.summary.get("simulated")) for entry in self.entries)

    def points(self, key: str) -> list[dict[str, Any]]:
        """One measure over the runs: run (from 1), stage, value, verdict ("" where nothing was shown)."""
        measure = measure_of(key)
        return [
            {"run": place, "stage": stage, "value": value, "verdict": _verdict(entry, key, stage)}
            for place, entry in enumerate(self.entries, 1)
            for repeat in entry.side.repeats
            for stage, values in repeat.stages.items()
            if (value := _value(measure, values)) is not None
        ]


def _value(measure: Measure, stage: Mapping[str, Any]) -> float | None:
    return value_of(in_view(measure, stage.get("load") or {}), stage)


def _verdict(entry: HistoryEntry, key: str, stage: int) -> str:
    return next((row.verdict for row in entry.changed if (row.measure.key, row.stage) == (key, stage)), "")


def histories(folders: Iterable[Path]) -> list[History]:
    """The results of these folders by scenario; runs that are not alike stand in histories of their own.

    Raises:
        ResultError: where a folder is no finished result.
    """
    groups: list[list[HistoryEntry]] = []
    for entry in sorted((HistoryEntry(folder, read_side(folder)) for folder in folders), key=_moment):
        group = next((group for group in groups if _alike(group[-1], entry)), None)
        if group is None:
            groups.append([entry])
        else:
            group.append(_judged([past for past in group if past.is_whole], entry))
    names = [str(group[-1].run.get("name", "")) for group in groups]
    return [_history(group, several=names.count(name) > 1) for group, name in zip(groups, names, strict=True)]


def _judged(before: Sequence[HistoryEntry], entry: HistoryEntry) -> HistoryEntry:
    """An entry with what a comparison with the last of those before it shows."""
    if not before:
        return replace(entry, unjudged=NO_WHOLE_RUN)
    rows = _rows(before, entry)
    changed = [row for row in rows if row.verdict in (BETTER, WORSE)]
    return replace(entry, changed=changed, unjudged=_reason(rows))


def _moment(entry: HistoryEntry) -> tuple[str, str]:
    return str(entry.run.get("started_utc") or ""), entry.folder.name


def _alike(entry: HistoryEntry, other: HistoryEntry) -> bool:
    kind = entry.side.kind
    if kind is not other.side.kind or entry.run.get("name") != other.run.get("name"):
        return False
    return not kind.incompatibilities(entry.side, other.side)


def _reason(rows: Sequence[ComparisonRow]) -> Message | None:
    """Why none of these rows could be judged; None where one was."""
    if any(row.verdict != UNDETERMINED for row in rows):
        return None
    reasons = [row.reason for row in rows if row.reason is not None]
    return SINGLE_RUNS if SINGLE_RUNS in reasons else next(iter(reasons), None)


def _rows(before: Sequence[HistoryEntry], entry: HistoryEntry) -> list[ComparisonRow]:
    """The gate's measures against the last run before; those before it tell how far two runs differ by chance."""
    kind = entry.side.kind
    repeats = [repeat for past in before[:-1] for repeat in past.side.repeats]
    earlier = [repeat for repeat in repeats if kind.noise_key(repeat) is not None]
    rows = judge(*kind.aligned(before[-1].side, entry.side), kind.default_gate, earlier=earlier)
    return [row for row in rows if row.allowed is not None]


def _history(entries: Sequence[HistoryEntry], *, several: bool) -> History:
    """A history of these entries; `several`: there are others of the same name, so its name has the seed."""
    last = entries[-1]
    name = str(last.run.get("name", "")) + (f", seed {last.run.get('seed')}" if several else "")
    model = str((last.run.get("engine") or {}).get("model") or "")
    return History(name, str(last.run.get("question", "")), model, entries)
