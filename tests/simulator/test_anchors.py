"""Predicted figures beside published ones."""

import statistics

import pytest

from tests.twin_anchors import ANCHORS, predicted


@pytest.fixture(scope="module")
def errors():
    """Relative error of every anchor; `pytest -s` shows the table of predicted beside published."""
    found = {}
    lines = ["", f"{'anchor':46} {'':12} {'published':>9} {'predicted':>9}  error"]
    for anchor in ANCHORS:
        value = predicted(anchor)
        found[anchor.name] = error = value / anchor.published - 1
        row = f"{anchor.name:46} {anchor.kind:12} {anchor.published:9.2f} {value:9.2f} {100 * error:+5.0f} %"
        lines.append(f"{row}  {anchor.unmet}".rstrip())
    lines.append(f"median error {100 * _median(found):.1f} %")
    print("\n".join(lines))  # noqa: T201 - the table is what this file is for
    return found


def _median(errors):
    return statistics.median(abs(error) for error in errors.values())


def test_predictions_stand_beside_published_figures(errors):
    """The median error over all anchors is below 25 %."""
    assert len(errors) == len(ANCHORS) > 25
    assert _median(errors) < 0.25


def test_an_anchor_that_is_missed_says_why(errors):
    """One that is off by over 25 % carries its reason, and no other does."""
    missed = {name for name, error in errors.items() if abs(error) >= 0.25}

    assert missed == {anchor.name for anchor in ANCHORS if anchor.unmet}
