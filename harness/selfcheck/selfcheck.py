"""The self check: how exact this client is on this machine, and how much load it carries.

A reference server in a process of its own, started and ended here, sends tokens at known times, which the kernel
stamps. Gentle loads show the floor, the error that stands on every number this client measures here; harder ones
the ceiling, the token rate up to which it measures the server and not itself; and one core for
both, what a client costs a server that it shares cores with.
"""

import asyncio
import json
import math
import os
import platform
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import harness
from harness import __version__
from harness.clock import utc_now
from harness.errors import EngineError, HarnessError
from harness.execution.reconcile import reconcile
from harness.execution.run import RunSpec, open_folder, run_load
from harness.messages import Message, message
from harness.results import store, table_files
from harness.scenario.loader import load_scenario
from harness.selfcheck.exactness import BEHIND_SHARE, HELD_LIMIT_SHARE, Exactness, exactness
from harness.selfcheck.reference_server.ground_truth import TokenSchedule, read
from harness.telemetry.environment import cores
from harness.units import NS_PER_MS, NS_PER_S

_END_S = 30.0  # to write its log


@dataclass(frozen=True, slots=True)
class ReferenceServer:
    """A reference server that listens: where, and its process."""

    url: str
    pid: int


@contextmanager
def started(schedule: TokenSchedule, log: Path, *, life_s: float = 3600.0) -> Iterator[ReferenceServer]:
    """A reference server in a process of its own, which at the end of the context has written `log`.

    `ground_truth.read` reads the log. The server stays on the last of the cores that this process may
    use, because a server woken by its client tends to be put on the client's core, and would read a
    burst of requests only when all are sent. It ends with this process, however that dies, because it holds its stdin.

    Raises:
        EngineError: where it does not come up.
    """
    if not hasattr(select, "epoll"):
        raise EngineError(message("selfcheck.needs_epoll"))
    process = subprocess.Popen(
        _command(schedule, log, life_s),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(harness.__file__).parent.parent,  # found there even where the package is not installed
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        if not url:
            raise EngineError(message("selfcheck.did_not_start"))
        yield ReferenceServer(url, process.pid)
    finally:
        process.stdin.close()
        _wait(process)
        process.stdout.close()


def _command(schedule: TokenSchedule, log: Path, life_s: float) -> list[str]:
    return [
        *(sys.executable, "-m", "harness.selfcheck.reference_server", "--tied"),
        *("--first", str(schedule.first_ns / NS_PER_S), "--gap", str(schedule.gap_ns / NS_PER_S)),
        *("--chunk-tokens", str(schedule.per_event), "--model", schedule.model),
        *("--life", str(life_s), "--log", str(log.resolve())),
        *("--core", str(max(os.sched_getaffinity(0)))),
    ]


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


SCHEDULE = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
OnStep = Callable[[Message], None]

_FORMER_NAME = "metronome"  # the reference server in results kept by earlier versions

_SCENARIO = """\
name: selfcheck
question: selfcheck
engine: {{kind: attach, url: "{url}"}}
workload: {{kind: synthetic, input_tokens: 128, output_tokens: {tokens}}}
load:
  - closed: {{concurrency: {streams}, requests: {requests}}}
"""


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One load: a closed loop of `streams` streams, each of `rounds` answers of `tokens` tokens."""

    streams: int
    rounds: int
    tokens: int = 100


GENTLE = (LoadStep(1, 8, 20), LoadStep(100, 3))
QUIET_SHARE = 0.1  # of the machine; more, and the result tells of the other work too
HARD = (LoadStep(250, 3), LoadStep(500, 3), LoadStep(1000, 3), LoadStep(2000, 3))
Measure = Callable[[LoadStep, Path], Exactness]


def selfcheck(on_step: OnStep) -> list[Message]:
    """Measure this client here, keep the result for later runs, and report it line by line."""
    busy_share = psutil.cpu_percent(interval=1) / 100
    result = floor_and_ceiling(on_step) | {"busy_share": busy_share}
    keep(result)
    return lines(result)


def floor_and_ceiling(on_step: OnStep, measure: Measure | None = None) -> dict[str, Any]:
    """Floor and ceiling of this client here, times in seconds, rates per second.

    `limited_by` says what ended the climb: "client" (it fell behind in the next step), "server"
    (the reference server fell behind its schedule: nothing harder can be measured), or "steps" (there are no more).
    `on_step` is called with a line for every step.
    """
    measure = measure or measure_step
    with tempfile.TemporaryDirectory(prefix="harness-selfcheck-") as folder:
        gentle = [_reported(on_step, measure(step, Path(folder, str(step.streams)))) for step in GENTLE]
        climbed, limited_by = _climb(on_step, measure, Path(folder))
        shared = _on_one_core(measure, GENTLE[-1], Path(folder, "shared"))
    carried = [seen for seen in (*gentle, *climbed) if seen.keeps_up]
    ceiling = max(carried, key=lambda seen: seen.token_rate, default=None)
    return {
        "floor_ttft_s": max(seen.ttft_error_s for seen in gentle),
        "floor_gap_p99_s": max(seen.gap_error_s for seen in gentle),
        "ceiling_tokens_per_s": ceiling.token_rate if ceiling else 0.0,
        "ceiling_streams": ceiling.streams if ceiling else 0,
        "limited_by": limited_by,
        "shared_core": _cost(shared, gentle[-1]),
        "workers": max(1, min(8, cores() // 4)),
        "measured_utc": utc_now().isoformat(timespec="seconds"),
        **_here(),
        "steps": [_numbers(seen) for seen in (*gentle, *climbed)],
    }


def _climb(on_step: OnStep, measure: Measure, folder: Path) -> tuple[list[Exactness], str]:
    """Harder steps up to the first in which the client falls behind twice: one hiccup of the machine is no limit."""
    climbed: list[Exactness] = []
    for step in HARD:
        seen = _reported(on_step, measure(step, folder / str(step.streams)))
        if not seen.keeps_up:
            seen = _reported(on_step, measure(step, folder / f"{step.streams}-again"))
        climbed.append(seen)
        if seen.late_p50_s > SCHEDULE.gap_ns / NS_PER_S:
            return climbed, "server"
        if not seen.keeps_up:
            return climbed, "client"
    return climbed, "steps"


def _on_one_core(measure: Measure, step: LoadStep, folder: Path) -> Exactness:
    """The step with the server and the client on one core; where processes cannot be bound, as it comes."""
    if not hasattr(os, "sched_setaffinity"):
        return measure(step, folder)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        return measure(step, folder)
    finally:
        os.sched_setaffinity(0, before)


def _cost(shared: Exactness, apart: Exactness) -> dict[str, Any]:
    """What the server itself lost on a core that it shared with the client."""
    return {
        "streams": shared.streams,
        "ttft_added_s": shared.ttft_true_s - apart.ttft_true_s,
        "gap_p99_added_s": shared.gap_p99_true_s - apart.gap_p99_true_s,
        "rate_share": shared.ceiling_rate / apart.ceiling_rate,
    }


def _reported(on_step: OnStep, seen: Exactness) -> Exactness:
    on_step(
        message(
            "selfcheck.step",
            count=seen.streams,
            ttft_s=seen.ttft_s,
            ttft_true_s=seen.ttft_true_s,
            tokens_per_s=seen.token_rate,
            share=seen.held_share,
        )
    )
    return seen


def measure_step(step: LoadStep, folder: Path) -> Exactness:
    """Run one step against a reference server of its own.

    Raises:
        HarnessError: where the run did not come to its end.
    """
    log = folder.with_suffix(".npz")
    with started(SCHEDULE, log, life_s=120) as server:
        drive(scenario_text(step, server.url), folder)
    parts = (table_files.read_requests(folder), table_files.read_events(folder), table_files.read_samples(folder))
    return exactness(step.streams, *parts, read(log))


def scenario_text(step: LoadStep, url: str) -> str:
    """The scenario file of one step."""
    return _SCENARIO.format(url=url, streams=step.streams, requests=step.streams * step.rounds, tokens=step.tokens)


def drive(text: str, folder: Path) -> None:
    """Run a scenario into `folder`, up to its records: no summary, no page.

    Raises:
        HarnessError: where the run did not come to its end.
    """
    path = folder.with_suffix(".yaml")
    path.write_text(text, encoding="utf-8")
    order = RunSpec(load_scenario(path), folder, rerun="harness selfcheck", on_progress=lambda _: None)
    open_folder(order)
    outcome = asyncio.run(run_load(order))
    if outcome.exit_code:
        fault = HarnessError(*outcome.lines)
        fault.exit_code = outcome.exit_code
        raise fault
    reconcile(folder)


def lines(result: dict[str, Any]) -> list[Message]:
    """The result as lines for a terminal."""
    busy = result.get("busy_share", 0.0)
    ttft_s, gap_s = (abs(result[f"floor_{name}_s"]) for name in ("ttft", "gap_p99"))
    return [
        *([message("selfcheck.busy", share=busy)] if busy > QUIET_SHARE else []),
        message("selfcheck.exactness", ttft_s=ttft_s, gap_s=gap_s),
        _capacity(result),
        _sharing(result["shared_core"]),
        message("selfcheck.kept", path=str(cache_file())),
    ]


def _capacity(result: dict[str, Any]) -> Message:
    if not result["ceiling_streams"]:
        return message("selfcheck.no_capacity")
    limits = {
        "client": message("selfcheck.limited_by_client", held=HELD_LIMIT_SHARE, behind=BEHIND_SHARE),
        "server": message("selfcheck.limited_by_server"),
        "steps": message("selfcheck.limited_by_steps"),
    }
    kept = result["limited_by"]
    limit = limits["server" if kept == _FORMER_NAME else kept]
    rate = result["ceiling_tokens_per_s"]
    return message("selfcheck.capacity", tokens_per_s=rate, count=result["ceiling_streams"], limit=limit)


def _sharing(cost: dict[str, Any]) -> Message:
    added_s, lost = max(0.0, cost["ttft_added_s"]), max(0.0, 1 - cost["rate_share"])
    return message("selfcheck.sharing", count=cost["streams"], added_s=added_s, lost=lost)


def cache_file() -> Path:
    """Where results are kept, one for each kind of place they hold for."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "selfcheck.json"


def last_selfcheck() -> dict[str, Any] | None:
    """The last result of this host, Python, harness version and number of cores; None where there is none."""
    result = _kept().get(_key())
    return result if isinstance(result, dict) else None


def keep(result: dict[str, Any]) -> None:
    """Put a result where later runs find it.

    Raises:
        HarnessError: where that cannot be written.
    """
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path.parent, path.name, {**_kept(), _key(): result})
    except OSError as fault:
        raise HarnessError(message("selfcheck.unwritable", path=str(path), reason=fault.strerror)) from None


def _kept() -> dict[str, Any]:
    try:
        results = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _here() -> dict[str, Any]:
    """What a result depends on: it holds where all of these are the same."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "version": __version__,
        "cores": cores(),
    }


def _key() -> str:
    return " ".join(str(value) for value in _here().values())


def _numbers(seen: Exactness) -> dict[str, Any]:
    """A step as JSON: no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(seen).items()
    }
