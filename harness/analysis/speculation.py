"""Speculation of a stage: how much of what the engine drafted was accepted, from the counters of its /metrics.

    acceptance rate       accepted tokens / draft tokens
    mean accepted length  1 + accepted tokens / drafts: what a request gets of a step that verifies a draft
    by position           drafts of which the token at that place was accepted / drafts

These are vLLM's own definitions. Of single requests, where a server tells (`--per-request-spec-decode-metrics`), the
steps that verified a draft are the drafts. Each counter is the difference of two of its samples: those nearest to the
begin and to the end of the stage's window. From one sample to the next is one observation; the interval of a ratio of
sums rests on these, and on how alike neighbours are, as the other intervals of means do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.engines import counted_within
from harness.analysis.levels import LEVEL_OF, level_of
from harness.analysis.steady_state import Window
from harness.messages import Message, Parameter, message, stored
from harness.results.request_table import MISSING, Requests, Samples
from harness.scenario.metrics import ACCEPTANCE_RATE, ACCEPTED_LENGTH
from harness.statistics.distributions import MEAN, bounds
from harness.statistics.intervals import Floats
from harness.telemetry.server_metrics import ACCEPTED_AT, ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, SERVER

_PREFIX = "vllm:spec_decode_"
RATE, LENGTH = ACCEPTANCE_RATE, ACCEPTED_LENGTH


@dataclass(frozen=True, slots=True)
class CounterSeries:
    """One counter of one source over time: when it was read (ns since the run's zero), and what it showed."""

    at_ns: NDArray[np.int64]
    values: Floats

    def steps(self, window: Window) -> Floats | None:
        """By how much it rose from each sample to the next between those nearest to a window's ends.

        None where these are one sample, and where it fell: another process counts there.
        """
        places = counted_within(self.at_ns, self.values, (window.start_ns, window.end_ns))
        if places is None:
            return None
        first, last = places
        return np.diff(self.values[first : last + 1])


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """The counters of speculation of one source: the server, or one of its engines."""

    drafts: CounterSeries
    draft_tokens: CounterSeries
    accepted: CounterSeries
    by_position: tuple[CounterSeries, ...]

    def within(self, window: Window) -> dict[str, Any] | None:
        """The acceptance of a window, as summary.json has it; None where the samples do not tell."""
        counters = (self.drafts, self.draft_tokens, self.accepted)
        known = [steps for counter in counters if (steps := counter.steps(window)) is not None]
        if len(known) < len(counters):
            return None
        drafts, draft_tokens, accepted = (float(steps.sum()) for steps in known)
        places = [steps for counter in self.by_position if (steps := counter.steps(window)) is not None]
        by_position = [float(steps.sum()) / drafts for steps in places] if drafts else []
        return _acceptance(drafts, draft_tokens, accepted) | {"by_position": by_position, "ci95": _intervals(*known)}


def _acceptance(drafts: float, draft_tokens: float, accepted: float) -> dict[str, Any]:
    """Counts and the ratios of them."""
    return {
        "drafts": round(drafts),
        "draft_tokens": round(draft_tokens),
        "accepted_tokens": round(accepted),
        RATE: accepted / draft_tokens if draft_tokens else None,
        LENGTH: 1 + accepted / drafts if drafts else None,
    }


def _intervals(drafts: Floats, draft_tokens: Floats, accepted: Floats) -> dict[str, list[float]]:
    """95 % intervals of the rate and of the mean length; none where the samples are too few or too alike."""
    ends = {}
    if len({len(drafts), len(draft_tokens), len(accepted)}) == 1:
        for name, counts, least, most in ((RATE, draft_tokens, 0.0, 1.0), (LENGTH, drafts, 1.0, np.inf)):
            known = counts > 0
            interval = bounds(accepted[known], counts[known], {}, negative=False).ci95.get(MEAN)
            if interval is not None:
                ends[name] = [float(min(least + max(end, 0.0), most)) for end in interval]
    return ends


@dataclass(frozen=True, slots=True)
class SpeculationCounters:
    """The counters of a run whose engine speculates, by source."""

    sources: Mapping[str, EngineCounters]

    def within(self, window: Window) -> dict[str, Any] | None:
        """A stage's `speculation` of summary.json, with that of each engine where there are several."""
        known = {name: counters.within(window) for name, counters in self.sources.items()}
        server = known.pop(SERVER, None)
        engines = {name.removeprefix(f"{SERVER}/"): own for name, own in known.items() if own is not None}
        return None if server is None else {**server, **({"engines": engines} if engines else {})}


def find_speculation(samples: Samples) -> SpeculationCounters | None:
    """The counters of speculation among what was watched; None where the engine shows none."""
    if not bool((samples.name == DRAFTS).any()):
        return None
    series = {(source, name): own for source, name, own in _series(samples)}
    sources = dict.fromkeys(source for source, name in series if name == DRAFTS)
    known = {source: _engine_counters(series, source) for source in sources}
    return SpeculationCounters({source: counters for source, counters in known.items() if counters is not None})


def _engine_counters(series: Mapping[tuple[str, str], CounterSeries], source: str) -> EngineCounters | None:
    """The counters of one source; None where it shows only some of them."""
    drafts, draft_tokens, accepted = (series.get((source, name)) for name in (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS))
    if drafts is None or draft_tokens is None or accepted is None:
        return None
    return EngineCounters(drafts, draft_tokens, accepted, _positions(series, source))


def _positions(series: Mapping[tuple[str, str], CounterSeries], source: str) -> tuple[CounterSeries, ...]:
    """The counters of the places of a draft, in their order, as far as there is no gap."""
    kept: list[CounterSeries] = []
    while (counter := series.get((source, f"{ACCEPTED_AT}:{len(kept)}"))) is not None:
        kept.append(counter)
    return tuple(kept)


def _series(samples: Samples) -> Iterator[tuple[str, str, CounterSeries]]:
    """Every counter of speculation of every source of the server, in the order of time."""
    chosen = np.asarray([str(name).startswith(_PREFIX) for name in samples.name], dtype=bool)
    own = samples.take(chosen)
    order = np.argsort(own.at_ns, kind="stable")
    rows: dict[tuple[str, str], list[int]] = {}
    for row in order.tolist():
        rows.setdefault((str(own.source[row]), str(own.name[row])), []).append(row)
    for (source, name), places in rows.items():
        if source == SERVER or source.startswith(f"{SERVER}/"):
            yield source, name, CounterSeries(own.at_ns[places], own.value[places])


def acceptance_of_requests(requests: Requests) -> dict[str, Any] | None:
    """What the server told of single requests: counts of all, and quantiles over them; None where it told of none."""
    known = (requests.draft_steps > 0) & (requests.draft_tokens > 0) & (requests.accepted_tokens != MISSING)
    if not known.any():
        return None
    drafts, tokens, accepted = (
        column[known].astype(np.float64)
        for column in (requests.draft_steps, requests.draft_tokens, requests.accepted_tokens)
    )
    ratios = {RATE: accepted / tokens, LENGTH: 1 + accepted / drafts}
    quantiles = {
        name: dict(zip(("p10", "p50", "p90"), np.quantile(values, (0.1, 0.5, 0.9)).tolist(), strict=True))
        for name, values in ratios.items()
    }
    return {"n": int(known.sum()), **_acceptance(drafts.sum(), tokens.sum(), accepted.sum()), "quantiles": quantiles}


def stage_speculation(
    counters: SpeculationCounters | None, window: Window, answered: Requests
) -> dict[str, Any] | None:
    """A stage's `speculation`: by the counters of its window, else by its answered requests; else None."""
    acceptance = None if counters is None else counters.within(window)
    own = acceptance_of_requests(answered)
    if own is None:
        return acceptance
    if acceptance is None:
        counted = {name: value for name, value in own.items() if name not in ("n", "quantiles")}
        acceptance = counted | {"by_position": [], "ci95": {}}
    return acceptance | {"requests": own}


def speculation_sentence(stages: Sequence[Mapping[str, Any]]) -> Message | None:
    """What acceptance comes to in stages of summary.json that drafted, from the first to the last, for the answer."""
    drafted = [stage for stage in stages if (stage.get("speculation") or {}).get(RATE) is not None]
    if not drafted:
        return None
    counts = {name: sum(stage["speculation"][name] for stage in drafted) for name in _COUNTS}
    own = _acceptance(*(float(counts[name]) for name in _COUNTS))
    words: dict[str, Parameter] = {"rate": own[RATE], "length": own[LENGTH]}
    first, last = drafted[0], drafted[-1]
    first_s, last_s = ((stage.get("tpot") or {}).get("p50") for stage in (first, last))
    if not first_s or not last_s:
        return message("analysis.answer_accepted", **words)
    words |= {"last": _level(last), "last_s": last_s}
    if first is last:
        return message("analysis.answer_speculation", **words)
    return message("analysis.answer_speculations", first=_level(first), first_s=first_s, **words)


_COUNTS = ("drafts", "draft_tokens", "accepted_tokens")


def _level(stage: Mapping[str, Any]) -> Message:
    """The load of a stage in short."""
    load = stage.get("load") or {}
    field = LEVEL_OF.get(str(load.get("kind")), "")
    if load.get(field) is None:
        return stored(stage.get("label_message"), str(stage.get("label")))
    return level_of(field, load[field])
