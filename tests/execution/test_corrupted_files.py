"""A result folder with a broken file ends in one line, and never in a traceback.

Every file of a run, of a run that was killed, of kernels and of a study is broken in every way that
`tests.corruptions` knows. `make test` takes some of them, without figures; `make fuzz` takes all, with them.
"""

import os
import shutil

import numpy as np
import pytest

from harness.cli import app
from harness.results import store
from harness.tuning import coordination
from reports import compare_page, history_page, kernels, page, tuning
from reports.page import Gallery
from reports.tuning_figures import StudyGallery
from tests.corruptions import cases_of, study_cases
from tests.execution.test_reconcile import write_raw
from tests.kernel_results import make_kernels
from tests.made_runs import run_json
from tests.result_folder import Run, make_result
from tests.tuning.studies import written

ALL = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
SOME = 8  # cases a file, spread over all its ways
LOAD = {"kind": "constant", "rate": 1e6, "requests": 3}
ENDS = (0, 1, 2, 4)


@pytest.fixture(scope="module", autouse=True)
def bare():
    """Pages without figures, which cost the most and are drawn from what the tables are made of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordination, "_RESTS_S", ())
        if not ALL:
            patch.setattr(page, "draw_all", lambda *_: Gallery())
            patch.setattr(kernels, "draw_all", lambda *_: [])
            patch.setattr(tuning, "draw_study", lambda *_: StudyGallery())
            patch.setattr(compare_page, "_figure", lambda *_: None)
            patch.setattr(history_page, "_figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of a run of a few requests, with samples."""
    run = Run(loads=(2.0,), duration_s=4, warmup=1, output=(2, 4), failing=0.2)
    return make_result(tmp_path_factory.mktemp("made") / "made", run)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, made):
    """A result whose records were not kept with it."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("kept") / "kept")
    for name in (store.REQUESTS, store.EVENTS, store.SAMPLES, store.TIMELINE):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder of a run that was killed: raw files, and no result."""
    folder = tmp_path_factory.mktemp("killed")
    store.write_json(folder, store.RUN, run_json([LOAD]))
    write_raw(folder, ("completed", "lost", "failed"))
    store.write_json(folder / store.RAW, "job.json", {"reach": {"headers": {"x": {"from_env": "NO"}}}})
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder of kernels, each of two repeats."""
    folder = tmp_path_factory.mktemp("kernels")
    make_kernels(folder / "a", lambda case, _: 1e-3 * (1 + case), repeats=2, lost=[(3, 0, "failed")])
    return folder / "a"


@pytest.fixture(scope="module")
def benched(tmp_path_factory, measured):
    """A folder of a kernel bench that was killed: its lines, and no result."""
    folder = tmp_path_factory.mktemp("benched") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.kernel_results.finish", lambda _: None)
        make_kernels(folder, lambda case, _: 1e-3 * (1 + case), lost=[(3, 0, "failed")])
    return folder


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder of a study file, and of the study below `out`, without its page."""
    folder = tmp_path_factory.mktemp("studied")
    small = {"space": {"max_num_seqs": [4, 8, 16]}, "budget": {"trials": 2}, "confirm": {"best": 0}}
    path = written(folder, **small)
    assert ended("tune", path, "--out", folder / "out", "--quiet") == 0
    return folder


def ended(*words):
    """The exit code of a command; anything else that it raises is a bug."""
    with pytest.raises(SystemExit) as found:
        app.main([*map(str, words)])
    return found.value.code


def some(cases):
    """All cases, or some that are spread over them."""
    every = list(cases)
    return every if ALL else [every[place] for place in np.unique(np.linspace(0, len(every) - 1, SOME).astype(int))]


def hold(case, capsys, *words):
    """A command ends as it says it can: with 2 in one line on stderr that names the file, or its folder."""
    capsys.readouterr()
    try:
        code = ended(*words)
    except Exception as fault:
        raise AssertionError(f"{case.name}: {case.what}: harness {words[0]}: {fault!r}") from fault
    said = capsys.readouterr().err.splitlines()

    assert code in ENDS, f"{case.name}: {case.what}: exit {code}"
    if code == 2:
        assert len(said) == 1, f"{case.name}: {case.what}: {said}"
        assert said[0].startswith("harness: "), said


def broken(whole, place, case):
    """A copy of a folder with one broken file."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    case.apply(place)
    return place


RESULT = (store.RUN, store.SUMMARY, store.TIMELINE, store.REQUESTS, store.EVENTS, store.SAMPLES)


@pytest.mark.parametrize("name", RESULT)
def test_a_run_with_a_broken_file(made, tmp_path, capsys, name):
    """Report, compare and the index of several end in a line, or make do without it."""
    for case in some(cases_of(made, name)):
        folder = broken(made, tmp_path / "broken", case)
        hold(case, capsys, "compare", made, folder, "--anyway", "--out", tmp_path / "out")
        hold(case, capsys, "report", folder)


@pytest.mark.parametrize("name", [store.RUN, store.SUMMARY])
def test_a_result_without_records_with_a_broken_file(kept, tmp_path, capsys, name):
    """What its page says is read from summary.json alone; so is an index of several."""
    for case in some(cases_of(kept, name)):
        folder = broken(kept, tmp_path / "broken", case)
        hold(case, capsys, "compare", folder, kept, "--anyway", "--out", tmp_path / "out")
        hold(case, capsys, "report", folder, shutil.copytree(kept, tmp_path / "kept", dirs_exist_ok=True))


@pytest.mark.parametrize("name", ["plan.npz", store.BEGUN, "ledger-0.bin", "spool-0.bin", "job.json"])
def test_a_killed_run_with_a_broken_file(killed, tmp_path, capsys, name):
    """Its account ends in a line, or is made of what there is."""
    for case in some(cases_of(killed, f"raw/{name}")):
        hold(case, capsys, "report", broken(killed, tmp_path / "broken", case))


@pytest.mark.parametrize("name", [store.RUN, store.SUMMARY, store.KERNELS])
def test_kernels_with_a_broken_file(measured, tmp_path, capsys, name):
    """Report and compare."""
    for case in some(cases_of(measured, name)):
        folder = broken(measured, tmp_path / "broken", case)
        hold(case, capsys, "compare", measured, folder, "--anyway", "--out", tmp_path / "out")
        hold(case, capsys, "report", folder)


@pytest.mark.parametrize("name", [store.RUN, "raw/kernels.jsonl"])
def test_killed_kernels_with_a_broken_file(benched, tmp_path, capsys, name):
    """The lines of a bench become a result, or one line."""
    for case in some(cases_of(benched, name)):
        hold(case, capsys, "report", broken(benched, tmp_path / "broken", case))


def test_a_study_with_a_broken_result(studied, tmp_path, capsys):
    """Its page."""
    for case in some(cases_of(studied / "out", "study.json")):
        hold(case, capsys, "report", broken(studied / "out", tmp_path / "broken", case))


def test_a_study_with_a_broken_record(studied, tmp_path, capsys):
    """Going on with it ends in a line, or goes on."""
    for case in some([*cases_of(studied / "out", "study.db"), *study_cases(studied / "out")]):
        folder = broken(studied / "out", tmp_path / "broken", case)
        hold(case, capsys, "tune", studied / "study.yaml", "--out", folder, "--resume", "--quiet")
