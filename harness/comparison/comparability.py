"""Facts that both sides of a comparison have to share, and settings that may differ."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.comparison.repeats import Repeat, Side
from harness.messages import Message, message, plain


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


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """A fact of a run that has to be the same on both sides; `words` are those of its values that are no names."""

    name: Message
    value_of: Callable[[Repeat], str]
    words: Mapping[str, Message] = field(default_factory=dict)

    def values(self, side: Side) -> set[str]:
        """Its values over the runs of a side."""
        return {self.value_of(repeat) for repeat in side.runs}

    def shown(self, values: Iterable[str]) -> Message:
        """Values as a reader sees them."""
        return listed([self.words.get(value, value) for value in sorted(values)])


def listed(values: Sequence[Message | str | int]) -> Message:
    """Values one after another."""
    return message("comparison.values", values=list(values))


def unlike_facts(facts: Iterable[Fact], base: Side, new: Side) -> dict[Fact, Incompatibility]:
    """Those of these facts that differ between the sides or within one."""
    values = {fact: (fact.values(base), fact.values(new)) for fact in facts}
    return {
        fact: Incompatibility(fact.name, fact.shown(of_base), fact.shown(of_new))
        for fact, (of_base, of_new) in values.items()
        if of_base != of_new or len(of_base) > 1
    }


def completeness(is_stub: object) -> str:
    """`stub` where the device is a stand-in that computes nothing, else `complete`."""
    return "stub" if is_stub else "complete"


UNKNOWN = {"unknown": message("comparison.unknown")}
DEVICE = message("comparison.device")
COMPUTATION = message("comparison.computation")
COMPUTATIONS = {"stub": message("comparison.stub"), "complete": message("comparison.complete")}
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
    yield ("", "engine.clock"), engine.get("clock")  # of a simulator: virtual or real
    yield from ((("argument", name), value) for name, value in (engine.get("asked") or {}).items())
    yield from ((("effective", name), value) for name, value in (engine.get("effective") or {}).items())
    yield from ((("package", name), value) for name, value in (machine.get("packages") or {}).items())
    yield from ((("device", name), value) for name, value in repeat.kind.device_facts(repeat).items())
    yield ("package", "npu-harness"), (repeat.run.get("client") or {}).get("version")
    yield from (
        (("", name), machine.get(name)) for name in ("host", "cpu", "cores", "cann", "governor", "python", "os")
    )


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)
