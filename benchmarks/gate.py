"""Results that are called valid, held against the truth while the client is disturbed.

Random loads against a reference server, with a random disturbance each: other work on both cores, a worker that
is stopped again and again, put last in the queue for a core, given a part of a core, put on the server's core, or
one of too many. A run has several stages, each with a load and a verdict of its own: a situation. No number of a
valid one may be off from the server's own log (stamped by the kernel) by more than the error it states, and 2 %.
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

import psutil

from benchmarks.busy import burning, disturbing, load_workers, meanwhile
from benchmarks.numbers import Number
from benchmarks.truths import CheckedStage, checked_stages
from harness.analysis.client_error import KERNEL
from harness.analysis.warnings import INVALID
from harness.execution.reconcile import finish
from harness.results import store, table_files
from harness.selfcheck.reference_server.ground_truth import TokenSchedule, read
from harness.selfcheck.selfcheck import drive, started
from harness.units import NS_PER_MS, format_share

SITUATIONS = int(os.environ.get("GATE_SITUATIONS", "500"))
IDLE = int(os.environ.get("GATE_IDLE", "100"))
SEED = int(os.environ.get("GATE_SEED", "1"))
LOG = os.environ.get("GATE_LOG", "")
STAGES = 4  # of one run: starting processes takes as long as a stage
ALLOWED_SHARE = 0.02
LEAST_S = 0.0001  # what the two ends of one loopback packet may differ by is no error of a percentile near zero
_MANY, _IDLE_MANY = 700, 300  # streams
_CGROUP = Path("/sys/fs/cgroup")
_SCENARIO = """\
name: gate
question: gate
engine: {{kind: attach, url: "{url}"}}
workload: {{kind: synthetic, input_tokens: 128, output_tokens: {tokens}}}
load:
{loads}
"""

Disturbance = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """The loads of a run, each so many streams, and what disturbs the client under them."""

    streams: tuple[int, ...]
    tokens: int
    first_ms: int
    gap_ms: int
    kind: str
    disturb: Disturbance


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What a stage said of itself, and by how much more than it allows it was off: the worst excess of all numbers.

    `load` is the machine's load average (one minute) as its run ended, `reasons` the codes of what made it invalid.
    """

    kind: str
    streams: int
    valid: bool
    excess: float
    worst: str
    load: float
    reasons: str


def gate(folder: Path) -> Iterator[Number]:
    """Random situations, and an idle machine."""
    folder.mkdir(parents=True)
    verdicts = _judged("disturbed", SITUATIONS, _trouble, folder)
    valid = [verdict for verdict in verdicts if verdict.valid]
    wrong = [verdict for verdict in valid if verdict.excess > 0]
    shown = f"{len(wrong)} wrong of {len(valid)} valid, of {len(verdicts)} situations"
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


def _judged(name: str, count: int, draw: Callable[[random.Random], Trouble], folder: Path) -> list[GateVerdict]:
    """The verdicts on `count` situations, drawn by a seed for each run; those in the log are taken from there."""
    known = {}
    if LOG and Path(LOG).exists():
        lines = map(json.loads, Path(LOG).read_text(encoding="utf-8").splitlines())
        known = {line.pop("situation"): GateVerdict(**line) for line in lines}
    verdicts: list[GateVerdict] = []
    for number in range(-(-count // STAGES)):
        places = [f"{name} {SEED}/{number}.{stage}" for stage in range(STAGES)]
        if not all(place in known for place in places):
            found = _judge(draw(random.Random(f"{name} {SEED}/{number}")), folder / f"{name}{number}")
            known |= dict(zip(places, found, strict=True))
            if LOG:
                rows = [json.dumps({"situation": place, **asdict(known[place])}) for place in places]
                with Path(LOG).open("a", encoding="utf-8") as log:
                    log.write("".join(f"{row}\n" for row in rows))
        verdicts += [known[place] for place in places]
    return verdicts[:count]


def _trouble(chance: random.Random) -> Trouble:
    every_s, stop_s = 0.2 * 20 ** chance.random(), chance.uniform(0.05, 0.5)
    share, quota = chance.uniform(0.3, 1.0), chance.uniform(0.1, 0.9)
    cores = os.cpu_count() or 2
    stops = f"stopped {stop_s * 1e3:.0f} ms every {every_s:.1f} s"
    kinds: dict[str, Disturbance] = {
        "nothing": nullcontext,
        f"{share:.0%} of both cores": lambda: burning(cores, share),
        stops: lambda: disturbing(_workers, stop_s, every_s),
        f"{stops} beside {share:.0%} of both cores": lambda: _both(
            burning(cores, share), disturbing(_workers, stop_s, every_s)
        ),
        "nice 19 beside full cores": lambda: _last(cores),
        f"{quota:.0%} of a core": lambda: _quota(quota),
        "the server's core": _servers_core,
        "twice as many as cores": lambda: burning(2 * cores, 1.0),
    }
    kind = chance.choice(list(kinds))
    return _drawn(chance, _MANY, kind, kinds[kind])


def _idle(chance: random.Random) -> Trouble:
    return _drawn(chance, _IDLE_MANY, "idle", nullcontext)


def _drawn(chance: random.Random, most: int, kind: str, disturb: Disturbance) -> Trouble:
    streams = tuple(round(10 * (most / 10) ** chance.random()) for _ in range(STAGES))
    return Trouble(streams, chance.randint(15, 40), chance.randint(20, 80), chance.randint(6, 20), kind, disturb)


def _workers() -> list[int]:
    return load_workers(os.getpid())


@contextmanager
def _both(one: AbstractContextManager[None], other: AbstractContextManager[None]) -> Iterator[None]:
    with one, other:
        yield


@contextmanager
def _servers_core() -> Iterator[None]:
    """The reference server stays on the last core."""
    core = max(os.sched_getaffinity(0))
    with _as_they_come(lambda pid: os.sched_setaffinity(pid, {core})):
        yield


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


def _judge(trouble: Trouble, folder: Path) -> list[GateVerdict]:
    """The verdict on each stage of a run."""
    log = folder.parent / f"{folder.name}.npz"
    schedule = TokenSchedule(first_ns=trouble.first_ms * NS_PER_MS, gap_ns=trouble.gap_ms * NS_PER_MS)
    with started(schedule, log, life_s=300) as server, trouble.disturb():
        drive(_text(trouble, server.url), folder)
    warnings = finish(folder)["verdict"]["warnings"]
    tables = table_files.read_requests(folder), table_files.read_events(folder)
    stages = checked_stages(tables, store.read_json(folder, store.TIMELINE), store.read_run(folder), read(log))
    verdicts = []
    for stage in stages:
        index = stage.summary.span.stage
        spoiled = [own for own in warnings if own["severity"] == INVALID and own["stage"] in (None, index)]
        reasons = ", ".join(own["code"] for own in spoiled)
        load, streams = os.getloadavg()[0], trouble.streams[index]
        verdicts.append(GateVerdict(trouble.kind, streams, not spoiled, *_excess(stage), load, reasons))
    shutil.rmtree(folder)
    log.unlink()
    return verdicts


def _text(trouble: Trouble, url: str) -> str:
    loads = "\n".join(f"  - closed: {{concurrency: {many}, requests: {3 * many}}}" for many in trouble.streams)
    return _SCENARIO.format(url=url, tokens=trouble.tokens, loads=loads)


def _excess(stage: CheckedStage) -> tuple[float, str]:
    """By how much more than its own error and 2 % the worst number is off, as a share of the truth."""
    if stage.summary.client.clock != KERNEL:
        return float("inf"), "no kernel stamps"
    excesses = (
        ((abs(number.error_s) - number.bound_s - LEAST_S) / number.true_s - ALLOWED_SHARE, str(number))
        for number in stage.numbers()
    )
    return max(excesses, default=(-ALLOWED_SHARE, "the window holds no answer"))
