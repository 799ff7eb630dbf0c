"""Values of a result: its summary, stages and latencies, as frozen dataclasses made from summary.json."""

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
class StageResult:
    """The numbers of one stage of one repeat.

    `load` is what was asked for (`kind` and its keys), `requests` how many ended how, `slo_met` whether it kept every
    limit of the scenario (None without limits). Rates are per second over the measured window of `window_s` seconds;
    `goodput` counts the requests that kept all limits. `ttft_user` and `e2e_user` count from when a request was due,
    `ttft` and `e2e` from when it was sent.
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


@dataclass(frozen=True, slots=True)
class Summary:
    """A result in short: the question of its scenario, the answer in the current language, its stages and warnings.

    `valid` is False where a warning is of severity invalid; `simulated` says that a simulator answered, so that no
    number is a measurement. A run of kernels has no stages; see `Result.kernels`.
    """

    name: str
    question: str
    answer: str
    valid: bool
    simulated: bool
    stages: tuple[StageResult, ...] = ()
    warnings: tuple[Warning, ...] = ()


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
    )


_LATENCIES = ("ttft", "ttft_user", "tpot", "itl", "e2e", "e2e_user")
_PLAIN = ("window_s", "request_rate", "output_token_rate", "total_token_rate", "goodput", "slo_met")


def _stage(kept: Mapping[str, Any]) -> StageResult:
    values: dict[str, Any] = {name: kept.get(name) for name in _PLAIN}
    values |= {name: _latency(kept.get(name)) for name in _LATENCIES}
    return StageResult(
        index=kept.get("index") or 0,
        repeat=kept.get("repeat") or 0,
        label=str(kept.get("label") or ""),
        load=MappingProxyType(dict(kept.get("load") or {})),
        requests=MappingProxyType(dict(kept.get("requests") or {})),
        mean_concurrency=(kept.get("concurrency") or {}).get("mean"),
        **values,
    )


def _latency(kept: Mapping[str, Any] | None) -> Latency | None:
    if kept is None:
        return None
    intervals = {name: (ends[0], ends[1]) for name, ends in (kept.get("ci95") or {}).items() if ends}
    plain = {each.name: kept.get(each.name) for each in fields(Latency) if each.name != "ci95"}
    return Latency(**plain, ci95=MappingProxyType(intervals))
