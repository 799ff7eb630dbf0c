"""What would an engine make of its flags, and would it refuse them? Told before a start.

The installed vLLM's own configuration code is asked, in the engine's interpreter, for as many
sets of flags as there are in one process. Where that cannot work, stated rules stand in for it; for the
embedded engine it is the twin's own code.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.engines.effective_config import (
    SIMULATOR,
    EngineConfiguration,
    FlagChange,
    FlagPrediction,
    confirm,
    flag_changes,
    flatten_flags,
    predict_by_code,
    predict_by_rules,
    values_of,
)
from harness.engines.engine_log import BootFacts
from harness.engines.interpreter_probe import SERVER, flag_words
from harness.engines.interpreter_query import (
    ConfigCheck,
    InstalledEngine,
    query_interpreter,
    type_errors,
    unknown_flags,
    with_switches,
)
from harness.errors import HarnessError, InputError
from harness.simulator.engine_config import effective as twin_values
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of

_TWIN_FLAG = re.compile(r"^engine flag '?([\w.-]+?)'?(?:: | is )")
_REFUSED = re.compile(r"argument (?P<flags>-[^:]*): (?P<text>.+)", re.DOTALL)
BY_ENGINE, BY_RULES, BY_SIMULATOR = "engine", "rules", "twin"
_TWIN = InstalledEngine(ascend=False)


@dataclass(frozen=True, slots=True)
class ResolvedFlags:
    """What a set of flags becomes, before any start.

    `effective` are flags by name in snake case with the values that will be in force; two sets with
    the same are the same engine. `changed` are those that differ from what was asked. `fault` is
    the one line for which the engine would refuse to start, None where it would not. `by` says who
    tells: the engine's own configuration code, the rules, or the twin; `reason` why it is the rules.
    `args` are the flags with switches as true or false, `words` they as words of a command line;
    `wrong` a line for each whose value is of another kind than it takes.
    """

    effective: Mapping[str, Any]
    changed: tuple[FlagChange, ...] = ()
    fault: str | None = None
    by: str = BY_RULES
    reason: str = ""
    basis: FlagPrediction = field(default=FlagPrediction({}, {}, InstalledEngine()), repr=False)
    args: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExaminedFlags:
    """What an interpreter has, and what each set of flags becomes there."""

    installed: InstalledEngine
    resolved: tuple[ResolvedFlags, ...]


async def resolve(
    kind: str, python: str | None, env: Mapping[str, str], model: str, args: Mapping[str, Any]
) -> ResolvedFlags:
    """What an engine of this kind makes of `args`; see `resolve_many`."""
    return (await resolve_many(kind, python, env, model, [args]))[0]


async def resolve_many(
    kind: str, python: str | None, env: Mapping[str, str], model: str, points: Sequence[Mapping[str, Any]]
) -> tuple[ResolvedFlags, ...]:
    """What an engine makes of each set of flags, in one process of the interpreter `python` (None: this one).

    `kind` is vllm, vllm-ascend or simulator; `env` are the variables that the engine gets beside
    those it inherits. Importing vLLM takes 10 to 30 s, a set of flags some 20 ms; answers are kept.

    Raises:
        EngineError: where there is no such interpreter.
    """
    if kind == "simulator":
        return tuple(resolve_by_simulator(model, args) for args in points)
    return (await examine_flags(kind, python, env, model, points)).resolved


async def examine_flags(
    kind: str,
    python: str | None,
    env: Mapping[str, str],
    model: str,
    points: Sequence[Mapping[str, Any]],
    *,
    usage: str = SERVER,
) -> ExaminedFlags:
    """What the interpreter has, and what it makes of each set of flags for a server or (`probe.OFFLINE`) without one.

    Raises:
        EngineError: where there is no such interpreter.
    """
    found = InstalledEngine()
    words = _words(model, points, found)
    found, answers = await query_interpreter(python or sys.executable, env, model, words, usage)
    if (again := _words(model, points, found)) != words:  # it has switches, or ways to say them, of its own
        found, answers = await query_interpreter(python or sys.executable, env, model, again, usage)
    made = (_resolved(kind, args, answer, found) for args, answer in zip(points, answers, strict=True))
    return ExaminedFlags(found, tuple(made))


def _words(model: str, points: Sequence[Mapping[str, Any]], found: InstalledEngine) -> list[list[str]]:
    return [["--model", model, *flag_words(with_switches(args, found), found.kinds)] for args in points]


def _resolved(kind: str, given: Mapping[str, Any], answer: ConfigCheck, found: InstalledEngine) -> ResolvedFlags:
    asked = with_switches(given, found)
    wrong = (*type_errors(asked, found), *_refused_values(asked, answer.fault))
    fault = "; ".join([*unknown_flags(asked, found), *wrong]) or answer.fault
    if answer.values is None:
        one = _of(asked, predict_by_rules(kind, asked, found), BY_ENGINE if fault else BY_RULES, fault, answer.reason)
    else:
        one = _of(asked, predict_by_code(asked, answer, found), BY_ENGINE, fault)
    return replace(one, args=asked, words=tuple(flag_words(asked, found.kinds)), wrong=wrong)


def _refused_values(asked: Mapping[str, Any], fault: str | None) -> tuple[str, ...]:
    """What the engine's own parser says of the value of a flag, where it refuses one that was asked."""
    match = _REFUSED.fullmatch(fault or "")
    names = [name.replace("-", "_") for name in re.findall(r"--([\w-]+)", match.group("flags"))] if match else []
    name = next((name for name in names if name in asked), None)
    return () if match is None or name is None else (f"engine.args.{name}: {match.group('text')}",)


def _of(
    asked: Mapping[str, Any], basis: FlagPrediction, by: str, fault: str | None = None, reason: str = ""
) -> ResolvedFlags:
    rows = () if fault else flag_changes(asked, basis.told, basis)
    return ResolvedFlags(values_of(basis.told), rows, fault, by, reason, basis)


def started_configuration(
    asked: Mapping[str, Any], resolved: ResolvedFlags, facts: BootFacts, cache: Mapping[str, Any]
) -> EngineConfiguration:
    """What an engine that has started runs with, by its log and the labels of its vllm:cache_config_info."""
    told = confirm(resolved.basis.told, facts, cache)
    known = {row.flag for row in resolved.changed if row.effective is None}
    now = [row for row in flag_changes(asked, told, resolved.basis) if row.flag not in known]
    unread = [row for row in resolved.changed if row.flag in known]
    return EngineConfiguration(
        flatten_flags(asked),
        values_of(told),
        {name: one.source for name, one in told.items()},
        tuple(sorted([*now, *unread], key=lambda row: row.flag)),
        {"by": resolved.by, "reason": resolved.reason, "effective": dict(resolved.effective)},
    )


def resolve_by_simulator(model: str | None, given: Mapping[str, Any]) -> ResolvedFlags:
    """What the embedded engine makes of flags, or why it would refuse them."""
    args = with_switches(given, _TWIN)
    wrong = tuple(type_errors(args, _TWIN))
    one = _by_twin(model, args)
    return replace(one, args=args, words=tuple(flag_words(args)), wrong=wrong or one.wrong)


def _by_twin(model: str | None, args: Mapping[str, Any]) -> ResolvedFlags:
    named = {} if model is None else {"model": model}
    try:
        settings = settings_from_flags({**args, **named})
        memory = memory_of(settings)
    except InputError as fault:
        lines = tuple(_TWIN_FLAG.sub(r"engine.args.\1: ", line) for line in fault.lines)
        return replace(
            _of(args, predict_by_rules("simulator", args, _TWIN), BY_SIMULATOR, " ".join(lines)), wrong=lines
        )
    except HarnessError as fault:
        return _of(args, predict_by_rules("simulator", args, _TWIN), BY_SIMULATOR, " ".join(fault.lines))
    values = {
        **twin_values(settings),
        "cudagraph_capture_sizes": list(settings.cudagraph_capture_sizes),
        "max_model_len": memory.max_model_len,
    }
    obeyed = {
        flag: value for flag, value in flatten_flags(args).items() if flag.partition(".")[0] not in settings.ignored
    }
    found = InstalledEngine(ascend=settings.device.is_ascend)
    one = _of(
        obeyed, predict_by_code(obeyed, ConfigCheck(values, {}, said=settings.notes), found, SIMULATOR), BY_SIMULATOR
    )
    return replace(one, changed=(*one.changed, *_ignored(args, obeyed)))


def _ignored(args: Mapping[str, Any], obeyed: Mapping[str, Any]) -> Iterator[FlagChange]:
    """The flags that the embedded engine knows and does not act on."""
    for flag, value in flatten_flags(args).items():
        if flag not in obeyed:
            yield FlagChange(flag, value, None, SIMULATOR, "the embedded engine does not act on it")
