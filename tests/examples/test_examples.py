"""The scripts of examples/, run on the simulator as they stand there."""

import ast
import asyncio
import inspect
import runpy
import types
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example():
    """What a script defines, by the script's name."""
    return lambda name: types.SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


def test_a_run_gives_numbers(example, tmp_path, capsys):
    """The stage, the warnings and the slowest requests are printed."""
    result = example("measure").main(out=tmp_path / "out")
    printed = capsys.readouterr().out

    assert result.summary.stages[0].requests["completed"] > 0
    assert "poisson 8 req/s: " in printed
    assert "note: The engine was simulated" in printed
    assert "ttft_ms" in printed


def test_two_versions_are_compared_in_ci(example, tmp_path, capsys):
    """The exit code is that of the gate, and a page stands beside the results."""
    code = example("compare_in_ci").main(str(tmp_path))

    assert code in (0, 1, 4)
    assert (tmp_path / "page" / "compare.html").exists()
    assert capsys.readouterr().out.strip().endswith("compare.html")


def test_flags_are_tuned(example, tmp_path, capsys):
    """The winner's command and a row a trial are printed."""
    result = example("tune").main(str(tmp_path / "out"))

    assert result.exit_code == 0
    assert len(result.trials()) == 4
    assert "vllm serve" in capsys.readouterr().out


def test_the_notebooks_cells_run_within_a_running_loop(capsys):
    """As Jupyter does: one module whose cells may await, on a loop that runs."""
    source = (EXAMPLES / "notebook.py").read_text(encoding="utf-8")
    code = compile(source, str(EXAMPLES / "notebook.py"), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {"__file__": str(EXAMPLES / "notebook.py")}

    async def cells():
        outcome = eval(code, names)
        if inspect.isawaitable(outcome):
            await outcome

    asyncio.run(cells())

    assert names["result"].summary.stages[0].label == "poisson 16 req/s"
    assert "<table>" in names["result"]._repr_html_()
    assert "report.html" in capsys.readouterr().out
