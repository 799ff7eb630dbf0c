"""The CI files that ship run, publish and gate."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.results import store, table_files
from harness.scenario.loader import check_file

CI = Path(__file__).resolve().parents[2] / "docs" / "ci"
SCENARIO = """\
name: in-ci
question: Is it still as fast?
engine: {model: Qwen/Qwen2.5-0.5B-Instruct}
workload: {kind: synthetic, input_tokens: 16, output_tokens: 2}
load:
  - closed: {concurrency: 8, requests: 120}
"""


def github():
    """The scripts of the workflow's steps by name, without the installation."""
    steps = yaml.safe_load((CI / "github.yml").read_text())["jobs"]["benchmark"]["steps"]
    return {step["name"]: step["run"] for step in steps if "run" in step and step["name"] != "Install"}


def gitlab():
    """The scripts of the job by their order."""
    return dict(enumerate(yaml.safe_load((CI / "gitlab.yml").read_text())["benchmark"]["script"]))


class Job:
    """A CI job in a folder of its own."""

    def __init__(self, folder, **variables):
        self.folder = folder
        (folder / "scenario.yaml").write_text(SCENARIO)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = {
            **os.environ, "PATH": path, "SCENARIO": "scenario.yaml", "GATE": str(CI / "gate.yaml"), "REPEATS": "2",
            "GITHUB_STEP_SUMMARY": str(folder / "summary"), **variables,
        }  # fmt: skip

    def does(self, script):
        """The exit code of a script, as a runner calls it, and what it printed."""
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(
            words, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def had_faster_base(self, factor):
        """Make the base's answers that many times as fast as they were."""
        base = self.folder / "base"
        requests = table_files.read_requests(base)
        times = {name: getattr(requests, name) for name in ("first_ns", "last_ns", "done_ns")}
        sooner = {name: requests.sent_ns + (at_ns - requests.sent_ns) // factor for name, at_ns in times.items()}
        table_files.write_requests(base, replace(requests, **sooner))
        summary = store.read_json(base, store.SUMMARY)
        for stage in summary["stages"]:
            for metric in ("ttft", "e2e", "tpot"):
                stage[metric] |= {name: stage[metric][name] / factor for name in ("mean", "p50", "p90", "p95", "p99")}
        store.write_json(base, store.SUMMARY, summary)


def test_the_gate_that_ships_is_one():
    """Its measures and shares are known."""
    assert check_file(CI / "gate.yaml") == []


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder in which the measuring step has run."""
    folder = tmp_path_factory.mktemp("job")
    code, said = Job(folder).does(github()["Measure"])
    assert code == 0, said
    return folder


def job_after(measured, folder, **variables):
    """A job that has measured."""
    shutil.copytree(measured / "new", folder / "new")
    return Job(folder, **variables)


def test_both_measure_alike():
    """One command, so that what is tested of one holds for the other."""
    assert gitlab()[0] == github()["Measure"]


def test_the_workflow_gates_and_publishes(measured, tmp_path):
    """Without results of main it passes; with the same ones too; with faster ones it fails, and the page says why."""
    job, steps = job_after(measured, tmp_path), github()
    first = job.does(steps["Gate against the last main"])

    assert first == (0, "No results of main yet: nothing to compare with.\n")
    assert job.does(steps["Keep as the last results of main"])[0] == 0
    assert job.does(steps["Gate against the last main"])[0] == 0
    job.had_faster_base(3)
    code, said = job.does(steps["Gate against the last main"])
    assert code == 1, said
    assert "harness: regression: " in said
    assert job.does(steps["Job page"])[0] == 0
    page = (tmp_path / "summary").read_text()
    assert "Gate failed" in page
    assert page.count("**SIMULATED.**") == 2
    assert (tmp_path / "new" / "report.html").exists()
    assert (tmp_path / "compared" / "compare.xml").exists()


def test_the_workflow_warns_where_main_sent_other_requests(tmp_path):
    """A changed scenario cannot be compared, and does not block the change that made it."""
    job, steps = Job(tmp_path), github()
    shutil.copytree(CI, tmp_path / "base")
    (tmp_path / "base" / "run.json").write_text("{}")
    (tmp_path / "new").mkdir()
    code, said = job.does(steps["Gate against the last main"])

    assert code == 0
    assert "::warning::" in said


def test_the_gitlab_job_gates_and_keeps_main(measured, tmp_path):
    """On main its results become the base; what broke the gate does not."""
    job, steps = job_after(measured, tmp_path, CI_COMMIT_BRANCH="main", CI_DEFAULT_BRANCH="main"), gitlab()
    first = job.does(steps[1])

    assert first[0] == 0
    assert (tmp_path / "base" / "run.json").exists()
    job.had_faster_base(3)
    assert job.does(steps[1])[0] == 1
    assert store.read_json(tmp_path / "base", store.SUMMARY) != store.read_json(tmp_path / "new", store.SUMMARY)


@pytest.mark.parametrize("name", ["new/junit.xml", "compared/compare.xml"])
def test_gitlab_shows_the_test_cases(name):
    """Both suites stand in the job's test view."""
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["benchmark"]

    assert name in job["artifacts"]["reports"]["junit"]
