"""From a study file, with all that it points to, to a plan, or to faults with file, line and key.

Everything that can be known without starting an engine is refused here.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.engines import auto_kind, resolve_kind
from harness.engines.flag_resolution import resolve_by_simulator
from harness.engines.interpreter_query import InstalledEngine, query_installed, unknown_flags
from harness.engines.simulator import calibrated_flags
from harness.engines.vllm import environment_of, missing_folder
from harness.errors import HarnessError, InputError, ScenarioError, suggestion
from harness.execution.client_job import with_one_text
from harness.messages import Message, message
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.error_messages import Fault, KeyPath, is_secret
from harness.scenario.flags import flag_name
from harness.scenario.loader import (
    SCENARIO,
    LoadedScenario,
    LoadedStudy,
    check_file,
    is_gate,
    is_study,
    load_scenario,
    load_study,
    read_document,
)
from harness.scenario.processes import SIMULATOR, engine_of, processes_of
from harness.scenario.request_kinds import is_of_tokens
from harness.scenario.stages import Stage
from harness.scenario.study import CAPACITY, Dimension, Study
from harness.scenario.yaml_document import Override
from harness.simulator.engine_config import OBEYED, settings_from_flags
from harness.simulator.flag_names import WITHOUT_EFFECT
from harness.tuning.parameters import many_values, parameter_of, space_of, target_name, trial_stage
from harness.tuning.space import expression_names
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
from harness.tuning.topology import DATA, TENSOR, Layout, RefusedLayout, possible_layouts, why_no_layout
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, LOAD, ParameterValue, TunableParameter

_OWN_FLAGS = ("model", "host", "port", "api_key")


def check_any(path: Path) -> list[str]:
    """A line for each fault of a scenario or study file and of the scenarios of a study, in the current language."""
    try:
        if is_study(read_document(path, (), (), SCENARIO)):
            load_study_plan(path)
            return []
    except ScenarioError as error:
        return list(error.localized_lines())
    return check_file(path) or _flag_errors(path)


def _flag_errors(path: Path) -> list[str]:
    """A line for each engine flag of a scenario that `harness run` would refuse, where no engine is needed to know."""
    if is_gate(path):
        return []
    loaded = load_scenario(path)
    if loaded.scenario.kernels is not None:
        return []
    engine = loaded.scenario.engine
    kind = resolve_kind(engine)[0]
    if kind == DEPLOYMENT:
        faults = _process_faults(loaded, engine)
    else:
        faults = _simulator_faults(engine) if kind == SIMULATOR else ()
    return list(HarnessError(*map(loaded.located, faults)).localized_lines())


def _process_faults(loaded: LoadedScenario, engine: Engine) -> Sequence[Message]:
    """What simulators of a deployment would refuse; a flag that several share, by the name of the first."""
    faults: dict[tuple[str | None, str], Message] = {}
    for process in processes_of(engine, auto_kind(engine)):
        for fault in _simulator_faults(engine_of(process, engine)) if process.kind == SIMULATOR else ():
            named = message("engines.of_process", name=process.name, reason=fault)
            faults.setdefault((loaded.place_of(named), str(fault)), named)
    return tuple(faults.values())


def _simulator_faults(engine: Engine) -> Sequence[Message]:
    try:
        return resolve_by_simulator(engine.model, calibrated_flags(engine)).value_errors
    except InputError as error:
        return error.messages


def load_study_plan(path: Path, overrides: Sequence[str] = (), flags: Sequence[Override] = ()) -> StudyPlan:
    """The plan of a study file.

    Raises:
        ScenarioError: with one line for each fault, in the order of the file.
    """
    loaded = load_study(path, overrides, flags)
    study = loaded.study
    scenarios = [_scenario(loaded, place) for place in range(len(study.files))]
    engine = _engine(study, scenarios[0].scenario.engine)
    kind = resolve_kind(engine)[0]
    loaded.document.refuse([*_scenario_faults(study, scenarios), *_engine_faults(study, engine, kind)])
    stages = [trial_stage(study, listed.scenario) for listed in scenarios]
    loaded.document.refuse([*_stage_faults(study, kind, stages), *_space_faults(study, engine, kind, stages)])
    tasks = tuple(
        Task(
            with_one_text(listed.scenario.model_copy(update={"engine": engine}), study.space),
            listed.path,
            stage,
            file.weight,
            held_slo(study, listed.scenario),
        )
        for listed, stage, file in zip(scenarios, stages, study.files, strict=True)
    )
    layouts, refused = _layouts(loaded, study, engine, kind)
    return StudyPlan(
        study=study,
        path=path,
        tasks=tasks,
        engine=engine,
        kind=kind,
        space=space_of(study, engine, kind, tasks[0].scenario, layouts),
        objectives=tuple(objective_of(name) for name in study.objective),
        limits=tuple(constraint_of(name, value) for name, value in study.constraints.items()),
        layouts=layouts,
        refused_layouts=tuple(refused),
    )


def _layouts(
    loaded: LoadedStudy, study: Study, engine: Engine, kind: str
) -> tuple[tuple[Layout, ...], list[RefusedLayout]]:
    """The topologies that can serve, and those that cannot; refused where there is none, or only one."""
    if study.topology is None:
        return (), []
    layouts, refused = possible_layouts(study.topology, engine, kind)
    if not layouts:
        reasons = [message("tuning.setting", name=fault.layout.name, value=fault.why) for fault in refused]
        fault = message("tuning.no_topology", reasons=reasons) if reasons else why_no_layout(study.topology)
        loaded.document.refuse([Fault(("topology",), fault)])
    return layouts, refused


def _scenario(loaded: LoadedStudy, place: int) -> LoadedScenario:
    path = loaded.file(loaded.study.files[place].file)
    if not path.exists():
        near = [other.name for other in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        hint = suggestion(path.name, near) if near else message("tuning.expected_scenario_file")
        fault = message("tuning.no_scenario_file", path=str(path), hint=hint)
        loaded.document.refuse([Fault(_scenario_key(loaded.study, place), fault)])
    return load_scenario(path)


def _scenario_key(study: Study, place: int) -> KeyPath:
    """Where the study names its scenario of that place."""
    return ("scenario",) if isinstance(study.scenario, str) else ("scenario", place, "file")


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


def _scenario_faults(study: Study, scenarios: Sequence[LoadedScenario]) -> Iterator[Fault]:
    first = scenarios[0]
    for place, listed in enumerate(scenarios):
        key, path = _scenario_key(study, place), str(listed.path)
        if listed.scenario.kernels is not None:
            yield Fault(key, message("tuning.measures_kernels", path=path))
        for index, name in enumerate(study.objective):
            if is_of_tokens(name, endpoint := listed.scenario.endpoint):
                yield Fault(("objective", index), message("tuning.no_tokens", objective=name, endpoint=endpoint))
            if name in WITHIN_SLO and not listed.scenario.slo:
                yield Fault(("objective", index), message("tuning.no_slo", objective=name, path=path))
        if place and study.engine.model is None and listed.scenario.engine.model != first.scenario.engine.model:
            yield Fault(key, message("tuning.another_model", path=path, first=str(first.path)))


def _engine_faults(study: Study, engine: Engine, kind: str) -> Iterator[Fault]:
    if kind == "attach":
        yield Fault(("scenario",), message("tuning.attached_engine"))
    if kind != "simulator" and engine.model is None:
        yield Fault(("engine", "model"), message("tuning.model_missing", kind=kind))
    if kind != "simulator" and engine.model is not None and (missing := missing_folder(engine.model)) is not None:
        yield Fault(("scenario",) if study.engine.model is None else ("engine", "model"), missing)
    if CAPACITY in study.objective and len(study.objective) > 1:
        yield Fault(("objective", study.objective.index(CAPACITY)), message("tuning.capacity_not_alone"))


def _stage_faults(study: Study, kind: str, stages: Sequence[Stage]) -> Iterator[Fault]:
    for stage in stages:
        reason = unfit_reason(stage, for_capacity=CAPACITY in study.objective, served=kind != "simulator")
        if reason is not None:
            yield Fault(("scenario",) if study.load is None else ("load",), reason)


def _space_faults(study: Study, engine: Engine, kind: str, stages: Sequence[Stage]) -> Iterator[Fault]:
    names: dict[str, str] = {}
    for target, item in study.space.items():
        name = target_name(target)
        if name in names:
            yield Fault(("space", target), message("tuning.target_twice", other=names[name]))
        names[name] = target
        yield from _target_faults(target, name, kind, topology=study.topology is not None)
        if name.startswith(LOAD + "."):
            yield from _load_faults(target, name, item, stages)
    if not study.defaults and not names and study.topology is None:
        yield Fault(("space",), message("tuning.space_empty"))
    for target, item in study.space.items():
        if isinstance(item, Dimension):
            yield from _condition_faults(study, target, item, names)
            yield from _derive_faults(target, item, {*names, *engine.args})
        if kind == "simulator" and target_name(target) in OBEYED:
            yield from _value_faults(target, item)


def _target_faults(target: str, name: str, kind: str, *, topology: bool) -> Iterator[Fault]:
    if "." in target and is_secret(target.rpartition(".")[2]):
        yield Fault(("space", target), message("tuning.secret_target"))
    if name.startswith((ADDITIONAL + ".", ENVIRONMENT + ".", LOAD + ".")):
        return
    if topology and name in (TENSOR, DATA):
        yield Fault(("space", target), message("tuning.flag_of_topology", name=name))
    elif name in _OWN_FLAGS:
        yield Fault(("space", target), message("tuning.harness_flag", name=name))
    elif kind == "simulator" and name.partition(".")[0] not in (flags := OBEYED | WITHOUT_EFFECT):
        yield Fault(("space", target), message("tuning.unknown_flag", hint=suggestion(name, sorted(flags))))


def _load_faults(target: str, name: str, item: Any, stages: Sequence[Stage]) -> Iterator[Fault]:
    key = name.partition(".")[2]
    for stage in stages:
        for value in _end_values(name, item):
            try:
                with_changes(stage, {key: value})
            except ValidationError as error:
                if "extra_forbidden" in [detail["type"] for detail in error.errors()]:
                    hint = suggestion(key, stage_body(stage))
                    yield Fault(
                        ("space", target), message("tuning.unknown_load_key", kind=stage.kind, key=key, hint=hint)
                    )
                else:
                    fault = message("tuning.load_value_refused", kind=stage.kind, key=key, value=value)
                    yield Fault(("space", target), fault)
                return


def _end_values(name: str, item: Any) -> tuple[Any, ...]:
    """The values of a line of the space that stand for all: a fixed one, each of a choice, the ends of a range."""
    parameter = parameter_of(name, item)
    if parameter is None:
        return (item,)
    return parameter.values or (_typed(parameter, parameter.low), _typed(parameter, parameter.high))


def _typed(parameter: TunableParameter, value: float) -> ParameterValue:
    return int(value) if parameter.kind == "int" else value


def _condition_faults(study: Study, target: str, item: Dimension, names: Mapping[str, str]) -> Iterator[Fault]:
    for other, allowed in item.when.items():
        key = ("space", target, "when", other)
        if target_name(other) not in names:
            hint = suggestion(target_name(other), names) if names else message("tuning.expected_parameter")
            yield Fault(key, message("tuning.condition_unknown", hint=hint))
        elif other == target:
            yield Fault(key, message("tuning.condition_on_itself"))
        else:
            yield from _condition_value_faults(key, study.space[names[target_name(other)]], many_values(allowed))
    if _is_circular(study, target):
        yield Fault(("space", target, "when"), message("tuning.circular_condition"))


def _condition_value_faults(key: KeyPath, item: Any, allowed: Sequence[ParameterValue]) -> Iterator[Fault]:
    parameter = parameter_of("other", item)
    if parameter is None or parameter.kind != "choice":
        return
    for value in allowed:
        if value not in parameter.values:
            values = [str(choice) for choice in parameter.values]
            yield Fault(key, message("tuning.condition_never_holds", value=str(value), values=values))


def _is_circular(study: Study, target: str) -> bool:
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
    key = ("space", target, "derive")
    if item.derive is None:
        return
    try:
        needed = expression_names(item.derive) if isinstance(item.derive, str) else frozenset(item.derive)
    except ValueError as fault:
        yield Fault(key, fault.args[0])
        return
    if not isinstance(item.derive, str) and len(item.derive) != 1:
        yield Fault(key, message("tuning.table_of_several"))
    for name in sorted(needed - known):
        yield Fault(key, message("tuning.derived_from_unknown", name=name, hint=suggestion(name, sorted(known))))


def _value_faults(target: str, item: Any) -> Iterator[Fault]:
    """Values that no engine would take, by the embedded engine's own reading of flags."""
    name = target_name(target)
    if isinstance(item, Dimension) and parameter_of(name, item) is None:
        return
    for value in _end_values(name, item):
        try:
            settings_from_flags({name: value})
        except InputError as fault:
            yield Fault(("space", target), fault.messages[0])
            return


def refuse_unknown_targets(plan: StudyPlan, loaded: LoadedStudy) -> None:
    """Refuse targets of a space that the engine's interpreter does not know; where it cannot tell, all pass.

    Raises:
        ScenarioError: a line for each, with the nearest that it knows.
        EngineError: where there is no such interpreter.
    """
    env = environment_of(plan.engine, plan.kind)
    installed_vllm = asyncio.run(query_installed(plan.engine.python or sys.executable, env))
    loaded.document.refuse([*_unknown_targets(loaded, installed_vllm)])


def _unknown_targets(loaded: LoadedStudy, installed_vllm: InstalledEngine) -> Iterator[Fault]:
    for target in loaded.study.space:
        place, _, key = (name := target_name(target)).partition(".")
        if place == ADDITIONAL and key:
            if installed_vllm.additional_keys and key.partition(".")[0] not in installed_vllm.additional_keys:
                hint = suggestion(key, installed_vllm.additional_keys)
                yield Fault(("space", target), message("tuning.unknown_ascend_key", hint=hint))
        elif not (place in (ENVIRONMENT, LOAD) and key):
            for fault in unknown_flags({name: 1}, installed_vllm):
                parts = fault.parameters
                reason = message("tuning.no_such_flag", engine=parts["engine"], hint=parts["suggestion"])
                yield Fault(("space", target), reason)
