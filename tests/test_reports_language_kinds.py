"""Is every text of a comparison, an index, a kernel bench and a study there in Chinese?"""

import re

import pytest

from harness import cli
from reports.language import missing, translated
from tests.page_kinds import KINDS

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


@pytest.mark.parametrize("words", [["compare", "a", "b"], ["tune"]])
def test_the_command_line_asks_for_a_language(words):
    """Of a comparison and of a study too; English unless said otherwise."""
    assert cli._parser().parse_args([*words, "--lang", "zh"]).lang == "zh"
    assert cli._parser().parse_args(words).lang == "en"
