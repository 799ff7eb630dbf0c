"""Results of requests as a comparison takes them: how they are read, what both sides share, and the answer.

Repeats match in pairs that sent the same requests at the same times; earlier results match where they ran the same
scenario.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis.warnings import NOTE, WARNING, Warning
from harness.clock import REAL_TIME
from harness.comparison.comparability import (
    COMPUTATION,
    COMPUTATIONS,
    DEVICE,
    UNKNOWN,
    Fact,
    Incompatibility,
    completeness,
    listed,
    unlike_facts,
)
from harness.comparison.comparison import Comparison
from harness.comparison.describe import describe_changes, describe_row
from harness.comparison.judging import BETTER, SINGLE_RUNS, WORSE, ComparisonRow
from harness.comparison.repeats import Repeat, RunRecords, Side, pairs
from harness.errors import InputError, ResultError
from harness.messages import Message, message, sentences
from harness.results import store, table_files
from harness.scenario.gate import DEFAULT_GATE, Gate
from harness.scenario.metrics import KERNEL_TIME
from harness.scenario.stages import stage_title

_HASH_DIGITS = 12  # of a hash that are shown
_MOST_HASHES = 2


class ServedKind:
    """Comparisons of requests that a server, or an engine offline, answered."""

    name = "served"
    default_gate = DEFAULT_GATE

    def gate_of_file(self, gate: Gate, path: Path) -> Gate:
        """The gate as it is; one of kernels alone is refused."""
        if set(gate.gate) == {KERNEL_TIME}:
            raise InputError(message("cli.gate_without_requests", path=str(path)))
        return gate

    def incompatibilities(self, base: Side, new: Side) -> list[Incompatibility]:
        """The facts of the engine, and what was sent; where that differs, why, as far as run.json says."""
        sent = list(_unlike_requests(base, new))
        return [*unlike_facts(_FACTS, base, new).values(), *sent, *(_origins(base, new) if sent else ())]

    def aligned(self, base: Side, new: Side) -> tuple[Side, Side]:
        """The sides as they are: stages are numbered by their scenario."""
        return base, new

    def refuse_empty(self, side: Side) -> None:
        """Nothing: a result of requests without stages cannot be read."""

    def noise_key(self, repeat: Repeat) -> tuple[str, ...] | None:
        """The scenario's name, and all that has to be the same but what was sent.

        Of a simulator also its clock: runs in virtual time do not differ by what a machine adds.
        """
        clock = str(repeat.engine.get("clock") or REAL_TIME)
        return (str(repeat.run.get("name")), clock, *(fact.value_of(repeat) for fact in _FACTS))

    def surroundings(self, repeat: Repeat) -> tuple[Any, Any]:
        """Engine and model."""
        return repeat.engine.get("kind"), repeat.engine.get("model")

    def device_facts(self, _repeat: Repeat) -> Mapping[str, Any]:
        """None: run.json has what is known of the machine."""
        return {}

    def load_stages(self, repeat: Repeat) -> Sequence[int]:
        """All of its stages."""
        return list(repeat.stages)

    def nothing_shared(self, base: Side, new: Side) -> Message:
        """That no stage is on both sides."""
        return message("comparison.no_shared_stage", base=base.name, new=new.name)

    def few_repeats(self, noise: float | None, command: str) -> Warning:
        """That one start of an engine shows no noise."""
        text = message("comparison.single_runs_engine")
        if noise is not None:
            text = message("comparison.assumed_noise_engine", noise=noise)
        return Warning("few_repeats", WARNING, text, message("comparison.repeat_next", command=command))

    def repeat_warnings(self, base: Side, new: Side, command: str, *, is_few: bool) -> Iterator[Warning]:
        """Repeats of one start, and sides that sent other requests."""
        if not is_few and any(len(side.runs) == 1 < len(side.repeats) for side in (base, new)):
            step = message("comparison.repeat_next", command=command)
            yield Warning("one_start", NOTE, message("comparison.one_start"), step)
        if pairs(base, new) is None:
            yield Warning("unpaired", NOTE, message("comparison.unpaired"), message("comparison.unpaired_next"))

    def lone_stages(self, stages: Mapping[int, Mapping[str, Any]]) -> Warning:
        """The stages by name."""
        titles = [stage_title(number, stages[number]) for number in sorted(stages)]
        text = message("comparison.stages_of_one_side", stages=titles)
        return Warning("stages", WARNING, text, message("comparison.stages_of_one_side_next"))

    def listed(self, rows: Sequence[ComparisonRow]) -> Sequence[ComparisonRow]:
        """All rows."""
        return rows

    def answer(self, comparison: Comparison) -> Message:
        """The measure that broke the gate or changed most, how many more did, and both sides where there are two."""
        worse = [row for row in comparison.judged if row.verdict == WORSE]
        better = [row for row in comparison.judged if row.verdict == BETTER]
        if comparison.broken:
            headline = _headline("comparison.answer_broken", "comparison.more_broken", comparison.broken)
        elif worse:
            headline = _headline("comparison.answer_worse", "comparison.more_worse", worse)
        elif better:
            headline = _headline("comparison.answer_better", "comparison.more_better", better)
        else:
            return _unchanged(comparison)
        return sentences(headline, *_both_ways(comparison))


SERVED = ServedKind()


def read_repeats(folder: Path, run: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Repeat]:
    """The repeats of a result folder, their records read when they are first needed.

    Raises:
        ResultError: where the summary has no stages.
    """
    return repeats_of(folder.name, run, summary, functools.cache(lambda: _records(folder)))


def repeats_of(
    name: str, run: Mapping[str, Any], summary: Mapping[str, Any], records: Callable[[], RunRecords | None]
) -> list[Repeat]:
    """The repeats of one run."""
    stages: dict[int, dict[int, Mapping[str, Any]]] = {}
    for place, stage in enumerate(summary.get("stages") or ()):
        stages.setdefault(stage.get("repeat", 0), {})[stage.get("index", place)] = stage
    if not stages:
        raise ResultError(message("comparison.no_stages", name=name, file=store.SUMMARY))
    return [Repeat(name, number, run, summary, own, records, SERVED) for number, own in sorted(stages.items())]


def _records(folder: Path) -> RunRecords | None:
    if not (folder / store.REQUESTS).exists() or not (folder / store.EVENTS).exists():
        return None
    timeline = store.read_json(folder, store.TIMELINE) if (folder / store.TIMELINE).exists() else []
    return RunRecords(table_files.read_requests(folder), table_files.read_events(folder), timeline)


def device_of(repeat: Repeat) -> str:
    """The simulated chip, the NPUs, or the processor; unknown where a server was only reached."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    if engine.get("simulated"):
        effective = (part.get("effective") or {} for part in (engine, *(engine.get("processes") or ())))
        chips = sorted({str(flags["chip"]) for flags in effective if flags.get("chip")})
        return " + ".join(chips) or "simulated"
    if engine.get("kind") == "attach":
        return "as served"
    npus = machine.get("npu") or ()
    return f"{len(npus)} NPU" if npus else str(machine.get("cpu") or "unknown")


_FACTS = (
    Fact(message("comparison.model"), lambda repeat: str(repeat.engine.get("model") or "unknown"), UNKNOWN),
    Fact(
        message("comparison.engine"),
        lambda repeat: "simulator" if repeat.engine.get("simulated") else "real",
        {"simulator": message("comparison.simulator"), "real": message("comparison.real")},
    ),
    Fact(DEVICE, device_of, {**UNKNOWN, "as served": message("comparison.as_served")}),
    Fact(COMPUTATION, lambda repeat: completeness(repeat.engine.get("hollow")), COMPUTATIONS),
    Fact(message("comparison.stages"), lambda repeat: json.dumps(repeat.run.get("stages"))),
    Fact(message("comparison.endpoint"), lambda repeat: str(repeat.run.get("endpoint"))),
    Fact(message("comparison.stream"), lambda repeat: json.dumps(bool(repeat.run.get("stream", True)))),
)


def _unlike_requests(base: Side, new: Side) -> Iterator[Incompatibility]:
    """Payload and schedule: those of the side with fewer runs must all be on the other."""
    hashes_differ = False
    for fact, name in (
        (message("comparison.payload"), "payload_sha256"),
        (message("comparison.schedule"), "schedule_sha256"),
    ):
        sides = [{str(repeat.run.get(name) or "unknown") for repeat in side.runs} for side in (base, new)]
        fewer, more = sorted(sides, key=len)
        if not fewer <= more:
            hashes_differ = True
            yield Incompatibility(fact, *(_hashes(side) for side in sides))
    tokens = [{_input_tokens(repeat) for repeat in side.runs} for side in (base, new)]
    has_hashes = all(repeat.run.get("payload_sha256") for repeat in base.runs)
    if not hashes_differ and not has_hashes and tokens[0] != tokens[1]:
        yield Incompatibility(message("comparison.input_tokens"), *(listed(sorted(side)) for side in tokens))


def _input_tokens(repeat: Repeat) -> int:
    return sum(int(stage.get("input_tokens") or 0) for stage in repeat.stages.values())


def _hashes(values: set[str]) -> Message:
    shown = sorted(value[:_HASH_DIGITS] for value in values)
    if len(shown) <= _MOST_HASHES:
        return listed(shown)
    return message("comparison.hashes", hashes=shown[:_MOST_HASHES], more=len(shown) - _MOST_HASHES)


def _origins(base: Side, new: Side) -> Iterator[Incompatibility]:
    """Why other requests were sent, where run.json says."""
    for fact, name in (
        (message("comparison.scenario"), "name"),
        (message("comparison.seed"), "seed"),
        (message("comparison.repeats"), "repeats"),
        (message("comparison.text"), "text"),
    ):
        values = [{str(repeat.run.get(name)) for repeat in side.runs} for side in (base, new)]
        if not (values[0] & values[1]):
            yield Incompatibility(fact, *(listed(sorted(side)) for side in values))


def _headline(code: str, more_code: str, rows: Sequence[ComparisonRow]) -> Message:
    """The row of the largest effect, and how many more there are."""
    largest = max(rows, key=lambda row: abs(row.effect.estimate) if row.effect else float("inf"))
    first = message(code, row=describe_row(largest))
    return sentences(first, message(more_code, count=len(rows) - 1)) if len(rows) > 1 else first


def _both_ways(comparison: Comparison) -> Iterator[Message]:
    """What got better and what got worse, by measure, where measures went both ways; also of those not in the gate."""
    rows = [row for row in (*comparison.judged, *comparison.shown) if row.effect is not None]
    better, worse = (describe_changes([row for row in rows if row.verdict == way]) for way in (BETTER, WORSE))
    if better and worse:
        yield message("comparison.both_ways", better=better, worse=worse)


def _unchanged(comparison: Comparison) -> Message:
    """That there is no significant difference, or that nothing could be judged."""
    judged = sum(row.effect is not None for row in comparison.judged)
    stages = message("comparison.in_stages", count=len({row.stage for row in comparison.judged}))
    if not judged and all(row.reason == SINGLE_RUNS for row in comparison.unjudged):
        return message("comparison.answer_single_runs")
    if not judged:
        reason = comparison.unjudged[0].reason
        return message("comparison.answer_undetermined", count=len(comparison.judged), stages=stages, reason=reason)
    return message("comparison.answer_no_difference", count=judged, stages=stages)
