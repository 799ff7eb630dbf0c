"""Tuning in Python: run a study file and read what it came to; the command `harness tune` is made of the same."""

import asyncio
import functools
import hashlib
import json
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.result import draw_study
from harness.api.running import Line, OnProgress, ignore, override_words, refuse_running_loop, spoken
from harness.engines import REAL
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from harness.messages import localized, message
from harness.results.progress import StudyProgress, end_study_progress
from harness.results.store import make_out_folder, new_folder
from harness.results.study import StudyFiles, read_study
from harness.safety import redaction
from harness.safety.interrupts import writing
from harness.scenario.files import find_scenario
from harness.scenario.loader import load_study
from harness.scenario.yaml_document import Override
from harness.tuning import study_result
from harness.tuning.candidates import CandidateResolver, ResolveFlags, flag_resolver
from harness.tuning.confirmation import confirm
from harness.tuning.coordination import open_coordinator, worker_name
from harness.tuning.evaluation import Evaluator
from harness.tuning.feasibility import Feasibility
from harness.tuning.live_evaluation import LiveEvaluator, VirtualRunEvaluator
from harness.tuning.parameters import find_inert_parameters, without_inert
from harness.tuning.progress import OnStudySnapshot, StudyTracker, unwatched
from harness.tuning.proposing import Proposer
from harness.tuning.simplification import simplify
from harness.tuning.simulator_screening import screener_for
from harness.tuning.study import TRIALS, StudyContext, claim_digest, leased_devices, run_study
from harness.tuning.study_loader import load_study_plan, refuse_unknown_targets
from harness.tuning.study_plan import StudyPlan
from harness.tuning.study_result import StudyFindings
from harness.tuning.trial_store import open_trial_store, storage_url, translate_storage_errors
from harness.tuning.types import Trial
from harness.tuning.virtual_evaluation import SimulatedNoise, VirtualEvaluator

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path("results")
_NOISE = (0.01, 0.02)  # of a run and of a step: the simulated engine is not steadier than a real one


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study came to.

    `folder` holds study.json, the page and the winner's files. `trial` is the number of the best trial (None where
    the default configuration stays, or nothing kept every limit), `flags` are the winner's that are needed beside the
    base configuration, `command` starts it. `simulated` says that no number is a measurement. `lines` are the findings
    in a few lines, `next_steps` say how an interrupted study goes on; its `exit_code` is 130, else 0.
    """

    folder: Path
    name: str = ""
    question: str = ""
    simulated: bool = False
    interrupted: bool = False
    trial: int | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    next_steps: tuple[Line, ...] = ()
    page: Path | None = None
    exit_code: int = EXIT_DONE

    def trials(self) -> "pd.DataFrame":
        """A row a trial: number, status, minutes of engine time, the parameters, and the metrics that it showed."""
        from harness.results.folder import trial_frame  # noqa: PLC0415 - pandas loads only where a frame is wanted

        return trial_frame(read_study(self.folder))


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a study is run: changes to its file, its folder, whether it goes on with one, and who hears of progress.

    `command` is what resumes it, in words, without --out. `on_snapshot` gets what the study is doing.
    """

    overrides: Sequence[str] = ()
    flags: Sequence[Override] = ()
    out: Path | None = None
    resume: bool = False
    on_progress: Callable[[Line], None] = ignore
    command: tuple[str, ...] = ()
    on_snapshot: OnStudySnapshot = unwatched


def tune(
    study: "str | Path",
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - what the command calls it
    trials: int | None = None,
    out: "str | Path | None" = None,
    resume: bool = False,
    on_progress: OnProgress = ignore,
) -> StudyResult:
    """Run a study file and draw its page.

    Args:
        study: the file, or the name of a study, such as "tune".
        set: keys of the study and their values, such as {"seed": 3}.
        trials: how many trials, the default configuration included.
        out: the result folder; results/NAME-TIME by default.
        resume: whether the study in `out` goes on.
        on_progress: gets a line now and then.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started; see its `exit_code`.
    """
    refuse_running_loop("tune")
    flags = [] if trials is None else [Override(("budget", "trials"), trials, f"trials={trials}")]
    overrides = override_words(set)
    command = ("harness", "tune", str(study), *(word for each in overrides for word in ("--set", each)))
    options = TuneOptions(overrides, flags, None if out is None else Path(out), resume, spoken(on_progress), command)
    return run_study_file(find_scenario(str(study), is_study=True), options)


async def tune_async(
    study: "str | Path",
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - likewise
    trials: int | None = None,
    out: "str | Path | None" = None,
    resume: bool = False,
    on_progress: OnProgress = ignore,
) -> StudyResult:
    """The same beside a running event loop, as in a notebook: the study runs in a thread.

    Raises:
        HarnessError: as `tune`.
    """
    call = functools.partial(tune, set=set, trials=trials, out=out, resume=resume, on_progress=on_progress)
    return await asyncio.to_thread(call, study)


def run_study_file(path: Path, options: TuneOptions) -> StudyResult:
    """Everything from the study file to the page.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started.
    """
    redaction.register_environment()
    problem = load_study_plan(path, options.overrides, options.flags)
    if problem.kind in REAL:
        refuse_unknown_targets(problem, load_study(path, options.overrides, options.flags))
    folder = _folder(options, problem)
    with translate_storage_errors():
        return _carried_out(_work(problem, folder, options), options)


def _carried_out(work: StudyContext, options: TuneOptions) -> StudyResult:
    with work.coordinator.heartbeat():
        findings = StudyFindings()
        try:
            run_study(work)
            _confirm(work, findings)
        except KeyboardInterrupt:
            return _interrupted(work, findings, options)
        if findings.confirmation is None and work.plan.study.confirm.best:
            other = (message("cli.other_worker_confirms"), str(work.folder))
            return StudyResult(work.folder, next_steps=other)
        with writing(work.on_progress):
            return _concluded(work, findings)


def _concluded(work: StudyContext, findings: StudyFindings, *, interrupted: bool = False) -> StudyResult:
    """Write what is left of the study, and draw its page."""
    marks = {name: bool(getattr(work.evaluator, name, False)) for name in ("simulated", "hollow")}
    if work.tracker is not None:
        work.tracker.close()
    lines = study_result.write_result(work, findings, **marks, interrupted=interrupted)
    page = draw_study(work.folder)
    end_study_progress(work.folder)
    return replace(study_result_of(read_study(work.folder)), lines=tuple(localized(line) for line in lines), page=page)


def study_result_of(files: StudyFiles) -> StudyResult:
    """The result that study.json of a folder holds."""
    kept = files.content
    winner = kept.get("winner") or {}
    return StudyResult(
        files.folder,
        name=str(kept.get("name") or ""),
        question=str(kept.get("question") or ""),
        simulated=files.marked,
        interrupted=bool(kept.get("interrupted")),
        trial=winner.get("trial"),
        flags=dict(winner.get("changed") or {}),
        command=tuple(map(str, winner.get("command") or ())),
        lines=tuple(kept.get("lines") or ()),
    )


def _interrupted(work: StudyContext, findings: StudyFindings, options: TuneOptions) -> StudyResult:
    """What was found until somebody pressed Ctrl-C; the trial that was running is tried again when it goes on."""
    command = shlex.join([*options.command, "--out", str(work.folder), "--resume"])
    line = message("cli.study_interrupted", command=command)
    if work.plan.study.storage is not None:  # an address may hold a password
        line = message("cli.stored_study_interrupted", command=command)
    if not work.store.trials():
        return StudyResult(work.folder, interrupted=True, next_steps=(line,), exit_code=EXIT_INTERRUPTED)
    with writing(work.on_progress):
        result = _concluded(work, findings, interrupted=True)
    return replace(result, next_steps=(line,), exit_code=EXIT_INTERRUPTED)


def _folder(options: TuneOptions, problem: StudyPlan) -> Path:
    """A new folder, or with --resume the one that is there.

    Raises:
        InputError: there is nothing to resume, a study already, or the folder cannot be made.
    """
    name = problem.study.name
    if options.resume and options.out is None and problem.study.storage is None:
        folders = sorted(path.parent for path in RESULTS.glob(f"{name}-*/study.db"))
        if not folders:
            raise InputError(message("cli.no_study_to_resume", name=name, folder=str(RESULTS)))
        return folders[-1]
    folder: Path = options.out or new_folder(RESULTS, name)
    if not options.resume and (folder / "study.db").exists():
        raise InputError(message("cli.study_exists", folder=str(folder)))
    make_out_folder(folder)
    return folder


def _work(problem: StudyPlan, folder: Path, options: TuneOptions) -> StudyContext:
    """Everything that is needed to begin, and what is said before the first start."""
    log = options.on_progress
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
    resume = options.resume or problem.study.storage is not None
    store = open_trial_store(problem, url, worker, _fingerprint(problem), resume=resume)
    proposer = Proposer(problem, resolver, Feasibility(), screener_for(problem))
    proposer.open()
    tracker = _tracker(problem, folder, store.trials(), options)
    evaluator = _evaluator(problem, resolve, tracker)
    coordinator = open_coordinator(url, problem.study.name, worker)
    return StudyContext(
        problem, evaluator, store, coordinator, resolver, proposer, folder,
        host=socket.gethostname(), on_progress=log, inert=inert, notes=list(lines), tracker=tracker,
    )  # fmt: skip


def _tracker(problem: StudyPlan, folder: Path, trials: Sequence[Trial], options: TuneOptions) -> StudyTracker:
    """What follows the study; trials of before, and of other workers, count as done."""
    study, objective = problem.study, problem.objectives[0]
    budget = study.budget
    unlimited = budget.trials is None and budget.minutes is None and budget.starts is None
    turns = (study.confirm.best + 1) * study.confirm.repeats if study.confirm.best else 0
    head = StudyProgress(
        study.name,
        engine_kind=problem.kind,
        simulated=problem.kind == "simulator",
        objective=objective.name,
        trials=TRIALS if unlimited else budget.trials,
        turns=turns,
    )
    tracker = StudyTracker(folder, head, objective, options.on_snapshot, removal_turns=_removal_turns(problem))
    tracker.know(trials)
    return tracker


def _removal_turns(problem: StudyPlan) -> int:
    """About how many turns the removal of flags takes: rounds of the winner and of it without each of its flags."""
    rules = problem.study.simplify
    if rules is None or not problem.study.confirm.best:
        return 0
    return min(rules.measurements, rules.repeats * (1 + len(problem.space.parameters)))


def _evaluator(problem: StudyPlan, resolve: ResolveFlags, tracker: StudyTracker) -> Evaluator:
    """Virtual time for the simulated engine, conversations as in a run; else a real start."""
    single = all(
        task.scenario.workload is not None and task.scenario.workload.kind != "conversation" for task in problem.tasks
    )
    if problem.kind == "simulator" and single:
        return VirtualEvaluator(noise=SimulatedNoise(*_NOISE, problem.study.seed), in_layouts=bool(problem.layouts))
    if problem.kind == "simulator":
        return VirtualRunEvaluator(on_snapshot=tracker.on_run)
    return LiveEvaluator(problem.kind, resolve, on_snapshot=tracker.on_run)


_CHANGEABLE = {"budget", "confirm", "simplify", "storage", "devices", "question"}


def _fingerprint(problem: StudyPlan) -> str:
    """What must be the same for a study to be gone on with: all but the budget and how the winner is confirmed."""
    study = problem.study.model_dump(mode="json", exclude=_CHANGEABLE)
    scenarios = [task.scenario.model_dump(mode="json") for task in problem.tasks]
    return hashlib.sha256(json.dumps([study, scenarios], sort_keys=True, default=str).encode()).hexdigest()


def _confirm(work: StudyContext, findings: StudyFindings) -> None:
    """Confirm the winner and remove what it does not need, by the one worker that gets to it; nothing for the others.

    What was found stands in `findings` as soon as it is, so that an interruption loses none of it.
    """
    if not work.plan.study.confirm.best:
        return
    if work.plan.study.storage is not None:
        waiting = {worker for worker, _ in work.store.running().values()} & work.coordinator.alive()
        if waiting or not work.coordinator.claim(claim_digest("confirmation")):
            return
    trials = work.store.trials()
    with leased_devices(work) as devices:
        work.devices = devices
        findings.confirmation = confirm(work, trials)
        findings.minimal = simplify(work, trials, findings.confirmation)
