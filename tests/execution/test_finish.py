"""Folders of which only a part is left."""

import pytest

from harness.api.result import draw
from harness.errors import ResultError
from harness.execution.reconcile import finish
from harness.results import store
from tests.result_folder import Run, make_result


@pytest.fixture
def folder(tmp_path):
    """A short finished run."""
    return make_result(tmp_path / "run", Run(loads=(2.0,), duration_s=10))


@pytest.mark.parametrize("lost", [(store.REQUESTS,), (store.EVENTS,), (store.REQUESTS, store.EVENTS, store.SAMPLES)])
def test_a_result_without_its_records_is_reported_from_its_summary(folder, lost):
    """Tables are large, and are not always kept with a result; its summary stays as it was."""
    before = store.read_json(folder, store.SUMMARY)
    for name in lost:
        (folder / name).unlink()

    assert finish(folder) == before
    assert draw(folder).stat().st_size > 10_000


def test_a_folder_without_records_and_summary_has_nothing_to_report(folder):
    """That is said in a line."""
    for name in (store.REQUESTS, store.SUMMARY):
        (folder / name).unlink()

    with pytest.raises(ResultError, match="ended before its first request; there is nothing to report"):
        finish(folder)
