"""The values that an engine gives its flags, and whether it would refuse them, before a start.

The installed vLLM's own configuration code says so, in the engine's interpreter, for any number of sets of flags in
one process. Where that cannot work, stated rules stand in for it; for the simulator it is the simulator's own code.
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
from harness.messages import Message, message, plain
from harness.simulator.engine_config import effective as simulator_values
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of

# The simulator's refusals of a flag, and the same about a key of a scenario.
_OF_A_KEY = {
    "simulator.unknown_flag": "engines.simulator_unknown_flag",
    "simulator.flag_kind": "engines.simulator_flag_kind",
    "simulator.flag_too_small": "engines.simulator_flag_too_small",
}
_REFUSED = re.compile(r"argument (?P<flags>-[^:]*): (?P<text>.+)", re.DOTALL)
BY_ENGINE, BY_RULES, BY_SIMULATOR = "engine", "rules", "simulator"
_SIMULATOR = InstalledEngine(ascend=False)


@dataclass(frozen=True, slots=True)
class ResolvedFlags:
    """What a set of flags becomes, before any start.

    `effective` are flags by name in snake case with the values that will be in force; two sets with the same are the
    same engine. `changed` are those that differ from the request. `refusal` is why the engine would not start, None
    where it would. `by` is what says so: the engine's own configuration code, the rules, or the simulator; `reason`
    why it is the rules. `args` are the flags with switches as true or false, `words` they as words of a command line;
    `value_errors` has a message for each whose value is of another kind than it takes.
    """

    effective: Mapping[str, Any]
    changed: tuple[FlagChange, ...] = ()
    refusal: Message | None = None
    by: str = BY_RULES
    reason: Message | None = None
    prediction: FlagPrediction = field(default=FlagPrediction({}, {}, InstalledEngine()), repr=False)
    args: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    value_errors: tuple[Message, ...] = ()


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
    those it inherits. Importing vLLM takes 10 to 30 s, a set of flags some 20 ms; answers are cached.

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
    """What the interpreter has, and what it makes of each set of flags; `usage` is `SERVER` or `OFFLINE`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    installed = InstalledEngine()
    words = _words(model, points, installed)
    installed, checks = await query_interpreter(python or sys.executable, env, model, words, usage)
    if (again := _words(model, points, installed)) != words:  # it has switches, or ways to say them, of its own
        installed, checks = await query_interpreter(python or sys.executable, env, model, again, usage)
    resolved = (_resolved(kind, args, check, installed) for args, check in zip(points, checks, strict=True))
    return ExaminedFlags(installed, tuple(resolved))


def _words(model: str, points: Sequence[Mapping[str, Any]], installed: InstalledEngine) -> list[list[str]]:
    return [["--model", model, *flag_words(with_switches(args, installed), installed.kinds)] for args in points]


def _resolved(kind: str, given: Mapping[str, Any], check: ConfigCheck, installed: InstalledEngine) -> ResolvedFlags:
    args = with_switches(given, installed)
    value_errors = (*type_errors(args, installed), *_refused_values(args, check.refusal))
    refusals = [*unknown_flags(args, installed), *value_errors]
    refusal = message("engines.refusals", lines=refusals) if refusals else None
    if refusal is None and check.refusal:
        refusal = plain(check.refusal)
    if check.values is None:
        prediction, by = predict_by_rules(kind, args, installed), BY_RULES if refusal is None else BY_ENGINE
    else:
        prediction, by = predict_by_code(args, check, installed), BY_ENGINE
    resolved = _from_prediction(args, prediction, by, refusal)
    return replace(
        resolved,
        reason=check.reason if check.values is None else None,
        args=args,
        words=tuple(flag_words(args, installed.kinds)),
        value_errors=value_errors,
    )


def _refused_values(args: Mapping[str, Any], refusal: str | None) -> tuple[Message, ...]:
    """What the engine's own parser says of the value of a flag, where it refuses one that was given."""
    match = _REFUSED.fullmatch(refusal or "")
    names = [name.replace("-", "_") for name in re.findall(r"--([\w-]+)", match.group("flags"))] if match else []
    name = next((name for name in names if name in args), None)
    if match is None or name is None:
        return ()
    return (message("engines.flag_error", flag=name, error=match.group("text")),)


def _from_prediction(
    args: Mapping[str, Any], prediction: FlagPrediction, by: str, refusal: Message | None = None
) -> ResolvedFlags:
    changed = () if refusal else flag_changes(args, prediction.values, prediction)
    return ResolvedFlags(values_of(prediction.values), changed, refusal, by, None, prediction)


def started_configuration(
    args: Mapping[str, Any], resolved: ResolvedFlags, facts: BootFacts, cache: Mapping[str, Any]
) -> EngineConfiguration:
    """What an engine that has started runs with, by its log and the labels of its vllm:cache_config_info."""
    values = confirm(resolved.prediction.values, facts, cache)
    unread = [row for row in resolved.changed if row.effective is None]
    names = {row.flag for row in unread}
    changed = [row for row in flag_changes(args, values, resolved.prediction) if row.flag not in names]
    reason = "" if resolved.reason is None else str(resolved.reason)
    return EngineConfiguration(
        flatten_flags(args),
        values_of(values),
        {name: value.source for name, value in values.items()},
        tuple(sorted([*changed, *unread], key=lambda row: row.flag)),
        {"by": resolved.by, "reason": reason, "effective": dict(resolved.effective)},
    )


def resolve_by_simulator(model: str | None, given: Mapping[str, Any]) -> ResolvedFlags:
    """What the simulator makes of flags, or why it would refuse them."""
    args = with_switches(given, _SIMULATOR)
    value_errors = tuple(type_errors(args, _SIMULATOR))
    resolved = _by_simulator(model, args)
    return replace(
        resolved, args=args, words=tuple(flag_words(args)), value_errors=value_errors or resolved.value_errors
    )


def _by_simulator(model: str | None, args: Mapping[str, Any]) -> ResolvedFlags:
    try:
        settings = settings_from_flags({**args, **({} if model is None else {"model": model})})
        memory = memory_of(settings)
    except HarnessError as error:
        refusals = tuple(Message(_OF_A_KEY.get(row.code, row.code), row.parameters) for row in error.messages)
        prediction = predict_by_rules("simulator", args, _SIMULATOR)
        refusal = message("engines.refusals", lines=refusals)
        resolved = _from_prediction(args, prediction, BY_SIMULATOR, refusal)
        return replace(resolved, value_errors=refusals) if isinstance(error, InputError) else resolved
    values = {
        **simulator_values(settings),
        "cudagraph_capture_sizes": list(settings.cudagraph_capture_sizes),
        "max_model_len": memory.max_model_len,
    }
    flags = flatten_flags(args)
    obeyed = {flag: value for flag, value in flags.items() if flag.partition(".")[0] not in settings.ignored}
    check = ConfigCheck(values, {}, log_lines=settings.notes)
    prediction = predict_by_code(obeyed, check, InstalledEngine(ascend=settings.device.is_ascend), SIMULATOR)
    resolved = _from_prediction(obeyed, prediction, BY_SIMULATOR)
    return replace(resolved, changed=(*resolved.changed, *_ignored(flags, obeyed)))


def _ignored(flags: Mapping[str, Any], obeyed: Mapping[str, Any]) -> Iterator[FlagChange]:
    """The flags that the simulator knows and does not act on."""
    for flag, value in flags.items():
        if flag not in obeyed:
            yield FlagChange(flag, value, None, SIMULATOR, message("engines.why_simulator_ignores"))
