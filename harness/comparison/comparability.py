"""Are two runs alike enough to be compared, and in what do they differ?"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.comparison.matching import apart
from harness.comparison.repeats import Repeat, Side

_SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True, slots=True)
class Unlike:
    """A fact that the sides do not share, as it is for each."""

    fact: str
    base: str
    new: str

    @property
    def text(self) -> str:
        """`model: tiny against large`."""
        return f"{self.fact}: {self.base} against {self.new}"


def unlike(base: Side, new: Side) -> list[Unlike]:
    """Facts for which a comparison would say nothing of the engine; empty where the runs are alike."""
    found = [
        Unlike(fact, *_told(values))
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


def _unlike_axes(base: Side, new: Side, facts: set[str]) -> Iterator[Unlike]:
    """Axes of kernels without a value that both sides have; another provider has other paths, which is no news."""
    for name, values in apart(base, new).items():
        if not (name == "path" and "provider" in facts):
            yield Unlike(name, *_told([{str(value) for value in side} for side in values]))


def _unlike_sent(base: Side, new: Side) -> Iterator[Unlike] | list[Unlike]:
    """Payload and schedule: those of the side with fewer runs must all be on the other."""
    found = []
    for fact, name in (("payload", "payload_sha256"), ("schedule", "schedule_sha256")):
        sides = [{str(repeat.run.get(name) or "unknown") for repeat in side.runs} for side in (base, new)]
        fewer, more = sorted(sides, key=len)
        if not fewer <= more:
            found.append(Unlike(fact, *(_hashes(side) for side in sides)))
    tokens = [{_input_tokens(repeat) for repeat in side.runs} for side in (base, new)]
    if not found and not _known_sent(base) and tokens[0] != tokens[1]:
        found.append(Unlike("input tokens", *_told([{f"{count:,}" for count in side} for side in tokens])))
    return found


def _known_sent(side: Side) -> bool:
    return all(repeat.run.get("payload_sha256") for repeat in side.runs)


def _input_tokens(repeat: Repeat) -> int:
    return sum(int(stage.get("input_tokens") or 0) for stage in repeat.stages.values())


def _hashes(values: set[str]) -> str:
    shown = sorted(value[:_SHORT] for value in values)
    return " and ".join(shown[:2]) + (f" and {len(shown) - 2} more" if len(shown) > 2 else "")


def _why_sent(base: Side, new: Side) -> Iterator[Unlike]:
    """Why other requests were sent, where run.json tells."""
    for fact in ("name", "seed", "repeats"):
        values = [{str(repeat.run.get(fact)) for repeat in side.runs} for side in (base, new)]
        if not (values[0] & values[1]):
            yield Unlike("scenario" if fact == "name" else fact, *_told(values))


@dataclass(frozen=True, slots=True)
class Changed:
    """Something of the engine or its surroundings that differs, as it is on each side."""

    name: str
    base: str
    new: str


def changes(base: Side, new: Side) -> list[Changed]:
    """What differs between the first runs of both sides: engine, flags in effect, versions, machine."""
    sides = [dict(_settings(side.runs[0])) for side in (base, new)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    return [
        Changed(name, *(_word(side.get(name)) for side in sides))
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
