"""Which columns stand at the right, and where a long name breaks."""

import pytest

from harness.cli.result_lines import verdict_lines
from harness.results import store
from harness.results.folder import read_files
from reports import headline, tables
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
    limit = tables._limit_row("ttft_p99", stage["slo"]["ttft_p99"])
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
