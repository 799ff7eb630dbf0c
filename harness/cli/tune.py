"""`harness tune`: from a study file to the page of its result."""

import argparse
import hashlib
import json
import shlex
import socket
from pathlib import Path

from harness.cli.terminal import CommandOutcome, Log, silent
from harness.engines import REAL
from harness.errors import EXIT_INTERRUPTED, InputError
from harness.messages import message
from harness.results.store import new_folder
from harness.safety.interrupts import writing
from harness.scenario.loader import load_study
from harness.scenario.shipped import find_scenario
from harness.scenario.yaml_document import Override
from harness.tuning import study_result
from harness.tuning.candidates import CandidateResolver, ResolveFlags, flag_resolver
from harness.tuning.confirmation import Confirmation, confirm
from harness.tuning.coordination import open_coordinator, worker_name
from harness.tuning.evaluation import Evaluator
from harness.tuning.feasibility import Feasibility
from harness.tuning.live_evaluation import LiveEvaluator
from harness.tuning.parameters import find_inert_parameters, without_inert
from harness.tuning.proposing import Proposer
from harness.tuning.simulator_screening import screener_for
from harness.tuning.study import StudyContext, claim_digest, leased_devices, run_study
from harness.tuning.study_loader import load_study_plan, refuse_unknown_targets
from harness.tuning.study_plan import StudyPlan
from harness.tuning.trial_store import open_trial_store, storage_url, translate_storage_errors
from harness.tuning.virtual_evaluation import SimulatedNoise, VirtualEvaluator

SHIPPED = "tune"  # the study where none is given
_RESULTS = Path("results")
_NOISE = (0.01, 0.02)  # of a run and of a step: the simulated engine is not steadier than a real one


def tune_command(arguments: argparse.Namespace, log: Log) -> CommandOutcome:
    """`harness tune`: everything from the study file to the page.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started.
    """
    progress: Log = silent if arguments.quiet else log
    path = find_scenario(arguments.study or SHIPPED)
    if arguments.study is None or path != Path(arguments.study):
        progress(message("cli.study_file", path=str(path)))
    problem = load_study_plan(path, arguments.overrides, _flags(arguments))
    if problem.kind in REAL:
        refuse_unknown_targets(problem, load_study(path, arguments.overrides, _flags(arguments)))
    folder = _folder(arguments, problem)
    with translate_storage_errors():
        return _carried_out(_work(problem, folder, arguments, progress), arguments)


def _carried_out(work: StudyContext, arguments: argparse.Namespace) -> CommandOutcome:
    with work.coordinator.heartbeat():
        try:
            run_study(work)
            confirmed = _confirmed(work)
        except KeyboardInterrupt:
            return _interrupted(work, arguments)
        if confirmed is None and work.problem.study.confirm.best:
            return CommandOutcome((message("cli.other_worker_confirms"), str(work.folder)))
        with writing(work.on_progress):
            return CommandOutcome(_concluded(work, confirmed, arguments.lang))


def _concluded(
    work: StudyContext, confirmed: Confirmation | None, language: str, *, interrupted: bool = False
) -> tuple[str, ...]:
    """Write what is left of the study, and draw its page; the lines for a terminal."""
    marks = {name: bool(getattr(work.evaluator, name, False)) for name in ("simulated", "hollow")}
    return (*study_result.write_result(work, confirmed, **marks, interrupted=interrupted), _page(work.folder, language))


def _interrupted(work: StudyContext, arguments: argparse.Namespace) -> CommandOutcome:
    """What was found until somebody pressed Ctrl-C; the trial that was running is tried again on --resume."""
    line = message("cli.study_interrupted", command=shlex.join(_resuming(work, arguments)))
    if arguments.storage is not None:  # an address may hold a password
        line = message("cli.stored_study_interrupted", command=shlex.join(_resuming(work, arguments)))
    if not work.store.trials():
        return CommandOutcome((line,), EXIT_INTERRUPTED)
    with writing(work.on_progress):
        return CommandOutcome((*_concluded(work, None, arguments.lang, interrupted=True), line), EXIT_INTERRUPTED)


def _resuming(work: StudyContext, arguments: argparse.Namespace) -> list[str]:
    """The command that goes on with a study."""
    options = [word for override in arguments.overrides for word in ("--set", override)]
    for name in ("trials", "seed"):
        value = getattr(arguments, name)
        options += [] if value is None else [f"--{name}", str(value)]
    study = [] if arguments.study is None else [arguments.study]
    return ["harness", "tune", *study, *options, "--out", str(work.folder), "--resume"]


def _flags(arguments: argparse.Namespace) -> list[Override]:
    """What the command's own flags mean for the study."""
    options = (("trials", ("budget", "trials")), ("storage", ("storage",)), ("seed", ("seed",)))
    return [
        Override(path, getattr(arguments, name), f"--{name} {getattr(arguments, name)}")
        for name, path in options
        if getattr(arguments, name) is not None
    ]


def _folder(arguments: argparse.Namespace, problem: StudyPlan) -> Path:
    """A new folder, or with --resume the one that is there.

    Raises:
        InputError: there is nothing to resume, or a study already.
    """
    name = problem.study.name
    if arguments.resume and arguments.out is None and problem.study.storage is None:
        found = sorted(path.parent for path in _RESULTS.glob(f"{name}-*/study.db"))
        if not found:
            raise InputError(message("cli.no_study_to_resume", name=name, folder=str(_RESULTS)))
        return found[-1]
    folder: Path = arguments.out or new_folder(_RESULTS, name)
    if not arguments.resume and (folder / "study.db").exists():
        raise InputError(message("cli.study_exists", folder=str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _work(problem: StudyPlan, folder: Path, arguments: argparse.Namespace, log: Log) -> StudyContext:
    """Everything that is needed to begin, and what is said before the first start."""
    objectives = [objective.name for objective in problem.objectives]
    log(message("cli.study_begins", engine=problem.kind, objectives=objectives))
    resolve = flag_resolver(problem)
    inert = find_inert_parameters(problem, CandidateResolver(problem, resolve))
    problem, lines = without_inert(problem, inert)
    for line in lines:
        log(line)
    if not problem.space.parameters:
        raise InputError(message("cli.nothing_to_search", path=str(problem.path), reasons=lines))
    resolver = CandidateResolver(problem, resolve)
    worker = worker_name()
    url = storage_url(problem.study.storage, folder)
    resume = arguments.resume or problem.study.storage is not None
    store = open_trial_store(problem, url, worker, _fingerprint(problem), resume=resume)
    proposer = Proposer(problem, resolver, Feasibility(), screener_for(problem))
    proposer.open()
    evaluator = _evaluator(problem, resolve)
    coordinator = open_coordinator(url, problem.study.name, worker)
    return StudyContext(
        problem, evaluator, store, coordinator, resolver, proposer, folder,
        host=socket.gethostname(), on_progress=log, inert=inert, notes=list(lines),
    )  # fmt: skip


def _evaluator(problem: StudyPlan, resolve: ResolveFlags) -> Evaluator:
    """VirtualEvaluator time for the simulated engine, where its loads are of single requests; else a real start."""
    single = all(
        task.scenario.workload is not None and task.scenario.workload.kind != "conversation" for task in problem.tasks
    )
    if problem.kind == "simulator" and single:
        return VirtualEvaluator(noise=SimulatedNoise(*_NOISE, problem.study.seed))
    return LiveEvaluator(problem.kind, resolve)


def _fingerprint(problem: StudyPlan) -> str:
    """What must be the same for a study to be gone on with: all but the budget and how the winner is confirmed."""
    options = problem.study.model_dump(mode="json", exclude={"budget", "confirm", "storage", "devices", "question"})
    scenarios = [task.scenario.model_dump(mode="json") for task in problem.tasks]
    return hashlib.sha256(json.dumps([options, scenarios], sort_keys=True, default=str).encode()).hexdigest()


def _confirmed(work: StudyContext) -> Confirmation | None:
    """The confirmation, by the one worker that gets to it; None for the others, or where there is none to make."""
    if not work.problem.study.confirm.best:
        return None
    if work.problem.study.storage is not None:
        waiting = {worker for worker, _ in work.store.running().values()} & work.coordinator.alive()
        if waiting or not work.coordinator.claim(claim_digest("confirmation")):
            return None
    with leased_devices(work) as devices:
        work.devices = devices
        return confirm(work, work.store.trials())


def _page(folder: Path, language: str) -> str:
    """The page of the study in a language."""
    import reports  # noqa: PLC0415 - a room of its own: it loads only where a page is drawn

    return str(reports.write_study(folder, language))
