"""Is every text of a comparison, an index, a kernel bench and a study there in Chinese?"""

import re
from dataclasses import replace

import pytest

import reports
from harness import cli
from harness.comparing.comparison import compare
from harness.comparing.sides import read_side
from harness.scenario.gate import DEFAULT_GATE
from reports.language import missing, translated
from tests.page_kinds import COMPARED, KINDS
from tests.result_folder import make_result

TAG = r"<(/?[a-z][a-zA-Z0-9]*)"


@pytest.fixture(scope="module", params=sorted(KINDS))
def page(request, tmp_path_factory):
    """The English page of one kind."""
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


def test_no_text_is_missing(page):
    """Whatever stands on a page is in the catalogue, is a term of the field, or came from outside."""
    assert missing(page, "zh") == []


def test_only_texts_change(page):
    """Tags and hostile names are the same in both languages, and the page says which one it is in."""
    chinese = translated(page, "zh")

    assert re.findall(TAG, page) == re.findall(TAG, chinese)
    assert '<html lang="zh-Hans">' in chinese
    assert "<img" not in chinese
    assert "&lt;img" in chinese


def test_the_markdown_of_a_comparison_is_in_the_language_of_its_page(tmp_path):
    """compare.md has no three English words in a row but names; its table has as many rows as in English."""
    found = compare(*_sides(tmp_path), DEFAULT_GATE, anyway=True)
    texts = {}
    for language in ("en", "zh"):
        (tmp_path / language).mkdir()
        reports.write_comparison(tmp_path / language, found, language)
        texts[language] = (tmp_path / language / "compare.md").read_text(encoding="utf-8").splitlines()
    english = [line for line in texts["zh"] if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", line)]

    assert english == ["## Does it hold here?"]
    assert len(texts["en"]) == len(texts["zh"])


def _sides(place):
    """Two runs of which the second has a single slot."""
    usual = replace(COMPARED, question="Does it hold here?", model="m")
    return [read_side(make_result(place / name, replace(usual, slots=slots))) for name, slots in (("a", 12), ("b", 1))]


@pytest.mark.parametrize("words", [["compare", "a", "b"], ["tune"]])
def test_the_command_line_asks_for_a_language(words):
    """Of a comparison and of a study too; English unless said otherwise."""
    assert cli._parser().parse_args([*words, "--lang", "zh"]).lang == "zh"
    assert cli._parser().parse_args(words).lang == "en"
