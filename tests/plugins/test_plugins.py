"""Packages that bring kinds: the example package is installed and used; a broken one is one line with its name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.engines import STARTS
from harness.plugins import Plugin
from harness.workload import BUILDERS
from harness.workload.arrivals import PROCESSES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin"
SCENARIO = """\
name: bursty
question: Do bursts arrive?
engine: {kind: simulator, model: Qwen2.5-0.5B}
endpoint: completions
workload: {kind: countdown, input_tokens: 32, output_tokens: 4}
load:
  - bursts: {rate: 40, size: 4, duration: 2s}
"""
BROKEN = {
    "raises": ("raise RuntimeError('no such device')", "cannot be loaded: RuntimeError: no such device"),
    "absent": ("", "cannot be loaded: AttributeError"),
    "other": ("KIND = 7", "is a int; expected a harness.Plugin"),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip installed the example package, without network."""
    place = tmp_path_factory.mktemp("plugin")
    source = place / "source"
    shutil.copytree(EXAMPLE, source)
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(place / "target")]
    subprocess.run([sys.executable, "-m", "pip", "install", *words, str(source)], check=True, capture_output=True)
    return place / "target"


def harness(folder, *words, path):
    """A `harness` that sees the packages of a folder, run in another one."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "LANG": "C"}
    command = [sys.executable, "-m", "harness", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def broken(folder, code):
    """A package with an arrival process `odd` whose module holds this code."""
    (folder / "odd_package.py").write_text(code)
    info = folder / "odd_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[npu_harness.arrivals]\nodd = odd_package:KIND\n")
    return folder


def test_built_in_kinds_stand_in_the_same_tables():
    """A table of plug-ins each: arrival processes, workloads, engines."""
    for table in (PROCESSES, BUILDERS, STARTS):
        assert table
        assert all(isinstance(kind, Plugin) and hasattr(kind.options, "__name__") for kind in table.values())


def test_the_example_package_is_installed_and_used(installed, tmp_path):
    """Its arrivals and its workload run to a result whose requests arrive in bursts, in a worker's process too."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    run = harness(tmp_path, "run", "s.yaml", "--out", "out", path=installed)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    (stage,) = summary["stages"]

    assert run.returncode == 0, run.stderr
    assert stage["load"]["kind"] == "bursts"
    assert stage["load"]["options"] == {"rate": 40.0, "duration": 2.0, "size": 4}
    assert stage["requests"]["completed"] == stage["requests"]["scheduled"] > 0
    assert stage["requests"]["scheduled"] % 4 == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert "bursts" in run.stderr


def test_validation_knows_the_keys_of_a_package(installed, tmp_path):
    """The nearest right one where a key is mistyped, and the bounds of a value."""
    (tmp_path / "mistyped.yaml").write_text(SCENARIO.replace("size: 4", "sise: 4"))
    (tmp_path / "small.yaml").write_text(SCENARIO.replace("size: 4", "size: 0"))
    refused = harness(tmp_path, "validate", "mistyped.yaml", "small.yaml", path=installed)

    assert "mistyped.yaml:7: load[0].bursts.sise: unknown key; did you mean 'size'?" in refused.stderr
    assert "small.yaml:7: load[0].bursts.size: expected a number of at least 1, got 0" in refused.stderr


def test_without_the_package_its_kinds_are_unknown(installed, tmp_path):
    """And with it a mistyped kind is led to the right one."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    without = harness(tmp_path, "validate", "s.yaml", path=tmp_path)
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("bursts:", "burst:").replace("countdown", "countdwn"))
    mistyped = harness(tmp_path, "validate", "s.yaml", path=installed)

    assert "load[0].bursts: unknown key" in without.stderr
    assert "load[0].burst: unknown key; did you mean 'bursts'?" in mistyped.stderr
    assert "workload.kind: unknown kind; did you mean 'countdown'?" in mistyped.stderr


def test_the_json_schema_knows_installed_packages(installed, tmp_path):
    """An editor completes their keys; without them the schema is the shipped one."""
    with_package = harness(tmp_path, "schema", path=installed).stdout
    without = harness(tmp_path, "schema", path=tmp_path).stdout

    assert "Bursts of requests: bursts arrive at random" in with_package
    assert "Prompts that differ by a number alone" in with_package
    assert without == (ROOT / "scenarios" / "schema.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_a_broken_package_is_one_line_that_names_it(fault, tmp_path):
    """Whatever its module does, and only where its kind is used."""
    code, expected = BROKEN[fault]
    path = broken(tmp_path / "site", code) if (tmp_path / "site").mkdir() is None else None
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("bursts", "odd").replace("countdown", "synthetic"))
    (tmp_path / "t.yaml").write_text(
        SCENARIO.replace("bursts: {rate: 40, size: 4", "poisson: {rate: 40").replace("countdown", "synthetic")
    )
    refused = harness(tmp_path, "validate", "t.yaml", "s.yaml", path=path)

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1  # of s.yaml: t.yaml has no fault
    assert "plug-in 'odd' of package odd-package (npu_harness.arrivals)" in refused.stderr
    assert expected in refused.stderr
