"""The summary of a result in Python: the numbers of its stages as values, from summary.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from harness.analysis.warnings import Warning, warnings_of
from harness.messages import localized, stored

Load = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency of a stage over its measured requests, in seconds; None where it is not known.

    `n` is the number of values, `p50` to `p99` are percentiles, `ci95` holds 95 % confidence intervals (low, high) by
    statistic, such as `ci95["p99"]`.
    """

    n: int | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    ci95: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an engine that speculates drafted and accepted in a stage, by its counters.

    `acceptance_rate` are accepted of drafted tokens, `mean_accepted_length` 1 + accepted tokens of a draft; both are
    None where nothing was drafted. `by_position` are shares of drafts, from the first place of a draft on. `ci95` holds
    95 % intervals (low, high) of the two ratios where the stage is long enough.
    """

    drafts: int
    draft_tokens: int
    accepted_tokens: int
    acceptance_rate: float | None = None
    mean_accepted_length: float | None = None
    by_position: tuple[float, ...] = ()
    ci95: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One engine of a stage: a process, or one of its data-parallel ranks; None where it did not say.

    `role` is prefill, decode or replica. `running` and `waiting` are requests on average, `kv_use` the mean share of
    the KV cache; counts are growth over the stage's window, of `span_s` seconds. `prefix_hit_rate` is the share of
    prompt tokens that the prefix cache had.
    """

    name: str
    role: str
    running: float | None = None
    waiting: float | None = None
    kv_use: float | None = None
    preemptions: float | None = None
    requests: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    span_s: float | None = None
    prefix_hit_rate: float | None = None


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """The share of a stage's prompt tokens that prefix caches found, of 1.

    `theoretical_hit_rate` is what an unbounded cache would have found of the same requests (None where their tokens are
    not known), `measured_hit_rate` what the engines counted, `engines` each of several by name. `target` is the
    scenario's `hit_rate`, None without one, `held` whether it was met.
    """

    theoretical_hit_rate: float | None = None
    measured_hit_rate: float | None = None
    block_size: int | None = None
    target: float | None = None
    held: bool | None = None
    engines: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """The time to first token of `n` requests as the server splits it: s in its queue, in the prefill, and outside."""

    n: int
    queue: Latency
    prefill: Latency
    outside: Latency


@dataclass(frozen=True, slots=True)
class StageResult:
    """The numbers of one stage of one repeat.

    `load` is what was asked for (`kind` and its keys), `requests` how many ended how, `slo_met` whether it kept every
    limit of the scenario (None without limits). Rates are per second over the measured window of `window_s` seconds;
    `goodput` counts the requests that kept all limits. `ttft_user` and `e2e_user` count from when a request was due,
    `ttft` and `e2e` from when it was sent. `npu_token_rate` are output tokens/s per NPU (of the whole engine where the
    number of its NPUs is not known), `user_token_rate` tokens/s that a user sees; cost (in `currency`, that of
    price_per_hour, None where the scenario names none) and energy are None where they are not known.
    `speculation` is None of an engine that drafts no tokens, `prefix` where no hits are known, `server_split` where
    the server does not tell its own times. `engines` are those that were sampled, `imbalance` the
    maximum over the mean of each role's quantities, `lagging` the engines that lag, `full_side` the side of a
    prefill-decode pair that is full: prefill, decode, both or neither, None where there is no pair.
    """

    index: int
    repeat: int
    label: str
    load: Load
    requests: Mapping[str, int]
    window_s: float | None = None
    request_rate: float | None = None
    output_token_rate: float | None = None
    total_token_rate: float | None = None
    goodput: float | None = None
    slo_met: bool | None = None
    mean_concurrency: float | None = None
    ttft: Latency | None = None
    ttft_user: Latency | None = None
    tpot: Latency | None = None
    itl: Latency | None = None
    e2e: Latency | None = None
    e2e_user: Latency | None = None
    npu_token_rate: float | None = None
    user_token_rate: float | None = None
    cost_per_million_output_tokens: float | None = None
    currency: str | None = None
    kwh_per_million_output_tokens: float | None = None
    engines: tuple[EngineResult, ...] = ()
    imbalance: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    lagging: tuple[str, ...] = ()
    full_side: str | None = None
    speculation: Acceptance | None = None
    prefix: PrefixCache | None = None
    server_split: ServerTimes | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A result in short: the question of its scenario, the answer in the current language, its stages and warnings.

    `valid` is False where a warning is of severity invalid; `simulated` says that a simulator answered, so that no
    number is a measurement. `recommendation` says which stage to run and why; empty of a lone one. A run of kernels has
    no stages; see `Result.kernels`.
    """

    name: str
    question: str
    answer: str
    valid: bool
    simulated: bool
    stages: tuple[StageResult, ...] = ()
    warnings: tuple[Warning, ...] = ()
    recommendation: str = ""


def summary_from(summary: Mapping[str, Any]) -> Summary:
    """The summary that a summary.json of format 2 holds; `store.read_json` makes it of format 1."""
    return Summary(
        name=str(summary.get("name") or ""),
        question=str(summary.get("question") or ""),
        answer=localized(stored(summary.get("answer_message"), str(summary.get("answer") or ""))),
        valid=bool(summary["verdict"]["valid"]),
        simulated=bool(summary.get("simulated")),
        stages=tuple(_stage(stage) for stage in summary.get("stages") or ()),
        warnings=tuple(warnings_of(summary)),
        recommendation=_recommendation(summary),
    )


def _recommendation(summary: Mapping[str, Any]) -> str:
    """The decision of a summary in the current language; empty where there is nothing to choose from."""
    decision = summary.get("decision")
    several = len({stage.get("index") for stage in summary.get("stages") or ()}) > 1
    return localized(stored(decision.get("message"), str(decision.get("text")))) if decision and several else ""


_EFFICIENCY = (
    *("npu_token_rate", "user_token_rate"),
    *("cost_per_million_output_tokens", "currency", "kwh_per_million_output_tokens"),
)
_LATENCIES = ("ttft", "ttft_user", "tpot", "itl", "e2e", "e2e_user")
_PLAIN = ("window_s", "request_rate", "output_token_rate", "total_token_rate", "goodput", "slo_met")


def _stage(kept: Mapping[str, Any]) -> StageResult:
    values: dict[str, Any] = {name: kept.get(name) for name in _PLAIN}
    values |= {name: _latency(kept.get(name)) for name in _LATENCIES}
    values |= {name: (kept.get("efficiency") or {}).get(name) for name in _EFFICIENCY}
    return StageResult(
        index=kept.get("index") or 0,
        repeat=kept.get("repeat") or 0,
        label=str(kept.get("label") or ""),
        load=MappingProxyType(dict(kept.get("load") or {})),
        requests=MappingProxyType(dict(kept.get("requests") or {})),
        mean_concurrency=(kept.get("concurrency") or {}).get("mean"),
        engines=tuple(map(_engine, kept.get("engines") or ())),
        imbalance=MappingProxyType(dict(kept.get("imbalance") or {})),
        lagging=tuple(lag["engine"] for lag in kept.get("lagging") or ()),
        full_side=kept.get("full_side"),
        speculation=_acceptance(kept.get("speculation")),
        prefix=_prefix_cache(kept.get("prefix")),
        server_split=_server_split(kept.get("server_split")),
        **values,
    )


def _prefix_cache(kept: Mapping[str, Any] | None) -> PrefixCache | None:
    if kept is None:
        return None
    values = {name: kept.get(name) for name in PrefixCache.__slots__ if name != "engines"}
    return PrefixCache(**values, engines=MappingProxyType(dict(kept.get("engines") or {})))


def _server_split(kept: Mapping[str, Any] | None) -> ServerTimes | None:
    if kept is None:
        return None
    return ServerTimes(kept["n"], *(_latency(kept[part]) or Latency() for part in ("queue", "prefill", "outside")))


def _acceptance(kept: Mapping[str, Any] | None) -> Acceptance | None:
    if kept is None:
        return None
    ends = {name: (low, high) for name, (low, high) in (kept.get("ci95") or {}).items()}
    counts = {name: int(kept[name]) for name in ("drafts", "draft_tokens", "accepted_tokens")}
    ratios: dict[str, Any] = {name: kept.get(name) for name in ("acceptance_rate", "mean_accepted_length")}
    places = tuple(kept.get("by_position") or ())
    return Acceptance(**counts, **ratios, by_position=places, ci95=MappingProxyType(ends))


_GAUGES = ("running", "waiting", "kv_use")


def _engine(kept: Mapping[str, Any]) -> EngineResult:
    values = {each.name: kept.get(each.name) for each in fields(EngineResult) if each.name not in _GAUGES}
    means = {name: (kept.get(name) or {}).get("mean") for name in _GAUGES}
    return EngineResult(**(values | means))  # type: ignore[arg-type] # its fields by name


def _latency(kept: Mapping[str, Any] | None) -> Latency | None:
    if kept is None:
        return None
    intervals = {name: (ends[0], ends[1]) for name, ends in (kept.get("ci95") or {}).items() if ends}
    plain = {each.name: kept.get(each.name) for each in fields(Latency) if each.name != "ci95"}
    return Latency(**plain, ci95=MappingProxyType(intervals))
