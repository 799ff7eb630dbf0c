"""How exact is this client on this machine, and how much can it carry?

A metronome in a process of its own sends tokens at known times, which the kernel stamps. Gentle
loads show the floor, the error that stands on every number this client measures here; harder ones
the ceiling, the token rate up to which it measures the server and not itself; and one core for
both, what a client costs a server that it shares cores with.
"""

import asyncio
import json
import math
import os
import platform
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import __version__
from harness.clock import utc_now
from harness.errors import HarnessError
from harness.execution.reconcile import reconcile
from harness.execution.run import RunSpec, conduct, open_folder
from harness.results import store
from harness.scenario.loader import load_scenario
from harness.selfcheck.exactness import BEHIND_SHARE, HELD_LIMIT_SHARE, Exactness, exactness
from harness.selfcheck.reference_server.ground_truth import TokenSchedule, read
from harness.selfcheck.reference_server.process import started
from harness.telemetry.environment import cores
from harness.units import NS_PER_MS, NS_PER_S, format_error, format_rate, format_share

BEAT = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
Say = Callable[[str], None]

_SCENARIO = """\
name: selfcheck
question: How exact is this client on this machine?
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


def selfcheck(say: Say) -> list[str]:
    """Measure this client here, keep the result for later runs, and tell it in lines."""
    busy_share = psutil.cpu_percent(interval=1) / 100
    found = floor_and_ceiling(say) | {"busy_share": busy_share}
    keep(found)
    return lines(found)


def floor_and_ceiling(say: Say, measure: Measure | None = None) -> dict[str, Any]:
    """Floor and ceiling of this client here, times in seconds, rates per second.

    `limited_by` says what ended the climb: "client" (it fell behind in the next step), "metronome"
    (it fell behind its beat, so that nothing harder can be told), or "steps" (there are no more).
    `say` hears of every step.
    """
    measure = measure or measure_step
    with tempfile.TemporaryDirectory(prefix="harness-selfcheck-") as folder:
        gentle = [_said(say, measure(step, Path(folder, str(step.streams)))) for step in GENTLE]
        climbed, limited_by = _climb(say, measure, Path(folder))
        shared = _on_one_core(measure, GENTLE[-1], Path(folder, "shared"))
    carried = [found for found in (*gentle, *climbed) if found.keeps_up]
    ceiling = max(carried, key=lambda found: found.token_rate, default=None)
    return {
        "floor_ttft_s": max(found.ttft_error_s for found in gentle),
        "floor_gap_p99_s": max(found.gap_error_s for found in gentle),
        "ceiling_tokens_per_s": ceiling.token_rate if ceiling else 0.0,
        "ceiling_streams": ceiling.streams if ceiling else 0,
        "limited_by": limited_by,
        "shared_core": _cost(shared, gentle[-1]),
        "workers": max(1, min(8, cores() // 4)),
        "measured_utc": utc_now().isoformat(timespec="seconds"),
        **_here(),
        "steps": [_numbers(found) for found in (*gentle, *climbed)],
    }


def _climb(say: Say, measure: Measure, folder: Path) -> tuple[list[Exactness], str]:
    """Harder steps up to the first in which the client falls behind twice: one hiccup of the machine is no limit."""
    climbed: list[Exactness] = []
    for step in HARD:
        found = _said(say, measure(step, folder / str(step.streams)))
        if not found.keeps_up:
            found = _said(say, measure(step, folder / f"{step.streams}-again"))
        climbed.append(found)
        if found.late_p50_s > BEAT.gap_ns / NS_PER_S:
            return climbed, "metronome"
        if not found.keeps_up:
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


def _said(say: Say, found: Exactness) -> Exactness:
    say(
        f"{_streams(found.streams)}: TTFT {format_error(found.ttft_s)} (sent: {format_error(found.ttft_true_s)}), "
        f"{format_rate(found.token_rate, 'tokens/s')}, {format_share(found.held_share)} of what was possible"
    )
    return found


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"


def measure_step(step: LoadStep, folder: Path) -> Exactness:
    """Run one step against a metronome of its own.

    Raises:
        HarnessError: where the run did not come to its end.
    """
    log = folder.with_suffix(".npz")
    with started(BEAT, log, life_s=120) as metronome:
        drive(scenario_text(step, metronome.url), folder)
    parts = (store.read_requests(folder), store.read_events(folder), store.read_samples(folder))
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
    order = RunSpec(load_scenario(path), folder, rerun="harness selfcheck", say=lambda _: None)
    open_folder(order)
    outcome = asyncio.run(conduct(order))
    if outcome.exit_code:
        fault = HarnessError(*outcome.lines)
        fault.exit_code = outcome.exit_code
        raise fault
    reconcile(folder)


def lines(result: dict[str, Any]) -> list[str]:
    """The result as lines for a terminal."""
    busy = result.get("busy_share", 0.0)
    remark = f"other work kept {format_share(busy)} of this machine busy: check again when it is quiet"
    return [
        *([remark] if busy > QUIET_SHARE else []),
        _exactness(result),
        _capacity(result),
        _sharing(result["shared_core"]),
        f"kept in {cache_file()} for later runs",
    ]


def _exactness(result: dict[str, Any]) -> str:
    ttft, gap = (format_error(abs(result[f"floor_{name}_s"])) for name in ("ttft", "gap_p99"))
    return f"Exactness: a mean TTFT is right to {ttft}, and the p99 of the gap between chunks to {gap}."


def _capacity(result: dict[str, Any]) -> str:
    if not result["ceiling_streams"]:
        return "Capacity: none; this client cannot keep up on this machine even at 100 streams: is it busy otherwise?"
    unheld = f"under {format_share(HELD_LIMIT_SHARE)} of the possible rate is held"
    reasons = {
        "client": f"above, {unheld}, or a TTFT is off by over {format_share(BEHIND_SHARE)}",
        "metronome": "beside the client the metronome can send no more on this machine; the client may carry more",
        "steps": "the hardest step; it may carry more",
    }
    rate = format_rate(result["ceiling_tokens_per_s"], "tokens/s")
    on, reason = _streams(result["ceiling_streams"]), reasons[result["limited_by"]]
    return f"Capacity: the client carries {rate} on {on} ({reason})."


def _sharing(cost: dict[str, Any]) -> str:
    added, lost = max(0.0, cost["ttft_added_s"]), max(0.0, 1 - cost["rate_share"])
    return (
        f"Sharing: on one core with the client, a server of {_streams(cost['streams'])} was itself "
        f"{format_error(added)} slower to its first token and lost {format_share(lost)} of its rate: "
        "give each cores of its own."
    )


def cache_file() -> Path:
    """Where results are kept, one for each kind of place they hold for."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "selfcheck.json"


def last_selfcheck() -> dict[str, Any] | None:
    """The last result of this host, Python, harness version and number of cores; None where there is none."""
    found = _kept().get(_key())
    return found if isinstance(found, dict) else None


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
        raise HarnessError(
            f"{path}: cannot be written ({fault.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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


def _numbers(found: Exactness) -> dict[str, Any]:
    """A step as JSON: no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(found).items()
    }
