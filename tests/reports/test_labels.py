"""Labels of figures never lie on each other, on a mark, or outside of the paper, whatever their names and values."""

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from reports.figures.curve import Limit, Throughput, throughput_latency
from reports.figures.decision import BROKEN, KEPT, LEFT_OUT, Place, Plane, decision_plane
from reports.figures.distributions import Spread, percentile_curves
from reports.figures.labels import AFTER, BEFORE, BESIDE, Box, Labels, text_box
from reports.figures.style import Head, drawing, lines_of, panel, paper, scale_of, width_of
from reports.frames import percentile_frame

NAMES = st.text("abcdefgh 0123456789/并发吞吐", min_size=1, max_size=24)
VALUES = st.floats(0.001, 1000)
PLACES = st.lists(
    st.tuples(VALUES, VALUES, NAMES, st.sampled_from([KEPT, BROKEN, LEFT_OUT]), st.booleans(), st.booleans()),
    min_size=1, max_size=14,
)  # fmt: skip


def boxes_of(figure):
    """The boxes of all texts of a figure's panel, as wide as they are taken to be."""
    texts = [t for axes in figure.axes for t in axes.texts if isinstance(t, Text) and t.get_text()]
    found = []
    for text in texts:
        x, y = text.get_transform().transform(text.get_position())
        if hasattr(text, "xyann") and text.xycoords == "figure pixels":
            x, y = text.xy
        if text.get_va() == "center_baseline":
            y -= 4
        box = text_box(text.get_text(), x, y, text.get_ha(), bold=text.get_weight() == "bold")
        found.append((text.get_text(), box))
    return found


def collisions(figure):
    """Pairs of texts that lie on each other."""
    return [(a, b) for (a, one), (b, other) in combinations(boxes_of(figure), 2) if one.meets(other)]


@given(points=PLACES, first=st.sampled_from([AFTER, BEFORE, BESIDE]))
@settings(max_examples=30, deadline=None)
def test_labels_keep_apart_and_within(points, first):
    """Each that is written lies within the bounds, and meets no other label and no mark."""
    figure = paper((350, 250), Head("x"))
    axes = panel(figure, (40, 30, 20, 44))
    axes.set_xlim(0, 1000)
    axes.set_ylim(0, 1000)
    labels = Labels(axes, room=10)
    labels.reserve_points((x, y) for x, y, *_ in points)
    marks = list(labels.taken)
    placed = [labels.place(name, x, y, "#010101", bold=bold, first=first) for x, y, name, _, bold, _ in points]
    boxes = [box for box in placed if box is not None]

    assert all(box.within(labels.bounds) for box in boxes)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert not any(box.meets(mark) for box in boxes for mark in marks)


@given(points=PLACES, edge=st.none() | VALUES)
@settings(max_examples=30, deadline=None)
def test_nothing_collides_in_a_decision_figure(points, edge):
    """Names of options, of the axes and of the limit, and ticks."""
    places = [
        Place(x, y, name, name, "#020000", kind, on_front=front, chosen=chosen)
        for x, y, name, kind, front, chosen in points
    ]
    with drawing():
        figure = decision_plane(Plane(places, "tokens/s", "per NPU", edge, "TPOT p99 ≤ 80 ms"), Head("x"))

    assert collisions(figure) == []


@given(points=PLACES, limits=st.lists(VALUES, max_size=3, unique=True))
@settings(max_examples=30, deadline=None)
def test_nothing_collides_in_a_curve(points, limits):
    """Names of stages, lines, limits and axes, and ticks."""
    rows = [
        {"stage": stage, "rate": x, "short": name, "tail": y, "p50": y / 3, "valid": kind != LEFT_OUT, "loop": chosen}
        for stage, (x, y, name, kind, _, chosen) in enumerate(points)
    ]
    ends = {f"{name}_{end}": np.nan for name in ("p50", "tail") for end in ("low", "high")}
    frame = pd.DataFrame(rows).assign(done=np.nan, **ends, p50_open=False, tail_open=False)
    shown = Throughput(frame, "p99", "requests/s", [Limit("ttft", "p99", limit) for limit in limits], upward="TTFT")
    with drawing():
        figure = throughput_latency(shown, Head("x"))

    assert collisions(figure) == []


@given(limits=st.lists(st.tuples(st.sampled_from(["p50", "p90", "p99", "mean"]), VALUES), max_size=3))
@settings(max_examples=30, deadline=None)
def test_nothing_collides_among_percentile_curves(limits):
    """Names of lines, limits within and above the range, axes and ticks."""
    frame = percentile_frame({stage: np.linspace(0.1, 3 + stage, 40) for stage in range(3)})
    none = pd.DataFrame(columns=["stage", "share", "low", "high", "open"])
    names = {stage: f"{stage} req/s" for stage in range(3)}
    kept = [Limit("ttft", statistic, seconds) for statistic, seconds in limits]
    spread = Spread(frame, percentile_frame({}), none, names, kept, upward="TTFT")
    with drawing():
        figure = percentile_curves(spread, scale_of(frame["value"].to_numpy(), times=True), Head("x"))

    assert collisions(figure) == []


def struck(figure):
    """Pairs of a text within the panel and the line that runs through it."""
    (axes,) = figure.axes
    lines = [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    parts = [pair for line in lines if len(line) > 1 and np.isfinite(line).all() for pair in pairwise(line.tolist())]
    return [(text, part) for text, box in boxes_of(figure) for part in parts if box.is_crossed_by(*part)]


MIXED = [  # closed 2 and 16, Poisson 4, 8 and 40: tokens/s, p50 and p99 of TTFT (s), tokens/s a user
    ("closed, concurrency 2", 98.8, 0.106, 0.179, 47.8),
    ("closed, concurrency 16", 559, 0.129, 0.342, 33.1),
    ("poisson, 4 req/s", 577, 0.137, 0.451, 26.2),
    ("poisson, 8 req/s", 944, 2.86, 8.01, 16.7),
    ("poisson, 40 req/s", 899, 86.6, 171.0, 16.9),
]


def test_no_line_runs_through_a_name_of_a_curve():
    """Crowded stages of both loops keep off the curves and the limit, with their numbers where names have no room."""
    rows = [
        {"stage": stage, "rate": rate, "short": name, "p50": p50, "tail": p99, "valid": True, "loop": stage > 1}
        for stage, (name, rate, p50, p99, _) in enumerate(MIXED)
    ]
    ends = {f"{name}_{end}": np.nan for name in ("p50", "tail") for end in ("low", "high")}
    frame = pd.DataFrame(rows).assign(done=np.nan, **ends, p50_open=False, tail_open=False)
    shown = Throughput(frame, "p99", "tokens/s", [Limit("ttft", "p99", 1.0)], upward="TTFT, s")
    with drawing():
        figure = throughput_latency(shown, Head("x"))
    texts = {text for text, _ in boxes_of(figure)}

    assert struck(figure) == []
    assert {"p50", "p99", "poisson, 40 req/s", "closed, concurrency 2"} <= texts
    assert all(name in texts or f"#{stage + 1}" in texts for stage, (name, *_) in enumerate(MIXED))


@pytest.mark.parametrize("fronted", [(0, 1, 2), (0, 1, 2, 4)])
def test_no_line_runs_through_a_name_of_a_decision_figure(fronted):
    """Names keep off the front and the edge of the limit."""
    places = [
        Place(user, rate, name, name, "#020000", on_front=stage in fronted, chosen=stage == 2, short=f"#{stage + 1}")
        for stage, (name, rate, _, _, user) in enumerate(MIXED)
    ]
    with drawing():
        figure = decision_plane(Plane(places, "tokens/s", "per NPU", 25.0, "TPOT p99 ≤ 40 ms"), Head("x"))

    assert struck(figure) == []


@given(x=st.floats(0, 1000), y=st.floats(0, 1000), level=st.floats(0, 1000), start=st.floats(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_label_keeps_off_a_line_where_there_is_room(x, y, level, start):
    """One point beside one line of any slope always has a free place."""
    axes = panel(paper((350, 250), Head("x")), (40, 30, 20, 44))
    axes.set_xlim(0, 1000)
    axes.set_ylim(0, 1000)
    labels = Labels(axes)
    labels.avoid_line([(0, start), (1000, level)])
    box = labels.place("8 req/s", x, y, "#010101")

    assert box is not None
    assert not box.is_crossed_by(labels.at(0, start), labels.at(1000, level))


def test_a_line_crosses_a_box_that_it_has_a_part_in():
    """A line that only touches a side does not, nor one that ends before it."""
    box = Box(10, 10, 20, 20)

    assert box.is_crossed_by((0, 0), (30, 30))
    assert box.is_crossed_by((15, 0), (15, 12))
    assert box.is_crossed_by((12, 15), (13, 15))
    assert not box.is_crossed_by((0, 10), (30, 10))
    assert not box.is_crossed_by((0, 0), (9, 9))
    assert not box.is_crossed_by((15, 0), (15, 10))


def test_boxes_meet_where_they_have_an_area_in_common():
    """Those that only touch do not."""
    one = Box(0, 0, 10, 10)

    assert one.meets(Box(9, 9, 20, 20))
    assert not one.meets(Box(10, 0, 20, 10))
    assert Box(1, 1, 9, 9).within(one)
    assert not one.within(Box(1, 1, 9, 9))


@given(name=st.text("abcXYZ_-/. 并发", min_size=1, max_size=60), width=st.floats(20, 200))
def test_a_long_name_breaks_at_its_words(name, width):
    """Nothing of it is lost, and a line that is too wide is a single word."""
    lines = lines_of(name, width)

    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert all(width_of(line) <= width or len(lines_of(line, 0.0)) == 1 for line in lines)
