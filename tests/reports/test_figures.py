"""What figures share, and what becomes of them on a page."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.figures.curve import Capacity, Limit, Throughput, ladder, ladder_scale, throughput_latency
from reports.figures.distributions import Spread, percentile_curves
from reports.figures.overtime import Points, SeriesLine, Strip, over_time
from reports.figures.style import SMALL, Head, apart, close_scale, dots, drawing, panel, paper, scale_of
from reports.frames import percentile_frame
from reports.palette import VARIABLES, stage_colour, stage_variables, variable_of
from reports.svg import inline

HOSTILE = '<script>alert("1")</script> $x$ & --> ]]>'


def points(stages=3):
    """The rows of a curve: p50 and tail rise with the rate."""
    rows = [
        {"stage": i, "rate": float(i + 1), "short": f"{i + 1} req/s", "p50": 0.1 * (i + 1), "tail": 0.3 * (i + 1)}
        for i in range(stages)
    ]
    return pd.DataFrame(rows).assign(done=np.nan, p50_low=np.nan, p50_high=np.nan, tail_low=0.1, tail_high=1.0,
                                     p50_open=False, tail_open=False, loop=True, valid=True)  # fmt: skip


def curve_svg(name="a", shown=None, head=None):
    """A small curve as SVG."""
    with drawing():
        figure = throughput_latency(shown or Throughput(points(), "p99", "requests/s"), head or Head("TTFT"))
        return inline(figure, name, title="TTFT", description="rises")


def places():
    """Two stages of ten seconds."""
    times = {"start_s": 0.0, "end_s": 9.0, "window_start_s": 1.0, "window_end_s": 8.0}
    rows = [{"stage": i, "short": f"{i}", **{name: 10 * i + at for name, at in times.items()}} for i in range(2)]
    return pd.DataFrame(rows)


def drawn_overtime():
    """A line and points over time as SVG."""
    line = pd.DataFrame({"at_s": [0.0, 10.0, 19.0], "value": [0.0, 5.0, 1.0]})
    kinds = ["counted", "failed", "warmup", "left out"]
    cloud = pd.DataFrame(
        {"at_s": [1.0, 2.0, 3.0, 4.0], "value": [0.1, np.nan, 0.2, 9.0], "kind": kinds, "stage": 0, "place": 0}
    )
    strips = [
        Strip("in flight", [SeriesLine("a", line, filled=True), SeriesLine("b", line)]),
        Points("TTFT, s", cloud, [Limit("ttft", "p99", 5.0)]),
    ]
    with drawing():
        figure = over_time(strips, places(), pd.DataFrame({"start_s": [0.0], "end_s": [1.0]}), Head("Over time"))
        return inline(figure, "time", title="Over time", description="rises and falls")


def test_a_figure_is_well_formed_and_named_for_a_screen_reader():
    """An image with a title and a description that its label refers to."""
    root = ET.fromstring(curve_svg("one"))
    ids = {part.get("id"): part.text for part in root.iter() if part.get("id")}

    assert root.get("role") == "img"
    assert [ids[name] for name in root.get("aria-labelledby").split()] == ["TTFT", "rises"]


def test_ids_of_two_figures_never_meet():
    """Every id begins with the figure's name, and every reference finds its own."""
    both = {name: curve_svg(name) + drawn_overtime() for name in ("one", "two")}
    ids = {name: set(re.findall(r'id="([^"]+)"', text)) for name, text in both.items()}
    used = {target for text in both.values() for target in re.findall(r'(?:href="#|url\(#)([^")]+)', text)}

    assert used <= ids["one"] | ids["two"]
    assert {name for name in ids["one"] & ids["two"] if not name.startswith("time-")} == set()


@pytest.mark.parametrize("made", [curve_svg, drawn_overtime])
def test_a_figure_asks_for_nothing_and_has_no_colour_of_its_own(made):
    """No address, no metadata, no fixed colour: only CSS variables of the page."""
    text = made()

    assert "http" not in text
    assert "metadata" not in text
    assert "DejaVu" not in text
    assert re.findall(r"#[0-9a-f]{6}\b", text) == []
    assert set(re.findall(r"var\(--([a-z]+)", text)) <= {"stage", "sans", *VARIABLES.values()}


def test_the_same_figure_gives_the_same_text():
    """Nothing of time or chance is in it, so that pages can be compared."""
    assert curve_svg("same") == curve_svg("same")


def test_a_simulated_figure_says_so_in_its_title():
    """The word stands in the drawing itself, which may be copied out of the page."""
    texts = [curve_svg(head=Head("TTFT", simulated=simulated)) for simulated in (True, False)]

    assert [">SIMULATED</text>" in text for text in texts] == [True, False]
    assert Head("TTFT", simulated=True).full_title == "TTFT · SIMULATED"


def test_words_in_a_figure_stay_words():
    """Markup and dollar signs in a label are text, also in the tips of the points."""
    rows = points().assign(short=HOSTILE)
    with drawing():
        figure = throughput_latency(Throughput(rows, "p99", HOSTILE), Head(HOSTILE, HOSTILE))
        text = inline(figure, "x", title=HOSTILE, description=HOSTILE)
    root = ET.fromstring(text)
    said = [part.text for part in root.iter() if part.text and "alert" in part.text]

    assert "script" not in {part.tag for part in root.iter()}
    assert len(said) > 3
    assert all(HOSTILE in words for words in said)


def test_a_letter_that_the_font_lacks_is_no_warning():
    """The browser draws the texts, so any script may stand in a label."""
    assert "吞吐量" in curve_svg(shown=Throughput(points(), "p99", "吞吐量"))


def test_the_place_where_limits_stop_holding_is_marked_once():
    """A bracket stands where the next stage breaks a limit at a higher rate, and nowhere else."""
    marked = [curve_svg(shown=Throughput(points(), "p99", "x", capacity=Capacity(*pair))) for pair in [(1, 2), (2, 1)]]

    assert ["stop holding" in text for text in marked] == [True, False]


def test_the_rate_of_answers_is_a_second_mark():
    """Where latency stands over the offered rate, a stroke says how many were answered; where none is told, none is."""
    with_marks = curve_svg(shown=Throughput(points().assign(done=[1.0, 2.0, 2.1]), "p99", "requests/s offered"))

    assert with_marks.count("req/s completed") == 3
    assert "3 req/s: 2.10 req/s completed" in with_marks
    assert "completed" not in curve_svg()


def test_stages_of_one_rate_stand_side_by_side():
    """Without an axis of rates every stage has a tick of its own name."""
    text = curve_svg(shown=Throughput(points().assign(rate=lambda rows: rows["stage"]), "p95", ""))

    assert all(text.count(f">{i + 1} req/s<") == 1 for i in range(3))


def test_a_limit_out_of_range_is_named_and_not_drawn():
    """A far limit would squeeze the curves; it is said in words."""
    curves = percentile_frame({0: np.linspace(0.01, 0.02, 50)})
    texts = []
    for seconds in (0.015, 9.0):
        spread = Spread(curves, percentile_frame({}), pd.DataFrame(columns=["stage", "share", "low", "high", "open"]),
                        {0: "1 req/s"}, [Limit("ttft", "p99", seconds)])  # fmt: skip
        with drawing():
            figure = percentile_curves(spread, scale_of(curves["value"].to_numpy(), times=True), Head("TTFT"))
            texts.append(inline(figure, "x", title="", description=""))

    assert ["above this range" in text for text in texts] == [False, True]
    assert ["var(--limit)" in text for text in texts] == [True, False]


def test_a_ladder_has_a_rung_a_metric():
    """Each metric is named, with its p99 in its own unit."""
    rungs = pd.DataFrame(
        {
            "metric": ["ttft", "tpot"],
            "name": ["TTFT", "TPOT"],
            "p50": [0.1, 0.01],
            "p90": [0.2, 0.02],
            "p99": [0.3, 0.03],
        }
    )
    with drawing():
        text = inline(ladder(rungs, Head("Rungs"), [Limit("ttft", "p99", 1.0)]), "x", title="", description="")

    assert all(f">{words}<" in text for words in ("TTFT", "TPOT", "300 ms", "30.0 ms", "p99 limit 1 s"))


UNITS_S = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def ticks_of(axes, which):
    """The labels beside an axis, as numbers, with the values at which they stand."""
    wanted, beside = (1, axes.get_yaxis_transform()) if which == "y" else (0, axes.get_xaxis_transform())
    texts = [text for text in axes.texts if text.get_transform() == beside]
    numbers = [(text.get_position()[wanted], text.get_text().replace(",", "")) for text in texts]
    return [(at, float(label)) for at, label in numbers if label.replace(".", "", 1).isdigit()]


def unit_of_title(axes, name):
    """The unit that the title of an axis ends with."""
    (title,) = [text.get_text() for text in axes.texts if text.get_text().startswith(f"{name}, ")]
    return UNITS_S[title.rpartition(", ")[2]]


@given(
    st.lists(st.floats(1e-6, 1e4), min_size=3, max_size=3),
    st.lists(st.floats(1e-6, 1e4), max_size=2),
    st.floats(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_ticks_and_title_of_an_axis_of_times_have_one_unit(tails, limits, spread):
    """A tick's label times the unit of the title is the value at which it stands, whatever the values and limits."""
    tails = np.array(tails)
    rows = points().assign(tail=tails, p50=tails / 3, tail_low=tails / 2, tail_high=tails * spread)
    shown = Throughput(rows, "p99", "req/s", [Limit("ttft", "p99", limit) for limit in limits], upward="TTFT")
    with drawing():
        axes = throughput_latency(shown, Head("x")).axes[0]

    unit_s = unit_of_title(axes, "TTFT")
    assert unit_s == UNITS_S[shown.scale.unit]
    assert ticks_of(axes, "y")
    assert all(label * unit_s == pytest.approx(at, rel=0.006, abs=1e-12) for at, label in ticks_of(axes, "y"))


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
@settings(max_examples=30, deadline=None)
def test_ticks_and_title_of_a_ladder_have_one_unit(value, limit):
    """That of its values, which its subtitle names as well, also where the limit would have another."""
    rungs = pd.DataFrame({"metric": ["ttft"], "name": ["TTFT"], "p50": [value / 3], "p90": [value / 2], "p99": [value]})
    limits = [Limit("ttft", "p99", limit)]
    with drawing():
        axes = ladder(rungs, Head("x"), limits).axes[0]

    unit_s = unit_of_title(axes, "latency")
    assert unit_s == UNITS_S[ladder_scale(rungs, limits).unit]
    assert all(label * unit_s == pytest.approx(at, rel=0.006, abs=1e-12) for at, label in ticks_of(axes, "x"))


def test_a_limit_in_seconds_leaves_an_axis_of_milliseconds():
    """Values of 354 ms below a limit of 1 s are drawn in ms."""
    rows = points().assign(tail=0.354, p50=0.08, tail_low=0.3, tail_high=0.405)
    shown = Throughput(rows, "p95", "req/s", [Limit("ttft", "p95", 1.0)], upward="TTFT")
    with drawing():
        axes = throughput_latency(shown, Head("x")).axes[0]

    assert [text.get_text() for text in axes.texts if text.get_text().startswith("TTFT, ")] == ["TTFT, ms"]
    assert max(label for _, label in ticks_of(axes, "y")) == 1000


def test_points_are_dots_of_a_few_bytes():
    """A point is a line of no length, which round ends make a dot."""
    n = 2000
    with drawing():
        figure = paper(SMALL, Head("Dots"))
        axes = panel(figure, (40, 50, 10, 30))
        dots(axes, np.random.default_rng(1).random(n), np.random.default_rng(2).random(n), stage_colour(0))
        text = inline(figure, "x", title="", description="")

    assert text.count("h0") == n
    assert len(text) < 25 * n


@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=50))
def test_a_scale_holds_its_values_and_has_ticks(values):
    """Every value lies within it, ticks rise, lie within it and are few, and say something."""
    scale = scale_of(np.array(values), times=True)

    assert all(scale.low <= value <= scale.high for value in values)
    assert 1 <= len(scale.places) <= 12
    assert (np.diff(scale.places) > 0).all()
    assert all(scale.low * 0.999 <= place <= scale.high * 1.001 for place in scale.places)
    assert len(set(scale.labels)) == len(scale.places)


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [0.0, 0.0]])
def test_a_scale_of_nothing_is_still_a_scale(values):
    """A figure without values has axes all the same."""
    scale = scale_of(np.array(values), times=True)

    assert scale.low < scale.high
    assert scale.labels


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_names_are_moved_apart_and_keep_their_order(places):
    """Neighbours are at least the gap apart, the order is kept, and all stay within the panel."""
    found = apart(places, 0.1, 0.0, 1.0)

    assert (np.diff(np.array(found)[np.argsort(places, kind="stable")]) >= 0.1 - 1e-9).all()
    assert max(found) <= 1.0 + 1e-9


@pytest.mark.parametrize("dark", [True, False])
def test_every_stage_has_a_colour_of_its_own(dark):
    """As many different colours as stages, each under the variable that figures refer to."""
    found = dict(re.findall(r"--(stage-\d+):(#[0-9a-f]{6});", stage_variables(12, dark=dark)))

    assert list(found) == [variable_of(stage_colour(i)) for i in range(12)]
    assert len(set(found.values())) == 12


@pytest.mark.parametrize(("dark", "surface"), [(False, "#ffffff"), (True, "#1a1e23")])
def test_stage_colours_stand_out_from_the_paper(dark, surface):
    """At least 3 to 1, as WCAG 2.1 asks of graphics."""
    found = re.findall(r"#[0-9a-f]{6}", stage_variables(9, dark=dark))

    assert min(_contrast(colour, surface) for colour in found) >= 3.0


# How a colour in linear light looks to eyes without cones for long, middle or short waves (Machado et al., 2009), and
# in print without colour.
EYES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "print": [[0.2126, 0.7152, 0.0722]] * 3,
}
XYZ = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8728]])  # over D65 white


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_stages_are_told_apart_by_eyes_of_every_kind(eyes, dark, count):
    """Any two of up to five stages differ by at least 6 in CIELAB, where 2.3 is just seen."""
    found = re.findall(r"#[0-9a-f]{6}", stage_variables(count, dark=dark))
    seen = [_lab(np.array(EYES[eyes]) @ _linear(colour)) for colour in found]

    assert min(np.linalg.norm(one - other) for i, one in enumerate(seen) for other in seen[:i]) >= 6


def _linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _lab(light):
    x, y, z = (
        np.cbrt(value) if value > 216 / 24389 else value * 841 / 108 + 4 / 29 for value in XYZ @ np.clip(light, 0, 1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("values", [(337.82, 337.88), (99.0, 99.1), (1.0, 1.2), (10.0, 13.0), (1000.0, 1000.1)])
def test_values_close_together_have_an_axis_of_different_labels(values):
    """Two results that are a ten-thousandth apart do not stand at the ends of an axis whose labels are all alike."""
    labels = close_scale(np.array(values)).labels

    assert len(labels) >= 2
    assert len(set(labels)) == len(labels)
