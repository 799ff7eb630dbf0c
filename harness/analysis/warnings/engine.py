"""Checks of the NPUs and of the engine: at full clock, healthy and not shared; evenly loaded; the one that was meant.

Each check looks at what was sampled within a stage's window, or at run.json, and yields its warnings.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.analysis.efficiency import chips_in_use, values_of
from harness.analysis.engine_balance import Uneven
from harness.analysis.server_side import TOLERANCE, PrefixHits
from harness.analysis.warnings import DIED, INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import Message, Parameter, message, stored
from harness.results.request_table import Requests, Samples
from harness.scenario.deployment import PREFILL, PROXY
from harness.statistics.intervals import Floats
from harness.telemetry.server_metrics import GENERATION, PREEMPTIONS, PROMPT, START_TIME

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
            text = message(
                "analysis.device_throttled", chip=chip, slow=slow, readings=len(shares), lowest=float(shares.min())
            )
            yield Warning("device_throttled", WARNING, text, message("analysis.next_cooling"))


def shared(evidence: Evidence) -> Iterator[Warning]:
    """A chip that several processes hold memory of has another user beside the engine."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        most = values_of(inside, chip, "processes").max(initial=0.0)
        if most > ONE_ENGINE:
            text = message("analysis.device_shared", chip=chip, processes=int(most))
            yield Warning("device_shared", WARNING, text, message("analysis.next_other_process"))


def unhealthy(evidence: Evidence) -> Iterator[Warning]:
    """A chip whose health npu-smi does not call OK."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        if values_of(inside, chip, "healthy").min(initial=1.0) < 1:
            text = message("analysis.device_unhealthy", chip=chip)
            yield Warning("device_unhealthy", WARNING, text, message("analysis.next_health"))


def _inside(evidence: Evidence) -> Samples:
    window, samples = evidence.summary.window, evidence.samples
    return samples.take((samples.at_ns >= window.start_ns) & (samples.at_ns <= window.end_ns))


DEVICE_CHECKS = (throttled, shared, unhealthy)


_UNEVEN = {
    "running": "analysis.uneven_running",
    "waiting": "analysis.uneven_waiting",
    "kv_use": "analysis.uneven_kv_use",
}
UNEVEN_EXPERTS = 1.5  # times the mean: every layer of experts takes that much longer than it had to


def lagging(evidence: Evidence) -> Iterator[Warning]:
    """An engine whose requests take longer than those of the others for no more work."""
    for lag in evidence.balance.lags:
        token = message("analysis.prompt_token" if lag.role == PREFILL else "analysis.output_token")
        words: dict[str, Parameter] = {"engine": lag.engine, "token": token}
        if math.isinf(lag.times):
            text = message("analysis.engine_stuck", **words)
        else:
            words |= {"token_s": lag.token_s, "others_s": lag.others_s, "times": lag.times, "work": lag.work_share}
            text = message("analysis.engine_lags", **words)
        yield Warning("engine_lags", WARNING, text, message("analysis.next_engine_lags"))


def not_split(evidence: Evidence) -> Iterator[Warning]:
    """A pair whose decode side did all the work."""
    if evidence.balance.is_unsplit:
        yield Warning("not_split", WARNING, message("analysis.not_split"), message("analysis.next_not_split"))


def uneven(evidence: Evidence) -> Iterator[Warning]:
    """An engine that had much more than its share, or nothing, while others of its role were busy."""
    largest: dict[str, Uneven] = {}
    for each in evidence.balance.uneven:
        before = largest.get(each.engine, each)
        largest[each.engine] = max(before, each, key=lambda uneven: uneven.value / uneven.mean)
    for each in largest.values():
        words: dict[str, Parameter] = {"engine": each.engine, "value": each.value, "mean": each.mean}
        text = message(_UNEVEN[each.quantity], **words, times=each.value / each.mean)
        yield Warning("engines_uneven", WARNING, text, message("analysis.next_uneven"))
    if evidence.balance.idle:
        names = [load.engine.name for load in evidence.balance.idle]
        text = message("analysis.engines_idle", count=len(names), engines=names[:_MOST_NAMES])
        yield Warning("engines_idle", WARNING, text, message("analysis.next_idle"))


def uneven_experts(evidence: Evidence) -> Iterator[Warning]:
    """Expert-parallel ranks of which one has much more tokens than the mean, as the engine itself logged."""
    shares = {load.engine.name: load.ep_imbalance or 0.0 for load in evidence.balance.loads}
    name, times = max(shares.items(), key=lambda item: item[1], default=("", 0.0))
    if times >= UNEVEN_EXPERTS:
        text = message("analysis.experts_uneven", engine=name, times=times)
        yield Warning("experts_uneven", WARNING, text, message("analysis.next_experts"))


SHORT_OF_THEORY = 0.05  # of the prompts' tokens: what chance and requests at the ends of a stage do not explain


def prefix_hits_missed(evidence: Evidence) -> Iterator[Warning]:
    """A share of prefix hits that was asked for and not held, or far less than the prompts allow."""
    hits = evidence.prefix
    if hits is None:
        return
    if hits.target is not None and hits.measured is None:
        text = message("analysis.prefix_unmeasured", target=hits.target)
        yield Warning("prefix_unmeasured", WARNING, text, message("analysis.next_prefix_unmeasured"))
    elif hits.target is not None and hits.measured is not None and not hits.held:
        text = message("analysis.prefix_target_missed", target=hits.target, measured=hits.measured)
        yield Warning("prefix_target_missed", WARNING, text, _why_missed(hits, hits.target))
    elif (hits.theoretical or 0.0) - (1.0 if hits.measured is None else hits.measured) > SHORT_OF_THEORY:
        words: dict[str, Parameter] = {"measured": hits.measured, "theoretical": hits.theoretical}
        text = message("analysis.prefix_below_theory", **words)
        yield Warning("prefix_below_theory", WARNING, text, message("analysis.next_prefix_evicted"))


def _why_missed(hits: PrefixHits, target: float) -> Message:
    """Whether the prompts allow it: if they do, blocks were evicted, or not every engine was primed."""
    if hits.theoretical is not None and abs(hits.theoretical - target) > TOLERANCE:
        return message("analysis.next_prefix_prompts", theoretical=hits.theoretical, block_size=hits.block_size or 0)
    if hits.unprimed:
        return message("analysis.next_prefix_unprimed", failed=hits.unprimed)
    if len(hits.engines) > 1 and min(hits.engines.values()) < target - TOLERANCE < max(hits.engines.values()):
        return message("analysis.next_prefix_engines", engine=min(hits.engines, key=lambda name: hits.engines[name]))
    return message("analysis.next_prefix_evicted")


ENGINE_STAGE_CHECKS = (*DEVICE_CHECKS, lagging, not_split, uneven, uneven_experts, prefix_hits_missed)


_COUNTERS = (GENERATION, PROMPT, PREEMPTIONS)
_SAME_START_S = 0.5  # the kernel counts a process's start in hundredths, and the clock may be set meanwhile
_LEFT_OPEN = ("auto", "none", "None", -1, "-1")  # values that leave the choice to the engine
_MOST_NAMES = 3  # of models that answered


def died(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """A run that the death of an engine, or of a worker, has ended: a failing system was measured."""
    engine = run.get("engine") or {}
    line = engine.get("died")
    if line:
        reason = stored(engine.get("died_message"), str(line))
        # engine.log has no word of a load worker, which is a process of the client
        advice = "analysis.next_died_worker" if reason.code == "client.worker_died" else "analysis.next_died"
        yield Warning(DIED, INVALID, message("analysis.died", reason=_without_period(reason)), message(advice))


def _without_period(reason: Message) -> Message:
    """The reason as a part of a sentence: an engine's words in it end without a period."""
    words = {name: value.rstrip(".") if isinstance(value, str) else value for name, value in reason.parameters.items()}
    return Message(reason.code, words)


def unlisted(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """A server that lists no models was asked for one by name."""
    if (run.get("engine") or {}).get("models_listed", True) is False:
        text, step = message("analysis.models_unlisted"), message("analysis.next_right_model")
        yield Warning("models_unlisted", NOTE, text, step)


def unverified(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Any machine may answer where no certificate is checked."""
    if (run.get("engine") or {}).get("certificate_checked", True) is False:
        text, step = message("analysis.unverified"), message("analysis.next_certificate")
        yield Warning("unverified", WARNING, text, step)


def same_model(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Answers that name another model than was asked for; adapters, and models of a mix, were asked for too."""
    engine = run.get("engine") or {}
    model = str(engine.get("model") or "")
    requested = [model, *(str(each["model"]) for each in run.get("classes") or () if each.get("model"))]
    answered = [str(name) for name in engine.get("answered_models") or ()]
    others = [name for name in answered if not any(_is_same_model(each, name) for each in requested)]
    if model and others:
        text = message("analysis.other_model", model=model, others=_names(others))
        yield Warning("other_model", WARNING, text, message("analysis.next_right_model"))


def _is_same_model(requested: str, answered: str) -> bool:
    """Whether one name is the other, or its last part (a folder's name, a repository without its owner)."""
    name, answered_name = (name.rstrip("/").lower() for name in (requested, answered))
    return name == answered_name or name.rpartition("/")[2] == answered_name.rpartition("/")[2]


def _names(names: list[str]) -> list[Message | str]:
    more = len(names) - _MOST_NAMES
    shown: list[Message | str] = [repr(name) for name in names[:_MOST_NAMES]]
    return [*shown, message("analysis.more_names", count=more)] if more > 0 else shown


def restarted(samples: Samples, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An engine that was another one at the end than at the begin, or several behind one address."""
    engine = run.get("engine") or {}
    reason = engine.get("restarted")
    series = list(_series(samples))
    if any(_is_several(values) for _, values in series):
        text, step = message("analysis.several_servers"), message("analysis.next_one_server")
        yield Warning("several_servers", WARNING, text, step)
    elif reason or any(_is_restart(name, values) for name, values in series):
        how = message("analysis.counters_restarted")
        if reason:
            how = stored(engine.get("restarted_message"), str(reason))
        text = message("analysis.restarted", reason=how)
        yield Warning("restarted", INVALID, text, message("analysis.next_restarted"))


def uncounted(samples: Samples, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Engines whose counters were looked for and never came: nothing here is of them."""
    if not len(samples):
        return
    sources = {str(source) for source in np.unique(samples.source)}
    engines = [each for each in (run.get("engine") or {}).get("processes") or () if each.get("role") != PROXY]
    places = {str(each["name"]): f"server/{each['name']}" for each in engines if each.get("metrics_url")}
    silent = [
        name for name, place in places.items() if not any(f"{source}/".startswith(f"{place}/") for source in sources)
    ]
    if silent:
        text = message("analysis.uncounted", engines=_names(silent))
        yield Warning("uncounted", WARNING, text, message("analysis.next_uncounted"))


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
    severity = WARNING if grave and not engine.get("simulated") else NOTE
    flags = [str(row["flag"]) for row in rows[:_MOST_NAMES]]
    text = message("analysis.flags_changed", count=len(rows), flags=flags)
    yield Warning("flags_changed", severity, text, message("analysis.next_flags"))


ENGINE_CHECKS = (died, same_model, flags_in_force, unlisted, unverified)
