"""From a study file, with all that it points to, to a plan, or to faults with file, line and key.

Everything that can be known without starting an engine is refused here.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.engines import resolve_kind
from harness.engines.interpreter_query import InstalledEngine, query_installed, unknown_flags
from harness.engines.vllm import environment_of, missing_folder
from harness.errors import InputError, ScenarioError, suggestion
from harness.scenario.error_messages import Fault, is_secret
from harness.scenario.loader import (
    SCENARIO,
    LoadedScenario,
    LoadedStudy,
    check_file,
    is_study,
    load_scenario,
    load_study,
    read_document,
)
from harness.scenario.models import Engine, Scenario, flag_name
from harness.scenario.stages import Stage, stages_of
from harness.scenario.study import CAPACITY, Dimension, Study
from harness.scenario.yaml_document import Override
from harness.simulator.engine_config import OBEYED, WITHOUT_EFFECT, canonical, settings_from_flags
from harness.tuning.parameters import default_parameters
from harness.tuning.space import Space, expression_names
from harness.tuning.study_plan import (
    WITHIN_SLO,
    StudyPlan,
    Task,
    constraint_of,
    held_slo,
    objective_of,
    stage_body,
    unfit_reason,
    with_changes,
)
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, LOAD, ParameterValue, TunableParameter

_OWN_FLAGS = ("model", "host", "port", "api_key")


def check_any(path: Path) -> list[str]:
    """A line for each fault of a scenario or study file, and of the scenarios that a study names."""
    try:
        if is_study(read_document(path, (), (), SCENARIO)):
            load_study_plan(path)
            return []
    except ScenarioError as error:
        return list(error.lines)
    return check_file(path)


def load_study_plan(path: Path, overrides: Sequence[str] = (), flags: Sequence[Override] = ()) -> StudyPlan:
    """The problem of a study file.

    Raises:
        ScenarioError: with one line for each fault, in the order of the file.
    """
    loaded = load_study(path, overrides, flags)
    study = loaded.study
    scenarios = [_scenario(loaded, place) for place in range(len(study.files))]
    engine = _engine(study, scenarios[0].scenario.engine)
    kind = resolve_kind(engine)[0]
    loaded.document.refuse([*_between(study, scenarios, engine, kind)])
    stages = [_stage(study, one.scenario) for one in scenarios]
    loaded.document.refuse([*_unfit(study, kind, stages), *_space_faults(study, engine, kind, stages)])
    tasks = tuple(
        Task(
            one.scenario.model_copy(update={"engine": engine}),
            one.path,
            stage,
            listed.weight,
            held_slo(study, one.scenario),
        )
        for one, stage, listed in zip(scenarios, stages, study.files, strict=True)
    )
    return StudyPlan(
        study=study,
        path=path,
        tasks=tasks,
        engine=engine,
        kind=kind,
        space=space_of(study, engine, kind, tasks[0].scenario),
        objectives=tuple(objective_of(name) for name in study.objective),
        limits=tuple(constraint_of(name, value) for name, value in study.constraints.items()),
    )


def _scenario(loaded: LoadedStudy, place: int) -> LoadedScenario:
    path = loaded.file(loaded.study.files[place].file)
    spot: tuple[Any, ...] = ("scenario",) if isinstance(loaded.study.scenario, str) else ("scenario", place, "file")
    if not path.exists():
        near = [other.name for other in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        told = suggestion(path.name, near) if near else "expected a scenario file"
        loaded.document.refuse([Fault(spot, f"no such file {str(path)!r}; {told}")])
    return load_scenario(path)


def _engine(study: Study, engine: Engine) -> Engine:
    """The scenario's engine with what the study changes."""
    change = study.engine
    plain = {
        name: value
        for name in ("kind", "model", "python", "ready_timeout")
        if (value := getattr(change, name)) is not None
    }
    args = {**engine.args, **{flag_name(flag): value for flag, value in change.args.items()}}
    return engine.model_copy(update={**plain, "args": args, "env": {**engine.env, **change.env}})


def _between(study: Study, scenarios: Sequence[LoadedScenario], engine: Engine, kind: str) -> Iterator[Fault]:
    if kind == "attach":
        yield Fault(("scenario",), "its engine is attached to and not started; expected engine.kind in the study")
    for place, one in enumerate(scenarios):
        spot: tuple[Any, ...] = ("scenario",) if isinstance(study.scenario, str) else ("scenario", place, "file")
        scenario = one.scenario
        if scenario.kernels is not None:
            yield Fault(spot, f"{one.path} measures kernels; expected a scenario with workload and load")
        for index, name in enumerate(study.objective):
            if name in WITHIN_SLO and not scenario.slo:
                yield Fault(
                    ("objective", index),
                    f"{name} is counted within an SLO, and {one.path} has none; expected slo there",
                )
        if place and study.engine.model is None and scenario.engine.model != scenarios[0].scenario.engine.model:
            yield Fault(
                spot, f"{one.path} serves another model than {scenarios[0].path}; expected the same, or engine.model"
            )
    if kind != "simulator" and engine.model is None:
        yield Fault(("engine", "model"), f"missing; kind {kind} expects a model's name or folder")
    if kind != "simulator" and engine.model is not None and (told := missing_folder(engine.model)) is not None:
        yield Fault(("scenario",) if study.engine.model is None else ("engine", "model"), told)
    if CAPACITY in study.objective and len(study.objective) > 1:
        yield Fault(
            ("objective", study.objective.index(CAPACITY)), "capacity has no load of its own; expected it alone"
        )


def _unfit(study: Study, kind: str, stages: Sequence[Stage]) -> Iterator[Fault]:
    spot = ("scenario",) if study.load is None else ("load",)
    for stage in stages:
        told = unfit_reason(stage, for_capacity=CAPACITY in study.objective, served=kind != "simulator")
        if told is not None:
            yield Fault(spot, told)


def _stage(study: Study, scenario: Scenario) -> Stage:
    """The load that trials are measured under."""
    return stages_of(study.load)[-1] if study.load is not None else scenario.stages[-1]


def parameter_of(name: str, item: Any) -> TunableParameter | None:
    """A line of the space as a parameter; None for a fixed or derived value."""
    if isinstance(item, tuple):
        return TunableParameter(name, "choice", values=item)
    if not isinstance(item, Dimension) or item.derive is not None:
        return None
    when = {target_name(other): _many(allowed) for other, allowed in item.when.items()}
    if item.choice is not None:
        return TunableParameter(name, "choice", values=item.choice, when=when)
    ends = item.int_ or item.float_
    assert ends is not None
    kind = "int" if item.int_ is not None else "float"
    step = item.step or (1.0 if kind == "int" else 0.0)
    return TunableParameter(name, kind, float(ends[0]), float(ends[1]), step, log=item.log, when=when)


def _many(allowed: Any) -> tuple[ParameterValue, ...]:
    return allowed if isinstance(allowed, tuple) else (allowed,)


def target_name(target: str) -> str:
    """A target under its one name: flags in snake case, as vLLM calls them in full."""
    first = target.partition(".")[0]
    return target if "." in target and first in (ADDITIONAL, ENVIRONMENT, LOAD) else canonical(target)


def space_of(study: Study, engine: Engine, kind: str, scenario: Scenario) -> Space:
    """The study's space with the default parameters that it does not mention."""
    own = {target_name(target): item for target, item in study.space.items()}
    parameters = [made for name, item in own.items() if (made := parameter_of(name, item)) is not None]
    fixed = {name: item for name, item in own.items() if not isinstance(item, Dimension | tuple)}
    derived = {n: i.derive for n, i in own.items() if isinstance(i, Dimension) and i.derive is not None}
    if study.defaults:
        found = default_parameters(engine, kind, scenario, fixed, _users(study, scenario))
        parameters += [one for one in found if one.name not in own]
    return Space(tuple(_in_order(parameters)), fixed, derived)


def _users(study: Study, scenario: Scenario) -> int | None:
    """The most requests at once; None without a bound: an open load, one that is swept, or several scenarios."""
    swept = any(target_name(target).startswith(LOAD + ".") for target in study.space)
    if swept or len(study.files) > 1 or study.objective == (CAPACITY,):
        return None
    stage = _stage(study, scenario)
    return stage.concurrency or stage.max_concurrency


def _in_order(parameters: Sequence[TunableParameter]) -> list[TunableParameter]:
    """Conditions after what they hang on; those of a circle as they stand."""
    left, placed = list(parameters), []
    while left:
        waiting = {one.name for one in left}
        ready = [one for one in left if not (set(one.when) & (waiting - {one.name}))] or left
        placed += ready
        left = [one for one in left if one not in ready]
    return placed


def _space_faults(study: Study, engine: Engine, kind: str, stages: Sequence[Stage]) -> Iterator[Fault]:
    names: dict[str, str] = {}
    for target, item in study.space.items():
        name = target_name(target)
        if name in names:
            yield Fault(("space", target), f"stands twice, as {names[name]} too; expected it once")
        names[name] = target
        yield from _target_faults(target, name, kind)
        if name.startswith(LOAD + "."):
            yield from _load_faults(target, name, item, stages)
    if "load" not in names and not study.defaults and not names:
        yield Fault(("space",), "empty; expected a parameter, or defaults: true")
    for target, item in study.space.items():
        if isinstance(item, Dimension):
            yield from _condition_faults(study, target, item, names)
            yield from _derive_faults(target, item, {*names, *engine.args})
        if kind == "simulator" and target_name(target) in OBEYED:
            yield from _value_faults(target, item)


def _target_faults(target: str, name: str, kind: str) -> Iterator[Fault]:
    if "." in target and is_secret(target.rpartition(".")[2]):
        yield Fault(("space", target), "a secret does not belong in a study; expected a setting")
    if not name.startswith((ADDITIONAL + ".", ENVIRONMENT + ".", LOAD + ".")):
        if name in _OWN_FLAGS:
            yield Fault(("space", target), f"set by the harness; expected engine.{name} or none")
        elif kind == "simulator" and name.partition(".")[0] not in OBEYED | WITHOUT_EFFECT:
            yield Fault(("space", target), f"no flag of vLLM; {suggestion(name, sorted(OBEYED | WITHOUT_EFFECT))}")


def _load_faults(target: str, name: str, item: Any, stages: Sequence[Stage]) -> Iterator[Fault]:
    key = name.partition(".")[2]
    made = parameter_of(name, item)
    ends: tuple[Any, ...] = (
        (item,) if made is None else made.values or (_typed(made, made.low), _typed(made, made.high))
    )
    for stage in stages:
        body = stage_body(stage)
        for value in ends:
            try:
                with_changes(stage, {key: value})
            except ValidationError as error:
                kinds = [one["type"] for one in error.errors()]
                told = (
                    str(suggestion(key, body))
                    if "extra_forbidden" in kinds
                    else f"not a value of {stage.kind}.{key}: {value}"
                )
                yield Fault(("space", target), told if "not a" in told else f"{stage.kind} has no {key}; {told}")
                return


def _typed(parameter: TunableParameter, value: float) -> ParameterValue:
    return int(value) if parameter.kind == "int" else value


def _condition_faults(study: Study, target: str, item: Dimension, names: Mapping[str, str]) -> Iterator[Fault]:
    for other, allowed in item.when.items():
        spot = ("space", target, "when", other)
        if target_name(other) not in names:
            yield Fault(
                spot, f"not in the space; {suggestion(target_name(other), names) if names else 'expected a parameter'}"
            )
        elif other == target:
            yield Fault(spot, "hangs on itself; expected another parameter")
        else:
            yield from _value_of_other(spot, study.space[names[target_name(other)]], _many(allowed))
    if _circle(study, target):
        yield Fault(("space", target, "when"), "conditions in a circle; expected an end")


def _value_of_other(spot: tuple[Any, ...], item: Any, allowed: Sequence[ParameterValue]) -> Iterator[Fault]:
    made = parameter_of("other", item)
    if made is None or made.kind != "choice":
        return
    for value in allowed:
        if value not in made.values:
            yield Fault(spot, f"is never {value}; expected one of {', '.join(map(str, made.values))}")


def _circle(study: Study, target: str) -> bool:
    """Whether following conditions from a parameter leads back to it."""
    by_name = {target_name(name): item for name, item in study.space.items()}
    seen: set[str] = set()
    open_ = [target_name(target)]
    while open_:
        item = by_name.get(open_.pop())
        for other in map(target_name, item.when if isinstance(item, Dimension) else ()):
            if other == target_name(target):
                return len(seen) > 0 or other not in (item.when if isinstance(item, Dimension) else ())
            if other not in seen:
                seen.add(other)
                open_.append(other)
    return False


def _derive_faults(target: str, item: Dimension, known: set[str]) -> Iterator[Fault]:
    if item.derive is None:
        return
    try:
        needed = expression_names(item.derive) if isinstance(item.derive, str) else frozenset(item.derive)
    except ValueError as fault:
        yield Fault(("space", target, "derive"), str(fault))
        return
    if not isinstance(item.derive, str) and len(item.derive) != 1:
        yield Fault(
            ("space", target, "derive"), "a table reads one parameter; expected {parameter: {value: its value}}"
        )
    for name in sorted(needed - known):
        yield Fault(
            ("space", target, "derive"), f"reads {name}, which is not in the space; {suggestion(name, sorted(known))}"
        )


def _value_faults(target: str, item: Any) -> Iterator[Fault]:
    """Values that no engine would take, told by the embedded engine's own reading of flags."""
    made = parameter_of(target_name(target), item)
    if isinstance(item, Dimension) and made is None:
        return
    values = (item,) if made is None else made.values or (_typed(made, made.low), _typed(made, made.high))
    for value in values:
        try:
            settings_from_flags({target_name(target): value})
        except InputError as fault:
            yield Fault(("space", target), fault.lines[0].partition(": ")[2] or fault.lines[0])
            return


def refuse_unknown_targets(problem: StudyPlan, loaded: LoadedStudy) -> None:
    """Refuse targets of a space that the engine's interpreter does not know; where it cannot tell, all pass.

    Raises:
        ScenarioError: a line for each, with the nearest that it knows.
        EngineError: where there is no such interpreter.
    """
    env = environment_of(problem.engine, problem.kind)
    found = asyncio.run(query_installed(problem.engine.python or sys.executable, env))
    loaded.document.refuse([*_faults(loaded, found)])


def _faults(loaded: LoadedStudy, found: InstalledEngine) -> Iterator[Fault]:
    for target in loaded.study.space:
        place, _, key = (name := target_name(target)).partition(".")
        if place == ADDITIONAL and key:
            if found.additional_keys and key.partition(".")[0] not in found.additional_keys:
                yield Fault(
                    ("space", target), f"vllm-ascend reads no such key; {suggestion(key, found.additional_keys)}"
                )
        elif not (place in (ENVIRONMENT, LOAD) and key):
            for line in unknown_flags({name: 1}, found):
                yield Fault(("space", target), line.partition(": ")[2])
