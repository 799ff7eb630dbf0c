"""The progress of a run: what its workers count, its plan and its engine say, joined twice a second into one value."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.clock import monotonic_ns
from harness.engines.engine_log import PREFIX
from harness.errors import displayable
from harness.execution.watching import Watched
from harness.results.progress import (
    DRAINING,
    ENDED,
    LOADING,
    MEASURING,
    PREPARING,
    STARTING,
    STOPPING,
    WARMUP,
    EngineLoad,
    LiveLatency,
    Progress,
    StageProgress,
    write_progress,
)
from harness.results.request_table import MISSING
from harness.statistics.log_histogram import LogHistogram, histogram_from
from harness.telemetry.server_metrics import KV_USE, MAXIMUM, RUNNING, SERVER, WAITING
from harness.units import NS_PER_S
from harness.workload.plan import StagePlan

EVERY_S = 0.5
_LEAST_RATE_S = 3.0  # what a rate is taken over while a stage runs: fewer arrivals would decide it
_TAIL_BYTES = 8192
_LINE_CHARS = 300
_COUNTED = ("sent", "answered", "failed", "cancelled", "measured_answered", "output_tokens")
OnSnapshot = Callable[[Progress], None]


@dataclass(slots=True)
class _Stage:
    """A stage that has begun: its plan, its times (absolute ns), and the last counts of each worker."""

    plan: StagePlan
    requests: int | None
    begin_ns: int
    end_ns: int | None = None
    counts: dict[int, Mapping[str, Any]] = field(default_factory=dict)


class ProgressTracker:
    """Follows one run; `publish` hands what it is doing to the callback and to progress.json."""

    def __init__(
        self,
        folder: Path,
        name: str,
        on_snapshot: OnSnapshot,
        watched: Watched,
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        """`now_ns` is the clock of the load, where that is another than this process's own."""
        self._folder = folder
        self._on_snapshot = on_snapshot
        self._watched = watched
        self._now_ns = now_ns
        self._begin_ns, self._own_begin_ns = now_ns(), monotonic_ns()
        self._head = Progress(name, STARTING)
        self._plans: tuple[StagePlan, ...] = ()
        self._requests: list[int | None] = []
        self._stages: list[_Stage] = []
        self._stopping = False

    def engine(self, kind: str, *, model: str = "", simulated: bool = False) -> None:
        """Note what serves."""
        self._head = replace(self._head, engine_kind=kind, model=model, simulated=simulated)

    def plan(self, plans: tuple[StagePlan, ...], turns: NDArray[np.int64] | None) -> None:
        """Note what is planned; `turns` of every session where they have several."""
        self._plans, self._requests = plans, _planned_requests(plans, turns)
        self._head = replace(self._head, phase=PREPARING, stages=len(plans), repeats=plans[-1].repeat + 1)

    def begin(self, number: int, begin_ns: int) -> None:
        """A stage begins."""
        self._stages.append(_Stage(self._plans[number], self._requests[number], begin_ns))
        self._head = replace(self._head, phase=LOADING)

    def end(self, number: int) -> None:
        """Its last answer has come, or it was ended."""
        self._stages[-1].end_ns = self._now_ns()
        phase = PREPARING if number + 1 < len(self._plans) else LOADING
        self._head = replace(self._head, phase=phase)
        self.publish()

    def stop(self) -> None:
        """The user ends the run: nothing more is sent, and what is in flight goes on to its end."""
        self._stopping = True

    def on_counts(self, worker: int, counts: Mapping[str, Any]) -> None:
        """What a worker has counted of a stage so far."""
        for stage in self._stages[-1:]:
            if stage.plan.number == counts["number"]:
                stage.counts[worker] = counts

    def publish(self) -> None:
        """Hand the present state on."""
        progress = self.snapshot(self._now_ns())
        if self._now_ns is not monotonic_ns:
            progress = self._in_own_time(progress)
        write_progress(self._folder, progress)
        self._on_snapshot(progress)

    def _in_own_time(self, progress: Progress) -> Progress:
        """The progress of a load in virtual time, with what whoever watches waits for in seconds of their own."""
        own_s = (monotonic_ns() - self._own_begin_ns) / NS_PER_S
        known = progress.eta_s is not None and progress.at_s > 0
        eta_s = progress.eta_s * own_s / progress.at_s if known else None  # type: ignore[operator] # known says so
        return replace(progress, at_s=own_s, eta_s=eta_s)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Hand the state on twice a second until the context ends."""
        task = asyncio.get_running_loop().create_task(self._publish_often())
        try:
            yield
        finally:
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]

    async def _publish_often(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(EVERY_S)

    def snapshot(self, now_ns: int) -> Progress:
        """The run at a time (absolute ns)."""
        stages = [_stage_progress(stage, now_ns, stopping=self._stopping) for stage in self._stages]
        current = stages[-1] if stages and stages[-1].state != ENDED else None
        starts = self._head.phase == STARTING
        return replace(
            self._head,
            at_s=(now_ns - self._begin_ns) / NS_PER_S,
            stage=current,
            ended=tuple(stage for stage in stages if stage.state == ENDED),
            engine=_engine_load(self._watched.latest),
            log_line=newest_line(self._folder) if starts else "",
            eta_s=_remaining_s(stages, self._plans, self._requests) if self._plans and not self._stopping else None,
        )


def counts_of(number: int, sent: int, answered: int) -> dict[str, Any]:
    """Counts of a stage whose tokens nobody sees as they come, in the form in which workers report theirs."""
    nothing = LogHistogram().as_dict()
    whole = dict.fromkeys(_COUNTED, 0) | {"number": number, "sent": sent, "answered": answered}
    return whole | {
        "measured_answered": answered,
        "measured_ns": MISSING,
        "looked_ns": MISSING,
        "ttft": nothing,
        "itl": nothing,
    }


def newest_line(folder: Path) -> str:
    """The last line of the log that grew last, of those of an engine or of a deployment's processes; "" without one."""
    grown: list[tuple[float, str]] = []
    for log in folder.glob("engine*.log"):
        with contextlib.suppress(OSError):
            grown.append((log.stat().st_mtime, log.name))
    return last_line(folder / max(grown)[1]) if grown else ""


def last_line(log: Path) -> str:
    """The last line of an engine's log that says something, without its prefix, secrets and control codes."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            tail = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    for line in reversed(re.split(r"[\r\n]+", tail)):  # a progress bar returns to the begin of its line
        text = displayable(PREFIX.sub("", _COLOURS.sub("", line))).strip()
        if text:
            return text[:_LINE_CHARS]
    return ""


_COLOURS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def _planned_requests(plans: Sequence[StagePlan], turns: NDArray[np.int64] | None) -> list[int | None]:
    """How many requests each stage has; None where its duration decides."""
    if turns is None:
        return [plan.taken for plan in plans]
    ends = np.cumsum([plan.taken or 0 for plan in plans])
    sums = [int(turns[end - (plan.taken or 0) : end].sum()) for plan, end in zip(plans, ends, strict=True)]
    return [None if plan.taken is None else count for plan, count in zip(plans, sums, strict=True)]


def _engine_load(latest: Mapping[str, Mapping[str, float]]) -> EngineLoad | None:
    values = latest.get(SERVER) or {}
    if not {RUNNING, WAITING, KV_USE} & values.keys():
        return None
    load = EngineLoad(values.get(RUNNING), values.get(WAITING), values.get(KV_USE + MAXIMUM, values.get(KV_USE)))
    engines = {source: own for source, own in latest.items() if source.startswith(f"{SERVER}/") and RUNNING in own}
    if len(engines) < 2:
        return load
    source, own = max(engines.items(), key=lambda item: [item[1].get(name, 0.0) for name in (WAITING, KV_USE, RUNNING)])
    name = source.removeprefix(f"{SERVER}/")
    return replace(load, fullest=name, fullest_running=own[RUNNING], fullest_waiting=own.get(WAITING))


def _state(stage: _Stage, *, warm: bool, sent_all: bool, stopping: bool) -> str:
    if stage.end_ns:
        return ENDED
    if stopping:
        return STOPPING
    return WARMUP if not warm else DRAINING if sent_all else MEASURING


def _stage_progress(stage: _Stage, now_ns: int, *, stopping: bool) -> StageProgress:
    plan, counts = stage.plan, stage.counts.values()
    now_ns = max(stage.end_ns or now_ns, stage.begin_ns)
    sums = {name: sum(each[name] for each in counts) for name in _COUNTED}
    over = sums["answered"] + sums["failed"] + sums["cancelled"]
    measured_ns = _measured_from(stage)
    counted_ns = _counted_ns(stage)
    counted_s = max(0.0, (counted_ns - measured_ns) / NS_PER_S) if measured_ns is not None else 0.0
    is_warm = measured_ns is not None and now_ns > measured_ns
    elapsed_s, planned_s = (now_ns - stage.begin_ns) / NS_PER_S, _planned_s(plan)
    share, remaining_s = _share(elapsed_s, planned_s, over, stage.requests)
    sent_all = planned_s is not None and elapsed_s >= planned_s
    sent_all = sent_all or (stage.requests is not None and sums["sent"] >= stage.requests)
    rates_known = stage.end_ns is not None or counted_s >= _LEAST_RATE_S
    ttft, itl = (_latency([histogram_from(each[name]) for each in counts]) for name in ("ttft", "itl"))
    return StageProgress(
        number=plan.number,
        index=plan.stage_index,
        repeat=plan.repeat,
        load=plan.stage.as_dict(),
        state=_state(stage, warm=is_warm, sent_all=sent_all, stopping=stopping),
        elapsed_s=elapsed_s,
        counted_s=max(0.0, (counted_ns - stage.begin_ns) / NS_PER_S),
        planned_s=planned_s,
        remaining_s=0.0 if stage.end_ns else None if stopping else remaining_s,
        share=1.0 if stage.end_ns else share,
        requests=stage.requests,
        **{name: sums[name] for name in ("sent", "answered", "failed", "cancelled", "output_tokens")},
        answered_in_warmup=sums["answered"] - sums["measured_answered"],
        in_flight=max(0, sums["sent"] - over),
        offered_rate=_offered_rate(plan, elapsed_s, 0.0 if stage.end_ns else _LEAST_RATE_S),
        request_rate=_rate(sums["measured_answered"], counted_s) if rates_known else None,
        output_token_rate=_rate(sums["output_tokens"], counted_s) if rates_known else None,
        ttft=ttft,
        itl=itl,
    )


def _rate(count: int, counted_s: float) -> float | None:
    """A rate per second; None before the first was counted: answers of the warm-up do not make it 0."""
    return count / counted_s if count and counted_s else None


def _counted_ns(stage: _Stage) -> int:
    """Until when its workers have counted (absolute ns)."""
    times = [each["looked_ns"] for each in stage.counts.values() if each["looked_ns"] != MISSING]
    return round(sum(times) / len(times)) if times else stage.begin_ns


def _measured_from(stage: _Stage) -> int | None:
    """When measuring began (absolute ns): in an open loop by the plan, in a closed one as its warm-up was over."""
    plan = stage.plan
    if plan.due_ns is not None:
        return stage.begin_ns + plan.measured_ns
    if not plan.warm:
        return stage.begin_ns + plan.warm_ns
    firsts = [each["measured_ns"] for each in stage.counts.values() if each["measured_ns"] != MISSING]
    return min(firsts, default=None)


def _planned_s(plan: StagePlan) -> float | None:
    """How long a stage sends, warm-up included; None where its answers decide."""
    before_s = (plan.measured_ns + plan.warm_ns) / NS_PER_S
    if plan.stage.duration_s is not None:
        return before_s + plan.stage.duration_s
    if plan.due_ns is not None and len(plan.due_ns):
        return float(plan.due_ns[-1]) / NS_PER_S
    return None


def _share(
    elapsed_s: float, planned_s: float | None, over: int, requests: int | None
) -> tuple[float | None, float | None]:
    """How much of a stage is done, and how long the rest takes."""
    if planned_s is not None:
        return (min(1.0, elapsed_s / planned_s) if planned_s else 1.0), max(0.0, planned_s - elapsed_s)
    if not requests:
        return None, None
    share = min(1.0, over / requests)
    return share, elapsed_s * (requests - over) / over if over else None


def _offered_rate(plan: StagePlan, elapsed_s: float, least_s: float) -> float | None:
    """Measured requests that were due by now, a second; None before so much time was measured."""
    planned_s = _planned_s(plan)
    if plan.due_ns is None or planned_s is None:
        return None
    until_s = min(elapsed_s, planned_s)
    span_s = until_s - plan.measured_ns / NS_PER_S
    if span_s <= 0 or span_s < min(least_s, planned_s - plan.measured_ns / NS_PER_S):
        return None
    due = int(np.searchsorted(plan.due_ns[plan.warm :], until_s * NS_PER_S, side="right"))
    return due / span_s


def _latency(histograms: Sequence[LogHistogram]) -> LiveLatency:
    joined = LogHistogram()
    for histogram in histograms:
        joined.merge(histogram)
    return LiveLatency(joined.n, *(joined.quantile(share) for share in (0.5, 0.95, 0.99)))


def _remaining_s(
    stages: Sequence[StageProgress], plans: Sequence[StagePlan], requests: Sequence[int | None]
) -> float | None:
    """How long all that is left takes, engine's end and page not counted; None where a stage cannot be foreseen."""
    left = [] if not stages else [stages[-1].remaining_s]
    seconds_each = _seconds_a_request(stages)
    for plan, count in list(zip(plans, requests, strict=True))[len(stages) :]:
        planned_s = _planned_s(plan)
        if planned_s is None and seconds_each is not None and count is not None:
            planned_s = count * seconds_each / max(1, plan.stage.concurrency or 1)
        left.append(planned_s)
    known = [seconds for seconds in left if seconds is not None]
    return sum(known) if len(known) == len(left) else None


def _seconds_a_request(stages: Sequence[StageProgress]) -> float | None:
    """How long one request took in the last stage that shows it: by Little's law of its users, else by its tokens."""
    for stage in reversed(stages):
        users = stage.load.get("concurrency")
        if users and stage.request_rate:
            return float(users) / stage.request_rate
        if stage.ttft.p50 and stage.answered:
            return stage.ttft.p50 + (stage.itl.p50 or 0.0) * stage.output_tokens / stage.answered
    return None
