"""The rules that the page's scripts keep: small files and functions, nothing made of text but text."""

import re

import pytest

from harness.messages import localized
from reports import assets
from reports.figures.lanes import SPLIT_PHASES
from reports.live_words import live_words
from reports.request_sample import RequestSample

FILES = sorted(assets.SCRIPTS.glob("*.js"))
FUNCTION = re.compile(r"^(?:async )?function \w+\([^\n]*\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "onclick",
             "fetch(", "XMLHttpRequest", "import(", "localStorage", "cookie")  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_script_is_small(path):
    """A file says first what it holds, has at most 300 lines, and no function has over 40."""
    text = path.read_text(encoding="utf-8")
    sizes = [len(body.splitlines()) for body in FUNCTION.findall(text)]

    assert text.startswith("// ")
    assert len(text.splitlines()) <= 300
    assert max(sizes, default=0) <= 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_script_makes_text_of_text(path):
    """Nothing parses a text as markup or code, nothing is fetched or kept."""
    text = path.read_text(encoding="utf-8")

    assert [word for word in FORBIDDEN if word in text] == []


def test_every_file_is_part_of_a_page():
    """None is forgotten, none is there twice."""
    script = assets.live_script()

    assert [path.name for path in FILES if script.count(path.read_text(encoding="utf-8")) != 1] == []


def test_every_word_of_a_script_is_there():
    """What the scripts ask of their words is what the catalogues hand over, and the other way round."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    asked = set(re.findall(r"\brun\.words\.(\w+)", text))
    words = live_words(RequestSample(rows=[], slow=[], total=0), SPLIT_PHASES)

    assert asked == set(words)
    assert set(re.findall(r"(?<!\.)\bwords\.(\w+)", text)) == set(assets.words())
    assert words["whole"] == localized("page_view.whole")
