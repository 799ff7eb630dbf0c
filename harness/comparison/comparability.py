"""Which runs can be compared: facts that both sides have to share, settings that differ, and what matches what.

Repeats match in pairs that sent the same requests at the same times, earlier results match where they ran the same
scenario, and measurements of kernels match where all axes do: phase, shapes, dtype, path, mode. An axis on which the
sides share no value, such as another dtype or another provider's path, is left out where each side has a single value
of it for everything else.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.comparison.repeats import Repeat, Side, read_side
from harness.errors import HarnessError
from harness.kernels.repeats import ALWAYS_NAMED, axes_label, varying_axes
from harness.messages import Message, message, plain
from harness.results import store

MOST_READ = 200  # folders of earlier results that are looked at, the newest first
MOST_EARLIER = 40  # earlier repeats that are used
_HASH_DIGITS = 12  # of a hash that are shown
_MOST_HASHES = 2


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """A fact that the sides do not share, with the value that it has on each."""

    fact: Message
    base: Message
    new: Message

    @property
    def text(self) -> Message:
        """`model: tiny against large`."""
        return message("comparison.incompatibility", fact=self.fact, base=self.base, new=self.new)


@dataclass(frozen=True, slots=True)
class _Fact:
    """A fact of a run that has to be the same on both sides; `words` are those of its values that are no names."""

    name: Message
    value_of: Callable[[Repeat], str]
    words: Mapping[str, Message] = field(default_factory=dict)

    def values(self, side: Side) -> set[str]:
        """Its values over the runs of a side."""
        return {self.value_of(repeat) for repeat in side.runs}

    def shown(self, values: Iterable[str]) -> Message:
        """Values as a reader sees them."""
        return _listed([self.words.get(value, value) for value in sorted(values)])


def _listed(values: Sequence[Message | str | int]) -> Message:
    return message("comparison.values", values=list(values))


def _device_of(repeat: Repeat) -> str:
    """The simulated chip, the NPUs, or the processor; unknown where a server was only reached."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    if engine.get("simulated"):
        return str((engine.get("effective") or {}).get("chip") or "simulated")
    if engine.get("kind") == "attach":
        return "as served"
    npus = machine.get("npu") or ()
    return f"{len(npus)} NPU" if npus else str(machine.get("cpu") or "unknown")


def _completeness(is_stub: object) -> str:
    return "stub" if is_stub else "complete"


_UNKNOWN = {"unknown": message("comparison.unknown")}
_DEVICE = message("comparison.device")
_COMPUTATION = message("comparison.computation")
_COMPUTATIONS = {"stub": message("comparison.stub"), "complete": message("comparison.complete")}
_FACTS = (
    _Fact(message("comparison.model"), lambda repeat: str(repeat.engine.get("model") or "unknown"), _UNKNOWN),
    _Fact(
        message("comparison.engine"),
        lambda repeat: "simulator" if repeat.engine.get("simulated") else "real",
        {"simulator": message("comparison.simulator"), "real": message("comparison.real")},
    ),
    _Fact(_DEVICE, _device_of, {**_UNKNOWN, "as served": message("comparison.as_served")}),
    _Fact(_COMPUTATION, lambda repeat: _completeness(repeat.engine.get("hollow")), _COMPUTATIONS),
    _Fact(message("comparison.stages"), lambda repeat: json.dumps(repeat.run.get("stages"))),
    _Fact(message("comparison.endpoint"), lambda repeat: str(repeat.run.get("endpoint"))),
    _Fact(message("comparison.stream"), lambda repeat: json.dumps(bool(repeat.run.get("stream", True)))),
)
_PROVIDER = _Fact(message("comparison.provider"), lambda repeat: str(repeat.summary["kernels"]["provider"]))
_KERNEL_FACTS = (
    _Fact(_DEVICE, lambda repeat: str(repeat.summary["kernels"]["device"]["name"])),
    _Fact(_COMPUTATION, lambda repeat: _completeness(_kernel_device(repeat).get("hollow")), _COMPUTATIONS),
    _PROVIDER,
)


def incompatibilities(base: Side, new: Side) -> list[Incompatibility]:
    """Facts for which a difference would say nothing of the engine; empty where the runs are alike."""
    differing = {}
    for fact in _KERNEL_FACTS if base.is_kernels else _FACTS:
        values = (fact.values(base), fact.values(new))
        if values[0] != values[1] or len(values[0]) > 1:
            differing[id(fact)] = Incompatibility(fact.name, fact.shown(values[0]), fact.shown(values[1]))
    if base.is_kernels:
        return [*differing.values(), *_unlike_axes(base, new, other_provider=id(_PROVIDER) in differing)]
    sent = list(_unlike_requests(base, new))
    return [*differing.values(), *sent, *(_origins(base, new) if sent else ())]


def _facts_of(repeat: Repeat) -> tuple[str, ...]:
    """What has to be the same for two runs of requests to be compared, but for what was sent."""
    return tuple(fact.value_of(repeat) for fact in _FACTS)


def _kernel_device(repeat: Repeat) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = repeat.summary["kernels"]["device"]["facts"]
    return facts


def _unlike_axes(base: Side, new: Side, *, other_provider: bool) -> Iterator[Incompatibility]:
    """Axes of kernels without a value that both sides have; another provider has other paths, which is no news."""
    for name, values in _disjoint_axes(base, new).items():
        if not (name == "path" and other_provider):
            yield Incompatibility(plain(name), *(_listed(sorted(map(str, side))) for side in values))


def _unlike_requests(base: Side, new: Side) -> Iterator[Incompatibility]:
    """Payload and schedule: those of the side with fewer runs must all be on the other."""
    hashes_differ = False
    for fact, name in (
        (message("comparison.payload"), "payload_sha256"),
        (message("comparison.schedule"), "schedule_sha256"),
    ):
        sides = [{str(repeat.run.get(name) or "unknown") for repeat in side.runs} for side in (base, new)]
        fewer, more = sorted(sides, key=len)
        if not fewer <= more:
            hashes_differ = True
            yield Incompatibility(fact, *(_hashes(side) for side in sides))
    tokens = [{_input_tokens(repeat) for repeat in side.runs} for side in (base, new)]
    has_hashes = all(repeat.run.get("payload_sha256") for repeat in base.runs)
    if not hashes_differ and not has_hashes and tokens[0] != tokens[1]:
        yield Incompatibility(message("comparison.input_tokens"), *(_listed(sorted(side)) for side in tokens))


def _input_tokens(repeat: Repeat) -> int:
    return sum(int(stage.get("input_tokens") or 0) for stage in repeat.stages.values())


def _hashes(values: set[str]) -> Message:
    shown = sorted(value[:_HASH_DIGITS] for value in values)
    if len(shown) <= _MOST_HASHES:
        return _listed(shown)
    return message("comparison.hashes", hashes=shown[:_MOST_HASHES], more=len(shown) - _MOST_HASHES)


def _origins(base: Side, new: Side) -> Iterator[Incompatibility]:
    """Why other requests were sent, where run.json says."""
    for fact, name in (
        (message("comparison.scenario"), "name"),
        (message("comparison.seed"), "seed"),
        (message("comparison.repeats"), "repeats"),
    ):
        values = [{str(repeat.run.get(name)) for repeat in side.runs} for side in (base, new)]
        if not (values[0] & values[1]):
            yield Incompatibility(fact, *(_listed(sorted(side)) for side in values))


_PREFIXES = {
    "effective": "in effect: ",
    "package": "version of ",
    "argument": "engine.args.",
}


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """A setting of the engine or its surroundings that differs, with its value on each side.

    `kind` is argument, effective, package, device, or empty for what has a name of its own.
    """

    kind: str
    setting: str
    base: str
    new: str

    @property
    def name(self) -> str:
        """Its name in compare.json, such as `engine.args.max_num_seqs`."""
        return (
            f"of the {self.kind}: {self.setting}"
            if self.kind == "device"
            else f"{_PREFIXES.get(self.kind, '')}{self.setting}"
        )

    @property
    def label(self) -> Message:
        """Its name for a reader."""
        if self.kind == "effective":
            return message("comparison.setting_effective", setting=self.setting)
        if self.kind == "package":
            return message("comparison.setting_version", package=self.setting)
        if self.kind == "device":
            return message("comparison.setting_of_device", setting=self.setting)
        return plain(self.name)


def changed_settings(base: Side, new: Side) -> list[ChangedSetting]:
    """What differs between the first runs of both sides: engine, flags in effect, versions, machine."""
    sides = [dict(_settings(side.runs[0])) for side in (base, new)]
    return [
        ChangedSetting(*key, *(_shown(side.get(key)) for side in sides))
        for key in dict.fromkeys([*sides[0], *sides[1]])
        if sides[0].get(key) != sides[1].get(key)
    ]


def _settings(repeat: Repeat) -> Iterator[tuple[tuple[str, str], Any]]:
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    yield ("", "engine.kind"), engine.get("kind")
    yield from ((("argument", name), value) for name, value in (engine.get("asked") or {}).items())
    yield from ((("effective", name), value) for name, value in (engine.get("effective") or {}).items())
    yield from ((("package", name), value) for name, value in (machine.get("packages") or {}).items())
    if "kernels" in repeat.summary:
        yield from ((("device", name), value) for name, value in _kernel_device(repeat).items())
    yield ("package", "npu-harness"), (repeat.run.get("client") or {}).get("version")
    yield from (
        (("", name), machine.get(name)) for name in ("host", "cpu", "cores", "cann", "governor", "python", "os")
    )


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def pairs(base: Side, new: Side) -> list[tuple[Repeat, Repeat]] | None:
    """Repeats that sent the same requests at the same times, one of each side; None where not all have a partner."""
    keys = [[repeat.key for repeat in side.repeats] for side in (base, new)]
    known = all(key[0] and key[1] for key in keys[0])
    if not known or any(len(set(side)) < len(side) for side in keys) or set(keys[0]) != set(keys[1]):
        return None
    partners = {repeat.key: repeat for repeat in new.repeats}
    return [(repeat, partners[repeat.key]) for repeat in base.repeats]


_AxesKey = tuple[tuple[str, Any], ...]
_HEADING = ("phase", "mode", "path")
_HEADING_WORDS = {
    "decode": message("comparison.phase_decode"),
    "prefill": message("comparison.phase_prefill"),
    "chunked_prefill": message("comparison.phase_chunked_prefill"),
    "kv_write": message("comparison.phase_kv_write"),
    "verify": message("comparison.phase_verify"),
    "mixed": message("comparison.phase_mixed"),
    "step": message("comparison.phase_step"),
    "mla_decode": message("comparison.phase_mla_decode"),
    "mla_prefill": message("comparison.phase_mla_prefill"),
    "cold": message("comparison.mode_cold"),
    "hot": message("comparison.mode_hot"),
    "graph": message("comparison.mode_graph"),
}


def _disjoint_axes(base: Side, new: Side) -> dict[str, tuple[set[Any], set[Any]]]:
    """The axes on which the sides share no value, with what each has."""
    base_values, new_values = _axis_values(base), _axis_values(new)
    return {
        name: (values, new_values[name])
        for name, values in base_values.items()
        if name in new_values and not values & new_values[name]
    }


def _axis_values(side: Side) -> dict[str, set[Any]]:
    values: dict[str, set[Any]] = {}
    for axes in _axes(side):
        for name, value in axes.items():
            values.setdefault(name, set()).add(value)
    return values


def _axes(side: Side) -> Iterator[Mapping[str, Any]]:
    return (stage["axes"] for repeat in side.repeats for stage in repeat.stages.values())


def align_measurements(base: Side, new: Side) -> tuple[Side, Side]:
    """Both sides of kernels with their measurements numbered alike, each with a heading and its name below that."""
    left_out: set[str] = set()
    for name in _disjoint_axes(base, new):
        if all(_is_distinct_without(side, {*left_out, name}) for side in (base, new)):
            left_out.add(name)
    keys: dict[_AxesKey, list[str]] = {}
    for axes in (*_axes(base), *_axes(new)):
        keys.setdefault(_key(axes, left_out), _heading(axes, left_out))
    headings = list(dict.fromkeys(map(tuple, keys.values())))
    numbers = {key: place for place, key in enumerate(sorted(keys, key=lambda key: headings.index(tuple(keys[key]))))}
    differing = varying_axes(dict(key) for key in keys)
    sides = [[_numbered(repeat, numbers, left_out, differing) for repeat in side.repeats] for side in (base, new)]
    return replace(base, repeats=sides[0]), replace(new, repeats=sides[1])


def _is_distinct_without(side: Side, names: set[str]) -> bool:
    """Whether no two measurements of a repeat become the same without these axes."""
    return all(
        len({_key(stage["axes"], names) for stage in repeat.stages.values()}) == len(repeat.stages)
        for repeat in side.repeats
    )


def _key(axes: Mapping[str, Any], left_out: Collection[str]) -> _AxesKey:
    return tuple(sorted((name, value) for name, value in axes.items() if name not in left_out))


def _numbered(
    repeat: Repeat, numbers: Mapping[_AxesKey, int], left_out: set[str], differing: Collection[str]
) -> Repeat:
    stages = {
        numbers[_key(stage["axes"], left_out)]: {**stage, **_labels(stage["axes"], left_out, differing)}
        for stage in repeat.stages.values()
    }
    return replace(repeat, stages=dict(sorted(stages.items())))


def _heading(axes: Mapping[str, Any], left_out: Collection[str]) -> list[str]:
    return [str(axes[name]) for name in _HEADING if name in axes and name not in left_out]


def _labels(axes: Mapping[str, Any], left_out: Collection[str], differing: Collection[str]) -> dict[str, Any]:
    heading = _heading(axes, left_out)
    return {
        "label": ", ".join(heading),
        "title": message("comparison.heading", parts=[_HEADING_WORDS.get(name, name) for name in heading]),
        "part_name": axes_label(axes, {*ALWAYS_NAMED, *differing} - set(left_out)),
    }


def earlier_runs(folders: Iterable[Path], sides: Sequence[Path], like: Side) -> list[Repeat]:
    """Repeats of earlier results in these folders that ran what `like` ran, the newest first.

    They are of the same scenario on the same model, device and engine. Left out is what stands on either side, what is
    not valid, and what cannot be read.
    """
    own = {path.resolve() for path in sides}
    own |= {run.parent.resolve() for path in sides for run in path.glob(f"*/{store.RUN}")}
    results = {run.parent.resolve() for folder in folders for run in folder.glob(f"*/{store.RUN}")} - own
    newest = sorted(results, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MOST_READ]
    repeats: list[Repeat] = []
    wanted = _identity(like.repeats[0])
    for folder in newest:
        try:
            side = read_side(folder)
        except (HarnessError, KeyError, TypeError, ValueError):
            continue
        first = side.repeats[0]
        if not side.is_kernels and first.is_valid and _identity(first) == wanted:
            repeats.extend(side.repeats)
        if len(repeats) >= MOST_EARLIER:
            break
    return repeats[:MOST_EARLIER]


def _identity(repeat: Repeat) -> tuple[str, ...]:
    return (str(repeat.run.get("name")), *_facts_of(repeat))
