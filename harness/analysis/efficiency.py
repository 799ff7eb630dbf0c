"""What a stage yields and costs: tokens/s per NPU, tokens/s a user, cost and energy of a million tokens.

    per NPU       output_token_rate / NPUs that the engine held
    a user        1 / TPOT, of the statistic that the scenario limits, else p50; of answers in one piece the mean
                  output tokens / the mean e2e
    cost          NPUs x price of an NPU's hour / 3600 / tokens a second x 10^6
    energy        joules per output token x 10^6 / 3.6 x 10^6, in kWh

NPUs are counted as the engine counts them: a card of two chips has two. Where their number is not known, rates are of
the whole engine and there is no cost.

Energy is known where the power of the NPUs is: that is integrated over the stage's window by the trapezoidal rule, held
to the window's edges, and summed over the cards that were in use; the energy of the host is not in it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.steady_state import OFFLINE, Window
from harness.results.request_table import Samples
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

PARALLEL, DEVICES, TELEMETRY, UNKNOWN = "parallel", "devices", "telemetry", "unknown"
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size")
_FIRST_SIZES = _SIZES[:3]  # an engine that names one of these names all that are not 1
MEDIAN = "p50"
TPOT_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
BY_LENGTH = "output_tokens/e2e"
_MILLION = 1e6
_HOUR_S = 3600.0
_KWH_J = 3.6e6


@dataclass(frozen=True, slots=True)
class HeldNpus:
    """How many NPUs an engine held (None where that is not known), and what says so."""

    count: int | None
    source: str

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under `npus`."""
        return {"count": self.count, "source": self.source}


def held_npus(run: Mapping[str, Any], samples: Samples | None = None) -> HeldNpus:
    """The NPUs of the engine of run.json: by its parallel sizes, its devices, or the chips that were in use."""
    engine = run.get("engine") or {}
    if any(_has_engine(process) for process in engine.get("processes") or ()):
        return _held_by_processes(list(filter(_has_engine, engine["processes"])))
    parallel = parallel_size(engine.get("effective") or {}) or parallel_size(engine.get("asked") or {})
    if parallel:
        return HeldNpus(parallel, PARALLEL)
    if run.get("devices"):
        return HeldNpus(len(run["devices"]), DEVICES)
    chips: Collection[str] = () if samples is None or engine.get("simulated") else chips_in_use(samples)
    return HeldNpus(len(chips), TELEMETRY) if chips else HeldNpus(None, UNKNOWN)


def _has_engine(process: Mapping[str, Any]) -> bool:
    """Whether a process of run.json is an engine of which more is known than where its counters are."""
    return process.get("role") != "proxy" and process.get("kind") != "attach"


def _held_by_processes(processes: Sequence[Mapping[str, Any]]) -> HeldNpus:
    """The NPUs of all engines of a deployment together; not known where those of one are not."""
    counts = [_process_npus(process) for process in processes]
    known = [count for count in counts if count is not None]
    return HeldNpus(sum(known), PARALLEL) if len(known) == len(counts) else HeldNpus(None, UNKNOWN)


def _process_npus(process: Mapping[str, Any]) -> int | None:
    """The NPUs of one process: its devices, or those of each of the ranks that are its own."""
    if process.get("devices"):
        return len(process["devices"])
    flags = {**(process.get("asked") or {}), **(process.get("effective") or {})}
    own = 1 if flags.get("data_parallel_rank") is not None else flags.get("data_parallel_size_local")
    return parallel_size(flags if own is None else {**flags, "data_parallel_size": own})


def parallel_size(flags: Mapping[str, Any]) -> int | None:
    """TP x PP x DP (x prefill context parallel) of an engine's flags; None where it names none of the first three."""
    if not any(flags.get(name) for name in _FIRST_SIZES):
        return None
    sizes = (flags.get(name) or 1 for name in _SIZES)
    return math.prod(int(size) for size in sizes)


def judged_tpot(slo: Mapping[str, Any]) -> str:
    """The statistic of TPOT that a scenario limits, such as p99; p50 where it limits none that a summary has."""
    limited = (key.rpartition("_") for key in slo)
    return next((name for metric, _, name in limited if metric == "tpot" and name in TPOT_STATISTICS), MEDIAN)


@dataclass(frozen=True, slots=True)
class UserRate:
    """Tokens a second that a user sees, its 95 % interval where there is one, and what it is computed from."""

    value: float
    ends: tuple[float, float] | None
    basis: str


def user_rate(stage: Mapping[str, Any], statistic: str = MEDIAN) -> UserRate | None:
    """The tokens/s a user of a stage of summary.json; None where nothing was answered, and in a batch: it has no users.

    `statistic` is of TPOT: the rate at p99 is that of the slowest one in a hundred.
    """
    if (stage.get("load") or {}).get("kind") == OFFLINE:
        return None
    tpot = stage.get("tpot") or {}
    if tpot.get(statistic):
        low, high = (tpot.get("ci95") or {}).get(statistic) or (None, None)
        ends = (1 / high, 1 / low) if low and high else None
        return UserRate(1 / tpot[statistic], ends, f"tpot_{statistic}")
    mean_s = (stage.get("e2e") or {}).get("mean")
    counted = stage.get("rates_window") or {}
    if not mean_s or not counted.get("requests") or not counted.get("output_tokens"):
        return None
    return UserRate(counted["output_tokens"] / counted["requests"] / mean_s, None, BY_LENGTH)


def efficiency(
    stage: Mapping[str, Any], npus: HeldNpus, price: float | None, currency: str | None = None, statistic: str = MEDIAN
) -> dict[str, Any]:
    """The `efficiency` of a stage of summary.json; `price` is that of one NPU for an hour, in a currency."""
    user = user_rate(stage, statistic)
    rate = stage.get("output_token_rate")
    joules = (stage.get("energy") or {}).get("joules_per_output_token")
    return {
        "npu_token_rate": None if rate is None else rate / (npus.count or 1),
        "user_token_rate": None if user is None else user.value,
        "user_token_rate_ci95": list(user.ends) if user is not None and user.ends else None,
        "user_token_rate_basis": None if user is None else user.basis,
        "cost_per_million_output_tokens": cost(npus, price, rate),
        "cost_per_million_tokens": cost(npus, price, stage.get("total_token_rate")),
        "currency": currency,
        "kwh_per_million_output_tokens": None if joules is None else joules * _MILLION / _KWH_J,
    }


def cost(npus: HeldNpus, price: float | None, token_rate: float | None) -> float | None:
    """The price of a million tokens at so many a second; None where the NPUs, their price or the rate is not known."""
    if npus.count is None or price is None or not token_rate:
        return None
    return npus.count * price / _HOUR_S / token_rate * _MILLION


def with_efficiency(
    stages: Sequence[Mapping[str, Any]], npus: HeldNpus, run: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The stages of a summary, each with its `efficiency`: also of a result of before, which has none."""
    statistic = judged_tpot(run.get("slo") or {})
    price = run.get("price_per_hour"), run.get("currency")
    return [
        dict(stage) if "efficiency" in stage else {**stage, "efficiency": efficiency(stage, npus, *price, statistic)}
        for stage in stages
    ]


DEVICE = "device-"
IN_USE_MEMORY = 0.1  # of a chip's memory; an idle one shows 3 to 5 %, an engine takes most of it
IN_USE_CORES = 0.01
LONGEST_GAP_S = 15.0  # between readings of power; beyond, what lies between is not known


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of the cards in use over a window, and the tokens that came out meanwhile."""

    joules: float
    mean_watts: float
    output_tokens: float
    cards: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under a stage's `energy`."""
        per_token = self.joules / self.output_tokens if self.output_tokens > 0 else None
        return {"joules_per_output_token": per_token, "mean_watts": self.mean_watts, "cards": list(self.cards)}


def energy_of(samples: Samples, window: Window, output_tokens: float) -> Energy | None:
    """Energy within `window`, in which so many tokens came; None where the power of a card in use is not known."""
    inside = samples.take((samples.at_ns >= window.start_ns) & (samples.at_ns <= window.end_ns))
    cards = tuple(sorted({card_of(source) for source in chips_in_use(inside)}))
    joules = [_joules(inside, card, window) for card in cards]
    known = [joule for joule in joules if joule is not None]
    if not known or len(known) < len(cards) or window.length_s <= 0:
        return None
    return Energy(sum(known), sum(known) / window.length_s, output_tokens, cards)


def chips_in_use(inside: Samples) -> set[str]:
    """Sources of the chips that hold much memory or compute; all where neither is told of any."""
    chips = {str(source) for source in inside.source if str(source).startswith(DEVICE)}
    limits = {"memory_share": IN_USE_MEMORY, "core_share": IN_USE_CORES}
    readings = {chip: [values_of(inside, chip, name) for name in limits] for chip in chips}
    if not any(len(values) for pair in readings.values() for values in pair):
        return chips
    return {
        chip
        for chip, pair in readings.items()
        if any(len(values) and values.mean() > limit for values, limit in zip(pair, limits.values(), strict=True))
    }


def card_of(source: str) -> str:
    """The card that a chip sits on: its power is told for both together."""
    return source.partition(".")[0]


def values_of(samples: Samples, source: str, name: str) -> Floats:
    """Values of one name from one source."""
    return np.asarray(samples.value[(samples.source == source) & (samples.name == name)], dtype=np.float64)


def _joules(inside: Samples, card: str, window: Window) -> float | None:
    """The integral of a card's power; its second chip tells none of its own, or a part to be added."""
    sources = sorted({str(source) for source in inside.source if card_of(str(source)) == card})
    parts = [_integral(inside, source, window) for source in sources]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _integral(inside: Samples, source: str, window: Window) -> float | None:
    rows = (inside.source == source) & (inside.name == "watts")
    order = np.argsort(inside.at_ns[rows], kind="stable")
    at_ns, watts = inside.at_ns[rows][order], inside.value[rows][order]
    edges_ns = np.asarray([window.start_ns, *at_ns, window.end_ns], dtype=np.int64)
    if not len(at_ns) or np.diff(edges_ns).max() > LONGEST_GAP_S * NS_PER_S:
        return None
    held = np.asarray([watts[0], *watts, watts[-1]])
    return float(((held[1:] + held[:-1]) / 2 * np.diff(edges_ns)).sum() / NS_PER_S)
