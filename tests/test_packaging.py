"""What is installed: every package that is imported and no other, and scenarios that are found in an empty folder."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.scenario.files import shipped_folder, shipped_scenarios
from tests.real_engines.environments import RECIPES, interpreter

ROOT = Path(__file__).resolve().parent.parent
OURS = ("harness", "reports", "kernels_bench")
NAMES = {"pydantic_core": "pydantic", "yaml": "pyyaml"}  # of a library whose package has another name
ELSEWHERE = {"torch", "torch_npu", "vllm", "ascend"}  # of an engine's interpreter
EXTRAS = {
    "opentelemetry": "otel",
    "mlflow": "mlflow",
}  # libraries that only `--export` imports, and the extra that brings them
VLLM = ("0.33.0", "0.32.0")
PARTS = ("harness", "reports", "kernels_bench", "scenarios", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def imported():
    """Libraries that our rooms import by statement."""
    for room in OURS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.partition(".")[0]


def declared():
    """Packages of `dependencies` in pyproject.toml."""
    block = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [")[2].partition("\n]")[0]
    return set(re.findall(r'^  "([A-Za-z0-9_-]+)', block, re.MULTILINE))


def test_what_is_imported_is_declared_and_nothing_else():
    """No library comes by the grace of another's requirements, and none is installed for nothing."""
    libraries = {NAMES.get(name, name) for name in imported() if name not in {*sys.stdlib_module_names, *OURS}}

    assert libraries - ELSEWHERE - set(EXTRAS) == declared()
    assert set(EXTRAS) <= libraries


def test_libraries_of_extras_are_imported_by_exporters_alone():
    """Whoever exports nothing needs none of them; each extra names its packages."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    for library, extra in EXTRAS.items():
        assert re.search(rf'^{extra} = \["{library}', project, re.MULTILINE)
    for path in (path for room in OURS for path in (ROOT / room).rglob("*.py") if path.parent.name != "export"):
        assert not re.search(
            rf"^\s*(from|import) ({'|'.join(EXTRAS)})\b", path.read_text(encoding="utf-8"), re.MULTILINE
        ), path


def test_no_upper_bound_and_no_pin():
    """It is installed beside vLLM, whose pins must not move."""
    block = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [")[2].partition("\n]")[0]

    assert re.findall(r"==|<|~=", block.replace(">=", "")) == []


def test_running_installs_no_tools_of_development():
    """`make run` sets up what it needs to run; the targets that check and test set up more."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.search(r"^run: \$\(READY\)$", rules, re.MULTILINE)
    assert "--editable ." in rules.partition("$(READY): pyproject.toml")[2].partition("\n\n")[0]
    assert all(re.search(rf"^{name}: \$\(DEV\)$", rules, re.MULTILINE) for name in ("test", "test-engines", "check"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is packaged: building writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder)
    return folder


@pytest.fixture(scope="module")
def built(source):
    """The folder of packages as a wheel has it."""
    library = source / "library"
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(library)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    return library


def harness(python, folder, *words, library=None):
    """The outcome of a command in a folder, by an installation or a folder of packages."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"XDG_CACHE_HOME": str(folder)}
    if library is not None:
        env["PYTHONPATH"] = str(library)
    command = [str(python), "-P" if sys.version_info >= (3, 11) else "-B", "-m", "harness", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def check_in_empty_folder(python, folder, library=None):
    """Everything by name: the list, a run, a study's own scenario, a copy."""
    folder.mkdir()
    listed = harness(python, folder, "scenarios", library=library)
    ran = harness(python, folder, "run", "smoke", "--engine", "simulator", "--out", "out", library=library)
    valid = harness(python, folder, "validate", "chat", "tune", "trace-replay", library=library)
    copied = harness(python, folder, "scenarios", "copy", "tune", library=library)

    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(shipped_scenarios()), listed.stderr
    assert ran.returncode == 0, ran.stderr
    assert f"{Path('harness', 'scenario', 'shipped', 'smoke.yaml')}\n" in ran.stderr
    assert (folder / "out" / "report.html").is_file()
    assert valid.stdout.count(": ok\n") == 3, valid.stderr
    assert copied.stdout.splitlines() == ["tune.yaml", "mixed_prompts.yaml", "schema.json"], copied.stderr


def test_a_wheel_holds_all_that_is_no_code(built):
    """Scenarios, their traces and schema, catalogues, templates."""
    files = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    shipped = {
        f"harness/scenario/shipped/{path.relative_to(shipped_folder())}"
        for path in shipped_folder().rglob("*")
        if path.is_file()
    }
    ours = {
        str(path.relative_to(ROOT))
        for room in OURS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert (ours | shipped) - files == set()


def test_an_empty_folder_is_enough(built, tmp_path):
    """Of what a wheel holds, without the repository: by name, on the simulator."""
    check_in_empty_folder(sys.executable, tmp_path / "empty", built)


@pytest.mark.engines
def test_a_wheel_made_from_the_sdist_is_installed(source, tmp_path):
    """Both are built as a registry would get them; the wheel works in a fresh environment and an empty folder."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "build"], check=True)
    subprocess.run([python, "-m", "build", "--outdir", tmp_path / "dist", source], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)

    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    check_in_empty_folder(python, tmp_path / "empty")


def dry_run(python, *words):
    """What `pip install` would install, by name: the metadata of each."""
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {item["metadata"]["name"]: item["metadata"] for item in json.loads(done.stdout)["install"]}


@pytest.mark.engines
@pytest.mark.parametrize("version", VLLM)
def test_what_vllm_requires_is_enough(source, tmp_path, version):
    """All that the harness needs can be had within the requirements that vLLM publishes: no pin of it moves."""
    vllm = dry_run(sys.executable, "--no-deps", "--ignore-installed", f"vllm=={version}")["vllm"]
    needs = [need for need in vllm["requires_dist"] if not re.search(r"\bextra\s*==", need)]
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(re.sub(r"\[[^\]]*\]", "", need, count=1) for need in needs), encoding="utf-8")
    chosen = dry_run(sys.executable, "--ignore-installed", "--constraint", constraints, source)

    assert vllm["version"] == version
    assert any("==" in need for need in needs)
    assert "npu-harness" in chosen


@pytest.mark.engines
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_beside_an_engine_nothing_that_is_there_is_replaced(source, recipe):
    """In an interpreter with vLLM, only packages are added that it lacks."""
    python = interpreter(recipe)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    ).stdout
    there = {re.sub(r"[-_.]+", "-", package["name"]).lower() for package in json.loads(listed)}
    added = {re.sub(r"[-_.]+", "-", name).lower() for name in dry_run(python, source)}

    assert "npu-harness" in added
    assert added & there <= {"npu-harness"}
