"""The plan of a run: which sessions start when, in every stage and repeat.

Drawn wholly before the start from the scenario's seed, so that the same seed gives the same due
times whatever the number of workers, and what was planned can be accounted for even if the run
is killed. A session is one request, or one conversation of several turns.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.messages import Message, Parameter, message
from harness.results.file_schemas import PlanHeadSchema
from harness.results.store import convert, integers_in, read_arrays
from harness.scenario.models import Scenario, Warmup
from harness.scenario.stages import Stage, load_and_end
from harness.seeds import stream
from harness.units import seconds_to_ns
from harness.workload import Workload
from harness.workload.arrivals import due_times

_UNKNOWN_SESSIONS = 1_000_000  # room kept in the numbering where a closed stage ends by time


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of one repeat.

    Sessions are taken in order: first `warm` warm-up ones, then `sessions` measured ones (None:
    as many as fit the duration). `due_ns` holds, in an open loop, when each is due from the
    stage's begin; `measured_ns` is when measuring begins (0, or the end of an open-loop
    warm-up); `warm_ns` is the length of a warm-up by time in a closed loop.
    """

    number: int  # place in the run: repeats × stages
    stage_index: int
    repeat: int
    stage: Stage
    first_session: int
    warm: int
    sessions: int | None
    measured_ns: int
    warm_ns: int
    due_ns: NDArray[np.int64] | None

    @property
    def taken(self) -> int | None:
        """Sessions in all, warm-up included; None where the duration decides."""
        return None if self.sessions is None else self.warm + self.sessions

    def session(self, ordinal: int) -> int:
        """Number of the workload's session that is taken as the `ordinal`-th; warm-up ones follow the measured."""
        if ordinal >= self.warm:
            return self.first_session + ordinal - self.warm
        return self.first_session + (self.sessions if self.sessions is not None else _UNKNOWN_SESSIONS // 2) + ordinal

    def ordinals(self, worker: int, workers: int) -> Iterator[int]:
        """The ordinals that one worker takes.

        An open loop deals sessions out in turn; a closed loop deals them to its users, and users
        to workers, so that every user has an equal share whatever the number of workers.
        """
        hands = self.stage.concurrency or workers
        ordinal = 0
        while self.taken is None or ordinal < self.taken:
            if self._worker_of(ordinal % hands, workers) == worker:
                yield ordinal
            ordinal += 1

    def _worker_of(self, hand: int, workers: int) -> int:
        return hand % workers if self.shared else 0

    @property
    def shared(self) -> bool:
        """Whether all workers take part: a cap on concurrency needs one counter, so one worker runs it alone."""
        return self.stage.max_concurrency is None

    def users(self, worker: int, workers: int) -> int:
        """How many of a closed loop's users one worker plays."""
        total = self.stage.concurrency or 0
        return total // workers + (worker < total % workers)


def plan(scenario: Scenario, workload: Workload) -> tuple[StagePlan, ...]:
    """The plan of a whole run: all stages, repeated as often as the scenario says."""
    stages = scenario.stages
    plans: list[StagePlan] = []
    first_session = 0
    for number in range(len(stages) * scenario.repeats):
        repeat, index = divmod(number, len(stages))
        warmup = scenario.warmup if index == 0 else None
        rng = stream(scenario.seed, "arrivals", _like(stages, index), repeat)
        stage_plan = _stage_plan(stages[index], warmup, rng, workload)
        if stages[index].kind == "trace":  # its sessions are the trace's rows: begin at the first of a pass
            first_session = _next_pass(first_session, workload.size)
        plans.append(replace(stage_plan, number=number, stage_index=index, repeat=repeat, first_session=first_session))
        first_session += stage_plan.taken if stage_plan.taken is not None else _UNKNOWN_SESSIONS
    return tuple(plans)


def _like(stages: Sequence[Stage], index: int) -> int:
    """The first stage of the same load whatever its adapters, so that requests of both come at the same times."""
    own = replace(stages[index], adapters=None)
    if stages[index].adapters is None:
        return index
    return next(place for place, stage in enumerate(stages) if replace(stage, adapters=None) == own)


def _next_pass(session: int, rows: int | None) -> int:
    """The first session from `session` on that is a trace's first row."""
    return session if not rows else -(-session // rows) * rows


def _stage_plan(stage: Stage, warmup: Warmup | None, rng: np.random.Generator, workload: Workload) -> StagePlan:
    empty = StagePlan(0, 0, 0, stage, 0, 0, stage.requests, 0, 0, None)
    if stage.is_open:
        return _open_plan(empty, warmup, rng, workload)
    if warmup is None:
        return empty
    if warmup.requests is not None:
        return replace(empty, warm=warmup.requests)
    return replace(empty, warm_ns=seconds_to_ns(warmup.duration or 0))


def _open_plan(empty: StagePlan, warmup: Warmup | None, rng: np.random.Generator, workload: Workload) -> StagePlan:
    due_ns = due_times(empty.stage, rng, trace_due_ns=workload.due_ns)
    warm_ns, measured_ns = _warm_arrivals(empty.stage, warmup, due_ns, rng)
    return replace(
        empty,
        warm=len(warm_ns),
        sessions=len(due_ns),
        measured_ns=measured_ns,
        due_ns=np.concatenate([warm_ns, measured_ns + due_ns]),
    )


def _warm_arrivals(
    stage: Stage, warmup: Warmup | None, due_ns: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Due times of an open-loop warm-up and when it hands over: arrivals of the stage's own kind, without a gap."""
    if warmup is None:
        return np.zeros(0, dtype=np.int64), 0
    count = warmup.requests + 1 if warmup.requests is not None else None
    before = replace(_steady(stage, due_ns), requests=count, duration_s=warmup.duration)
    warm_ns = due_times(before, rng)
    if warmup.duration is not None:
        return warm_ns, seconds_to_ns(warmup.duration)
    return warm_ns[:-1], int(warm_ns[-1])


def _steady(stage: Stage, due_ns: NDArray[np.int64]) -> Stage:
    """What to warm up with: the stage itself, or Poisson at the rate a ramp or trace begins with."""
    if stage.kind == "ramp":
        rate = stage.rate or (stage.rate_to or 1.0) / 10
    elif stage.kind == "trace":
        rate = len(due_ns) / max(1.0, float(due_ns[-1]) / 1e9) if len(due_ns) else 1.0
    else:
        return replace(stage, max_concurrency=None)
    return Stage("poisson", rate=rate)


def schedule_sha256(plans: tuple[StagePlan, ...]) -> str:
    """Hash of what is due when: equal for the same seed and scenario, whatever the workers."""
    digest = hashlib.sha256()
    for stage_plan in plans:
        digest.update(
            json.dumps(
                [
                    stage_plan.stage.as_dict(),
                    stage_plan.repeat,
                    stage_plan.warm,
                    stage_plan.sessions,
                    stage_plan.warm_ns,
                ]
            ).encode()
        )
        digest.update(b"" if stage_plan.due_ns is None else stage_plan.due_ns.tobytes())
    return digest.hexdigest()


def announced(stage: StagePlan, plans: Sequence[StagePlan]) -> Message:
    """What is said as a stage begins, with its number in the scenario: `stage 2/3: poisson 4 req/s, 60 s`."""
    place: dict[str, Parameter] = {
        "number": stage.stage_index + 1,
        "stages": plans[-1].stage_index + 1,
        "load": load_and_end(stage.stage.as_dict()),
    }
    repeats = plans[-1].repeat + 1
    if repeats == 1:
        return message("workload.stage_begins", **place)
    return message("workload.repeat_begins", **place, repeat=stage.repeat + 1, repeats=repeats)


def turns_of(plans: tuple[StagePlan, ...], workload: Workload) -> NDArray[np.int64] | None:
    """Turns of every planned session, plan by plan, where sessions have several; None where each has one."""
    if workload.single_turn:
        return None
    counts = [
        len(workload.session(stage_plan.session(ordinal)).turns)
        for stage_plan in plans
        for ordinal in range(stage_plan.taken or 0)
    ]
    return np.asarray(counts, dtype=np.int64)


def save(path: Path, plans: tuple[StagePlan, ...], turns: NDArray[np.int64] | None) -> None:
    """Write plans to an .npz file, for the workers and for the account of a run that is killed."""
    arrays: dict[str, Any] = {
        f"due_{stage_plan.number}": stage_plan.due_ns for stage_plan in plans if stage_plan.due_ns is not None
    }
    if turns is not None:
        arrays["turns"] = turns
    heads = [
        [
            *(
                stage_plan.number,
                stage_plan.stage_index,
                stage_plan.repeat,
                stage_plan.stage.as_dict(),
                stage_plan.first_session,
            ),
            *(stage_plan.warm, stage_plan.sessions, stage_plan.measured_ns, stage_plan.warm_ns),
        ]
        for stage_plan in plans
    ]
    np.savez(path, heads=np.asarray(json.dumps(heads)), **arrays)


def load(path: Path) -> tuple[tuple[StagePlan, ...], NDArray[np.int64] | None]:
    """The plans of a file that `save` wrote, and the turns of their sessions where there are several.

    Raises:
        ResultError: where it cannot be read or is no such file.
    """
    arrays = read_arrays(path)
    try:
        heads = json.loads(str(arrays["heads"]))
    except (KeyError, ValueError, RecursionError):
        raise ResultError(message("workload.plan_unreadable", path=str(path))) from None
    plans = tuple(_restored(path, head, arrays) for head in convert(f"{path}: heads", heads, list[PlanHeadSchema]))
    planned = sum(stage_plan.taken or 0 for stage_plan in plans)
    turns = integers_in(path, arrays, "turns", planned) if "turns" in arrays else None
    if turns is not None and len(turns) and int(turns.min()) < 0:
        raise ResultError(message("workload.negative_turns", path=str(path), value=int(turns.min())))
    return plans, turns


def _restored(path: Path, head: PlanHeadSchema, arrays: Mapping[str, NDArray[Any]]) -> StagePlan:
    stage, name = convert(f"{path}: stage {head.number}", head.stage, Stage), f"due_{head.number}"
    most = None if head.sessions is None else head.warm + head.sessions
    due_ns = integers_in(path, arrays, name, most) if name in arrays else None
    values = {key: getattr(head, key) for key in head.__struct_fields__}
    return StagePlan(**values | {"stage": stage, "due_ns": due_ns})
