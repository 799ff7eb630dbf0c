"""Results as runs of MLflow, in an experiment of the scenario's name; extra `mlflow`.

The address is a tracking URI; without one MLFLOW_TRACKING_URI holds. Metrics of a stage have its place as their step,
trials of a study their number, live figures the second of the run.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param, RunTag

from harness.clock import utc_now
from harness.errors import InputError
from harness.export.points import Point, Snapshot
from harness.messages import message
from harness.safety.redaction import register_password

VARIABLE = "MLFLOW_TRACKING_URI"
_FILES_ALLOWED = "MLFLOW_ALLOW_FILE_STORE"  # without it the library refuses a folder, which the address then asks for
_MOST_METRICS = 500  # of one message; the server takes a thousand
LOAD = "npu_harness.load"
_LONGEST = 250  # letters of a key
_SHOWN = (
    "statistic",
    "gen_ai.token.type",
    "npu_harness.outcome",
    "npu_harness.objective",
    "npu_harness.case",
    "npu_harness.mode",
)
"""Attributes that tell series of one name apart; the stage is the step, the rest are tags of the run."""


class MlflowExporter:
    """One run of MLflow for each run of the harness, begun with its first figures."""

    def __init__(self, address: str | None) -> None:
        uri = address or os.environ.get(VARIABLE, "")
        if not uri:
            raise InputError(message("export.no_address", target="mlflow", variable=VARIABLE))
        register_password(uri)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is told in one line of ours
        os.environ.setdefault(_FILES_ALLOWED, "true")
        with _quietly():
            self._client = MlflowClient(tracking_uri=uri)
        self._artifacts = artifacts_beside(uri)
        self._run_id = ""

    def live(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        with _quietly():
            self._log(self._run(snapshot), snapshot)

    def result(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        with _quietly():
            run = self._run(snapshot)
            self._log(run, snapshot)
            for file in snapshot.files:
                self._client.log_artifact(run, str(file))
            self._client.set_terminated(run)
        self._run_id = ""

    def close(self) -> None:
        """See Exporter; a run without a result is marked as ended."""
        if self._run_id:
            with _quietly():
                self._client.set_terminated(self._run_id, status="KILLED")

    def _run(self, snapshot: Snapshot) -> str:
        if not self._run_id:
            experiment = self._client.get_experiment_by_name(snapshot.name)
            number = None if experiment is None else experiment.experiment_id
            number = number or self._client.create_experiment(snapshot.name, self._artifacts)
            run = self._client.create_run(number, run_name=snapshot.name)
            self._run_id = str(run.info.run_id)
        return self._run_id

    def _log(self, run: str, snapshot: Snapshot) -> None:
        now_ms = round(utc_now().timestamp() * 1000)
        tags = [RunTag(name, str(value)) for name, value in snapshot.attributes.items()]
        loads = {point.step: str(point.attributes[LOAD]) for point in snapshot.points if LOAD in point.attributes}
        params = [Param(f"load.{step}", load[:_LONGEST]) for step, load in loads.items()]
        self._client.log_batch(run, tags=tags, params=params)
        rows = [MlflowMetric(metric_key(point), point.value, now_ms, point.step) for point in snapshot.points]
        for begin in range(0, len(rows), _MOST_METRICS):
            self._client.log_batch(run, metrics=rows[begin : begin + _MOST_METRICS])


def artifacts_beside(uri: str) -> str | None:
    """The folder for the files of a new experiment beside a database of SQLite; None where the server says.

    The library's own place for them is `mlruns` in the working directory.
    """
    database = uri.removeprefix("sqlite:///").partition("?")[0]
    if not uri.startswith("sqlite:///") or not database or database == ":memory:":
        return None
    return (Path(database).absolute().parent / "mlruns").as_uri()


def metric_key(point: Point) -> str:
    """`gen_ai.client.operation.duration.p99`: the name, and what tells its series apart."""
    parts = [str(point.attributes[name]) for name in _SHOWN if name in point.attributes]
    key = ".".join([point.metric.name, *parts])
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in key)[:_LONGEST]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's own warnings, such as that its store of files will go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
