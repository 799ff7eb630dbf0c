"""Results become runs in MLflow's own store of files."""

import warnings
from dataclasses import replace

import pytest

from harness.errors import InputError
from harness.export.delivery import exporter_of
from tests.contracts.exporter import check_exporter, live


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The URI of a store of files, and a client that reads it; the exporter itself must allow such a store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient  # noqa: PLC0415 - it warns of itself

        uri = (tmp_path / "store").as_uri()
        client = MlflowClient(tracking_uri=uri)
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
        yield uri, client


def only_run(client):
    """The only run of the experiment."""
    experiment = client.get_experiment_by_name("made")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_store_gets_every_number(store, tmp_path):
    """In one run of an experiment of the scenario's name, with its files; it has ended then."""
    uri, client = store
    summary = tmp_path / "summary.json"
    summary.write_text("{}")

    def received():
        run = only_run(client)
        return list(run.data.metrics.values()), list(run.data.tags.values())

    check_exporter(f"mlflow={uri}", received, [summary])
    run = only_run(client)

    assert run.data.metrics["gen_ai.client.token.usage.output"] == 340.0
    assert run.data.metrics["npu_harness.live.in_flight"] == 7.0
    assert client.get_metric_history(run.info.run_id, "npu_harness.live.in_flight")[0].step == 5
    assert run.data.params == {"load.0": "poisson 2 req/s"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["summary.json"]
    assert run.info.status == "FINISHED"


def test_a_run_without_a_result_does_not_stay_open(store):
    """One that was interrupted before its first answer."""
    uri, client = store
    _, exporter = exporter_of(f"mlflow={uri}")
    exporter.live(live())
    exporter.close()

    assert only_run(client).info.status == "KILLED"


def test_files_lie_beside_a_database(tmp_path, monkeypatch):
    """Of SQLite: the working directory, where the library would put them, stays as it was."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "summary.json").write_text("{}")
    _, exporter = exporter_of(f"mlflow=sqlite:///{there / 'runs.db'}")
    exporter.result(replace(live(), files=(tmp_path / "summary.json",)))

    assert list(here.iterdir()) == []
    assert [path.name for path in (there / "mlruns").rglob("summary.json")] == ["summary.json"]


def test_an_address_is_needed(monkeypatch):
    """Behind the name, or in MLflow's own variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        exporter_of("mlflow")


@pytest.mark.parametrize("address", ["ftp://host", "/proc/no/such/folder"])
def test_an_address_of_no_store_is_one_line(address):
    """Before the run: the library's words, and no traceback."""
    with pytest.raises(InputError, match="--export mlflow: this address cannot be used"):
        exporter_of(f"mlflow={address}")
