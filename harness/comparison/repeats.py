"""The two sides of a comparison: the repeats of their runs, and what each kind of result does its own way.

A side is a result folder, a folder that holds several, or a result file of another tool. Its smallest part is a
repeat: one pass through the stages of one run. Of kernels a stage is one measurement: a case on a path in a mode.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.analysis.warnings import Warning
from harness.messages import Message
from harness.results.request_table import Events, Requests
from harness.scenario.gate import Gate
from harness.statistics.intervals import Floats

if TYPE_CHECKING:
    from harness.comparison.comparability import Incompatibility
    from harness.comparison.comparison import Comparison
    from harness.comparison.judging import ComparisonRow


class ResultKind(Protocol):
    """What a comparison does its own way for one kind of result: of requests (`served`) or of `kernels`."""

    @property
    def name(self) -> str:
        """`served` or `kernels`."""

    @property
    def default_gate(self) -> Gate:
        """What is judged where no file says otherwise."""

    def gate_of_file(self, gate: Gate, path: Path) -> Gate:
        """A gate that a file states, with what it leaves out.

        Raises:
            InputError: where it names nothing that this kind of result has.
        """

    def incompatibilities(self, base: "Side", new: "Side") -> "list[Incompatibility]":
        """Facts for which a difference would say nothing of the engine; empty where the runs are alike."""

    def aligned(self, base: "Side", new: "Side") -> "tuple[Side, Side]":
        """Both sides with what is compared numbered alike."""

    def refuse_empty(self, side: "Side") -> None:
        """Refuse a side of which nothing was measured.

        Raises:
            InputError: where that is so.
        """

    def noise_key(self, repeat: "Repeat") -> tuple[str, ...] | None:
        """What earlier runs share with this one if they show how far two of its like differ; None where none does."""

    def surroundings(self, repeat: "Repeat") -> tuple[Any, Any]:
        """What was measured: engine and model, or provider and device of kernels."""

    def device_facts(self, repeat: "Repeat") -> Mapping[str, Any]:
        """Facts of the device that a bench noted."""

    def load_stages(self, repeat: "Repeat") -> Sequence[int]:
        """The numbers of its stages of load."""

    def nothing_shared(self, base: "Side", new: "Side") -> Message:
        """That the sides have nothing in common that is judged."""

    def few_repeats(self, noise: float | None, command: str) -> Warning:
        """That runs were not repeated; `noise` is what the gate takes them to differ by, None where it does not say.

        `command` measures both sides in turn, here and below.
        """

    def repeat_warnings(self, base: "Side", new: "Side", command: str, *, is_few: bool) -> Iterator[Warning]:
        """What is to know of how the repeats stand beside each other; `is_few`: that they are few was warned of."""

    def lone_stages(self, stages: Mapping[int, Mapping[str, Any]]) -> Warning:
        """That these are on one side alone."""

    def listed(self, rows: "Sequence[ComparisonRow]") -> "Sequence[ComparisonRow]":
        """The rows of judged measures that a terminal shows."""

    def answer(self, comparison: "Comparison") -> Message:
        """A valid comparison in one sentence."""


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What a run recorded, and the measured span of each of its stages, as rows of timeline.json."""

    requests: Requests
    events: Events
    timeline: Sequence[Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Repeat:
    """One repeat of one run: run.json, summary.json, its own stages of the latter by number, and its records.

    `records` gives those of the whole run, or None where they are not known.
    """

    name: str
    number: int
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    stages: Mapping[int, Mapping[str, Any]]
    records: Callable[[], RunRecords | None]
    kind: ResultKind
    times: Callable[[Mapping[str, Any]], Floats] | None = None
    """Of kernels only: the times behind a stage, which is a measurement there."""

    @property
    def key(self) -> tuple[str | None, str | None, int]:
        """What was sent when: equal where two repeats can be compared request by request."""
        return self.run.get("payload_sha256"), self.run.get("schedule_sha256"), self.number

    @property
    def engine(self) -> Mapping[str, Any]:
        """What run.json says of the engine."""
        engine: Mapping[str, Any] = self.run.get("engine") or {}
        return engine

    @property
    def is_valid(self) -> bool:
        """Whether its run ended and is valid."""
        return bool((self.summary.get("verdict") or {}).get("valid"))


@dataclass(frozen=True, slots=True)
class Side:
    """One side: how it is called, and its repeats in the order they ran; never empty."""

    name: str
    repeats: Sequence[Repeat]

    @property
    def kind(self) -> ResultKind:
        """What was measured: requests or kernels."""
        return self.repeats[0].kind

    @property
    def runs(self) -> Sequence[Repeat]:
        """One repeat of each run, for what a whole run says."""
        first = {id(repeat.summary): repeat for repeat in reversed(self.repeats)}
        return list(reversed(first.values()))


def pairs(base: Side, new: Side) -> list[tuple[Repeat, Repeat]] | None:
    """Repeats that sent the same requests at the same times, one of each side; None where not all have a partner."""
    keys = [[repeat.key for repeat in side.repeats] for side in (base, new)]
    known = all(key[0] and key[1] for key in keys[0])
    if not known or any(len(set(side)) < len(side) for side in keys) or set(keys[0]) != set(keys[1]):
        return None
    partners = {repeat.key: repeat for repeat in new.repeats}
    return [(repeat, partners[repeat.key]) for repeat in base.repeats]
