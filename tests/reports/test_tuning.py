"""What stands on the page of a tuning study, whatever the study left behind and whoever wrote its words."""

import json
import math
import re
from pathlib import Path

import pytest

from harness.cli.app import main
from harness.errors import ResultError
from harness.messages import language, localized
from harness.results.study import StudyFiles, feasible, read_study, value_of
from harness.tuning.gains import GainEstimate
from harness.tuning.simplification_result import verdict_message
from reports import tuning, write_study
from reports.tuning_decision import decision_figure, trial_options
from reports.tuning_figures import agreement_words
from tests.reports.page_texts import english_in
from tests.reports.test_page import HOSTILE, Page

GOODPUT = [{"name": "goodput", "direction": "maximise"}]
SPACE = [
    {"name": "max_num_seqs", "kind": "int", "low": 8, "high": 512, "log": True, "values": []},
    {"name": "mode", "kind": "choice", "low": 0, "high": 0, "log": False, "values": ["a", "b"]},
]
MEMORY = {"kind": "out_of_memory_at_capture", "retryable": False, "line": "NPU out of memory while capturing"}


def trial(number, value, **changes):
    """One trial of a study."""
    return {
        "number": number,
        "point": {"max_num_seqs": 8 * 2**number, "mode": "a"},
        "effective": {"max_num_seqs": 8 * 2**number, "mode": "a"}, "status": "complete",
        "values": {} if value is None else {"goodput": value, "ttft_p99": 10 / value},
        "violations": {},
        "failure": None,
        "minutes": {"start": 4.0, "load": 1.0, "other": 0.1}, "seed": 1, "origin": "model", "start": number,
        "twin": {} if value is None else {"goodput": value * 1.2, "ttft_p99": {"float": "inf"}},
    } | changes  # fmt: skip


def study(**changes):
    """A study of six trials."""
    trials = [
        trial(0, 1.0, origin="default"),
        trial(1, 1.5, effective={"max_num_seqs": 128, "mode": "a"}),
        trial(2, None, status="failed", failure=MEMORY),
        trial(3, 0.7, status="stopped"),
        trial(4, 9.0, violations={"tpot_p99": 0.25}),
        trial(5, 1.4),
    ]
    gains = {"1": {"words": "+50 % (95 % CI 45-55)", "ratio": 1.5, "worst": 1.45, "best": 1.6, "shown": True}}
    confirmation = {
        "entrants": [{"trial": None, "point": {}}, {"trial": 1, "point": {}}],
        "values": {"0": [1.0, 1.1], "1": [1.45, 1.6]}, "gains": gains, "choice": 1, "broken": {}, "drift": None,
    }  # fmt: skip
    return {
        "format": 1, "name": "tune", "question": "Which flags?", "finished_utc": "2026-11-22T17:30:00+00:00",
        "simulated": True, "kind": "simulator", "engine": {"model": "M"},
        "study": {"seed": 3, "budget": {"trials": 6, "minutes": None, "starts": None}},
        "objectives": GOODPUT,
        "limits": [{"name": "ttft_p99", "most": 2.0, "least": None}],
        "parameters": SPACE, "dead": [{"name": "block_size", "becomes": 128, "why": "set to 128"}],
        "notes": ["a remark"], "trials": trials, "front": [1],
        "importance": [
            {"name": "max_num_seqs", "share": 0.8, "low": 0.6, "high": 0.9, "chance": 0.3, "shown": True}
        ],
        "screening": {"pairs": 6, "tau": 0.8, "low": 0.4, "high": 0.9, "trusted": True},
        "confirmation": confirmation,
        "winner": {"trial": 1, "command": ["vllm", "serve", "M"]},
        "files": {"winner.txt": "winner.txt", "winner.docker.sh": "winner.docker.sh", "elsewhere": "../study.json"},
    } | changes  # fmt: skip


def page(told, folder):
    """The page of a study, parsed; every tag that is opened is closed."""
    (folder / "study.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "winner.txt").write_text("vllm serve M --max-num-seqs 16", encoding="utf-8")
    (folder / "winner.docker.sh").write_text("docker run x", encoding="utf-8")
    text = tuning.write(folder).read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    return text, parsed


def test_everything_a_user_takes_away_is_there(tmp_path):
    """Commands, confirmation with its interval, every trial, causes of failure, notes."""
    text, parsed = page(study(), tmp_path)

    for told in (
        "vllm serve M --max-num-seqs 16", "docker run x", "+50 % (95 % CI 45-55)", "NPU out of memory while capturing",
        "stopped early", "limit broken", "tpot_p99 25.0 % over", "became 128",
        "block_size changes nothing here: set to 128", "a remark",
        "Trial 1, run again in turns with the default: goodput +50 %",
        "8 to 512, log scale",
    ):  # fmt: skip
        assert told in parsed.text
    assert "Winner confirmed" in text


def test_the_figures_mark_what_is_extrapolated_and_count_what_was_measured(tmp_path):
    """A stopped trial's tip says so; of too few trials the page tells the number that the terminal tells."""
    few = {"pairs": 4, "tau": None, "low": None, "high": None, "trusted": True}
    text, parsed = page(study(screening=few), tmp_path)

    assert "trial 3: goodput 0.700 (extrapolated)" in text
    assert "4 trials are too few to judge how the simulator orders them." in parsed.text


def test_without_files_the_command_stands_alone(tmp_path):
    """Its words as a shell takes them."""
    _, parsed = page(study(files={}, winner={"command": ["vllm", "serve", "my model"]}), tmp_path)

    assert "vllm serve 'my model'" in parsed.text


def test_a_simulated_study_says_so_everywhere(tmp_path):
    """In the title, across the page, and over every figure."""
    text, parsed = page(study(), tmp_path)
    charts = [attrs for attrs in parsed.all("svg") if "chart" in attrs.get("class", "")]

    assert '<title translate="no">SIMULATED' in text
    assert len(charts) >= 4
    assert text.count("· SIMULATED</title>") == len(charts)
    assert "SIMULATED" not in page(study(simulated=False), tmp_path)[0]


def test_figures_can_be_read_without_eyes(tmp_path):
    """Each has a description with numbers, and colours that follow light and dark."""
    text, _ = page(study(), tmp_path)

    assert re.search(r"<desc[^>]*>6 trials, 1 failed. The best goodput went from 1.00 to 1.50.", text)
    assert "max_num_seqs 80.0 %" in text
    assert not re.search(r"#0[12][0-9a-f]{4}\b", text)


def test_several_objectives_make_a_front(tmp_path):
    """A figure of both, the front named."""
    both = [{"name": "goodput", "direction": "maximise"}, {"name": "ttft_p99", "direction": "minimise"}]
    _, parsed = page(study(objectives=both, front=[1, 0]), tmp_path)

    assert "Pareto front" in parsed.text
    assert "2 of 5 trials are on the front" in parsed.text


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_study_that_was_cut_short_has_a_page(tmp_path, left):
    """No trial, only the default, only failures: a page that says so."""
    trials = [trial(0, 1.0, origin="default"), trial(1, None, status="failed", failure=MEMORY)][:left]
    told = {"format": 1, "name": "tune", "question": "Which?", "trials": trials, "objectives": GOODPUT}
    _, parsed = page(told, tmp_path)

    assert ("No trial kept every limit" in parsed.text) == (left == 0)
    assert "not confirmed" in parsed.text


def test_no_difference_is_not_sold_as_a_gain(tmp_path):
    """The default stays."""
    gains = {"1": {"words": "no difference shown (+2.0 %, 95 % CI -3.0 to +7.0)", "shown": False}}
    told = study()["confirmation"] | {"gains": gains, "choice": 0, "drift": "the default changed"}
    _, parsed = page(study(confirmation=told), tmp_path)

    assert "none was significantly better (no difference shown" in parsed.text
    assert "keep the default" in parsed.text
    assert "the default changed" in parsed.text


def hostile(value):
    """The same document with every text replaced."""
    if isinstance(value, dict):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return HOSTILE.replace("\ud800", "") if isinstance(value, str) else value


def test_no_text_becomes_more_than_text(tmp_path):
    """Every string of the study at once; the page keeps one script and calls nobody."""
    told = hostile(study()) | {"objectives": [{"name": "goodput", "direction": HOSTILE[:5]}]}
    text, parsed = page(told, tmp_path)

    assert [script for script in parsed.all("script") if script.get("type") != "application/json"] == [{}]
    assert not any(attrs.get("src") or "onerror" in attrs for _, attrs in parsed.tags)
    assert "default-src &#39;none&#39;" in text


def test_a_folder_without_a_study_is_told(tmp_path):
    """Missing, broken, of another format: one line each."""
    with pytest.raises(ResultError, match="expected the result folder of `harness tune`"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResultError, match="not JSON"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(ResultError, match="format 2; expected 1"):
        read_study(tmp_path)


def test_a_device_that_computes_nothing_is_no_measurement(tmp_path):
    """The hollow one is marked as the simulator is."""
    text, parsed = page(study(simulated=False, hollow=True), tmp_path)

    assert "a device that computes nothing" in parsed.text
    assert '<title translate="no">SIMULATED' in text


def test_values_and_limits_are_read_as_they_are(tmp_path):
    """A trial without a value has none; a stopped one is not measured in full."""
    result = StudyFiles(tmp_path, study())

    assert math.isnan(value_of(result.trial(2), "goodput"))
    assert [feasible(one) for one in result.trials] == [True, True, False, False, False, True]
    assert result.chosen is result.trial(1)
    assert result.default is result.trial(0)


def test_a_study_draws_its_page_again(tmp_path, capsys):
    """`harness report` on what `harness tune` left: the same page, byte for byte."""
    page(study(), tmp_path)
    drawn = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])

    assert not end.value.code
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == drawn


def test_a_study_is_drawn_again_in_chinese(tmp_path):
    """`harness report --lang zh` takes a study too."""
    page(study(), tmp_path)
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--lang", "zh"])

    assert '<html lang="zh-Hans">' in (tmp_path / "report.html").read_text(encoding="utf-8")


def warnings_of(trials):
    """The warnings on the page of a study with these trials."""
    return [str(text) for text, _ in tuning.study_warnings(StudyFiles(Path(), study(trials=trials)))]


@pytest.mark.parametrize(
    ("best", "changes", "warning"),
    [
        (2, {"interrupted": True}, ("The study was interrupted before the confirmation.", "Resume it with --resume.")),
        (0, {"interrupted": True}, ("The study was interrupted before its end.", "Resume it with --resume.")),
        (0, {}, ("The winner was not measured against the default again.", "Set confirm.best to 1 or more.")),
        (2, {}, ("The winner was not measured against the default again.", "Resume it with --resume.")),
        (2, {"gains": {}}, ("There was no trial to measure against the default again.", "Give it more trials.")),
    ],
)
def test_a_winner_that_was_not_confirmed_has_the_reason_beside_it(tmp_path, best, changes, warning):
    """An interrupt, no confirmation asked for, nothing to confirm: no advice to set what is set; in Chinese too."""
    confirmation = {"entrants": [], "values": {}, "gains": {}, "choice": 0} if "gains" in changes else None
    told = study(confirmation=confirmation, study={"seed": 3, "confirm": {"best": best}})
    result = StudyFiles(tmp_path, told | {"interrupted": changes.get("interrupted", False)})
    text = tuning.render(result)

    assert tuple(map(str, next(tuning.study_warnings(result)))) == warning
    assert ("interrupted" in tuning.answer(result)) == ("Interrupted" in text) == ("interrupted" in changes)
    with language("zh"):
        assert english_in(tuning.render(result)) == []


def test_a_load_that_was_given_up_was_compared():
    """Two trials in full and four that could not win are a study of six; those that failed leave a warning."""
    full = [trial(0, 1.0), trial(1, 1.5)]
    lost = [trial(number, 0.7, status="stopped") for number in range(2, 6)]
    broken = [trial(number, None, status="failed", failure=MEMORY) for number in range(4, 6)]

    assert not any(said.startswith("Only") for said in warnings_of([*full, *lost]))
    assert "Only 4 trials kept the limits, or served until they could not win." in warnings_of(
        [*full, *lost[:2], *broken]
    )


def test_engine_time_and_starts_include_the_confirmation(tmp_path):
    """Trials that failed and the rounds of the confirmation count."""
    told = study()
    told["confirmation"] |= {"minutes": 20.0, "starts": 3}
    result = StudyFiles(tmp_path, told)
    card = next(card for card in tuning.cards(result) if card.term == "minutes")

    assert (card.value, card.note) == ("50.6", "20.0 of them to confirm")
    assert dict(tuning.tables.fact_rows(result))["engine starts"] == "9"


def test_a_stopped_trial_shows_what_was_measured_and_marks_what_was_not(tmp_path):
    """Its own value stands first, what it was taken to become below; it is not the best, whatever that is."""
    told = study()
    told["trials"][3] |= {"values": {"goodput": 99.0, "ttft_p99": 1.0}, "measurement": {"metrics": {"goodput": 0.42}}}
    result = StudyFiles(tmp_path, told)
    cell = tuning.tables.trial_rows(result)[3][3]

    assert (cell.text, cell.below) == ("0.420 req/s", "extrapolated: 99.0 req/s")
    assert result.best["number"] == 1


def test_best_and_winner_are_one_trial_or_the_page_says_why_not(tmp_path):
    """A winner that is not the best single run is named beside it, with the reason."""
    told = study()
    alike, unlike = StudyFiles(tmp_path, told), StudyFiles(tmp_path, study())
    unlike.content["confirmation"]["entrants"][1]["trial"] = 5

    assert "not trial" not in tuning.answer(alike)
    assert "It is the winner, not trial 1, whose single run was best." in tuning.answer(unlike)
    assert [row[-2].text for row in tuning.tables.trial_rows(unlike)][1::4] == ["best single run", "winner"]
    assert [card.note for card in tuning.cards(unlike) if "winner" in card.label] == ["trial 5"]


@pytest.mark.parametrize(("count", "words"), [(1, "1 trial is too few"), (2, "2 trials are too few")])
def test_trials_of_the_page_are_counted_in_the_right_number(count, words):
    """One trial is no `1 trials`; a budget likewise."""
    assert agreement_words({}, count).startswith(words)
    assert localized("page_tuning.study.budget_starts", value=count, count=count) == f"{count} engine start" + "s" * (
        count - 1
    )


def measured(number, throughput, tpot, tp=1, **more):
    """A complete trial of so many NPUs with these metrics."""
    metrics = {"throughput": throughput, "tpot_p50": tpot}
    return trial(number, 1.0, effective={"tensor_parallel_size": tp}, **more) | {"measurement": {"metrics": metrics}}


def test_trials_stand_by_throughput_per_npu_and_rate_per_user():
    """Four NPUs have to give four times as much; one that is beaten in both is not on the front."""
    trials = [measured(0, 100, 0.02, origin="default"), measured(1, 300, 0.02, tp=4), measured(2, 90, 0.01)]
    files = StudyFiles(Path(), study(trials=trials))
    options = trial_options(files)
    figure = decision_figure(files)

    assert [(o.npu_rate, round(o.user_rate)) for o in options] == [(100, 50), (75, 50), (90, 100)]
    assert figure.subtitle == "on the Pareto front: trial 0 and trial 2"
    assert "trial 0 (default)" in str(figure.svg)
    assert decision_figure(StudyFiles(Path(), study())) is None


def test_with_an_slo_only_responses_that_keep_it_count():
    """Two trials of one throughput: the one that keeps half of the limits gives half."""
    rates = {"request_rate": 10.0}
    trials = [measured(number, 100, 0.02) for number in range(2)]
    for each, goodput in zip(trials, (10.0, 5.0), strict=True):
        each["measurement"]["metrics"] |= rates | {"goodput": goodput}
    files = StudyFiles(Path(), study(trials=trials))

    assert [o.npu_rate for o in trial_options(files)] == [100, 50]
    assert "output tokens/s per NPU, within the SLO" in str(decision_figure(files).svg)


def test_a_trial_that_breaks_a_limit_is_hollow_and_one_that_failed_is_not_there():
    """As on the page of a run."""
    broken = measured(1, 300, 0.02) | {"violations": {"ttft_p99": 0.5}}
    files = StudyFiles(Path(), study(trials=[measured(0, 100, 0.02), broken, trial(2, None, status="failed")]))

    assert [(o.key, o.kept) for o in trial_options(files)] == [("0", None), ("1", False)]
    assert "Hollow points break a limit." in decision_figure(files).caption


def gain(ratio, low, high, before=4.0, **changes):
    """A gain as `harness tune` writes it."""
    return GainEstimate(ratio, low, high, 5, before=before, after=before * ratio, name="goodput").as_dict() | changes


def flag(name, value, default, verdict, effect=None):
    """What became of a flag."""
    words = verdict_message(verdict)
    told = {"verdict": verdict, "words": str(words), "message": words.as_dict(), "effect": effect}
    return {"name": name, "value": value, "default": default, "kept": effect is not None, **told}


def simplified(**changes):
    """A study whose winner kept two of four flags."""
    flags = [
        flag("max_num_seqs", 16, 8, "costs", gain(0.8, 0.78, 0.82, 6.0)),
        flag("mode", "b", "a", "costs", gain(0.9, 0.88, 0.92, 6.0)),
        flag("watermark", 0.1, 0.0, "free"),
        flag("async_scheduling", True, True, "same"),
    ]
    part = {
        "margin": 0.02, "repeats": 5, "most_measurements": 80, "measurements": 40, "minutes": 33.0, "starts": 30,
        "spent": False, "gain": gain(1.5, 1.45, 1.55), "flags": flags,
    }  # fmt: skip
    return study(simplification=part | changes)


def test_the_minimal_winner_stands_first_with_what_each_flag_is_worth(tmp_path):
    """The answer names its flags, value, default and ratio; the table has every flag, the figure each kept one."""
    text, parsed = page(simplified(), tmp_path)

    for told in (
        "With max_num_seqs 16, mode b, goodput 4.00 → 6.00 req/s (×1.50, 95 % CI 1.45-1.55)", "40 of at most 80",
        "6.00 → 4.80 req/s (×0.800, 95 % CI 0.780-0.820)", "no loss without it", "the engine is the same without it",
        "without mode: 6.00 → 5.40 req/s", "33.0 to find out which flags are needed",
    ):  # fmt: skip
        assert told in parsed.text
    assert "What each flag is worth" in text


def test_the_summary_of_a_study_says_the_same(tmp_path):
    """summary.md has the answer, a row a flag and the command, marked as simulated, in both languages."""
    page(simplified(), tmp_path)
    told = {"en": "4.00 → 6.00 req/s (×1.50, 95 % CI 1.45-1.55)", "zh": "（×1.50，95 % 置信区间 1.45-1.55）"}
    for lang, words in told.items():
        write_study(tmp_path, lang)
        text = (tmp_path / "summary.md").read_text(encoding="utf-8")

        assert text.startswith("> **SIMULATED.**")
        assert words in text
        assert "vllm serve M --max-num-seqs 16" in text
        assert text.count("\n| ") == 6


def test_a_study_of_before_has_no_section_of_flags(tmp_path):
    """Its study.json has neither gains as numbers nor flags; its own words stay."""
    text, parsed = page(study(), tmp_path)

    assert "+50 % (95 % CI 45-55)" in parsed.text
    assert 'id="flags"' not in text


def test_hostile_flags_stay_text(tmp_path):
    """Names and values come from a study file."""
    told = simplified()
    told["simplification"]["flags"][0] |= {"name": HOSTILE, "value": HOSTILE, "words": HOSTILE, "message": None}
    text, _ = page(told, tmp_path)
    write_study(tmp_path)

    assert HOSTILE not in text
    assert HOSTILE not in (tmp_path / "summary.md").read_text(encoding="utf-8")
