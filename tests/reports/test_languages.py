"""Pages in Chinese: no English sentence of ours is left, and all else is as in English."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import harness.messages
import reports
from harness.comparison.comparison import compare
from harness.comparison.sides import read_side
from harness.messages import language, localized
from harness.scenario.gate import DEFAULT_GATE
from reports.texts import markup
from tests.page_kinds import COMPARED, KINDS, drawn
from tests.reports.page_texts import english_in, numbers_in
from tests.result_folder import Run, make_result

EVIL = "Stages <img src=x onerror=alert(1)> {0} {#}"
RUNS = {
    "sweep": Run(loads=(1.0, 5.0), duration_s=15, failing=0.05, question=EVIL, message=EVIL, model=EVIL),
    "closed": Run(loads=(4,), kind="closed", duration_s=8),
    "many": Run(loads=tuple(range(1, 10)), duration_s=2, repeats=2, warmup=2, slo={}, engines=3),
    "whole": Run(loads=(1.0, 2.0), duration_s=8, stream=False),
    "measured": Run(loads=(2.0,), duration_s=5, simulated=False, samples=False),
}


@pytest.fixture(scope="module", params=[*RUNS, *KINDS])
def pages(request, tmp_path_factory):
    """One page in English and in Chinese."""
    if request.param in KINDS:
        return {lang: drawn(request.param, lang) for lang in ("en", "zh")}
    folder = make_result(tmp_path_factory.mktemp(request.param), RUNS[request.param])
    return {lang: reports.write_all(folder, lang).read_text(encoding="utf-8") for lang in ("en", "zh")}


def test_no_english_is_left(pages):
    """But what came from outside, and terms of the field."""
    assert english_in(pages["zh"]) == []


def test_only_words_change(pages):
    """Tags, numbers and the lines of figures are the same, and the page says which language it is in."""
    tags, numbers = ({lang: found(page) for lang, page in pages.items()} for found in (tags_in, numbers_in))

    assert tags["en"] == tags["zh"]
    assert numbers["en"] == numbers["zh"]
    assert '<html lang="en">' in pages["en"]
    assert '<html lang="zh-Hans">' in pages["zh"]
    assert "<img" not in pages["zh"]


def tags_in(page):
    """The elements of a page; <bdi> aside, as a sentence may name things in another order or not at all."""
    return [tag for tag in re.findall(r"<(/?[a-z][a-zA-Z0-9]*)", page) if tag.strip("/") != "bdi"]


def test_a_limit_has_one_name_in_chinese():
    """Every catalogue says it alike."""
    catalogues = sorted((Path(harness.messages.__file__).parent / "zh").glob("*.po"))

    assert catalogues
    assert [path.name for path in catalogues if "限值" in path.read_text(encoding="utf-8")] == []


def test_names_in_a_sentence_are_isolated_and_escaped():
    """A name cannot become markup, nor turn the words around it."""
    with language("zh"):
        text = markup("page_compare.sides", base="<b>a</b>", new="b")

    assert text == "<bdi>&lt;b&gt;a&lt;/b&gt;</bdi>\uff08基线\uff09对比 <bdi>b</bdi>\uff08新\uff09"


ENGLISH = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}")


def test_the_job_page_is_in_the_language_of_the_page(tmp_path):
    """summary.md has no three English words in a row but the scenario's own question."""
    folder = make_result(tmp_path, replace(RUNS["sweep"], question="Does it hold here?", model="m", message="lost"))
    reports.write_all(folder, "zh")
    chinese = (folder / "summary.md").read_text(encoding="utf-8")
    reports.write_all(folder)
    english = (folder / "summary.md").read_text(encoding="utf-8")

    assert [line for line in chinese.splitlines() if ENGLISH.search(line)] == ["## Does it hold here?"]
    assert len(chinese.splitlines()) == len(english.splitlines())
    assert re.findall(r"^\|.*?\|", english, re.MULTILINE)[2:] == ["| 1: poisson 1 req/s |", "| 2: poisson 5 req/s |"]


def test_the_markdown_of_a_comparison_is_in_the_language_of_its_page(tmp_path):
    """compare.md has no three English words in a row but names; its table has as many rows as in English."""
    usual = replace(COMPARED, question="Does it hold here?", model="m")
    sides = [
        read_side(make_result(tmp_path / name, replace(usual, slots=slots))) for name, slots in (("a", 12), ("b", 1))
    ]
    found = compare(*sides, DEFAULT_GATE, anyway=True)
    texts = {}
    for lang in ("en", "zh"):
        (tmp_path / lang).mkdir()
        reports.write_comparison(tmp_path / lang, found, lang)
        texts[lang] = (tmp_path / lang / "compare.md").read_text(encoding="utf-8").splitlines()
    lines = [line.replace("harness run", "") for line in texts["zh"]]  # a command is no English

    assert [line for line in lines if ENGLISH.search(line)] == ["## Does it hold here?"]
    assert len(texts["en"]) == len(texts["zh"])


@pytest.mark.parametrize(
    ("slo", "code"),
    [({}, "figures.curve.saturates_description"), ({"ttft_p99": 5.0}, "figures.curve.limits_break_description")],
    ids=["load", "limits"],
)
def test_the_knee_stands_in_the_alternative_text(tmp_path, slo, code):
    """In the language of the page, with its rates."""
    place = make_result(tmp_path, Run(loads=(1.0, 2.0, 4.0), duration_s=30, slo=slo))
    page = reports.write_all(place, "zh").read_text(encoding="utf-8")
    (words,) = re.findall(r'<desc id="curve-ttft_user-description">([^<]*)</desc>', page)
    with language("zh"):
        first, *_ = localized(code, held=1, broken=2, unit="").split("1")

    assert first.strip() in words
