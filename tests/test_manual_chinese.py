"""Every English page of the manual has a Chinese counterpart of the same sections, blocks and names."""

import re
from itertools import groupby

import pytest

from harness.messages.rendering import HERE
from tests.manual import BLOCK, INCLUDED, PAGES, READMES, built, chinese_of

PAIRS = [(READMES["en"], READMES["zh"]), *((page, chinese_of(page)) for page in PAGES)]
both = pytest.mark.parametrize(
    ("english", "chinese"), PAIRS, ids=[f"{page.parent.name}/{page.stem}" for page, _ in PAIRS]
)


def outline(text):
    """The levels of the headings, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]


def shown(text):
    """The blocks of code, without what is remarked in a shell."""
    return [re.sub(r" +# .*", "", body) for kind, body in BLOCK.findall(text) if kind != "text"]


def tables(text):
    """What stands in code in the first column of each table."""
    lines = BLOCK.sub("", text).splitlines()
    found = [list(rows) for is_row, rows in groupby(lines, lambda line: line.startswith("|")) if is_row]
    return [[re.findall(r"`([^`]+)`", row.split("|")[1]) for row in rows] for rows in found]


@both
def test_the_sections_are_the_same(english, chinese):
    """Headings of the same levels in the same order."""
    assert outline(built(chinese, "zh")) == outline(built(english))


@both
def test_what_is_typed_and_printed_is_the_same(english, chinese):
    """The same blocks of commands, files and output in the same order, but for remarks."""
    assert shown(built(chinese, "zh")) == shown(built(english))


@both
def test_the_names_in_tables_are_the_same(english, chinese):
    """Keys, warnings, files and flags of the tables are those of the English page, in the same rows."""
    assert tables(built(chinese, "zh")) == tables(built(english))


@both
def test_it_is_written_in_chinese(english, chinese):
    """At least a fifth of a page's characters outside of code are Chinese."""
    prose = re.sub(
        r"`[^`]+`|\([^)]*\)|<[^>]+>|^:::.*$|^    options:.*$|^\|.*$",
        "",
        BLOCK.sub("", INCLUDED.sub("", chinese.read_text("utf-8"))),
        flags=re.MULTILINE,
    )
    signs = re.findall(r"\S", prose)

    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) >= 0.2 * len(signs), english


def test_simulation_has_one_word():
    """Pages and catalogues call it 模拟, never by the other word for it."""
    texts = [*(chinese for _, chinese in PAIRS), *(HERE / "zh").glob("*.po")]

    assert [str(path) for path in texts if "仿真" in path.read_text(encoding="utf-8")] == []
