"""Classes of requests: which model or adapter a request names, its priority, and whether its answer has a form.

What a session's requests are is drawn once a session, each trait from a source of its own: another priority does not
move the adapters. Where a stage leaves adapters out, the draws stay and fall on those that are left.
"""

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from harness.scenario import workload as written
from harness.scenario.request_kinds import Adapters, Models, Structured, Tools
from harness.workload.draws import RandomSource, random_source

FREE, STRUCTURED, TOOLS = "", "structured", "tools"
"""Forms of answers: none, held to a form, a call of a tool."""


@dataclass(frozen=True, slots=True)
class RequestClass:
    """What some requests have in common.

    `model` is the name they send in place of the engine's ("": the engine's own), `adapter` says that it is an
    adapter's, `priority` None where none is sent, `form` of their answers.
    """

    model: str = ""
    adapter: bool = False
    priority: int | None = None
    form: str = FREE


@dataclass(frozen=True, slots=True)
class _Trait:
    """One way in which requests differ: its values, how often each is drawn, and from where."""

    values: tuple[Any, ...]
    weights: tuple[float, ...]
    source: RandomSource

    def place(self, session: int, weights: Sequence[float]) -> int:
        """Which value a session has."""
        if len(self.values) == 1:
            return 0
        bounds = list(accumulate(weights))
        return min(bisect_right(bounds, self.source.fraction(session) * bounds[-1]), len(bounds) - 1)


@dataclass(frozen=True, slots=True)
class RequestMix:
    """The classes of a workload's requests, in the order of their numbers, and which class a session is of."""

    models: _Trait
    priorities: _Trait
    forms: _Trait
    adapters: int = 0

    @property
    def classes(self) -> tuple[RequestClass, ...]:
        """Every class that there may be; the first is that of plain requests, where nothing sets them apart."""
        traits = (self.models.values, self.priorities.values, self.forms.values)
        return tuple(
            RequestClass(name, adapter, priority, form)
            for (name, adapter), priority, form in itertools.product(*traits)
        )

    @property
    def is_named(self) -> bool:
        """Whether requests name a model or an adapter in place of the engine's own."""
        return any(name for name, _ in self.models.values)

    def of(self, session: int, adapters: int | None = None) -> int:
        """The number of the class of a session's requests; `adapters` as a stage has it: how many take part."""
        model = self.models.place(session, self._weights(adapters))
        priority = self.priorities.place(session, self.priorities.weights)
        form = self.forms.place(session, self.forms.weights)
        return (model * len(self.priorities.values) + priority) * len(self.forms.values) + form

    def _weights(self, adapters: int | None) -> Sequence[float]:
        """The weights of the models where only the first `adapters` take part: without any, the base is alone."""
        weights = self.models.weights
        if adapters is None or not self.adapters:
            return weights
        if adapters == 0:
            return (1.0, *(0.0 for _ in weights[1:]))
        return tuple(weight if place <= adapters else 0.0 for place, weight in enumerate(weights))

    def as_dicts(self) -> list[dict[str, Any]]:
        """The classes as run.json has them; none where all requests are alike."""
        classes = self.classes
        if len(classes) == 1 and classes[0] == RequestClass():
            return []
        return [{name: value for name, value in asdict(each).items() if value != ""} for each in classes]


def request_mix(spec: Any, seed: int) -> RequestMix:
    """The mix that a scenario's workload asks for; that of a package's workload is plain."""
    keys: Mapping[str, Any] = {name: getattr(spec, name, None) for name in written.REQUEST_KEYS}
    adapters: Adapters | None = keys["adapters"]
    models: Models | None = keys["models"]
    priority = keys["priority"]
    values: tuple[Any, ...] = (("", False),)
    weights: tuple[float, ...] = (1.0,)
    if adapters is not None:
        values += tuple((name, True) for name in adapters.names)
        weights = (adapters.base, *(adapters.weights or (1.0,) * len(adapters.names)))
    elif models is not None:
        values = tuple((name, False) for name in models.names)
        weights = models.weights or (1.0,) * len(models.names)
    numbers = (None,) if priority is None else priority.values
    shares = (1.0,) if priority is None else priority.weights or (1.0,) * len(numbers)
    return RequestMix(
        _Trait(values, weights, random_source(seed, "model")),
        _Trait(numbers, shares, random_source(seed, "priority")),
        _form_trait(keys["structured"], keys["tools"], seed),
        0 if adapters is None else len(adapters.names),
    )


def _form_trait(structured: Structured | None, tools: Tools | None, seed: int) -> _Trait:
    source = random_source(seed, "form")
    given = structured or tools
    if given is None:
        return _Trait((FREE,), (1.0,), source)
    return _Trait((FREE, STRUCTURED if structured else TOOLS), (1.0 - given.share, given.share), source)


PLAIN_MIX = request_mix(None, 0)
"""The mix of requests that are all alike."""
