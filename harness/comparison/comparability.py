"""Are two runs alike enough to be compared, and in what do they differ?"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.comparison.repeats import Repeat, Side, read_side
from harness.errors import HarnessError
from harness.kernels.repeats import ALWAYS_NAMED, axes_label, varying_axes
from harness.results import store

_SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """A fact that the sides do not share, as it is for each."""

    fact: str
    base: str
    new: str

    @property
    def text(self) -> str:
        """`model: tiny against large`."""
        return f"{self.fact}: {self.base} against {self.new}"


def incompatibilities(base: Side, new: Side) -> list[Incompatibility]:
    """Facts for which a comparison would say nothing of the engine; empty where the runs are alike."""
    found = [
        Incompatibility(fact, *_told(values))
        for fact, look in (_KERNEL_FACTS if base.is_kernels else _FACTS).items()
        if (values := tuple({look(repeat) for repeat in side.runs} for side in (base, new)))
        and (values[0] != values[1] or len(values[0]) > 1)
    ]
    if base.is_kernels:
        return [*found, *_unlike_axes(base, new, {one.fact for one in found})]
    sent = _unlike_sent(base, new)
    return [*found, *sent, *(_why_sent(base, new) if sent else ())]


def _told(values: Sequence[set[str]]) -> tuple[str, str]:
    base, new = (" and ".join(sorted(side)) for side in values)
    return base, new


def device_of(repeat: Repeat) -> str:
    """What computed: the simulated chip, the NPUs, or the processor; unknown where a server was only reached."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    if engine.get("simulated"):
        return str((engine.get("effective") or {}).get("chip") or "simulated")
    if engine.get("kind") == "attach":
        return "as served"
    npus = machine.get("npu") or ()
    return f"{len(npus)} NPU" if npus else str(machine.get("cpu") or "unknown")


_FACTS: Mapping[str, Callable[[Repeat], str]] = {
    "model": lambda repeat: str(repeat.engine.get("model") or "unknown"),
    "engine": lambda repeat: "simulator" if repeat.engine.get("simulated") else "real",
    "device": device_of,
    "hollow": lambda repeat: "a hollow device" if repeat.engine.get("hollow") else "a whole device",
    "stages": lambda repeat: json.dumps(repeat.run.get("stages")),
    "endpoint": lambda repeat: f"{repeat.run.get('endpoint')}{'' if repeat.run.get('stream', True) else ', whole'}",
}


def facts_of(repeat: Repeat) -> tuple[str, ...]:
    """What has to be the same for two runs of requests to be compared, but for what was sent."""
    return tuple(look(repeat) for look in _FACTS.values())


_KERNEL_FACTS: Mapping[str, Callable[[Repeat], str]] = {
    "device": lambda repeat: str(repeat.summary["kernels"]["device"]["name"]),
    "hollow": lambda repeat: "a hollow device" if _kernel_device(repeat).get("hollow") else "a whole device",
    "provider": lambda repeat: str(repeat.summary["kernels"]["provider"]),
}


def _kernel_device(repeat: Repeat) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = repeat.summary["kernels"]["device"]["facts"]
    return facts


def _unlike_axes(base: Side, new: Side, facts: set[str]) -> Iterator[Incompatibility]:
    """Axes of kernels without a value that both sides have; another provider has other paths, which is no news."""
    for name, values in disjoint_axes(base, new).items():
        if not (name == "path" and "provider" in facts):
            yield Incompatibility(name, *_told([{str(value) for value in side} for side in values]))


def _unlike_sent(base: Side, new: Side) -> Iterator[Incompatibility] | list[Incompatibility]:
    """Payload and schedule: those of the side with fewer runs must all be on the other."""
    found = []
    for fact, name in (("payload", "payload_sha256"), ("schedule", "schedule_sha256")):
        sides = [{str(repeat.run.get(name) or "unknown") for repeat in side.runs} for side in (base, new)]
        fewer, more = sorted(sides, key=len)
        if not fewer <= more:
            found.append(Incompatibility(fact, *(_hashes(side) for side in sides)))
    tokens = [{_input_tokens(repeat) for repeat in side.runs} for side in (base, new)]
    if not found and not _known_sent(base) and tokens[0] != tokens[1]:
        found.append(Incompatibility("input tokens", *_told([{f"{count:,}" for count in side} for side in tokens])))
    return found


def _known_sent(side: Side) -> bool:
    return all(repeat.run.get("payload_sha256") for repeat in side.runs)


def _input_tokens(repeat: Repeat) -> int:
    return sum(int(stage.get("input_tokens") or 0) for stage in repeat.stages.values())


def _hashes(values: set[str]) -> str:
    shown = sorted(value[:_SHORT] for value in values)
    return " and ".join(shown[:2]) + (f" and {len(shown) - 2} more" if len(shown) > 2 else "")


def _why_sent(base: Side, new: Side) -> Iterator[Incompatibility]:
    """Why other requests were sent, where run.json tells."""
    for fact in ("name", "seed", "repeats"):
        values = [{str(repeat.run.get(fact)) for repeat in side.runs} for side in (base, new)]
        if not (values[0] & values[1]):
            yield Incompatibility("scenario" if fact == "name" else fact, *_told(values))


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """Something of the engine or its surroundings that differs, as it is on each side."""

    name: str
    base: str
    new: str


def changes(base: Side, new: Side) -> list[ChangedSetting]:
    """What differs between the first runs of both sides: engine, flags in effect, versions, machine."""
    sides = [dict(_settings(side.runs[0])) for side in (base, new)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    return [
        ChangedSetting(name, *(_word(side.get(name)) for side in sides))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    ]


def _settings(repeat: Repeat) -> Iterator[tuple[str, Any]]:
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    yield "engine.kind", engine.get("kind")
    yield from ((f"engine.args.{name}", value) for name, value in (engine.get("asked") or {}).items())
    yield from ((f"in effect: {name}", value) for name, value in (engine.get("effective") or {}).items())
    yield from ((f"version of {name}", value) for name, value in (machine.get("packages") or {}).items())
    if "kernels" in repeat.summary:
        yield from ((f"of the device: {name}", value) for name, value in _kernel_device(repeat).items())
    yield "version of npu-harness", (repeat.run.get("client") or {}).get("version")
    yield from ((name, machine.get(name)) for name in ("host", "cpu", "cores", "cann", "governor", "python", "os"))


def _word(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def pairs(base: Side, new: Side) -> list[tuple[Repeat, Repeat]] | None:
    """Repeats that sent the same requests at the same times, one of each side; None where not all have a mate."""
    keys = [[repeat.key for repeat in side.repeats] for side in (base, new)]
    known = all(key[0] and key[1] for key in keys[0])
    if not known or any(len(set(side)) < len(side) for side in keys) or set(keys[0]) != set(keys[1]):
        return None
    mates = {repeat.key: repeat for repeat in new.repeats}
    return [(repeat, mates[repeat.key]) for repeat in base.repeats]


_Key = tuple[tuple[str, Any], ...]
_HEADING = ("phase", "mode", "path")


def disjoint_axes(base: Side, new: Side) -> dict[str, tuple[set[Any], set[Any]]]:
    """The axes on which the sides share no value, with what each has."""
    values = [_values(side) for side in (base, new)]
    shared = [name for name in values[0] if name in values[1]]
    return {name: (values[0][name], values[1][name]) for name in shared if not values[0][name] & values[1][name]}


def _values(side: Side) -> dict[str, set[Any]]:
    found: dict[str, set[Any]] = {}
    for axes in _axes(side):
        for name, value in axes.items():
            found.setdefault(name, set()).add(value)
    return found


def _axes(side: Side) -> Iterator[Mapping[str, Any]]:
    return (stage["axes"] for repeat in side.repeats for stage in repeat.stages.values())


def align_measurements(base: Side, new: Side) -> tuple[Side, Side]:
    """Both sides with their measurements numbered alike, each with a label and the part of it that it is."""
    left_out: set[str] = set()
    for name in disjoint_axes(base, new):
        if all(_is_told_without(side, {*left_out, name}) for side in (base, new)):
            left_out.add(name)
    keys: dict[_Key, str] = {}
    for axes in (*_axes(base), *_axes(new)):
        keys.setdefault(_key(axes, left_out), _heading(axes, left_out))
    headings = list(dict.fromkeys(keys.values()))
    numbers = {key: place for place, key in enumerate(sorted(keys, key=lambda key: headings.index(keys[key])))}
    differing = varying_axes(dict(key) for key in keys)
    sides = [[_numbered(one, numbers, left_out, differing) for one in side.repeats] for side in (base, new)]
    return replace(base, repeats=sides[0]), replace(new, repeats=sides[1])


def _is_told_without(side: Side, names: set[str]) -> bool:
    """Whether no two measurements of a repeat become the same without these axes."""
    return all(
        len({_key(stage["axes"], names) for stage in repeat.stages.values()}) == len(repeat.stages)
        for repeat in side.repeats
    )


def _key(axes: Mapping[str, Any], left_out: Collection[str]) -> _Key:
    return tuple(sorted((name, value) for name, value in axes.items() if name not in left_out))


def _numbered(repeat: Repeat, numbers: Mapping[_Key, int], left_out: set[str], differing: Collection[str]) -> Repeat:
    stages = {
        numbers[_key(stage["axes"], left_out)]: {**stage, **_named(stage["axes"], left_out, differing)}
        for stage in repeat.stages.values()
    }
    return replace(repeat, stages=dict(sorted(stages.items())))


def _heading(axes: Mapping[str, Any], left_out: Collection[str]) -> str:
    return ", ".join(str(axes[name]) for name in _HEADING if name in axes and name not in left_out)


def _named(axes: Mapping[str, Any], left_out: Collection[str], differing: Collection[str]) -> dict[str, str]:
    """The heading under which a measurement stands, and its own name there."""
    return {"label": _heading(axes, left_out), "part": axes_label(axes, {*ALWAYS_NAMED, *differing} - set(left_out))}


MOST_READ = 200  # folders that are looked at, the newest first
MOST_EARLIER = 40  # runs that are used
FEWEST_EARLIER = 3  # runs of one configuration, for a verdict on one run a side


def earlier_runs(folders: Iterable[Path], sides: Sequence[Path], like: Side) -> list[Repeat]:
    """Repeats of earlier results in these folders that ran what `like` ran, the newest first.

    Not what stands on either side, nothing that is not valid, and nothing that cannot be read.
    """
    own = {path.resolve() for path in sides}
    own |= {run.parent.resolve() for path in sides for run in path.glob(f"*/{store.RUN}")}
    found = {run.parent.resolve() for folder in folders for run in folder.glob(f"*/{store.RUN}")} - own
    newest = sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MOST_READ]
    repeats: list[Repeat] = []
    wanted = _same(like.repeats[0])
    for folder in newest:
        try:
            side = read_side(folder)
        except (HarnessError, KeyError, TypeError, ValueError):
            continue
        first = side.repeats[0]
        if not side.is_kernels and _is_valid(first) and _same(first) == wanted:
            repeats.extend(side.repeats)
        if len(repeats) >= MOST_EARLIER:
            break
    return repeats[:MOST_EARLIER]


def _is_valid(repeat: Repeat) -> bool:
    return bool((repeat.summary.get("verdict") or {}).get("valid"))


def _same(repeat: Repeat) -> tuple[str, ...]:
    return (str(repeat.run.get("name")), *facts_of(repeat))


def group_by_configuration(
    earlier: Iterable[Repeat], sent: set[tuple[str | None, str | None, int]] | None
) -> list[list[Repeat]]:
    """Earlier repeats by configuration, at least two each.

    `sent` are the payloads and schedules of runs that stand in pairs: groups are then parted by what was sent, and
    those that sent other requests count only where none sent the same, as what they differ by is more.
    """
    alike: dict[str, list[Repeat]] = {}
    for repeat in earlier:
        alike.setdefault(_configuration(repeat), []).append(repeat)
    if sent is not None:
        same: dict[tuple[str, object], list[Repeat]] = {}
        for name, own in alike.items():
            for repeat in own:
                if repeat.key in sent:
                    same.setdefault((name, repeat.key), []).append(repeat)
        parted = [own for own in same.values() if len(own) > 1]
        if parted:
            return parted
    return [own for own in alike.values() if len(own) > 1]


def _configuration(repeat: Repeat) -> str:
    """Flags and versions: what a difference between two runs may come from other than noise."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    parts = [engine.get("asked"), engine.get("effective"), machine.get("packages"), machine.get("host")]
    return json.dumps(parts, sort_keys=True, default=str)
