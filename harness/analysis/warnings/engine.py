"""Were the NPUs fit to be measured: at their full clock, healthy, and nobody else's?

Each check looks at what was sampled of the devices within a stage's window and yields its doubts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import plain
from harness.results.request_table import Requests, Samples
from harness.statistics.intervals import Floats
from harness.telemetry.energy import chips_in_use, values_of
from harness.units import format_count, format_share

FULL_CLOCK = 0.95  # of the limit; clocks move in steps of tens of MHz, and a single step slows nothing
SLOW_READINGS = 0.1  # of those while busy: one reading in ten seconds may catch a moment between two batches
FEWEST_READINGS = 2
ONE_ENGINE = 1  # vLLM has one process on a chip


def throttled(evidence: Evidence) -> Iterator[Warning]:
    """A chip that lowers its clock under load (heat, or a limit of power) is slower than its kind."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        shares = values_of(inside, chip, "busy_clock_share")
        slow = int((shares < FULL_CLOCK).sum())
        if slow >= FEWEST_READINGS and slow > SLOW_READINGS * len(shares):
            text = (
                f"{chip} ran below its full clock in {format_count(slow)} of {format_count(len(shares))} readings "
                f"while it was busy, at {format_share(float(shares.min()))} of it at the lowest: it throttles."
            )
            yield Warning(
                "device_throttled",
                WARNING,
                plain(text),
                plain("Check cooling and the power limit: npu-smi info -t temp."),
            )


def shared(evidence: Evidence) -> Iterator[Warning]:
    """A chip that several processes hold memory of has another user beside the engine."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        most = values_of(inside, chip, "processes").max(initial=0.0)
        if most > ONE_ENGINE:
            text = f"{format_count(most)} processes held memory of {chip}: it was shared, and its speed with it."
            yield Warning(
                "device_shared",
                WARNING,
                plain(text),
                plain("Stop the other process, found with npu-smi info, and run again."),
            )


def unhealthy(evidence: Evidence) -> Iterator[Warning]:
    """A chip whose health npu-smi does not call OK."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        if values_of(inside, chip, "healthy").min(initial=1.0) < 1:
            text = f"npu-smi did not call {chip} healthy while it was measured."
            yield Warning(
                "device_unhealthy", WARNING, plain(text), plain("Run harness doctor, and npu-smi info -t health.")
            )


def _inside(evidence: Evidence) -> Samples:
    window, samples = evidence.summary.window, evidence.samples
    return samples.take((samples.at_ns >= window.start_ns) & (samples.at_ns <= window.end_ns))


DEVICE_CHECKS = (throttled, shared, unhealthy)


START_TIME = "process_start_time_seconds"
_COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:num_preemptions_total")
_SAME_START_S = 0.5  # the kernel counts a process's start in hundredths, and the clock may be set meanwhile
_LEFT_OPEN = ("auto", "none", "None", -1, "-1")  # values that leave the choice to the engine
_MOST_NAMES = 3  # of models that answered


def died(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """A run that the death of an engine, or of a worker, has ended: a failing system was measured."""
    line = (run.get("engine") or {}).get("died")
    if line:
        text = f"The run did not come to its end: {str(line).rstrip('.')}."
        yield Warning(
            "died",
            INVALID,
            plain(text),
            plain("Mend what it died of (engine.log has what the engine said), and run again."),
        )


def unlisted(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """A server that lists no models was asked for one by name."""
    if (run.get("engine") or {}).get("models_listed", True) is False:
        text = "The server has no list of models, so the model was asked for by its name alone."
        yield Warning(
            "models_unlisted",
            NOTE,
            plain(text),
            plain("Make sure that this server runs the model you mean to measure."),
        )


def unverified(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Any machine may answer where no certificate is checked."""
    if (run.get("engine") or {}).get("certificate_checked", True) is False:
        text = "The server's certificate was not checked (engine.tls.insecure), so any machine may have answered."
        yield Warning("unverified", WARNING, plain(text), plain("Give the authority that signed it, as engine.tls.ca."))


def same_model(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Answers that name another model than was asked for."""
    engine = run.get("engine") or {}
    asked, told = str(engine.get("model") or ""), engine.get("answered_models") or []
    others = [str(name) for name in told if not _is_same_model(asked, str(name))]
    if asked and others:
        text = f"Answers name another model than the {asked!r} that was asked for: {_names(others)}."
        yield Warning(
            "other_model", WARNING, plain(text), plain("Make sure that this server runs the model you mean to measure.")
        )


def _is_same_model(asked: str, told: str) -> bool:
    """Whether one name is the other, or its last part (a folder's name, a repository without its owner)."""
    one, other = (name.rstrip("/").lower() for name in (asked, told))
    return one == other or one.rpartition("/")[2] == other.rpartition("/")[2]


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMES])
    return shown + (f" and {format_count(len(names) - _MOST_NAMES)} more" if len(names) > _MOST_NAMES else "")


def restarted(samples: Samples, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An engine that was another one at the end than at the begin, or several behind one address."""
    told = (run.get("engine") or {}).get("restarted")
    series = list(_series(samples))
    if any(_is_several(values) for _, values in series):
        text = "The counters in /metrics jump back and forth: several servers answer at this address in turn."
        yield Warning(
            "several_servers",
            WARNING,
            plain(text),
            plain("Give the address of one server, or leave its counters unread."),
        )
    elif told or any(_is_restart(name, values) for name, values in series):
        how = str(told) if told else "its counters in /metrics began anew"
        text = f"The engine was restarted while it was measured: {how}."
        yield Warning("restarted", INVALID, plain(text), plain("Find out why in the log of the server, and run again."))


def _series(samples: Samples) -> Iterator[tuple[str, Floats]]:
    """Each watched counter of each source of the server, in the order of time."""
    if not len(samples):
        return
    of_server = np.asarray([str(source).startswith("server") for source in samples.source], dtype=bool)
    for name in (*_COUNTERS, START_TIME):
        rows = np.flatnonzero(of_server & (samples.name == name))
        for source in dict.fromkeys(samples.source[rows]):
            own = rows[samples.source[rows] == source]
            yield name, samples.value[own[np.argsort(samples.at_ns[own], kind="stable")]]


def _is_restart(name: str, values: Floats) -> bool:
    steps = np.diff(values)
    return bool((steps > _SAME_START_S).any()) if name == START_TIME else bool((steps < 0).any())


def _is_several(values: Floats) -> bool:
    """Whether a counter that fell came back at once to where it had been, twice: two processes answer in turn."""
    falls = np.flatnonzero(np.diff(values) < 0)
    back = [bool((values[at + 2 : at + 6] >= values[at]).any()) for at in falls]
    return len(falls) > 1 and all(back[:-1])


def flags_in_force(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Flags that an engine runs with otherwise than was asked."""
    engine = run.get("engine") or {}
    rows = [row for row in engine.get("changed") or () if row.get("asked") not in (None, *_LEFT_OPEN)]
    if not rows:
        return
    # A rewriting with a known reason is how this engine is; a switch, or a flag without effect, is another experiment.
    grave = any(isinstance(row["asked"], bool) or row.get("effective") is None or not row.get("why") for row in rows)
    shown = ", ".join(str(row["flag"]) for row in rows[:_MOST_NAMES])
    text = f"Flags of the engine are not in force as asked: {shown} ({format_count(len(rows))} in all)."
    severity = WARNING if grave and not engine.get("simulated") else NOTE
    yield Warning(
        "flags_changed", severity, plain(text), plain("See Flags asked and in effect on the page, with the reasons.")
    )


ENGINE_CHECKS = (died, same_model, flags_in_force, unlisted, unverified)
