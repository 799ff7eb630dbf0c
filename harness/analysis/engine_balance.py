"""How evenly the load lay on the engines of a stage, which engine lags, and which side of a pair is full.

Imbalance is the maximum over the mean of the engines of one role. Whether it is more than chance is judged by parts of
the window, none shorter than a request takes, so that they hardly depend on each other: the engine's difference from
the mean of the others has to be more than nothing by a t test over the parts (one-sided, Bonferroni over the engines).

An engine lags where its requests take longer for the same work: by Little's law the time that a request spends on a
token is (running + waiting) x time / tokens, of prompts on the prefill side of a pair, else of output. One that was
given more work than the others is no slower for that: then the load is uneven.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from harness.analysis.engines import EngineActivity, Series, Span, gauge_of, growth_of
from harness.messages import Message, Parameter, message, sentences
from harness.scenario.deployment import DECODE, PREFILL
from harness.statistics.intervals import Floats, student_t_above
from harness.telemetry.server_metrics import GENERATION, KV_USE, PROMPT, RUNNING, WAITING
from harness.units import seconds_to_ns

LARGE = 1.25  # times the mean: below, no engine is worth a look
SAME_WORK = 1.1  # times an equal share: with more, an engine has reason to be slower
ALIKE = 1.15  # times the others' time on a token: beyond, nobody calls the engines even
SURE = 0.001  # of the t test: of 100 even runs of a minute at most four show a lag, however few their requests are
FEWEST_PARTS, MOST_PARTS = 4, 12
LEAST_PART_S = 3.0  # scrapes are a second apart
LEAST_RUNNING = 0.5  # requests an engine on average: fewer say nothing of its speed
LEAST_KV = 0.3  # of the cache: an uneven use of less holds nobody up
WAITS = 1.0  # requests an engine on average: there is a queue
KV_FULL = 0.9
MANY_MORE = 5.0  # times the requests waiting: the other side is not what holds them up
BOTH, NEITHER = "both", "neither"


@dataclass(frozen=True, slots=True)
class Lag:
    """An engine whose requests spend more time on a token than those of the others of its role (s).

    `work_share` is its share of the work over an equal share: 1 where it did as much as the others.
    """

    engine: str
    role: str
    token_s: float
    others_s: float
    work_share: float

    @property
    def times(self) -> float:
        """How many times as long as on the others a token takes; infinite where none came."""
        return self.token_s / self.others_s

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it; an engine that made no token has no time of one."""
        token_s = None if math.isinf(self.token_s) else self.token_s
        return {
            "engine": self.engine,
            "role": self.role,
            "token_s": token_s,
            "others_token_s": self.others_s,
            "work_share": self.work_share,
        }


@dataclass(frozen=True, slots=True)
class Uneven:
    """An engine that had more of something than the others of its role: its value, and the mean of all."""

    engine: str
    role: str
    quantity: str
    value: float
    mean: float


@dataclass(frozen=True, slots=True)
class SideLoad:
    """One side of a prefill-decode pair: means over its engines of waiting requests and KV use, and all preemptions."""

    engines: int
    queued: float | None
    kv_use: float | None
    preemptions: float

    @property
    def cache_full(self) -> bool:
        """Whether its KV cache is full: used up, or requests had to give theirs back."""
        return (self.kv_use or 0.0) >= KV_FULL or self.preemptions > 0

    @property
    def full(self) -> bool:
        """Whether requests wait for it, or its cache is full."""
        return (self.queued or 0.0) >= WAITS or self.cache_full


@dataclass(frozen=True, slots=True)
class Balance:
    """What is found of the engines of a stage; `imbalance` is by role and quantity, `sides` those of a pair.

    `slowest` is the engine of each role that takes longest on a token without more work, whether or not that is proved.
    """

    loads: tuple[EngineActivity, ...] = ()
    imbalance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lags: tuple[Lag, ...] = ()
    slowest: tuple[Lag, ...] = ()
    uneven: tuple[Uneven, ...] = ()
    idle: tuple[EngineActivity, ...] = ()
    sides: Mapping[str, SideLoad] = field(default_factory=dict)

    @property
    def is_unsplit(self) -> bool:
        """Whether a pair has prefilled nothing on its prefill side: the decode side did all the work."""
        prompts = {
            role: [load.counts["prompt_tokens"] for load in self.loads if load.engine.role == role]
            for role in self.sides
        }
        return bool(prompts) and all(count == 0 for count in prompts[PREFILL]) and any(prompts[DECODE])

    @property
    def full_side(self) -> str | None:
        """The side of a pair that is full, `both` or `neither`; None where there is no pair or it has split nothing."""
        if not self.sides or self.is_unsplit:
            return None
        full = [role for role, side in self.sides.items() if side.full]
        if len(full) < 2:
            return full[0] if full else NEITHER
        less, more = sorted(full, key=lambda role: self.sides[role].queued or 0.0)
        few = (self.sides[less].queued or 0.0) * MANY_MORE < (self.sides[more].queued or 0.0)
        return more if few and not self.sides[less].cache_full else BOTH

    def as_dict(self) -> dict[str, Any]:
        """The keys of a stage of summary.json."""
        if not self.loads:
            return {}
        shown: dict[str, Any] = {"engines": [load.as_dict() for load in self.loads]}
        if self.imbalance:
            shown["imbalance"] = {role: dict(values) for role, values in self.imbalance.items()}
        if self.lags:
            shown["lagging"] = [lag.as_dict() for lag in self.lags]
        if self.full_side is not None:
            shown["full_side"] = self.full_side
        return shown


UNKNOWN_BALANCE = Balance()
"""Where no engine was sampled."""


def balance_of(loads: Sequence[EngineActivity], series: Series, span: Span, request_s: float | None) -> Balance:
    """The balance of engines over a window (ns) in which a request took `request_s` on average."""
    roles = {role: [load for load in loads if load.engine.role == role] for role in _roles(loads)}
    parts = _parts(span, request_s)
    lags, slowest, uneven, idle = [], [], [], []
    for role, own in roles.items():
        if len(own) < 2:
            continue
        measured = _Parts(own, series, parts, PROMPT if role == PREFILL else GENERATION)
        lags += list(measured.lags(role))
        slowest += measured.slowest(role)
        slow = {lag.engine for lag in lags}
        uneven += [each for each in measured.uneven(role) if each.engine not in slow]
        idle += _idle(own)
    return Balance(
        tuple(loads),
        {role: shares for role, own in roles.items() if (shares := dict(_imbalance(own)))},
        tuple(lags),
        tuple(slowest),
        tuple(uneven),
        tuple(idle),
        {role: _side(roles[role]) for role in (PREFILL, DECODE)} if {PREFILL, DECODE} <= set(roles) else {},
    )


def _roles(loads: Sequence[EngineActivity]) -> list[str]:
    return list(dict.fromkeys(load.engine.role for load in loads))


_QUANTITIES: Mapping[str, Callable[[EngineActivity], float | None]] = {
    "running": lambda load: None if load.running is None else load.running.mean,
    "waiting": lambda load: None if load.waiting is None else load.waiting.mean,
    "kv_use": lambda load: None if load.kv_use is None else load.kv_use.mean,
    "prompt_tokens": lambda load: _rate(load, "prompt_tokens"),
    "generation_tokens": lambda load: _rate(load, "generation_tokens"),
}


_LEAST = {"waiting": WAITS}  # how fractions of a request lie says nothing


def _rate(load: EngineActivity, name: str) -> float | None:
    """A count per second: engines are read at different moments."""
    count = load.counts[name]
    return None if count is None or not load.span_s else count / load.span_s


def _imbalance(loads: Sequence[EngineActivity]) -> Iterator[tuple[str, float]]:
    """Maximum over mean of what every engine of a role has shown."""
    if len(loads) < 2:
        return
    for name, value_of in _QUANTITIES.items():
        values = [value for load in loads if (value := value_of(load)) is not None]
        if len(values) == len(loads) and max(values) >= _LEAST.get(name, 0.0) and sum(values) > 0:
            yield name, max(values) / (math.fsum(values) / len(values))


def _idle(loads: Sequence[EngineActivity]) -> list[EngineActivity]:
    """Engines that nothing ran on while the others had requests all the time."""
    means = [load.running.mean if load.running is not None else 0.0 for load in loads]
    busy = math.fsum(means) / len(means) >= LEAST_RUNNING
    return [load for load in loads if busy and load.running is not None and load.running.max == 0]


def _side(loads: Sequence[EngineActivity]) -> SideLoad:
    queued = [load.queued for load in loads if load.queued is not None]
    kv_use = [load.kv_use.mean for load in loads if load.kv_use is not None]
    return SideLoad(
        len(loads),
        math.fsum(queued) / len(queued) if queued else None,
        math.fsum(kv_use) / len(kv_use) if kv_use else None,
        math.fsum(load.counts["preemptions"] or 0.0 for load in loads),
    )


def _parts(span: Span, request_s: float | None) -> list[Span]:
    """The parts of a window: as many as there are requests one after the other, and no shorter than a few scrapes.

    A window that is shorter than a request is one part: too few to prove anything, and enough not to call engines even.
    """
    least_ns = seconds_to_ns(max(LEAST_PART_S, request_s or 0.0))
    count = max(1, min(MOST_PARTS, (span[1] - span[0]) // least_ns))
    edges = np.linspace(span[0], span[1], int(count) + 1).astype(np.int64).tolist()
    return list(pairwise(edges))


class _Parts:
    """What the engines of one role had and did in each part of a window: a row an engine, NaN where it is not known."""

    def __init__(self, loads: Sequence[EngineActivity], series: Series, parts: Sequence[Span], work: str) -> None:
        self._names = [load.engine.name for load in loads]
        sources = [load.engine.source for load in loads]
        self._values = {
            short: np.array([[_mean(series, source, name, part) for part in parts] for source in sources])
            for short, name in (("running", RUNNING), ("waiting", WAITING), ("kv_use", KV_USE))
        }
        self._work = np.array([[_work_rate(series, source, work, part) for part in parts] for source in sources])
        self._enough = len(parts) >= FEWEST_PARTS

    def lags(self, role: str) -> Iterator[Lag]:
        """Engines whose requests spend longer on a token than those of the others, without more work to do."""
        if not self._enough or len(self._names) < 2:
            return
        speed = self._speed()
        for row in range(len(self._names)):
            if not _is_above(_mean_of_others(speed, row), speed[row], len(self._names)):
                continue
            lag = self._lag(role, speed, row)
            if lag.times > LARGE and lag.work_share <= SAME_WORK:
                yield lag

    def slowest(self, role: str) -> list[Lag]:
        """The engine that takes longest on a token without more work to do, proved or not; none where none does."""
        speed = self._speed()
        known = [row for row in range(len(self._names)) if not np.isnan(speed[row]).all()]
        if len(known) < 2 or not np.nansum(speed) > 0:
            return []
        lags = [self._lag(role, speed, row) for row in known]
        return [lag for lag in [max(lags, key=lambda lag: lag.times)] if lag.times > 1 and lag.work_share <= SAME_WORK]

    def _speed(self) -> Floats:
        """Tokens per second and request held, by engine and part; NaN where an engine held too few to tell."""
        held = self._values["running"] + np.nan_to_num(self._values["waiting"])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(held >= LEAST_RUNNING, self._work / held, np.nan))

    def _lag(self, role: str, speed: Floats, row: int) -> Lag:
        others = _mean_of_others(speed, row)
        own = float(np.nanmean(speed[row]))
        rest = math.nan if np.isnan(others).all() else float(np.nanmean(others))
        share = float(np.nanmean(self._work[row])) / float(np.nanmean(self._work))
        return Lag(self._names[row], role, 1 / own if own > 0 else math.inf, 1 / rest if rest > 0 else math.inf, share)

    def uneven(self, role: str) -> Iterator[Uneven]:
        """The engine that had most of something, where that is much more than the others and more than chance."""
        least = {"running": 2 * LEAST_RUNNING, "waiting": WAITS, "kv_use": LEAST_KV}
        for quantity, values in self._values.items():
            if not self._enough or np.isnan(values).all(axis=1).any():
                continue
            means = np.nanmean(values, axis=1)
            row = int(means.argmax())
            large = means[row] >= max(least[quantity], LARGE * float(means.mean()))
            whole = quantity == "kv_use" or means[row] - float(means.mean()) >= WAITS
            if large and whole and _is_above(values[row], _mean_of_others(values, row), len(values)):
                yield Uneven(self._names[row], role, quantity, float(means[row]), float(means.mean()))


def _mean(series: Series, source: str, name: str, part: Span) -> float:
    gauge = gauge_of(series, source, name, part)
    return math.nan if gauge is None else gauge.mean


def _work_rate(series: Series, source: str, name: str, part: Span) -> float:
    growth = growth_of(series, source, name, part)
    return math.nan if growth is None or growth.span_s <= 0 else growth.value / growth.span_s


def _mean_of_others(values: Floats, row: int) -> Floats:
    """Of each part the mean of all engines but one; NaN where none of them is known."""
    others = np.delete(values, row, axis=0)
    known = ~np.isnan(others)
    count = np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return np.asarray(np.where(known, others, 0.0).sum(axis=0) / count)


def _is_above(values: Floats, others: Floats, engines: int) -> bool:
    """Whether values exceed others over the parts by more than chance, of so many engines that could have."""
    differences = (values - others)[~np.isnan(values - others)]
    if len(differences) < FEWEST_PARTS or differences.mean() <= 0:
        return False
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return error == 0 or student_t_above(float(differences.mean()) / error, len(differences) - 1) < SURE / engines


_UNEVEN = {
    "running": "analysis.answer_uneven_running",
    "waiting": "analysis.answer_uneven_waiting",
    "kv_use": "analysis.answer_uneven_kv_use",
}
_PAIR = {
    PREFILL: "analysis.pair_prefill",
    DECODE: "analysis.pair_decode",
    BOTH: "analysis.pair_both",
    NEITHER: "analysis.pair_neither",
}


def balance_sentence(stages: Sequence[tuple[Message, Balance]]) -> Message | None:
    """Which side of a pair is full, and which engine lags; None where there are not several engines.

    `stages` are levels of load and their balance, in the order of their load. The side is told of the first that has a
    full one, engines of the last.
    """
    if not stages:
        return None
    level, balance = stages[-1]
    parts = [] if balance.full_side is None else [_pair(stages)]
    if balance.is_unsplit:
        parts.append(message("analysis.pair_unsplit", level=level))
    if balance.lags:
        lag = max(balance.lags, key=lambda lag: lag.times)
        words: dict[str, Parameter] = {"level": level, "engine": lag.engine}
        stuck = message("analysis.answer_stuck", **words)
        parts.append(stuck if math.isinf(lag.times) else message("analysis.answer_lags", **words, times=lag.times))
    elif balance.uneven:
        most = max(balance.uneven, key=lambda uneven: uneven.value / uneven.mean)
        words = {"level": level, "engine": most.engine, "times": most.value / most.mean}
        parts.append(message(_UNEVEN[most.quantity], **words))
    elif not parts and (even := _evenness(balance)) is not None:
        parts.append(even)
    return sentences(*parts) if parts else None


def _pair(stages: Sequence[tuple[Message, Balance]]) -> Message:
    """Which side of a prefill-decode pair is full, and from which load on."""
    full = next((place for place, (_, own) in enumerate(stages) if own.full_side not in (None, NEITHER)), None)
    level, balance = stages[-1 if full is None else full]
    sides = {
        role: message("analysis.side_state", queued=side.queued, kv_use=side.kv_use)
        for role, side in balance.sides.items()
    }
    later = [own.full_side for _, own in stages[full:]] if full is not None else []
    reach = "analysis.reach_from_on" if len(later) > 1 and set(later) == {later[0]} else "analysis.reach_at"
    if full is None and len(stages) > 1:
        reach = "analysis.reach_up_to"
    words: dict[str, Parameter] = {"reach": message(reach, level=level)}
    return message(_PAIR[str(balance.full_side)], **words, prefill=sides[PREFILL], decode=sides[DECODE])


def _evenness(balance: Balance) -> Message | None:
    """That equal engines had an even load, or that one seems slower; None where neither is known."""
    most = max((shares["running"] for shares in balance.imbalance.values() if "running" in shares), default=None)
    if most is None or balance.idle:
        return None
    queues = max((shares.get("waiting", 1.0) for shares in balance.imbalance.values()), default=1.0)
    slowest = max(balance.slowest, key=lambda lag: lag.times, default=None)
    if slowest is not None and most >= LARGE and LARGE < slowest.times < math.inf:
        return message("analysis.answer_perhaps_slow", engine=slowest.engine, times=slowest.times)
    if slowest is not None and most < LARGE and slowest.times >= ALIKE:
        words: dict[str, Parameter] = {"engine": slowest.engine, "times": slowest.times}
        return message("analysis.answer_even_but_slow", engines=len(balance.loads), most=most, **words)
    if max(most, queues) >= LARGE:
        return None
    return message("analysis.answer_even_engines", engines=len(balance.loads), most=most)
