"""Results of format 1, made by the version before rooms and messages, are still read by `report` and `compare`."""

import json
import shutil
from pathlib import Path

import pytest

from harness.cli.app import main

DATA = Path(__file__).parents[1] / "data" / "format1"


@pytest.fixture
def kept(tmp_path):
    """A copy of the three results: they stay as they were written."""
    return Path(shutil.copytree(DATA, tmp_path / "format1"))


def run_command(*words):
    """The exit code of `harness WORDS`."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def summary_of(folder):
    """The content of a folder's summary.json."""
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def numbers_of(value, place=()):
    """Every number of a JSON value, with its place."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in numbers_of(part, (*place, name)).items()}
    if isinstance(value, list):
        return {k: v for at, part in enumerate(value) for k, v in numbers_of(part, (*place, at)).items()}
    return {place: value} if isinstance(value, int | float) else {}


@pytest.mark.parametrize("kind", ["serve", "kernels", "study"])
def test_report_draws_a_result_of_format_1(kept, kind, capsys):
    """Its page is drawn, with the words that stood in the result."""
    assert run_command("report", kept / kind) == 0
    assert (kept / kind / "report.html").stat().st_size > 10_000


def test_numbers_of_format_1_are_those_of_today(kept):
    """Where the tables are there the summary is made again: every number of before is the same, but for rounding.

    The bounds of the client's error have become narrower since: of gaps half as many ranks are counted.
    """
    before = numbers_of(summary_of(kept / "serve")["stages"])

    run_command("report", kept / "serve")

    after = numbers_of(summary_of(kept / "serve")["stages"])
    bounds = {place for place in before if place[1:3] == ("client_error", "bounds")}
    same = {place: value for place, value in before.items() if place not in bounds}
    assert {place: after.get(place) for place in same} == pytest.approx(same, rel=1e-9)
    assert bounds
    assert all(after[place] <= before[place] * (1 + 1e-9) for place in bounds)


def test_a_summary_without_tables_is_drawn(kept):
    """Where only summary.json was kept, what it says is shown."""
    for name in ("requests.parquet", "events.parquet", "samples.parquet"):
        (kept / "serve" / name).unlink()
    told = summary_of(kept / "serve")["answer"]

    assert run_command("report", kept / "serve") == 0
    assert told in (kept / "serve" / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["serve", "kernels"])
def test_compare_reads_format_1(kept, kind, tmp_path, capsys):
    """A result beside a copy of itself differs in nothing; its warnings are carried over."""
    other = shutil.copytree(kept / kind, tmp_path / "other")

    code = run_command("compare", kept / kind, other, "--out", tmp_path / "out")

    assert code in (0, 4)
    assert "In BASE and NEW" in capsys.readouterr().out
