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
from harness.messages import message
from harness.results.store import convert
from harness.safety.redaction import register_password
from harness.tuning.coordination import retry_on_conflict
from harness.tuning.sampler import optuna_constraints, optuna_directions, optuna_values, set_constraints, suggest_point
from harness.tuning.space import Space, active_point, nearest_point
from harness.tuning.study_plan import StudyPlan
from harness.tuning.types import COMPLETE, FAILED, STOPPED, Point, Trial

TRIAL, FINGERPRINT, WORKER = "harness", "harness_study", "harness_worker"
TrialHandle = optuna.trial.Trial
_KEYS = {"predicted": "twin"}  # fields of a trial whose key in files has an older name
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
        raise InputError(message("tuning.storage_invalid"))
    if head in ("postgresql", "postgres"):
        return f"postgresql+{_driver()}://{rest}"
    return storage


def _driver() -> str:
    from importlib.util import find_spec  # noqa: PLC0415 - only studies on PostgreSQL look for it

    for module in ("psycopg", "psycopg2", "pg8000"):
        if find_spec(module) is not None:
            return module
    raise InputError(message("tuning.storage_driver_missing"))


@dataclass(frozen=True, slots=True)
class TrialStore:
    """The lasting record of one study."""

    study: optuna.Study
    plan: StudyPlan
    worker: str

    def begin(self, point: Point, engine_key: str, origin: str) -> tuple[int, optuna.trial.Trial]:
        """Write that a point is being tried; its number, and the handle that `end` takes."""
        space = self.plan.space
        active = active_point(space, nearest_point(space, point))
        trial = self._asked(active)
        trial.set_user_attr(WORKER, self.worker)
        trial.set_user_attr("engine_key", engine_key)
        trial.set_user_attr("origin", origin)
        return trial.number, trial

    def _asked(self, point: Point) -> optuna.trial.Trial:
        """A running trial of Optuna with exactly these parameters."""
        sampler = optuna.samplers.RandomSampler(seed=0)
        with _without_experimental_warnings():
            self.study.sampler = optuna.samplers.PartialFixedSampler(dict(point), sampler)
        trial = self.study.ask()
        parameters = tuple(parameter for parameter in self.plan.space.parameters if parameter.name in point)
        suggest_point(trial, Space(parameters, {**self.plan.space.fixed, **point}))
        return trial

    def end(self, handle: optuna.trial.Trial, trial: Trial) -> None:
        """Write what became of it."""
        handle.set_user_attr(TRIAL, trial_as_json(trial))
        for name, value in _shown(trial).items():
            handle.set_user_attr(name, value)
        set_constraints(handle, optuna_constraints(trial))
        self.study.tell(handle, optuna_values(self.plan.objectives, trial, self.trials()))

    def abandon(self, number: int) -> None:
        """Write that a running trial was lost."""
        self.study.tell(number, state=TrialState.FAIL)

    def interrupted_count(self) -> int:
        """How many trials were begun and never ended, as their worker was killed."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sum(TRIAL not in trial.user_attrs for trial in frozen)

    def trials(self) -> list[Trial]:
        """The trials that have ended, in the order of their numbers."""
        frozen = self.study.get_trials(deepcopy=False)
        return [trial_from_json(trial.number, trial.user_attrs[TRIAL]) for trial in frozen if TRIAL in trial.user_attrs]

    def engine_keys(self) -> dict[int, str]:
        """The effective configuration of every trial that has ended, by number."""
        frozen = self.study.get_trials(deepcopy=False)
        return {
            trial.number: str(trial.user_attrs.get("engine_key", "")) for trial in frozen if TRIAL in trial.user_attrs
        }

    def running(self) -> dict[int, tuple[str, str]]:
        """Trials that are under way, or were when their worker died: (worker, engine key) by number."""
        frozen = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {
            trial.number: (str(trial.user_attrs.get(WORKER, "")), str(trial.user_attrs.get("engine_key", "")))
            for trial in frozen
            if TRIAL not in trial.user_attrs  # else it just ends
        }

    def set_attribute(self, name: str, value: Any) -> None:
        """Store a value of the study under a name."""
        self.study.set_user_attr(name, _jsonable(value))

    def attribute(self, name: str) -> Any:
        """The value stored under a name; None where there is none."""
        return _valued(self.study.user_attrs.get(name))


def open_trial_store(plan: StudyPlan, url: str, worker: str, fingerprint: str, *, resume: bool) -> TrialStore:
    """The store of a study: a new one, or with `resume` the one that is there.

    Raises:
        InputError: it is there and was not to be resumed, or it is of another study; the database cannot be reached.
    """
    name = plan.study.name
    try:
        study = retry_on_conflict(lambda: _create_study(plan, url, resume=resume))
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(message("tuning.study_in_storage", name=name)) from None
    except InputError:
        raise
    except Exception as fault:  # noqa: BLE001 - whatever a database driver raises means that it cannot be used
        raise _unusable(fault) from None
    store = TrialStore(study, plan, worker)
    recorded = store.attribute(FINGERPRINT)
    if recorded is None:
        store.set_attribute(FINGERPRINT, fingerprint)
        store.set_attribute("question", plan.study.question)
        with _without_experimental_warnings():
            study.set_metric_names([objective.name for objective in plan.objectives])
    elif recorded != fingerprint:
        raise InputError(message("tuning.other_study_file", name=name))
    return store


def _unusable(fault: Exception) -> InputError:
    reason = next(iter(str(fault).splitlines()), type(fault).__name__)
    return InputError(message("tuning.storage_unusable", reason=reason[:200]))


@contextmanager
def _without_experimental_warnings() -> Iterator[None]:
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


def _create_study(plan: StudyPlan, url: str, *, resume: bool) -> optuna.Study:
    # A file may be locked for a while by a heartbeat, where the disk is slow.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    directions = optuna_directions(plan.objectives)
    study = optuna.create_study(
        study_name=plan.study.name, storage=storage, directions=directions, load_if_exists=resume
    )
    study.get_trials(deepcopy=False)  # so that a broken database is found here
    _ = study.user_attrs
    if study.directions != directions:
        raise InputError(message("tuning.other_objectives"))
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
        raise _unusable(fault) from None


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """A trial as values of JSON, by the keys of study.json; long series are left out."""
    tree = asdict(trial)
    measured = tree["measurement"]
    if measured is not None and any(len(values) > _MOST_IN_SERIES for values in measured["series"].values()):
        measured["series"] = {}
    return dict(_jsonable({_KEYS.get(name, name): value for name, value in tree.items() if name != "number"}))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def trial_from_json(number: int, plain: Mapping[str, Any]) -> Trial:
    """The trial that `trial_as_json` wrote.

    Raises:
        ResultError: it is none.
    """
    tree = _valued(plain)
    if isinstance(tree, dict):
        fields = {key: name for name, key in _KEYS.items()}
        tree = {fields.get(key, key): value for key, value in tree.items()} | {"number": number}
    place = str(message("tuning.stored_trial", number=number))
    trial = convert(place, tree, Trial, message("tuning.written_by_tune"))
    if trial.status not in (COMPLETE, STOPPED, FAILED):
        raise ResultError(message("tuning.stored_status_unknown", number=number, status=trial.status))
    return trial


def _valued(value: Any) -> Any:
    if isinstance(value, Mapping):
        endless = value.keys() == {"float"} and value["float"] in _ENDLESS
        return float(value["float"]) if endless else {name: _valued(item) for name, item in value.items()}
    return [_valued(item) for item in value] if isinstance(value, list) else value
