"""The index of several results."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from harness.cli.app import main
from harness.comparison.history import histories
from harness.results import store
from reports import history_page
from reports.decision import limits_cell
from reports.selection import candidate_of, selections, unlike_work
from tests.reports.test_tuning import study
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


def test_results_of_several_places_have_their_index_in_the_current_folder(results, capsys, monkeypatch, tmp_path):
    """Not in whatever folder holds them all, which may be anyone's; its path is printed and its links lead to them."""
    here = tmp_path / "here"
    shutil.copytree(results / "one", here / "one")
    shutil.copytree(results / "two", tmp_path / "elsewhere" / "two")
    monkeypatch.chdir(here)
    out = told(capsys, "report", "one", tmp_path / "elsewhere" / "two")[1]

    assert out.splitlines()[-1] == "index.html"
    assert 'href="../elsewhere/two/report.html"' in (here / "index.html").read_text()
    assert not (tmp_path / "index.html").exists()


def test_a_history_has_one_name_above_and_in_the_navigation(results, capsys, monkeypatch):
    """The link says what the heading that it leads to says."""
    monkeypatch.chdir(results)
    told(capsys, "report", "one", "two")
    page = (results / "index.html").read_text()
    (link,), (head,) = (re.findall(rf"<{tag}[^>]*history-0[^>]*>(.*?)</", page) for tag in ("a", "h2"))

    assert link
    assert link == head


def test_one_result_has_no_index(results, capsys, monkeypatch):
    """It has its page alone."""
    monkeypatch.chdir(results)

    assert len(told(capsys, "report", "one")[1].splitlines()) == 1


def made(place, name, run, **changes):
    """A finished result whose run.json has these changes, its effective flags among them."""
    folder = make_result(place / name, run)
    kept = store.read_run(folder)
    kept["engine"]["effective"] |= changes.pop("effective", {})
    store.write_json(folder, store.RUN, kept | {"payload_sha256": "same"} | changes)
    # The summary was made before: without its own numbers a page computes them from run.json.
    summary = store.read_json(folder, store.SUMMARY)
    for key in ("npus", "decision"):
        del summary[key]
    for stage in summary["stages"]:
        del stage["efficiency"]
    store.write_json(folder, store.SUMMARY, summary)
    return folder


CLOSED = replace(USUAL, kind="closed", loads=(1, 4, 12), duration_s=10, warmup=0, failing=0, simulated=False)


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    """Two measured configurations of one work, two simulated ones, and one on a stub device."""
    place = tmp_path_factory.mktemp("index")
    for tp in (2, 4):
        made(place, f"tp{tp}", CLOSED, effective={"tensor_parallel_size": tp}, price_per_hour=10.0)
        made(place, f"sim{tp}", replace(CLOSED, simulated=True), effective={"tensor_parallel_size": tp})
    stub = made(place, "stub", CLOSED, effective={"tensor_parallel_size": 1}, price_per_hour=1.0)
    run = store.read_run(stub)
    run["engine"]["hollow"] = True
    store.write_json(stub, store.RUN, run)
    return place


def candidates(place):
    """The results of a folder as candidates, by name."""
    folders = sorted(folder for folder in place.iterdir() if folder.is_dir())
    return [candidate_of(f.name, store.read_run(f), store.read_json(f, store.SUMMARY)) for f in folders]


def test_measured_and_simulated_results_are_never_in_one_decision(configurations):
    """Each has its own front; what was not measured says so, and a lone stub result stands in none."""
    measured, simulated = selections(candidates(configurations))

    assert (measured.source, list(measured.names)) == ("measured", ["tp2", "tp4"])
    assert (simulated.source, list(simulated.names)) == ("simulated", ["sim2", "sim4"])
    assert str(measured.text).startswith("Choose tp2, closed loop, concurrency 12: of 6 loads that keep every limit")
    assert str(simulated.text).startswith("Not measured (simulated): Choose sim2")
    assert "SIMULATED" not in str(measured.figure.svg)
    assert "SIMULATED" in str(simulated.figure.svg)


@pytest.mark.parametrize(
    "changes",
    [
        {"payload_sha256": "other"},
        {"slo": {"ttft_p99": 1.0}},
        {"name": "other", "payload_sha256": None},
        {"stages": [{"kind": "closed", "concurrency": n, "duration_s": 120.0} for n in (1, 4, 12)]},
        {"stages": [{"kind": "poisson", "rate": n, "duration_s": 10.0} for n in (1.0, 4.0, 12.0)]},
        {"engine": {"effective": {}}},
        {"engine": {"clock": "virtual", "effective": {"tensor_parallel_size": 4}}},
    ],
)
def test_results_of_other_work_or_limits_are_not_compared(configurations, changes):
    """Other requests, limits, scenario, duration or clock, or an unknown number of NPUs: no decision of two."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")
    changed = candidate_of("x", {**other.run, **changes}, {"stages": other.choice.stages if "slo" in changes else []})
    changed = replace(changed, choice=other.choice) if "engine" not in changes else candidate_of(
        "x", {**other.run, **changes}, store.read_json(configurations / "tp4", store.SUMMARY)
    )  # fmt: skip

    assert len(selections([one, other])) == 1
    assert selections([one, changed]) == []


def test_results_of_the_same_work_stand_together_whatever_their_name(configurations):
    """The hash of what was sent says that it is the same; a name is only a name."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")

    assert len(selections([one, replace(other, run={**other.run, "name": "other"})])) == 1


def test_where_there_is_no_decision_the_reason_is_said(configurations):
    """By the parts in which the results differ; one result alone needs none."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")
    changed = replace(other, run={**other.run, "slo": {"ttft_p99": 1.0}, "payload_sha256": "other"})
    page = index_of([configurations / "tp2", configurations / "sim2"], configurations)

    assert str(unlike_work([one, changed])) == (
        "No decision: no two of these results did the same work; they differ in the requests, the limits."
    )
    assert unlike_work([one]) is None
    assert "they differ in whether they were measured" in page


def test_open_loops_of_one_duration_stand_together_at_the_same_rates_only(configurations):
    """At another rate another number of requests comes in that time; a closed loop at another concurrency may."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")

    def of(candidate, kind, levels):
        key = "rate" if kind == "poisson" else "concurrency"
        stages = [{"kind": kind, key: level, "duration_s": 10.0} for level in levels]
        return replace(candidate, run={**candidate.run, "stages": stages})

    assert selections([of(one, "poisson", (1.0, 2.0)), of(other, "poisson", (1.0, 2.0))])
    assert not selections([of(one, "poisson", (1.0, 2.0)), of(other, "poisson", (1.0, 4.0))])
    assert selections([of(one, "closed", (1, 2)), of(other, "closed", (1, 4))])


def test_the_points_of_a_decision_are_named_by_their_results(configurations):
    """A load alone would not say whose point it is."""
    selection, _ = selections(candidates(configurations))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", str(selection.figure.svg))

    assert any(text.startswith("tp2, ") for text in texts)
    assert all(text.startswith(("tp2", "tp4")) for text in texts if "concurrency" in text)


def test_results_that_come_as_close_are_told_apart(configurations):
    """Their names have commas; between them stand semicolons."""
    one, _ = (candidate for candidate in candidates(configurations) if candidate.source == "measured")
    same = [replace(one, name=name) for name in ("a", "b", "c")]
    (selection,) = selections(same)

    assert "b, closed loop, concurrency 12; c, closed loop, concurrency 12." in str(selection.text)


def test_the_cheaper_configuration_is_chosen_where_prices_differ(configurations):
    """Throughput per NPU does not decide between NPUs of different prices; the cost of a token does."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")
    summary = store.read_json(configurations / "tp4", store.SUMMARY)
    cheap = candidate_of("tp4", {**other.run, "price_per_hour": 1.0}, summary)
    (selection,) = selections([one, cheap])

    assert str(selection.text).startswith(
        "Choose tp4, closed loop, concurrency 12: of 6 loads that keep every limit it costs"
    )


def test_costs_in_different_currencies_do_not_decide(configurations):
    """The cheaper number of another currency is no cheaper configuration; each cost is said in its own."""
    one, other = (candidate for candidate in candidates(configurations) if candidate.source == "measured")
    summaries = {name: store.read_json(configurations / name, store.SUMMARY) for name in ("tp2", "tp4")}
    named = candidate_of("tp2", {**one.run, "currency": "CNY"}, summaries["tp2"])
    cheap = candidate_of("tp4", {**other.run, "price_per_hour": 1.0, "currency": "USD"}, summaries["tp4"])
    (mixed,), (alike,) = selections([named, cheap]), selections([replace(one, name="a"), named])

    assert str(mixed.text).startswith(
        "Choose tp2, closed loop, concurrency 12: of 6 loads that keep every limit it has"
    )
    assert " CNY." in str(mixed.text)
    assert "it has the highest throughput" in str(alike.text)


def test_the_index_is_one_table_with_the_decision(configurations, capsys, monkeypatch):
    """A row a result with its recommended load, NPUs, rates and cost; sources are marked; studies stand there, too."""
    monkeypatch.chdir(configurations)
    (configurations / "study").mkdir(exist_ok=True)
    (configurations / "study" / "study.json").write_text(json.dumps(study(name="best-flags")))
    told(capsys, "report", *sorted(configurations.glob("*")))
    page = (configurations / "index.html").read_text()
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]
    by_name = {re.sub("<.*?>", "", row[0]): [re.sub("<.*?>", "", cell) for cell in row[1:]] for row in rows}

    assert page.count("<table") == 1
    assert by_name["tp2"][:3] == ["measured", "closed loop, concurrency 12", "2"]
    assert by_name["sim4"][0] == "SIMULATED"
    assert by_name["stub"][0] == "STUB DEVICE"
    assert float(by_name["tp2"][3]) == pytest.approx(2 * float(by_name["tp4"][3]), rel=0.02)
    assert "tuning study" in page
    assert '<div class="simulated"' not in page


def interrupt(folder, *stages):
    """Make a finished result one that was interrupted in these stages, which lost requests."""
    summary = store.read_json(folder, store.SUMMARY)
    summary["verdict"]["interrupted"] = True
    for number in stages:
        summary["stages"][number]["requests"]["never_sent"] = 7
        summary["stages"][number]["cut"] = True
    store.write_json(folder, store.SUMMARY, summary)


def index_of(folders, place):
    """The text of an index page, entities of quotes and tags aside."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", history_page.render(histories(folders), place)))


def test_single_runs_are_said_not_to_be_judged(results):
    """Two runs, one each, show no change, and not that there is none; the row says so as well."""
    page = index_of([results / "first", results / "one"], results)

    assert "Not judged: one run each cannot show a change; repeat each (`repeats:` or --against)." in page
    assert "No change was found" not in page
    assert "not judged" in page


def test_a_stage_that_was_cut_is_in_no_decision(configurations):
    """It stands on no front, is chosen by none, and its limits are not judged; whole stages of its run stay."""
    folder = configurations / "tp2"
    run, summary = store.read_run(folder), store.read_json(folder, store.SUMMARY)
    whole = candidate_of("tp2", run, summary)
    cut = {**summary, "verdict": {**summary["verdict"], "interrupted": True}}
    cut["stages"] = [*summary["stages"][:-1], {**summary["stages"][-1], "requests": {
        **summary["stages"][-1]["requests"], "cancelled": 3}, "cut": True}]  # fmt: skip
    kept = candidate_of("tp2", run, cut)

    last = whole.choice.options[-1].key
    assert whole.best.key == last
    assert kept.best.key != last
    assert last not in {option.key for option in kept.choice.decision.front}
    assert limits_cell(kept.choice.options[-1]).text == "not judged"
    assert limits_cell(whole.choice.options[-1]).text == "met, too few answers to be sure"


def test_the_index_does_not_judge_a_run_that_was_cut(results, tmp_path):
    """Neither as changed against the run before it, nor its limits; the run before it is no base either."""
    folders = []
    for name in ("first", "one", "two", "slow"):
        shutil.copytree(results / name, tmp_path / name)
        folders.append(tmp_path / name)
    interrupt(tmp_path / "slow", 0, 1)
    (history,) = histories(folders)

    assert not any(entry.changed for entry in history.entries)
    assert str(history.entries[-1].unjudged) == "NEW was interrupted"
    assert "changes at" not in index_of(folders, tmp_path)


@pytest.mark.parametrize("spoil", ["interrupted", "valid"])
def test_the_base_of_a_run_is_the_last_whole_one(results, tmp_path, spoil):
    """A run that was interrupted or is not valid is skipped: the next is judged against the run before it."""
    folders = []
    for name in ("first", "one", "two", "slow"):
        shutil.copytree(results / name, tmp_path / name)
        folders.append(tmp_path / name)
    shutil.copytree(results / "two", tmp_path / "spoiled")
    run = store.read_run(tmp_path / "spoiled") | {"started_utc": "2026-11-03T20:00:00"}
    store.write_json(tmp_path / "spoiled", store.RUN, run)
    (whole,) = histories(folders)
    folders.append(tmp_path / "spoiled")
    for name in ("spoiled", "first", "one", "two"):
        summary = store.read_json(tmp_path / name, store.SUMMARY)
        summary["verdict"][spoil] = spoil == "interrupted"
        store.write_json(tmp_path / name, store.SUMMARY, summary)
        (history,) = histories(folders)
        if name == "spoiled":
            skipped = history.entries[-1]

    assert whole.entries[-1].changed
    assert skipped.folder.name == "slow"
    assert [row.verdict for row in skipped.changed] == [row.verdict for row in whole.entries[-1].changed]
    assert not history.entries[-1].changed
    assert str(history.entries[-1].unjudged) == "no run before it is valid and whole"
