"""A reader's session on the page of a run, in Chromium: pointer, zoom, stages, filters, records, links, keyboard."""

import hashlib
import itertools
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reports
from harness.results import store
from harness.results.folder import read_files
from harness.units import format_duration, significant
from reports import assets, request_sample, stalling
from reports.data import gather, main_metric
from reports.frames import load_frame
from reports.glossary import name_of
from reports.request_sample import slower_than
from tests.reports import test_browser
from tests.reports.chromium import Chromium
from tests.result_folder import Run, make_result

EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
RANKED = ("ttft_user", "tpot", "e2e_user")
STATES = list(itertools.product(("en", "zh"), (390, 1440), (False, True)))

pytestmark = test_browser.pytestmark


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all sessions."""
    chromium = Chromium(test_browser.CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two stages with failures, its page in English beside one in Chinese; names that would be markup."""
    run = Run(loads=(2.0, 5.0), duration_s=25, failing=0.06, message=EVIL, question=EVIL, model=EVIL)
    folder = make_result(tmp_path_factory.mktemp("live") / "run", run)
    shutil.copy(reports.write_all(folder, "zh"), folder / "zh.html")
    shutil.copy(reports.write_all(folder, "en"), folder / "en.html")
    return folder


@pytest.fixture(scope="module")
def data(folder):
    """What the page was drawn from."""
    return gather(read_files(folder))


@pytest.fixture
def page(browser, folder):
    """The English page on a desk, freshly loaded, in its section over time."""
    browser.complaints.clear()
    browser.show((folder / "en.html").as_uri())
    yield browser
    assert browser.complaints == []


def texts(page, selector):
    """The texts of elements."""
    return page.run(f"Array.from(document.querySelectorAll({json.dumps(selector)}), (part) => part.innerText)")


def text(page, selector):
    """The text of one element."""
    return texts(page, selector)[0]


def dots(page, mark):
    """Places of the dots of a mark, from the upper left corner of their panel."""
    path = page.run(
        f"(document.querySelector('.panel[data-kind=points] path[data-mark={mark}]')"
        " || {getAttribute: () => ''}).getAttribute('d')"
    )
    return [(float(x), float(y)) for x, y in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", path)]


def over(page, panel):
    """The box of the drawing of a panel."""
    return page.box(f"{panel} .u-over")


def record(page):
    """The record that is open, its lists and tables as one mapping of names to texts."""
    pairs = page.run(
        "Array.from(document.querySelectorAll('#record dl > div, #record tbody tr'), (part) =>"
        " [part.children[0].innerText, part.children[1].innerText])"
    )
    return dict(pairs)


def click_dot(page, mark, place=0):
    """Click a dot of a mark."""
    left, top, _, _ = over(page, ".panel[data-kind=points]")
    x, y = dots(page, mark)[place]
    page.click(left + x, top + y)


@pytest.mark.parametrize(("lang", "width", "dark"), STATES)
def test_a_short_session_in_every_state(browser, folder, data, lang, width, dark):
    """Both languages, phone and desk, light and dark: zoom, stage, record; no complaint, no sideways scroll."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.show((folder / f"{lang}.html").as_uri(), width=width, dark=dark)

    for _ in range(2):
        browser.click_on(".zoom button:nth-child(2)")
    browser.click_on(".zoom button:nth-child(3)")
    browser.click_on('.view-bar .stage-switch[data-stage="0"]')
    first = dots(browser, "stage-1"), dots(browser, "stage-0")
    click_dot(browser, "stage-1")
    index = int(browser.run("document.getElementById('record').dataset.request"))
    row = data.result.requests.set_index("index").loc[index]

    assert browser.complaints == []
    assert 0 < len(first[0]) < int((data.latencies["in_window"] & (data.latencies["place"] == 1)).sum())
    assert first[1] == []
    assert f"{row['input_tokens']:,}" in record(browser).values()
    assert f"{row['sent_ns'] / 1e9:.6f} s" in text(browser, "#record")
    assert [url for url in browser.requests if not url.startswith(("about:", "data:"))] == [
        (folder / f"{lang}.html").as_uri()
    ]
    assert browser.run("document.querySelectorAll('.panel canvas').length") >= 8
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("document.querySelectorAll('img, [onerror]').length") == 0
    assert (lang == "zh") == bool(re.search("[\u4e00-\u9fff]", text(browser, ".view-bar")))


def test_the_value_under_the_pointer_is_the_data_s(page, data):
    """At ten places of a panel, the value shown is that of the nearest bin at the time shown."""
    frame = load_frame(data.result, data.places, data.events)
    panel = "figure[data-live=over-time] .panel:nth-of-type(2)"
    left, top, width, height = over(page, panel)
    seen = []
    for share in np.linspace(0.02, 0.98, 10):
        page.point(left + share * width, top + height / 2)
        seen.append((text(page, f"{panel} .values span"), text(page, f"{panel} .panel-read")))
    bins = [float(time.removesuffix(" s")) for time, _ in seen]
    nearest = [int(np.abs(frame["at_s"] - time).argmin()) for time in bins]

    rates = [float(frame["token_rate"][at]) for at in nearest]
    assert [value for _, value in seen] == [f"{v:,.0f}" if v.is_integer() else significant(v) for v in rates]
    assert len(set(nearest)) == 10


def test_a_zoom_of_one_panel_is_the_zoom_of_all(page):
    """Dragged over the middle half of one panel, every panel has that range; a double click gives the whole again."""
    left, top, width, height = over(page, ".panel[data-kind=lanes]")
    before = text(page, "#view-status")
    page.drag((left + width / 4, top + height / 2), (left + width * 3 / 4, top + height / 2))
    low, high = map(float, re.match(r"#/t=([\d.]+)-([\d.]+)$", page.run("location.hash")).groups())
    middles = []
    for place in range(page.run("document.querySelectorAll('.panel[data-kind=lines]').length")):
        page.run(f"document.querySelectorAll('.panel[data-kind=lines]')[{place}].setAttribute('id', 'looked-{place}')")
        left, top, width, height = over(page, f"#looked-{place}")
        page.point(left + width / 2, top + height / 2)
        middles.append(float(text(page, f"#looked-{place} .values span").removesuffix(" s")))
    page.click_on("button.whole")

    assert len(middles) >= 5
    assert middles == pytest.approx([(low + high) / 2] * len(middles), abs=(high - low) / 400)
    assert text(page, "#view-status") == before
    assert page.run("location.hash") == ""


def test_a_stage_that_is_off_has_no_marks(page, data):
    """Its dots, its lines in drawings and its rows of the table are gone, and back again; Shift leaves it alone."""
    stage = '.view-bar .stage-switch[data-stage="0"]'
    counted = int((data.latencies["in_window"] & (data.latencies["place"] == 0)).sum())
    before = len(dots(page, "stage-0"))
    marked = "document.querySelectorAll('svg.chart .stage-off').length"
    page.click_on(stage)
    gone = len(dots(page, "stage-0")), set(texts(page, "table.requests tbody td:nth-child(2)"))
    hidden = page.run(marked)
    page.click_on(stage)
    back = len(dots(page, "stage-0")), page.run(marked)
    page.click_on(stage, shift=True)

    assert before == counted
    assert gone == (0, {"5 req/s"})
    assert hidden > 3
    assert back == (before, 0)
    assert dots(page, "stage-1") == []
    assert set(texts(page, "table.requests tbody td:nth-child(2)")) == {"2 req/s"}


@pytest.mark.parametrize("mark", ["stage-0", "stage-1", "failed"])
def test_a_click_on_a_dot_shows_that_request_s_row(page, folder, mark):
    """Stamps to the microsecond, tokens, error: the record equals the row of requests.parquet."""
    click_dot(page, mark, 3)
    index = int(page.run("document.getElementById('record').dataset.request"))
    row = pd.read_parquet(folder / store.REQUESTS).set_index("index").loc[index]
    shown = record(page)
    stamps = {"Due": "due_ns", "Sent": "sent_ns", "First token": "first_ns", "Last token": "last_ns", "Done": "done_ns"}
    counts = {"Prompt, as made": "input_asked", "Prompt, tokens": "input_tokens", "Answer, tokens": "output_tokens"}

    assert {name: shown[name] for name in counts} == {name: f"{row[key]:,}" for name, key in counts.items()}
    for name, key in stamps.items():
        known = pd.notna(row[key]) and row[key] >= 0
        assert (name in shown) == known
        assert not known or page.run(
            f"Array.from(document.querySelectorAll('#record tbody tr')).some((part) => part.children[0].innerText ==="
            f" {json.dumps(name)} && part.children[1].innerText === '{row[key] / 1e9:.6f} s')"
        )
    page.run("document.querySelector('button.show-then').click()")
    low, high = map(float, re.match(r"#/t=([\d.]+)-([\d.]+)", page.run("location.hash")).groups())

    assert low < row["due_ns"] / 1e9 < row["done_ns"] / 1e9 < high
    assert shown["Outcome"] == row["status"]
    assert (mark == "failed") == (row["status"] == "failed")
    if mark == "failed":
        assert text(page, "#record .failure samp") == row["message"]
        assert text(page, "#record .failure code") == row["error"]


def test_the_record_tells_the_engine_s_state_at_the_nearest_sample(page, folder, data):
    """Running, waiting and KV use beside the time of the sample, equal to samples.parquet."""
    click_dot(page, "stage-1", 5)
    rows = page.run(
        "Array.from(document.querySelectorAll('#record table:last-of-type tbody tr'),"
        " (row) => Array.from(row.children, (part) => part.innerText))"
    )
    samples = pd.read_parquet(folder / store.SAMPLES)
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    own = samples[samples["source"] == "server"].set_index(["at_ns", "name"])["value"].unstack()[list(names)]  # noqa: PD010 - a series has no pivot_table

    assert [row[0] for row in rows] == ["Sent", "First token", "Done"]
    for _, at, running, waiting, kv in rows:
        sample = own.loc[round(float(at.removesuffix(" s")) * 1e9)]
        assert [float(running), float(waiting)] == sample[list(names[:2])].tolist()
        assert kv == f"{significant(100 * sample[names[2]])} %"


def test_the_record_names_the_longest_gap(page, data):
    """The longest time between two token events of the request, and when it ended."""
    click_dot(page, "stage-1", 7)
    index = int(page.run("document.getElementById('record').dataset.request"))
    at_ns, _ = data.events.of(data.result.requests["index"].tolist().index(index))
    longest = int(np.diff(at_ns).argmax())
    gap, end = np.diff(at_ns)[longest] / 1e9, at_ns[longest + 1] / 1e9

    assert record(page)["Its own longest gap between token events"] == f"{format_duration(gap)}, until {end:.3f} s"


def test_the_record_ranks_a_request_by_first_token_tokens_and_end(page, data):
    """As a share of the counted requests of its stage; a request of one turn has no turns to number."""
    click_dot(page, "stage-1", 7)
    index = int(page.run("document.getElementById('record').dataset.request"))
    row = data.result.requests["index"].tolist().index(index)
    ranks = [f"{significant(100 * slower_than(data.latencies, name)[row])} %" for name in RANKED]
    shown = texts(page, "#record .rank")

    assert [line.split(": slower than ")[1].split(" of the")[0] for line in shown] == ranks
    assert [line.split(":")[0] for line in shown] == [name_of(name) for name in RANKED]
    assert "Session · turn" not in record(page)


def test_the_record_names_the_pauses_that_a_request_met(browser, tmp_path, monkeypatch):
    """Those of many streams that overlap its tokens, with what else happened; none of another time."""
    folder = make_result(tmp_path / "run", Run(duration_s=5))
    requests = read_files(folder).requests
    row = requests[requests["status"] == "completed"].iloc[0]
    first, last = row["first_ns"] / 1e9, row["last_ns"] / 1e9
    spans = [(first - 9, first - 8, "Server stall", "x"), (first, last, "Prefill interference", "3 of 4 streams")]
    monkeypatch.setattr(stalling, "pause_spans", lambda _blocks: spans)
    browser.complaints.clear()
    browser.show(reports.write_all(folder).as_uri() + f"#/request={row['index']}")

    assert browser.complaints == []
    assert "Server stall" not in record(browser)
    assert (
        record(browser)["Prefill interference"] == f"{format_duration(last - first)} from {first:.3f} s: 3 of 4 streams"
    )


def test_a_click_on_a_lane_shows_a_request_that_was_under_way(page, data):
    """The request of the lane's bar at that time and height."""
    path = page.run("document.querySelectorAll('.panel[data-kind=lanes] path.lane')[2].getAttribute('d')")
    start, y, end = map(float, re.findall(r"M(-?[\d.]+) (-?[\d.]+)H(-?[\d.]+)", path)[4])
    left, top, width, _ = over(page, ".panel[data-kind=lanes]")
    page.click(left + (start + end) / 2, top + y)
    index = int(page.run("document.getElementById('record').dataset.request"))
    requests = data.result.requests.reset_index(drop=True)
    row = data.latencies.iloc[requests.index[requests["index"] == index][0]]
    low, high = min(0.0, data.places["start_s"].min()), data.places["end_s"].max()
    time = low + (start + end) / 2 / width * (high - low)

    assert row["first_s"] - 0.2 <= time <= row["done_s"] + 0.2


@pytest.mark.parametrize("show", ["failed", "slow"])
def test_a_filter_leaves_what_it_names(page, data, show):
    """As many requests as the files have: the failed, or the slowest hundredth of each stage."""
    failed = (data.latencies["status"] == "failed").to_numpy()
    chosen = failed if show == "failed" else request_sample.slowest(data.latencies, main_metric(data))
    page.run(
        f"(() => {{ const filter = document.getElementById('filter'); filter.value = '{show}';"
        " filter.dispatchEvent(new Event('change')); })()"
    )
    page.settle()
    marks = page.run(
        "Array.from(document.querySelectorAll('.panel[data-kind=points] path[data-mark]'), (part) => part.dataset.mark)"
    )
    listed = sorted(map(int, page.run("Array.from(document.querySelectorAll('tr[data-request]'),"
                                      " (row) => row.dataset.request)")))  # fmt: skip

    assert f"· {chosen.sum()} of {len(chosen)} requests" in text(page, "#view-status")
    assert marks == ["failed"] if show == "failed" else "failed" not in marks
    assert listed == sorted(data.result.requests["index"][chosen].tolist())[: len(listed)]


def test_the_table_of_requests_is_sorted_by_any_column(page, data):
    """Descending by the latency: the slowest of the run first, and the head says so."""
    head = "table.requests th:nth-child(4)"
    page.click_on(f"{head} .sort")
    page.click_on(f"{head} .sort")
    values = data.latencies[main_metric(data)].sort_values(ascending=False)[:20]

    assert page.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    assert texts(page, "table.requests tbody td:nth-child(4)") == [format_duration(value) for value in values]


def test_a_written_table_is_sorted_and_put_back(page):
    """Ascending, descending, as it was; times of several units are ordered by their size, empty cells come last."""
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    place = page.run(
        "Array.from(document.querySelectorAll('details.stage table'))"
        ".findIndex((table) => table.tBodies[0].rows.length > 4)"
    )
    page.run(f"document.querySelectorAll('details.stage table')[{place}].id = 'sorted'")
    column = page.run(
        "Array.from(document.querySelectorAll('#sorted thead th'))"
        ".findIndex((head) => head.innerText.includes('p50')) + 1"
    )
    cells = f"#sorted tbody tr > :nth-child({column})"
    written = texts(page, cells)
    states, orders = [], []
    for _ in range(3):
        page.click_on(f"#sorted thead tr:last-child th:nth-child({column}) .sort")
        states.append(page.run("document.querySelector('#sorted [aria-sort]:not([aria-sort=none])')?.ariaSort"))
        orders.append([_seconds(cell) for cell in texts(page, cells)])

    assert states == ["ascending", "descending", None]
    assert orders[0] == sorted(orders[0])
    assert orders[1] == sorted(orders[1], reverse=True)
    assert orders[2] == [_seconds(cell) for cell in written]


def _seconds(cell):
    value, unit = re.match(r"([\d.,]+) ?(µs|ms|s|)", cell).groups()
    return float(value.replace(",", "")) * {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}[unit]


def test_a_link_brings_the_same_view(page, folder):
    """Range, stages, filter and request are in the address; opened anew it shows all of them, and copies itself."""
    page.run(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    page.click_on('.view-bar .stage-switch[data-stage="0"]')
    left, top, width, height = over(page, ".panel[data-kind=lanes]")
    page.drag((left + width * 0.55, top + height / 2), (left + width * 0.9, top + height / 2))
    click_dot(page, "stage-1", 2)
    look = (
        "[location.hash, document.getElementById('view-status').innerText, document.getElementById('record').innerText]"
    )
    page.run("document.querySelector('button.copy-link').click()")  # it lies under the record here
    seen, link = page.run(look), page.run("window.copied")
    page.show(link)
    again = page.run(look)
    page.show((folder / "en.html").as_uri() + "#/t=9-1&off=9,x&show=all%27&request=99999999")

    assert again == seen
    assert link.endswith(seen[0])
    assert re.fullmatch(r"#/t=[\d.]+-[\d.]+&off=1&request=\d+", seen[0])
    assert text(page, "#view-status").startswith("Request 99999999 is not in this page. 0 – ")
    assert page.run("document.getElementById('record').hidden")


def test_the_keyboard_alone_is_enough(page, data):
    """Tab to a panel, arrows to a request, Enter for its record, Escape back to the panel; plus and 0 zoom."""
    page.run("document.querySelector('.copy-link').focus()")
    reached = []
    while "points" not in reached and len(reached) < 12:
        page.press("Tab")
        reached.append(page.run("document.activeElement.dataset.kind || document.activeElement.tagName"))
    page.press("ArrowDown", 3)
    said = text(page, "#said")
    page.press("Enter")
    opened = page.run("[document.getElementById('record').hidden, document.activeElement.id]"), record(page)
    index = int(page.run("document.getElementById('record').dataset.request"))
    page.press("Escape")
    closed = page.run("[document.getElementById('record').hidden, document.activeElement.dataset.kind]")
    page.press("+")
    zoomed = page.run("location.hash")
    page.press("ArrowRight", 2, shift=True)
    cursor = text(page, "#said")
    page.press("0")

    assert reached[-1] == "points"
    assert said.startswith(f"Request {index} · ")
    assert opened[0] == [False, "record-title"]
    assert opened[1]["Outcome"] == "completed"
    assert closed == [True, "points"]
    assert zoomed.startswith("#/t=")
    assert re.match(r"[\d.]+ s", cursor)
    assert page.run("location.hash") == ""


def test_panels_and_the_record_have_roles_and_names(page):
    """What a screen reader is told: names with units, how to use the keys, and a region that speaks."""
    click_dot(page, "stage-0")
    labels = page.run(
        "Array.from(document.querySelectorAll('[role=application]'), (part) => part.getAttribute('aria-label'))"
    )
    nameless = page.run(
        "Array.from(document.querySelectorAll('button, select, input')).filter((part) => !part.hidden &&"
        " !(part.innerText || part.getAttribute('aria-label') || part.closest('label'))).length"
    )

    assert len(labels) >= 8
    assert all(re.search("arrows (move|read|go)", label) for label in labels)
    assert nameless == 0
    assert page.run("document.querySelector('#record').getAttribute('aria-labelledby')") == "record-title"
    assert text(page, "#said").startswith("Request ")


def test_paper_and_a_page_without_script_have_the_drawings(browser, folder):
    """On paper the panels give way to the drawings; where scripts are off only the drawings are there."""
    shown = (
        "[Array.from(document.querySelectorAll('svg.chart')).filter((part) => !part.getClientRects().length).length,"
        " Array.from(document.querySelectorAll('.live, .view-bar, .record, #requests, .sort'))"
        ".filter((part) => part.getClientRects().length).length]"
    )
    browser.show((folder / "en.html").as_uri())
    browser.click_on('.view-bar .stage-switch[data-stage="0"]')
    on_screen = browser.run(shown)
    browser.send("Emulation.setEmulatedMedia", media="print")
    on_paper = browser.run(shown)
    stages = browser.run(
        "[Array.from(document.querySelectorAll('.stage-off'), (part) => getComputedStyle(part).visibility),"
        " document.querySelector('#spread .key').clientWidth > 100]"
    )
    browser.show((folder / "en.html").as_uri(), script=False)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    without = browser.run(shown)

    assert on_screen[0] == 4
    assert on_screen[1] > 20
    assert on_paper == [0, 0]
    assert [set(stages[0]), stages[1]] == [{"visible"}, True]  # every stage is on paper, and the key of their colours
    assert without == [0, 0]


@settings(max_examples=3)
@given(st.lists(st.floats(-1e7, 1e9) | st.floats(0, 1e-3), min_size=200, max_size=400))
def test_numbers_read_as_those_of_the_harness(browser, values):
    """The script writes times and numbers as harness/units.py does."""
    source = (assets.SCRIPTS / "units.js").read_text(encoding="utf-8")
    shown = browser.run(
        f"(() => {{ {source}; return {json.dumps(values)}.map((v) => [duration(v), significant(v)]); }})()"
    )

    assert shown == [[format_duration(value), significant(value)] for value in values]


def test_many_requests_make_no_large_file(browser, tmp_path, monkeypatch):
    """Of some thousand requests a page holds what its rule says, says so, and stays under 3 MB."""
    monkeypatch.setattr(request_sample.sample_requests, "__defaults__", (300,))
    run = Run(loads=(20.0, 40.0), duration_s=15, failing=0.02, output=(4, 12))
    path = reports.write_all(make_result(tmp_path / "many", run))
    table = pd.read_parquet(path.parent / store.REQUESTS)
    browser.show(path.as_uri())

    assert len(table) > 600
    assert path.stat().st_size < 3e6
    assert f"holds 300 of {len(table):,} requests" in text(browser, "#time > .lead")
    assert browser.run("document.querySelector('#filter option[value=failed]').innerText") == (
        f"failed ({(table['status'] == 'failed').sum()})"
    )


def test_the_library_is_the_release_s():
    """The vendored files have the recorded hashes, and the page names version and licence."""
    release = json.loads((assets.UPLOT / "release.json").read_text(encoding="utf-8"))
    names = {path.name for path in assets.UPLOT.iterdir()}
    script = assets.live_script()

    assert {name.removeprefix("dist/") for name in release["files"]} | {"release.json"} == names
    for name, digest in release["files"].items():
        content = (assets.UPLOT / name.removeprefix("dist/")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert f"uPlot {release['version']}" in script
    assert "Permission is hereby granted, free of charge" in script


def test_a_percentile_curve_is_read_under_the_pointer(page, data):
    """At a curve's points nearest to the pointer: percentiles of the counted requests, equal to numpy's."""
    left, top, width, height = page.box("figure[data-readout=spread-ttft_user] svg")
    page.point(left + width * 0.45, top + height / 2)
    shown = texts(page, "figure[data-readout=spread-ttft_user] .values > span")

    assert len(shown) == 2
    for place, line in enumerate(shown):
        share, value = re.fullmatch(r"\d req/s p([\d.]+) (.*)", line).groups()
        values = data.latencies["ttft_user"][data.latencies["in_window"] & (data.latencies["place"] == place)]
        near = [np.quantile(values, (float(share) + off) / 100) for off in (-0.05, 0.05)]
        assert _seconds(format_duration(near[0])) <= _seconds(value) <= _seconds(format_duration(near[1]))


def test_keys_go_along_a_drawing_of_requests(page, data):
    """Arrows mark one request after another by its prompt's length, Enter opens its record."""
    page.run("document.querySelector('figure[data-readout=length-tpot] .readable').focus()")
    page.press("ArrowRight", 3)
    said = text(page, "#said")
    page.press("Enter")
    index = int(page.run("document.getElementById('record').dataset.request"))
    row = data.result.requests.set_index("index").loc[index]
    place = data.result.requests["index"].tolist().index(index)

    assert said.startswith(f"Request {index} · ")
    assert f"TPOT {format_duration(data.latencies['tpot'].iloc[place])}" in said
    assert said.endswith(f"Prompt, tokens {row['input_tokens']:,}")


def test_points_of_a_drawing_tell_their_numbers(page):
    """Under the pointer and by arrows, at once: what the drawing's own titles held."""
    page.box(".first svg.chart[tabindex]")
    page.settle()
    page.run("document.querySelector('.first svg.chart[tabindex]').focus({preventScroll: true})")
    page.press("ArrowRight")
    tip = page.run("[document.getElementById('tip').hidden, document.getElementById('tip').innerText]")

    assert tip[0] is False
    assert tip[1] == text(page, "#said")
    assert re.search(r"\d", tip[1])


ODD = {
    "failed": Run(loads=(2.0,), duration_s=10, failing=1.0),
    "few": Run(loads=(0.5,), duration_s=3, warmup=0, samples=False),
    "closed": Run(loads=(2.0, 4.0), kind="closed", duration_s=8),
    "unstreamed": Run(loads=(2.0,), duration_s=8, stream=False),
    "engines": Run(loads=(3.0,), duration_s=8, engines=2, repeats=2),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_runs_come_up(browser, tmp_path, odd):
    """Nothing answered, hardly any request, users, no stream, several engines and repeats: no complaint."""
    path = reports.write_all(make_result(tmp_path / odd, ODD[odd]))
    browser.complaints.clear()
    browser.show(path.as_uri() + "#/request=0")
    browser.run("document.querySelectorAll('.sort').forEach((made) => made.click())")
    browser.settle()

    assert browser.complaints == []
    assert record(browser)["Outcome"] == ("failed" if odd == "failed" else "completed")
    assert browser.run("document.querySelectorAll('.panel canvas').length") >= 3


def test_a_request_named_in_a_table_opens_its_record(page, data):
    """The slow single requests of the section on pauses lead to their records, and Escape back to them."""
    named = page.run("Array.from(document.querySelectorAll('#pauses .opener'), (part) => part.innerText)")
    page.click_on("#pauses .opener")
    opened = page.run("document.getElementById('record').dataset.request")
    page.press("Escape")

    assert len(named) >= 3
    assert f"#{opened}" == named[0]
    assert page.run("document.activeElement.innerText") == named[0]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A run of many columns: an open loop, three limits that are missed, failures."""
    slo = {"ttft_p99": 0.01, "tpot_p99": 0.001, "e2e_p99": 0.01}
    run = Run(loads=(4.0, 40.0), duration_s=25, failing=0.06, slo=slo)
    return reports.write_all(make_result(tmp_path_factory.mktemp("wide") / "run", run))


def test_the_stages_table_fits_a_desk_and_begins_with_its_limits(browser, wide):
    """At 1440 pixels nothing of it is out of view; at any width the limits stand beside the stage."""
    browser.show(wide.as_uri(), width=1440)
    widths = "(part) => [part.scrollWidth, part.clientWidth]"
    room, shown = browser.run(f"({widths})(document.querySelector('#stages .scroll'))")

    assert room == shown
    assert texts(browser, "#stages table:first-of-type tbody tr:first-child td")[0].startswith("missed")


def test_sort_arrows_stand_on_the_line_of_the_last_word(browser, wide):
    """However narrow the head."""
    browser.show(wide.as_uri(), width=390)
    apart = browser.run("""Array.from(document.querySelectorAll("th .joined"), (joined) => {
      const words = document.createRange();
      words.selectNodeContents(joined.firstChild);
      const [word, arrow] = [words.getClientRects()[0], joined.lastChild.getBoundingClientRect()];
      return word && arrow.top < word.bottom && word.top < arrow.bottom ? "" : joined.textContent;
    }).filter(Boolean)""")

    assert browser.run("document.querySelectorAll('th .joined > .sort').length") > 10
    assert apart == []


def test_a_phone_shows_all_words_of_the_simulated_banner(browser, wide):
    """They wrap."""
    browser.show(wide.as_uri(), width=390)
    _, _, width, height = browser.box(".simulated .long")

    assert width > 100
    assert height > 20
