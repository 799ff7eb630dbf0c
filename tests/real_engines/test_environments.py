"""The interpreters of the engine tests are built by their recipes, once, with faults in one line."""

import fcntl
import sys
import zipfile

import pytest

from tests.real_engines import environments
from tests.real_engines.environments import (
    BuildError,
    Recipe,
    Step,
    alone,
    interpreter,
    is_built,
    provide,
    requirements_of,
    run,
)

RECIPE = Recipe("small", "HARNESS_SMALL_PYTHON", (Step("nothing", ("nothing==1",)),))


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """An empty folder for interpreters."""
    monkeypatch.setattr(environments, "ENGINES", tmp_path)
    monkeypatch.delenv(RECIPE.variable, raising=False)
    return tmp_path


def as_built(folder, key):
    """What a build leaves behind."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "recipe").write_text(key, encoding="utf-8")


def test_requirements_are_those_of_the_wheel_less_what_is_replaced(tmp_path):
    """Extras and the builds of torch are left out, markers stay."""
    wheel = tmp_path / "engine-1-py3-none-any.whl"
    needs = ["numpy>=1", "torch==2.0", "torchvision ; platform_machine == 'x86_64'", "intel_openmp>=2024"]
    needs += ["ray; extra == 'ray'", "uvloop<1; sys_platform != 'win32'", "torchlike"]
    with zipfile.ZipFile(wheel, "w") as parts:
        parts.writestr("engine-1.dist-info/METADATA", "\n".join(f"Requires-Dist: {need}" for need in needs))

    assert requirements_of(wheel) == ["numpy>=1", "uvloop<1; sys_platform != 'win32'", "torchlike"]


def test_an_interpreter_of_the_same_recipe_is_kept(engines):
    """And one of another recipe, or half built, is not."""
    as_built(engines / "small", RECIPE.key)
    other = Recipe("small", RECIPE.variable, (Step("nothing", ("nothing==2",)),))

    assert is_built(RECIPE)
    assert not is_built(other)
    assert "is there already" in provide(RECIPE)
    assert interpreter(RECIPE) == str(engines / "small" / "bin" / "python")


def test_two_builders_do_not_meet(engines):
    """While one looks and builds, the other is kept out, so that neither removes the other's folder."""
    with alone(RECIPE), (engines / "small.lock").open("w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_variable_wins(engines, monkeypatch):
    """The interpreter that it names is used, and nothing is built."""
    monkeypatch.setenv(RECIPE.variable, "elsewhere/bin/python")

    assert provide(RECIPE).endswith("elsewhere/bin/python")
    assert interpreter(RECIPE) == "elsewhere/bin/python"
    assert list(engines.iterdir()) == []


def test_there_may_be_none(engines):
    """Then its tests are skipped."""
    assert interpreter(RECIPE) == ""


def test_a_failed_command_is_told_in_one_line(tmp_path):
    """By the line of its output that says why, with its status and the log."""
    said = "print('one'); print('ERROR: no such package'); print('two'); raise SystemExit(3)"
    with pytest.raises(BuildError) as caught:
        run([sys.executable, "-c", said], tmp_path / "log", {})

    assert str(caught.value) == f"ERROR: no such package (exit status 3, see {tmp_path / 'log'})"
