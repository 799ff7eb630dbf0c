"""Is README.zh.md the counterpart of README.md?"""

import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
BLOCK = re.compile(r"```\w*\n.*?```", re.DOTALL)


def outline(text):
    """The levels of the headings, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]


def blocks(text):
    """The blocks of code, without what is remarked in a shell."""
    return {re.sub(r" +# .*", "", block) for block in BLOCK.findall(text)}


def tables(text):
    """What stands in code in the first column of each table."""
    lines = BLOCK.sub("", text).splitlines()
    found = [list(rows) for is_row, rows in groupby(lines, lambda line: line.startswith("|")) if is_row]
    return [[re.findall(r"`([^`]+)`", row.split("|")[1]) for row in rows] for rows in found]


def section(text, number):
    """The text of one section of the second level, counted from 0."""
    return re.split(r"^## ", BLOCK.sub("", text), flags=re.MULTILINE)[number + 1]


def test_the_sections_are_the_same():
    """Headings of the same levels in the same order."""
    assert outline(CHINESE) == outline(ENGLISH)
    assert len(outline(ENGLISH)) > 15


def test_what_is_typed_and_printed_is_the_same():
    """Every block of commands, files and output stands in the English manual too, but for remarks."""
    assert blocks(CHINESE) - blocks(ENGLISH) == set()
    assert len(blocks(CHINESE)) > 25


def test_no_name_in_a_table_is_out_of_date():
    """Keys, doubts, files and flags of the Chinese tables are those of the English ones."""
    known = {name for rows in tables(ENGLISH) for names in rows for name in names}

    assert {name for rows in tables(CHINESE) for names in rows for name in names} - known == set()


def test_every_command_and_flag_is_there():
    """The tables of the section of commands have the same rows."""
    number = next(i for i in range(20) if section(ENGLISH, i).startswith("Commands"))

    assert tables(section(CHINESE, number)) == tables(section(ENGLISH, number))


def test_what_it_points_to_is_there():
    """Links lead to files, and to headings of the English manual."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", CHINESE) if "://" not in link]
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", ENGLISH, re.MULTILINE)}

    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
    assert {link.partition("#")[2] for link in links if "#" in link} - anchors == set()
