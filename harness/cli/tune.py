"""What happens, from words to files, when somebody types `harness tune`?"""

import argparse
import hashlib
import json
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.engines import REAL
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from harness.results.store import new_folder
from harness.safety.interrupts import writing
from harness.scenario.loader import load_study
from harness.scenario.yaml_document import Override
from harness.tuning import study_result
from harness.tuning.candidates import Ground, Resolve, resolver
from harness.tuning.confirmation import Confirmed, confirm
from harness.tuning.coordination import open_desk, worker_name
from harness.tuning.evaluation import Evaluator
from harness.tuning.feasibility import Lessons
from harness.tuning.live_evaluation import Live
from harness.tuning.parameters import dead_parameters, settled
from harness.tuning.proposing import Proposer
from harness.tuning.simulator_screening import twin_of
from harness.tuning.study import Work, carry_out, digest, leased
from harness.tuning.study_loader import open_study, refuse_unknown
from harness.tuning.study_plan import Problem
from harness.tuning.trial_store import address, open_book, usable
from harness.tuning.virtual_evaluation import Noise, Virtual

Say = Callable[[str], None]
_RESULTS = Path("results")
_NOISE = (0.01, 0.02)  # of a run and of a step: the simulated engine is not steadier than a real one


@dataclass(frozen=True, slots=True)
class Tuned:
    """How `harness tune` ended: lines for stdout, and the exit code."""

    exit_code: int
    lines: tuple[str, ...]


def tune_command(chosen: argparse.Namespace, tell: Say) -> Tuned:
    """`harness tune`: everything from the study file to the page.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started.
    """
    say: Say = (lambda _line: None) if chosen.quiet else tell
    path = chosen.study or _shipped()
    problem = open_study(path, chosen.overrides, _flags(chosen))
    if problem.kind in REAL:
        refuse_unknown(problem, load_study(path, chosen.overrides, _flags(chosen)))
    folder = _folder(chosen, problem)
    with usable():
        return _carried_out(_work(problem, folder, chosen, say), chosen)


def _carried_out(work: Work, chosen: argparse.Namespace) -> Tuned:
    with work.desk.beating():
        try:
            carry_out(work)
            confirmed = _confirmed(work)
        except KeyboardInterrupt:
            return _interrupted(work, chosen)
        if confirmed is None and work.problem.study.confirm.best:
            return Tuned(EXIT_DONE, ("another worker confirms the winner", str(work.folder)))
        with writing(work.say):
            return Tuned(EXIT_DONE, _concluded(work, confirmed, chosen.lang))


def _concluded(work: Work, confirmed: Confirmed | None, language: str, *, interrupted: bool = False) -> tuple[str, ...]:
    """Write what is left of the study, and draw its page; the lines for a terminal."""
    marks = {name: bool(getattr(work.evaluator, name, False)) for name in ("simulated", "hollow")}
    return (*study_result.conclude(work, confirmed, **marks, interrupted=interrupted), _page(work.folder, language))


def _interrupted(work: Work, chosen: argparse.Namespace) -> Tuned:
    """What was found until somebody pressed Ctrl-C; the trial that was running is tried again on --resume."""
    asked = [chosen.study, *(word for one in chosen.overrides for word in ("--set", one))]
    for name in ("trials", "seed"):
        asked += [f"--{name}", getattr(chosen, name)] if getattr(chosen, name) is not None else []
    words = [
        "harness",
        "tune",
        *(str(word) for word in asked if word is not None),
        "--out",
        str(work.folder),
        "--resume",
    ]
    stored = "" if chosen.storage is None else " with the same --storage"  # an address may hold a password
    line = f"interrupted; what was measured is kept, and `{shlex.join(words)}`{stored} goes on"
    if not work.book.trials():
        return Tuned(EXIT_INTERRUPTED, (line,))
    with writing(work.say):
        return Tuned(EXIT_INTERRUPTED, (*_concluded(work, None, chosen.lang, interrupted=True), line))


def _shipped() -> Path:
    """The study that comes with the harness.

    Raises:
        InputError: only the package is here, without its scenarios.
    """
    places = (Path("scenarios"), Path(harness.__file__).resolve().parent.parent / "scenarios")
    found = next((place / "tune.yaml" for place in places if (place / "tune.yaml").exists()), None)
    if found is None:
        raise InputError("no study was given and scenarios/tune.yaml is not here; expected `harness tune STUDY.yaml`")
    return found


def _flags(chosen: argparse.Namespace) -> list[Override]:
    """What the command's own flags mean for the study."""
    told = (("trials", ("budget", "trials")), ("storage", ("storage",)), ("seed", ("seed",)))
    return [
        Override(path, getattr(chosen, name), f"--{name} {getattr(chosen, name)}")
        for name, path in told
        if getattr(chosen, name) is not None
    ]


def _folder(chosen: argparse.Namespace, problem: Problem) -> Path:
    """A new folder, or with --resume the one that is there.

    Raises:
        InputError: there is nothing to resume, or a study already.
    """
    name = problem.study.name
    if chosen.resume and chosen.out is None and problem.study.storage is None:
        found = sorted(path.parent for path in _RESULTS.glob(f"{name}-*/study.db"))
        if not found:
            raise InputError(f"--resume: no study {name!r} in {_RESULTS}; expected --out DIR of one that was begun")
        return found[-1]
    folder: Path = chosen.out or new_folder(_RESULTS, name)
    if not chosen.resume and (folder / "study.db").exists():
        raise InputError(f"--out {folder}: holds a study already; expected --resume, or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _work(problem: Problem, folder: Path, chosen: argparse.Namespace, say: Say) -> Work:
    """Everything that is needed to begin, and what is said before the first start."""
    say(f"engine: {problem.kind}; objective: {', '.join(one.name for one in problem.objectives)}")
    resolve = resolver(problem)
    dead = dead_parameters(problem, Ground(problem, resolve))
    problem, lines = settled(problem, dead)
    for line in lines:
        say(line)
    if not problem.space.parameters:
        raise InputError(f"{problem.path}: nothing is left to search; {'; '.join(lines)}")
    ground = Ground(problem, resolve)
    worker = worker_name()
    url = address(problem.study.storage, folder)
    resume = chosen.resume or problem.study.storage is not None
    book = open_book(problem, url, worker, _fingerprint(problem), resume=resume)
    proposer = Proposer(problem, ground, Lessons(), twin_of(problem))
    proposer.open()
    evaluator = _evaluator(problem, resolve)
    desk = open_desk(url, problem.study.name, worker)
    return Work(
        problem, evaluator, book, desk, ground, proposer, folder,
        host=socket.gethostname(), say=say, dead=dead, notes=list(lines),
    )  # fmt: skip


def _evaluator(problem: Problem, resolve: Resolve) -> Evaluator:
    """Virtual time for the simulated engine, where its loads are of single requests; else a real start."""
    single = all(
        one.scenario.workload is not None and one.scenario.workload.kind != "conversation" for one in problem.tasks
    )
    if problem.kind == "simulator" and single:
        return Virtual(noise=Noise(*_NOISE, problem.study.seed))
    return Live(problem.kind, resolve)


def _fingerprint(problem: Problem) -> str:
    """What must be the same for a study to be gone on with: all but the budget and how the winner is confirmed."""
    told = problem.study.model_dump(mode="json", exclude={"budget", "confirm", "storage", "devices", "question"})
    scenarios = [one.scenario.model_dump(mode="json") for one in problem.tasks]
    return hashlib.sha256(json.dumps([told, scenarios], sort_keys=True, default=str).encode()).hexdigest()


def _confirmed(work: Work) -> Confirmed | None:
    """The confirmation, by the one worker that gets to it; None for the others, or where there is none to make."""
    if not work.problem.study.confirm.best:
        return None
    if work.problem.study.storage is not None:
        waiting = {worker for worker, _ in work.book.running().values()} & work.desk.alive()
        if waiting or not work.desk.claim(digest("confirmation")):
            return None
    with leased(work) as devices:
        work.devices = devices
        return confirm(work, work.book.trials())


def _page(folder: Path, language: str) -> str:
    """The page of the study in a language."""
    import reports  # noqa: PLC0415 - a room of its own: it loads only where a page is drawn

    return str(reports.write_study(folder, language))
