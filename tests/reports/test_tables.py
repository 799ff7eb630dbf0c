"""Which columns stand at the right, and where a long name breaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.slo import spans
from harness.cli.result_lines import _limits, verdict_lines
from harness.results import store
from harness.results.folder import read_files
from reports import headline, tables
from reports.decision import choice_of, limits_cell
from reports.tables import Cell, breakable, column_kinds
from tests.result_folder import Run, make_result


def rows(*lines):
    """Rows of plain cells."""
    return [[Cell(text) for text in line] for line in lines]


def changed(folder, change):
    """A result whose summary.json was changed, as its page reads it."""
    make_result(folder, Run(loads=(2.0,), duration_s=10))
    summary = store.read_json(folder, store.SUMMARY)
    change(summary)
    store.write_json(folder, store.SUMMARY, summary)
    return read_files(folder)


def test_what_the_client_spoiled_is_marked_where_it_stands(tmp_path):
    """In the table of metrics, on its card, and beside the limit that it does not decide about."""

    def spoil(summary):
        (stage,) = summary["stages"]
        stage["ttft_user"]["invalid"] = ["p99"]
        stage["slo"]["ttft_p99"] |= {"met": None, "unsure": "client"}

    result = changed(tmp_path, spoil)
    (stage,) = result.stages
    row = tables._metric_row("ttft_user", stage["ttft_user"])
    limit = tables._limit_row("ttft_p99", stage["slo"]["ttft_p99"], "")
    card = headline._latency_card(stage, "ttft_user")

    assert [(cell.tone, cell.below) for cell in row if cell.tone == "bad"] == [("bad", "not valid")]
    assert (limit[3].text, limit[3].below) == ("not judged", "the client may have added more than a tenth")
    assert (card.tone, "not valid" in card.note) == ("bad", True)


def test_an_interrupted_run_is_valid_for_what_it_measured(tmp_path):
    """The badge, and the line of the terminal, say so before any limit."""
    result = changed(tmp_path, lambda summary: summary["verdict"].update(interrupted=True))

    assert headline.badges(result)[0].text == "Interrupted: valid for what was measured until then"
    assert "valid for what was measured until the interruption" in verdict_lines(result.summary)
    result.summary["verdict"]["valid"] = False
    assert "NOT VALID; measured until the interruption" in verdict_lines(result.summary)


def with_interval(folder, low, value, high):
    """A result of one stage and one limit of 1 s, whose value and interval are these, in its own files."""

    def change(summary):
        (stage,) = summary["stages"]
        stage["ttft_user"] |= {"p99": value, "ci95": {"p99": [low, high]}}
        met = value <= 1.0
        held = {"metric": "ttft_user", "limit": 1.0, "value": value, "met": met, "failed_counted": 0}
        stage |= {"slo": {"ttft_p99": held}, "slo_met": met}
        summary["verdict"] = {"valid": True, "interrupted": False, "warnings": []}

    return changed(folder, change)


@pytest.mark.parametrize(
    ("ends", "pill", "word"),
    [
        ((0.7, 0.9, 1.2), "All limits met, too close to be sure", "met, too close to be sure"),
        ((0.7, 0.8, 0.9), "All limits met", "met"),
        ((0.9, 1.1, 1.2), "Limits not met, too close to be sure", "missed, too close to be sure"),
        ((1.1, 1.2, 1.3), "Limits not met", "missed"),
    ],
)
def test_a_limit_within_the_interval_is_said_to_be_close(tmp_path, ends, pill, word):
    """By the pill, both tables of the page, the decision and the terminal; the value alone decides which side."""
    result = with_interval(tmp_path, *ends)
    (stage,) = result.stages
    (table,) = tables.stage_tables(result)
    (option,) = choice_of(result.run, result.summary).options

    assert headline.badges(result)[-1].text == pill
    assert tables.overview(result).rows[0][1].text == word
    assert table.limits[0][3].text == word
    assert limits_cell(option).text == word
    assert _limits(stage).plain.partition(":")[0] == word


@given(low=st.floats(0, 10), above=st.floats(0, 10), limit=st.floats(0, 10))
def test_an_interval_spans_a_limit_where_both_answers_lie_in_it(low, above, limit):
    """Its lower end keeps the limit and its upper end breaks it; without an interval nothing is said."""
    ends = (low, low + above)

    assert spans(ends, limit) == (ends[0] <= limit and not ends[1] <= limit)
    assert not spans(None, limit)


def test_no_duration_is_named_for_an_interval_where_the_queue_grows():
    """Neither in the table of a stage nor on its card: a longer run would not give it."""
    ttft = {"n": 40, "p50": 1.0, "p99": 3.0, "ci95": {}, "needed_s": {"p99": 3720.0}}
    stage = {"index": 0, "ttft": ttft, "tpot": {"n": 0}, "e2e": {"n": 0}, "requests": {}, "load": {"kind": "closed"}}
    never = "none, however long: the queue grew"

    assert "needs 62 min or more" in {cell.below for cell in tables._metric_row("ttft", ttft)}
    assert {cell.below for cell in tables._metric_row("ttft", ttft, grows=True)} == {"", "s", never}
    notes = [
        next(card.note for card in headline.cards(stage, growing) if card.term == "ttft") for growing in ((), (0,))
    ]
    assert notes == ["no 95 % interval: needs 62 min", "no 95 % interval, however long the run: the queue grew"]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (("12 ms", "–"), "number"),
        (("+7.1 %", "−0.2 %"), "number"),  # noqa: RUF001 - a minus, as the tables print it
        (("∞, by failures", ""), "number"),
        (("~1000 ragged", "≤ 5 s"), "number"),
        (("True", "False"), "word"),
        (("12", "no difference shown"), "word"),
        (("2026-11-22 17:30 UTC",), "word"),
        (("[1, 2]",), "word"),
    ],
)
def test_numbers_stand_right_and_words_left(texts, kind):
    """One word makes a column one of words; a date is no number."""
    assert column_kinds(rows(*(("row", text) for text in texts)))[1] == kind


def test_a_short_first_column_takes_no_more_room_than_it_needs():
    """What stands under its names counts as well."""
    assert column_kinds(rows(("trial 1", "2"))) == ["short", "number"]
    assert column_kinds(rows(("a rather long name", "2"))) == ["word", "number"]
    assert column_kinds([[Cell("1", "a rather long name")]]) == ["word"]
    assert column_kinds([]) == ["word"]


def test_a_name_breaks_at_its_words_and_stays_text():
    """After joints and before capitals, not within a version; markup in it is escaped."""
    assert breakable("max_num/<b>_x") == "max_<wbr>num/&lt;b&gt;_<wbr>x"
    assert breakable("Qwen/Qwen2.5-7B-Instruct") == "Qwen/<wbr>Qwen2.5-7B-Instruct"
    assert breakable("numScheduledTokens") == "num<wbr>Scheduled<wbr>Tokens"
