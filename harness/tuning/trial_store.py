"""Storage of trials: an Optuna study in SQLite or PostgreSQL, safe against kills.

A trial is written before it begins and again when it ends, each in a transaction. Whatever is killed
loses at most the trial that was running; that one is found, and given up, when the study is resumed.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.errors import InputError, ResultError
from harness.results.store import convert
from harness.safety.redaction import register_password
from harness.tuning.coordination import retry_on_conflict
from harness.tuning.sampler import optuna_constraints, optuna_directions, optuna_values, set_constraints, suggest_point
from harness.tuning.space import Space, active_point
from harness.tuning.study_plan import StudyPlan
from harness.tuning.types import COMPLETE, FAILED, STOPPED, Point, Trial

TRIAL, FINGERPRINT, WORKER = "harness", "harness_study", "harness_worker"
TrialHandle = optuna.trial.Trial
_ENDLESS = ("inf", "-inf", "nan")
_MOST_IN_SERIES = 5000  # requests whose single values are kept in the database


def storage_url(storage: str | None, folder: Path) -> str:
    """The database of a study: as asked, else a file in its folder.

    Raises:
        InputError: a PostgreSQL address without a driver that is installed.
    """
    if storage is None:
        return f"sqlite:///{(folder / 'study.db').resolve()}"
    register_password(storage)
    head, mark, rest = storage.partition("://")
    if not mark:
        raise InputError("--storage: expected an address such as postgresql://user@host/database or sqlite:///study.db")
    if head in ("postgresql", "postgres"):
        return f"postgresql+{_driver()}://{rest}"
    return storage


def _driver() -> str:
    from importlib.util import find_spec  # noqa: PLC0415 - only studies on PostgreSQL look for it

    for module in ("psycopg", "psycopg2", "pg8000"):
        if find_spec(module) is not None:
            return module
    raise InputError("--storage: PostgreSQL needs a driver; expected `pip install psycopg[binary]`")


@dataclass(frozen=True, slots=True)
class TrialStore:
    """The lasting record of one study."""

    study: optuna.Study
    problem: StudyPlan
    worker: str

    def begin(self, point: Point, engine_key: str, origin: str) -> tuple[int, optuna.trial.Trial]:
        """Write that a point is being tried; its number, and the handle that `end` takes."""
        space = self.problem.space
        shown = active_point(space, {one.name: point[one.name] for one in space.parameters if one.name in point})
        trial = self._asked(shown)
        trial.set_user_attr(WORKER, self.worker)
        trial.set_user_attr("engine_key", engine_key)
        trial.set_user_attr("origin", origin)
        return trial.number, trial

    def _asked(self, point: Point) -> optuna.trial.Trial:
        """A running trial of Optuna with exactly these parameters."""
        plain = optuna.samplers.RandomSampler(seed=0)
        with _settled():
            self.study.sampler = optuna.samplers.PartialFixedSampler(dict(point), plain)
        trial = self.study.ask()
        known = tuple(one for one in self.problem.space.parameters if one.name in point)
        suggest_point(trial, Space(known, {**self.problem.space.fixed, **point}))
        return trial

    def end(self, handle: optuna.trial.Trial, trial: Trial) -> None:
        """Write what became of it."""
        handle.set_user_attr(TRIAL, trial_as_json(trial))
        for name, value in _shown(trial).items():
            handle.set_user_attr(name, value)
        set_constraints(handle, optuna_constraints(trial))
        self.study.tell(handle, optuna_values(self.problem.objectives, trial, self.trials()))

    def abandon(self, number: int) -> None:
        """Write that a running trial was lost."""
        self.study.tell(number, state=TrialState.FAIL)

    def interrupted_count(self) -> int:
        """How many trials were begun and never ended, as their worker was killed."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sum(TRIAL not in one.user_attrs for one in frozen)

    def trials(self) -> list[Trial]:
        """The trials that have ended, in the order of their numbers."""
        frozen = self.study.get_trials(deepcopy=False)
        return [trial_from_json(one.number, one.user_attrs[TRIAL]) for one in frozen if TRIAL in one.user_attrs]

    def engine_keys(self) -> dict[int, str]:
        """The effective configuration of every trial that has ended, by number."""
        frozen = self.study.get_trials(deepcopy=False)
        return {one.number: str(one.user_attrs.get("engine_key", "")) for one in frozen if TRIAL in one.user_attrs}

    def running(self) -> dict[int, tuple[str, str]]:
        """Trials that are under way, or were when their worker died: (worker, engine key) by number."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        attributes = {one.number: one.user_attrs for one in frozen if TRIAL not in one.user_attrs}  # else it just ends
        return {
            number: (str(told.get(WORKER, "")), str(told.get("engine_key", ""))) for number, told in attributes.items()
        }

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep a word about the study."""
        self.study.set_user_attr(name, _jsonable(value))

    def attribute(self, name: str) -> Any:
        """A word about the study; None where there is none."""
        return _valued(self.study.user_attrs.get(name))


def open_trial_store(problem: StudyPlan, url: str, worker: str, fingerprint: str, *, resume: bool) -> TrialStore:
    """The record of a study: a new one, or with `resume` the one that is there.

    Raises:
        InputError: it is there and was not to be resumed, or it is of another study; the database cannot be reached.
    """
    name = problem.study.name
    try:
        study = retry_on_conflict(lambda: _created(problem, url, resume=resume))
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(f"study {name!r} is in the storage already; expected --resume, or another name") from None
    except InputError:
        raise
    except Exception as fault:  # noqa: BLE001 - whatever a database driver raises means that it cannot be used
        told = next(iter(str(fault).splitlines()), type(fault).__name__)
        raise InputError(f"--storage: the database cannot be used ({told[:200]})") from None
    book = TrialStore(study, problem, worker)
    kept = book.attribute(FINGERPRINT)
    if kept is None:
        book.set_attribute(FINGERPRINT, fingerprint)
        book.set_attribute("question", problem.study.question)
        with _settled():
            study.set_metric_names([one.name for one in problem.objectives])
    elif kept != fingerprint:
        raise InputError(
            f"--resume: study {name!r} was begun with another study file; expected the same, or a new --out"
        )
    return book


@contextmanager
def _settled() -> Iterator[None]:
    """For what Optuna calls experimental since 2.4 and 3.2, and has not changed ever since."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _shown(trial: Trial) -> dict[str, Any]:
    """What people see of a trial in Optuna's own tools, beside its parameters and values."""
    cause = {} if trial.failure is None else {"cause": f"{trial.failure.kind}: {trial.failure.line}"[:500]}
    missed = ", ".join(name for name, by in trial.violations.items() if by > 0)
    misses = {"misses": missed} if missed else {}
    return {"status": trial.status, "minutes": round(trial.minutes.total, 3), **misses, **cause}


def _created(problem: StudyPlan, url: str, *, resume: bool) -> optuna.Study:
    # A file may be locked for a while by a heartbeat, where the disk is slow.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    told = optuna_directions(problem.objectives)
    study = optuna.create_study(study_name=problem.study.name, storage=storage, directions=told, load_if_exists=resume)
    study.get_trials(deepcopy=False)  # so that a broken database is found here
    _ = study.user_attrs
    if study.directions != told:
        raise InputError("--storage: the study there has other objectives; expected the one that was begun")
    return study


@contextmanager
def translate_storage_errors() -> Iterator[None]:
    """For what goes on with a database, which may break under it.

    Raises:
        InputError: it cannot be used any more.
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - Optuna loads it for a study alone

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as fault:
        told = next(iter(str(fault).splitlines()), type(fault).__name__)
        raise InputError(f"--storage: the database cannot be used ({told[:200]})") from None


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """A trial as values of JSON; long series are left out."""
    plain = asdict(trial)
    measured = plain["measurement"]
    if measured is not None and any(len(values) > _MOST_IN_SERIES for values in measured["series"].values()):
        measured["series"] = {}
    return dict(_jsonable({name: value for name, value in plain.items() if name != "number"}))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def trial_from_json(number: int, plain: Mapping[str, Any]) -> Trial:
    """The trial that `as_plain` wrote.

    Raises:
        ResultError: it is none.
    """
    values = _valued(plain)
    told = values | {"number": number} if isinstance(values, dict) else values
    trial = convert(f"trial {number} of the study's storage", told, Trial, "a trial as `harness tune` wrote it")
    if trial.status not in (COMPLETE, STOPPED, FAILED):
        raise ResultError(f"trial {number} of the study's storage: status {trial.status!r} is not known")
    return trial


def _valued(value: Any) -> Any:
    if isinstance(value, Mapping):
        endless = value.keys() == {"float"} and value["float"] in _ENDLESS
        return float(value["float"]) if endless else {name: _valued(one) for name, one in value.items()}
    return [_valued(one) for one in value] if isinstance(value, list) else value
