"""Results that are called valid, held against the truth while the client is disturbed.

Random loads against a reference server, with a random disturbance each: other work on both cores, a worker that
is stopped again and again, put last in the queue for a core, given a part of a core, or one of too many. A valid
result may be off from the server's own log (stamped by the kernel) by no more than the error it states, and 2 %.
With GATE_LOG=FILE each verdict is a line there, and what the file holds already is not run again.
"""

import contextlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.busy import burning, disturbing, load_workers, meanwhile
from benchmarks.numbers import Number
from harness.analysis.client_error import KERNEL, client_error
from harness.analysis.metrics import latencies
from harness.analysis.token_gaps import streams
from harness.analysis.warnings import INVALID
from harness.execution.reconcile import finish
from harness.results import store
from harness.results.request_table import COMPLETED
from harness.selfcheck.exactness import event_gaps_ns
from harness.selfcheck.reference_server.ground_truth import GroundTruth, TokenSchedule, read
from harness.selfcheck.reference_server.process import started
from harness.selfcheck.selfcheck import LoadStep, drive, scenario_text
from harness.units import NS_PER_MS, NS_PER_S, format_share

SITUATIONS = int(os.environ.get("GATE_SITUATIONS", "500"))
IDLE = int(os.environ.get("GATE_IDLE", "100"))
SEED = int(os.environ.get("GATE_SEED", "1"))
LOG = os.environ.get("GATE_LOG", "")
ALLOWED_SHARE = 0.02
LEAST_S = 0.0001  # what the two ends of one loopback packet may differ by is no error of a percentile near zero
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Situation:
    """A load, and what disturbs the client under it."""

    step: LoadStep
    first_ms: int
    gap_ms: int
    kind: str
    disturb: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What a run said of itself, and by how much more than it allows it was off: the worst excess over all metrics.

    `load` is the machine's load average (one minute) as it ended, `reasons` the codes of what made it invalid.
    """

    kind: str
    valid: bool
    excess: float
    worst: str
    load: float
    reasons: str


def gate(folder: Path) -> Iterator[Number]:
    """Random situations, and an idle machine."""
    folder.mkdir(parents=True)
    verdicts = _judged("disturbed", SITUATIONS, _situation, folder)
    valid = [verdict for verdict in verdicts if verdict.valid]
    wrong = [verdict for verdict in valid if verdict.excess > 0]
    shown = f"{len(wrong)} of {len(valid)} valid ({len(verdicts) - len(valid)} invalid)"
    if wrong:
        shown += ": " + ", ".join(f"{verdict.kind}: {verdict.worst}" for verdict in wrong[:5])
    yield Number("client under disturbance", "valid and off by more than stated + 2 %", "0", shown, not wrong)
    off = [verdict for verdict in verdicts if not verdict.valid and verdict.excess > 0]
    yield Number("client under disturbance", "invalid and off by more", "as is", str(len(off)), met=True)
    idle = _judged("idle", IDLE, _idle, folder)
    false = [verdict for verdict in idle if not verdict.valid]
    share = len(false) / max(1, len(idle))
    shown = f"{format_share(share)} ({len(false)} of {len(idle)})"
    if false:
        shown += ": " + ", ".join(f"{verdict.reasons} at a load of {verdict.load:.1f}" for verdict in false[:5])
    yield Number("client, nothing else at work", "called invalid", "< 1 %", shown, share < 0.01)


def _judged(name: str, count: int, draw: Callable[[random.Random], Situation], folder: Path) -> list[GateVerdict]:
    """The verdicts on `count` situations, each drawn by a seed of its own; those in the log are taken from there."""
    known = {}
    if LOG and Path(LOG).exists():
        lines = map(json.loads, Path(LOG).read_text(encoding="utf-8").splitlines())
        known = {line.pop("situation"): GateVerdict(**line) for line in lines}
    verdicts = []
    for number in range(count):
        situation = f"{name} {SEED}/{number}"
        if situation not in known:
            known[situation] = _judge(draw(random.Random(situation)), folder / f"{name}{number}")
            if LOG:
                line = json.dumps({"situation": situation, **asdict(known[situation])})
                with Path(LOG).open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")
        verdicts.append(known[situation])
    return verdicts


def _situation(chance: random.Random) -> Situation:
    load = _load(chance, 700)
    every_s, stop_s = chance.uniform(0.2, 1.0), chance.uniform(0.05, 0.5)
    share, quota = chance.uniform(0.3, 1.0), chance.uniform(0.1, 0.9)
    cores = os.cpu_count() or 2
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "nothing": nullcontext,
        f"{share:.0%} of both cores": lambda: burning(cores, share),
        f"stopped {stop_s * 1e3:.0f} ms every {every_s:.1f} s": lambda: disturbing(_workers, stop_s, every_s),
        "nice 19 beside full cores": lambda: _last(cores),
        f"{quota:.0%} of a core": lambda: _quota(quota),
        "twice as many as cores": lambda: burning(2 * cores, 1.0),
    }
    kind = chance.choice(list(kinds))
    return Situation(*load, kind, kinds[kind])


def _idle(chance: random.Random) -> Situation:
    return Situation(*_load(chance, 300), "idle", nullcontext)


def _load(chance: random.Random, most: int) -> tuple[LoadStep, int, int]:
    streams_ = round(10 * (most / 10) ** chance.random())
    return LoadStep(streams_, 3, chance.randint(20, 60)), chance.randint(20, 80), chance.randint(6, 20)


def _workers() -> list[int]:
    return load_workers(os.getpid())


@contextmanager
def _last(cores: int) -> Iterator[None]:
    with burning(cores, 1.0), _as_they_come(lambda pid: psutil.Process(pid).nice(19)):
        yield


@contextmanager
def _quota(share: float) -> Iterator[None]:
    """A part of a core for the workers, by a control group of either version.

    Raises:
        OSError: where this process may make none.
    """
    second = (_CGROUP / "cgroup.controllers").exists()
    group = (_CGROUP if second else _CGROUP / "cpu") / f"harness-gate-{os.getpid()}"
    group.mkdir()
    try:
        name, value = ("cpu.max", "{} 100000") if second else ("cpu.cfs_quota_us", "{}")
        (group / name).write_text(value.format(int(share * 100_000)))
        with _as_they_come(lambda pid: (group / "cgroup.procs").write_text(str(pid))):
            yield
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


@contextmanager
def _as_they_come(change: Callable[[int], object]) -> Iterator[None]:
    """Change every worker once it has started."""
    over, seen = threading.Event(), set[int]()

    def work() -> None:
        while not over.wait(0.05):
            for pid in _workers():
                if pid not in seen:
                    seen.add(pid)
                    with contextlib.suppress(OSError, psutil.Error):
                        change(pid)

    with meanwhile(work, over):
        yield


def _judge(situation: Situation, folder: Path) -> GateVerdict:
    log = folder.parent / f"{folder.name}.npz"
    schedule = TokenSchedule(first_ns=situation.first_ms * NS_PER_MS, gap_ns=situation.gap_ms * NS_PER_MS)
    with started(schedule, log, life_s=120) as server, situation.disturb():
        drive(scenario_text(situation.step, server.url), folder)
    verdict = finish(folder)["verdict"]
    reasons = ", ".join(told["code"] for told in verdict["warnings"] if told["severity"] == INVALID)
    excess, worst = _excess(folder, read(log))
    shutil.rmtree(folder)
    return GateVerdict(situation.kind, bool(verdict["valid"]), excess, worst, os.getloadavg()[0], reasons)


def _excess(folder: Path, sent: GroundTruth) -> tuple[float, str]:
    """By how much more than its own error and 2 % the worst number is off, as a share of the truth."""
    requests, events = store.read_requests(folder), store.read_events(folder)
    answered = requests.status == COMPLETED
    found, gaps = latencies(requests, stream=True), streams(events, answered)
    error = client_error(requests, answered, found, gaps)
    if error.clock != KERNEL:
        return float("inf"), "no kernel stamps"
    whole = sent.ended == 1
    first, last = sent.sent_ns[sent.offsets[:-1]], sent.sent_ns[sent.offsets[1:] - 1]
    steps = np.maximum(1, np.diff(sent.offsets) - 1)
    true = {
        "ttft": (first - sent.read_ns)[whole] / NS_PER_S,
        "e2e": (last - sent.read_ns)[whole] / NS_PER_S,
        "tpot": ((last - first) / steps)[whole] / NS_PER_S,
    }
    rows = [
        (f"{name} {statistic}", value(found[name][answered]), value(truth), error.of(name, statistic) or 0.0)
        for name, truth in true.items()
        for statistic, value in (("mean", np.mean), ("p50", np.median))
    ]
    gap = (event_gaps_ns(events) / NS_PER_S, sent.gap_ns / NS_PER_S)
    rows.append(("chunk_gap mean", gap[0].mean(), gap[1].mean(), error.of("chunk_gap", "mean") or 0.0))
    p99, p99_true = (float(np.percentile(each, 99)) for each in gap)
    rows.append(("chunk_gap p99", p99, p99_true, error.of("chunk_gap", "p99") or 0.0))
    over = [
        (
            (abs(ours - truth) - bound - LEAST_S) / truth - ALLOWED_SHARE,
            f"{name} {ours * 1e3:.2f} for {truth * 1e3:.2f} ms ± {bound * 1e3:.2f}",
        )
        for name, ours, truth, bound in rows
    ]
    return max(over)
