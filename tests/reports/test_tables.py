"""Which columns stand at the right, and where a long name breaks."""

import pytest

from reports.tables import Cell, breakable, column_kinds


def rows(*lines):
    """Rows of plain cells."""
    return [[Cell(text) for text in line] for line in lines]


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
