"""The index of several results."""

from dataclasses import replace

import pytest

from harness.cli.app import main
from harness.comparison.history import histories
from harness.results import store
from tests.result_folder import Run, make_result

USUAL = Run(loads=(2.0, 4.0), duration_s=20, warmup=2, samples=False, output=(4, 24))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Four runs of one scenario, the last one slow, and one of another model."""
    place = tmp_path_factory.mktemp("history")
    for day, (name, run) in enumerate(
        {
            "first": USUAL,
            "one": USUAL,
            "two": USUAL,
            "slow": replace(USUAL, slots=1),
            "other <b>": replace(USUAL, model="<script>x</script>"),
        }.items(),
        1,
    ):
        folder = make_result(place / name, run)
        store.write_json(folder, store.RUN, store.read_run(folder) | {"started_utc": f"2026-11-0{day}T10:00:00"})
    return place


def told(capsys, *words):
    """Exit code and stdout of a command."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return end.value.code, capsys.readouterr().out


def test_a_change_is_marked_at_the_run_that_brought_it(results):
    """Runs that are alike stand together by their time; the slow one alone is marked, as worse."""
    found = histories([results / name for name in ("slow", "other <b>", "one", "first", "two")])

    assert [[entry.folder.name for entry in one.entries] for one in found] == [
        ["first", "one", "two", "slow"],
        ["other <b>"],
    ]
    assert [bool(entry.changed) for entry in found[0].entries] == [False, False, False, True]
    points = found[0].points("ttft_p50")
    assert {point["run"] for point in points if point["verdict"]} == {4}
    assert {point["stage"] for point in points} == {0, 1}


def test_the_index_links_every_run_and_escapes_its_names(results, capsys, monkeypatch):
    """`harness report` of several draws index.html where they lie together; pages beside results are no results."""
    monkeypatch.chdir(results)
    (results / "index.html").write_text("old")
    (results / "compared").mkdir()
    (results / "compared" / "compare.json").write_text("{}")
    code, out = told(capsys, "report", *sorted(results.iterdir()))
    page = (results / "index.html").read_text()

    assert code == 0
    assert out.splitlines()[-1].endswith("index.html")
    assert len(out.splitlines()) == 6
    for link in ("one/report.html", "two/report.html", "slow/report.html", "other%20%3Cb%3E/report.html"):
        assert f'href="{link}"' in page
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "changes at 1 of 4 runs" in page
    assert 'role="img"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_one_result_has_no_index(results, capsys, monkeypatch):
    """It has its page alone."""
    monkeypatch.chdir(results)

    assert len(told(capsys, "report", "one")[1].splitlines()) == 1
