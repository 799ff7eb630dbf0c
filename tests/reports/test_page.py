"""What stands on the page, whatever a run left behind and whoever wrote its words."""

import base64
import hashlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import reports
from harness.cli.app import main
from harness.results import store, table_files
from harness.results.request_table import NEVER_SENT, Events
from tests.result_folder import Run, kept_warning, make_result, write_result

HOSTILE = (
    "\"><script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>"
    "{{ 7*7 }}${x}$ \u202e\ud800\x00 &amp;"
)
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.open = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of an ordinary sweep, drawn."""
    folder = make_result(tmp_path_factory.mktemp("sweep"), Run(loads=(1.0, 5.0), duration_s=15))
    reports.write_all(folder)
    return folder


def copy(sweep, tmp_path, *without):
    """A copy of a folder without some of its files."""
    folder = tmp_path / "copy"
    shutil.copytree(sweep, folder)
    for name in ("report.html", *without):
        (folder / name).unlink()
    return folder


def drawn(folder):
    """The page of a folder: its text, and it taken apart."""
    text = reports.write_all(folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_question_answer_and_verdict_come_first(sweep):
    """Above everything else stand the question, the summary's answer and the verdict."""
    text = (sweep / "report.html").read_text()
    summary = store.read_json(sweep, store.SUMMARY)
    page = Page(text)
    places = [page.text.index(words) for words in (summary["question"], summary["answer"], "Valid")]

    assert places == sorted(places)
    assert max(places) < page.text.index("Only ")


def test_every_warning_stands_there_with_its_next_step(sweep):
    """No warning of the summary is left out."""
    page = Page((sweep / "report.html").read_text())
    warnings = store.read_json(sweep, store.SUMMARY)["verdict"]["warnings"]

    assert warnings
    assert all(warning["text"] in page.text and warning["next_text"] in page.text for warning in warnings)


def test_a_simulated_run_says_so_everywhere(sweep):
    """In a banner, in the title, in every figure's title, and at the end; a real run nowhere."""
    text = (sweep / "report.html").read_text()
    page = Page(text)
    titles = re.findall(r'<title id="[^"]+">([^<]*)</title>', text)

    assert re.search(r'<div class="simulated" role="note"><strong>SIMULATED</strong>', text)
    assert re.search(r"<title translate=\"no\">SIMULATED · ", text)
    assert len(titles) >= 8
    assert all("SIMULATED" in title for title in titles)
    assert page.text.count("SIMULATED") > 2 * len(titles)


def test_a_measured_run_is_not_called_simulated(tmp_path):
    """The word appears only where it is true."""
    text, _ = drawn(make_result(tmp_path, Run(loads=(2.0,), duration_s=5, simulated=False)))

    assert "SIMULATED" not in text


def test_a_folder_without_records_says_what_is_left_out(tmp_path, capsys):
    """Below the answer, and in one line of `harness report`; a whole folder says nothing."""
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=5))
    line = "requests.parquet is missing: distributions, values over time, stalls and single requests are left out"
    for whole in (True, False):
        if not whole:
            (folder / store.REQUESTS).unlink()
        with pytest.raises(SystemExit):
            main(["report", str(folder)])

        assert (f"harness: {line}" in capsys.readouterr().err) is not whole
        page = re.sub("</?bdi>", "", (folder / "report.html").read_text())
        assert (f"{line}</p>" in page) is not whole


def test_the_page_asks_for_nothing(sweep):
    """No address but in plain words: nothing to load, no link that leaves the page, a policy that forbids both."""
    text = (sweep / "report.html").read_text()
    page = Page(text)
    loading = ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "formaction", "background")
    asked = [attrs[name] for _, attrs in page.tags for name in loading if name in attrs]
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)) + "".join(
        a.get("style") or "" for _, a in page.tags
    )

    assert all(target.startswith(("#", "data:,")) for target in asked)
    assert [target for target in re.findall(r"url\(([^)]*)\)", styles) if not target.startswith("#")] == []
    assert "@import" not in styles
    assert {"iframe", "object", "embed", "base", "form", "video", "audio"}.isdisjoint(tag for tag, _ in page.tags)


def test_the_policy_lets_only_the_one_script_run(sweep):
    """The head's policy names the hash of the page's own script and forbids the rest."""
    text = (sweep / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (policy,) = [m["content"] for m in Page(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert policy.startswith("default-src 'none';")
    assert re.search(rf"script-src 'sha256-{re.escape(digest)}';", policy)


def test_hostile_words_are_words(tmp_path):
    """Markup in name, question, model, messages, file names and flags becomes text, and nothing else changes."""
    run = Run(loads=(3.0,), duration_s=8, failing=0.3)
    _, plain = drawn(make_result(tmp_path / "plain", replace(run, message="cut")))
    folder = make_result(tmp_path / "hostile", replace(run, message=HOSTILE.replace("\ud800", "")))
    evil = json.loads(json.dumps(store.read_run(folder)))
    evil |= {"name": HOSTILE, "question": HOSTILE, "scenario_file": HOSTILE, "scenario_text": HOSTILE, "rerun": HOSTILE}
    evil["engine"] |= {"model": HOSTILE, "kind": HOSTILE, "asked": {HOSTILE: HOSTILE}, "effective": {HOSTILE: HOSTILE}}
    evil["engine"]["command"] = [HOSTILE]
    evil["environment"] = {HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}
    (folder / store.RUN).write_text(json.dumps(evil))
    said = json.loads((folder / store.SUMMARY).read_text())
    said |= {"answer": HOSTILE}
    said["stages"][0] |= {"label": HOSTILE}
    said["verdict"]["warnings"] = [kept_warning(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0)]
    (folder / store.SUMMARY).write_text(json.dumps(said))
    moved = folder.rename(tmp_path / "<script>alert(1)<")
    text, page = drawn(moved)

    assert len(re.findall('<script(?! type="application/json")', text)) == 1
    assert [attrs for tag, attrs in page.tags if any(name.startswith("on") for name in attrs)] == []
    assert page.all("img") == []
    assert page.text.count("<script>alert('x')</script>") >= 15
    assert "{{ 7*7 }}" in page.text
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"details", "summary"}


def test_every_figure_has_a_name_and_ids_are_unique(sweep):
    """A screen reader finds a title and a description with numbers for every image."""
    text = (sweep / "report.html").read_text()
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    charts = page.all("svg")

    assert len(charts) >= 8
    assert all(chart["role"] == "img" for chart in charts)
    assert all(set(chart["aria-labelledby"].split()) <= set(ids) for chart in charts)
    assert len(ids) == len(set(ids))
    assert all(re.search(r"\d", words) for words in re.findall(r"<desc[^>]*>([^<]*)</desc>", text))


def test_links_within_the_page_have_a_target(sweep):
    """Every term and section that is linked to is there."""
    page = Page((sweep / "report.html").read_text())
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    targets = {attrs["href"][1:] for attrs in page.all("a")}

    assert len(targets) > 12
    assert targets <= ids


def test_tables_have_heads_and_captions(sweep):
    """Each table is named, and each of its heads says what it heads."""
    page = Page((sweep / "report.html").read_text())

    assert len(page.all("caption")) == len(page.all("table")) >= 5
    assert all(head.get("scope") in {"col", "row", "colgroup"} for head in page.all("th"))


def test_headings_do_not_skip_a_level(sweep):
    """One h1, and no h3 before an h2."""
    levels = [int(tag[1]) for tag, _ in Page((sweep / "report.html").read_text()).tags if re.fullmatch(r"h[1-6]", tag)]

    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize(
    "without",
    [
        ["samples.parquet"],
        ["timeline.json"],
        ["events.parquet"],
        ["summary.json", "samples.parquet", "timeline.json"],
        ["summary.json", "samples.parquet", "timeline.json", "events.parquet", "requests.parquet"],
    ],
    ids=" ".join,
)
def test_a_page_is_drawn_from_what_there_is(sweep, tmp_path, without):
    """A killed run's folder still gives a page with its question and its scenario."""
    _, page = drawn(copy(sweep, tmp_path, *without))

    assert page.open == []
    assert "Does TTFT hold as prompts grow to 32k tokens?" in page.text
    assert "max_num_seqs: 48" in page.text
    assert ("Unfinished" in page.text) is ("summary.json" in without)


def test_a_run_without_answers_is_drawn(sweep, tmp_path):
    """Nothing sent, nothing answered: no figure of latencies, and the page says why."""
    folder = copy(sweep, tmp_path)
    run, rows = store.read_run(folder), table_files.read_requests(folder)
    gone = np.full(len(rows), -1)
    rows = replace(
        rows,
        status=np.full(len(rows), NEVER_SENT, dtype=object),
        error=np.full(len(rows), "", dtype=object),
        **dict.fromkeys(("sent_ns", "ready_ns", "first_ns", "last_ns", "done_ns"), gone),
    )
    none = Events(np.zeros(len(rows) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))
    write_result(folder, run, (rows, none), store.read_json(folder, store.TIMELINE))
    text, page = drawn(folder)

    assert "No key figures: no request completed." in page.text
    assert "Not valid" in page.text
    assert "spread-" not in text


def test_a_lone_stage_gets_a_ladder_and_says_why(tmp_path):
    """One stage has no curve: its percentiles stand there, and how to get a curve."""
    text, page = drawn(make_result(tmp_path, Run(loads=(4,), kind="closed", duration_s=8)))

    assert 'id="ladder-title"' in text
    assert "curve-" not in text
    assert "A single stage has no throughput-latency curve." in page.text


def test_both_views_stand_on_the_page_of_an_open_loop(sweep):
    """The metric table has ttft and e2e from due and from sent; the figures name both views."""
    page = Page((sweep / "report.html").read_text())

    assert all(name in page.text for name in ("TTFT from due", "TTFT from sent", "E2E from due", "E2E from sent"))
    assert page.text.count("solid from due, dashed from sent") == 2


def test_answers_in_one_piece_have_no_token_latencies(tmp_path):
    """Without streaming only end to end times are drawn."""
    text, _ = drawn(make_result(tmp_path, Run(loads=(1.0, 2.0), duration_s=8, stream=False)))

    assert 'id="spread-e2e_user-title"' in text
    assert 'id="spread-itl-title"' not in text
    assert 'id="spread-tpot-title"' not in text


def test_many_stages_and_repeats_are_drawn(tmp_path):
    """Nine stages run twice give a page with a row for each."""
    _, page = drawn(make_result(tmp_path, Run(loads=tuple(range(1, 10)), duration_s=2, repeats=2, warmup=2, slo={})))

    assert page.text.count("repeat 2") >= 9


def test_an_ordinary_page_is_small(sweep):
    """Far below three megabytes, figures and all."""
    assert (sweep / "report.html").stat().st_size < 800_000


def test_the_same_folder_gives_the_same_page(sweep):
    """Drawn twice, byte for byte: pages can be compared, and `harness report` changes nothing by itself."""
    before = (sweep / "report.html").read_bytes()

    assert reports.write_all(sweep).read_bytes() == before


def test_drawing_leaves_the_folder_as_it_was(sweep):
    """Only the four files that are drawn are added; no draft is left behind."""
    names = {path.name for path in sweep.iterdir()}
    files = {store.RUN, store.REQUESTS, store.EVENTS, store.SAMPLES, store.SUMMARY, store.TIMELINE}

    assert names == files | {"report.html", "summary.md", "junit.xml", "vllm-bench.json"}
