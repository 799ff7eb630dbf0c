"""Is every text of the page there in Chinese, and nothing else changed?"""

import ast
import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

import reports
from harness.api.result import draw
from harness.cli import app
from harness.errors import InputError
from harness.messages import language
from reports.language import LANGUAGES, catalogue, is_plain, missing, translate, translated
from tests.result_folder import Run, make_result

CHECKS = Path(__file__).resolve().parents[2] / "harness" / "analysis"
FRAGMENTS = {"Latencies depend", "were not as long as asked for"}  # whole only once their parts are filled in
EVIL = "Stages <img src=x onerror=alert(1)> {0} {#}"
RUNS = {
    "sweep": Run(loads=(1.0, 5.0), duration_s=15, failing=0.05, question=EVIL, message=EVIL, model=EVIL),
    "closed": Run(loads=(4,), kind="closed", duration_s=8),
    "many": Run(loads=tuple(range(1, 10)), duration_s=2, repeats=2, warmup=2, slo={}, engines=3),
    "whole": Run(loads=(1.0, 2.0), duration_s=8, stream=False),
    "measured": Run(loads=(2.0,), duration_s=5, simulated=False, samples=False),
}


@pytest.fixture(scope="module", params=sorted(RUNS))
def page(request, tmp_path_factory):
    """The English page of one kind of run."""
    folder = make_result(tmp_path_factory.mktemp(request.param), RUNS[request.param])
    return reports.write_all(folder).read_text(encoding="utf-8")


def _in_chinese(folder):
    """The page of a result in Chinese."""
    with language("zh"):
        return draw(folder)


def test_no_text_is_missing(page):
    """Whatever stands on the page is in the catalogue, is a term of the field, or came from outside."""
    assert missing(page, "zh") == []


def test_only_texts_change(page):
    """Tags, numbers, figures and the words of others are the same in both languages."""
    chinese = translated(page, "zh")
    tags = [re.findall(r"<(/?[a-z][a-zA-Z0-9]*)", text) for text in (page, chinese)]
    paths = [re.findall(r' d="([^"]*)"', text) for text in (page, chinese)]

    assert tags[0] == tags[1]
    assert paths[0] == paths[1]
    assert '<html lang="zh-Hans">' in chinese
    assert re.search(r"<h1[^>]*>(.*?)</h1>", page)[0] == re.search(r"<h1[^>]*>(.*?)</h1>", chinese)[0]
    assert "警告" in chinese
    assert "Warnings" not in chinese


def test_english_is_as_it_was(page):
    """Nothing is touched where no other language is asked for."""
    assert translated(page, "en") == page


def test_words_from_outside_are_left_alone():
    """A model called like a heading keeps its name, and markup in it stays text."""
    foreign = '<bdi>Stages</bdi><pre><code>Stages</code> Stages</pre><p translate="no">Stages</p><p>&lt;b&gt;</p>'
    text = f"<p>Stages</p>{foreign}"

    assert translated(text, "zh") == f"<p>阶段</p>{foreign}"


def test_slots_are_filled_and_translated():
    """Numbers stay, words in slots are translated, an unknown word leaves the whole text as it is."""
    assert translate("Every metric of poisson 4 req/s", "zh") == "泊松 4 req/s 的全部指标"
    assert translate("2 of 82 requests failed (cut_stream 2).", "zh") == (
        "82 个请求中有 2 个失败\uff08cut_stream 2\uff09。"
    )
    assert translate("Every metric of somebody", "zh") is None


@pytest.mark.parametrize(("text", "plain"), [("p99 1.29 s", True), ("TTFT 12 ms", True), ("fast", False), ("12", True)])
def test_terms_and_units_are_plain(text, plain):
    """What is the same in every language needs no entry."""
    assert is_plain(text) is plain


def test_what_is_filled_in_is_escaped():
    """A slot that holds markup as text is still text afterwards."""
    told = translated("<p>2 of 9 requests failed (&lt;img src=x&gt; 2).</p>", "zh")

    assert "&lt;img src=x&gt;" in told
    assert "<img" not in told


def test_every_sign_is_one_that_chinese_fonts_have():
    """The fonts that the page names, on Linux, Windows and macOS, all cover the national standard GBK."""
    texts = [*catalogue("zh").fixed.values(), *(other for _, _, other in catalogue("zh").patterns)]
    signs = {sign for text in texts for sign in text if sign > "\u2e7f"}

    assert len(signs) > 500
    assert "".join(sorted(signs)).encode("gbk")


def test_entries_use_the_slots_they_have():
    """No translation asks for a slot that its key lacks, and none leaves out a number."""
    for pattern, slots, other in catalogue("zh").patterns:
        count = slots.count("{")
        assert set(map(int, re.findall(r"\{(\d+)\}", other))) == set(range(count)), pattern.pattern


def warnings_of(name):
    """The texts and next steps of the warnings in a module, `12` for whatever is filled in."""
    tree = ast.parse((CHECKS / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Warning":
            yield from (spelled(part) for part in node.args[2:4])
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "text":
            yield spelled(node.value)


def spelled(node):
    """A literal text; empty for what is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join("12" if isinstance(part, ast.FormattedValue) else part.value for part in node.values)
    return node.value if isinstance(node, ast.Constant) else ""


@pytest.mark.parametrize(
    "name", ["warnings/load", "warnings/client", "warnings/tokens", "warnings/engine", "invariants"]
)
def test_every_warning_is_in_the_catalogue(name):
    """Also those that no ordinary run has."""
    told = [text for text in warnings_of(name) if " " in text and not any(part in text for part in FRAGMENTS)]
    lacking = [text for text in told if translate(text, "zh") is None and translate(f"{text}.", "zh") is None]

    assert len(told) > 4
    assert [text for text in lacking if not re.match(r"12 of 12 requests left|12 arrived|Of 12, 12", text)] == []


@pytest.mark.parametrize("words", [["run", "x.yaml"], ["report", "folder"]])
def test_the_command_line_asks_for_a_language(words, tmp_path):
    """Of a run and of a report; English unless said otherwise, and nothing that there is no table for."""
    asked = app._parser().parse_args([*words, "--lang", "zh"])

    assert asked.lang == "zh"
    assert app._parser().parse_args(words).lang == "en"
    with pytest.raises(InputError, match="--lang"):
        app._parser().parse_args([*words, "--lang", "fr"])


def test_a_folder_is_drawn_in_chinese(tmp_path):
    """The page of a folder, as `harness report --lang zh` draws it."""
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=4))

    assert '<html lang="zh-Hans">' in _in_chinese(folder).read_text(encoding="utf-8")


ENGLISH = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}")


def test_the_job_page_is_in_the_language_of_the_page(tmp_path):
    """summary.md has no three English words in a row but the scenario's own question; English is as it was."""
    folder = make_result(tmp_path, replace(RUNS["sweep"], question="Does it hold here?", model="m", message="lost"))
    _in_chinese(folder)
    chinese = (folder / "summary.md").read_text(encoding="utf-8")
    draw(folder)
    english = (folder / "summary.md").read_text(encoding="utf-8")

    assert [line for line in chinese.splitlines() if ENGLISH.search(line)] == ["## Does it hold here?"]
    assert len(chinese.splitlines()) == len(english.splitlines())
    assert re.findall(r"^\|.*?\|", english, re.MULTILINE)[2:] == ["| 1: poisson 1 req/s |", "| 2: poisson 5 req/s |"]


def test_languages_are_those_of_the_command_line():
    """English needs no table; every other has one."""
    assert LANGUAGES == ("en", "zh")
    assert html.unescape(catalogue("zh").fixed["Next:"]) == "下一步\uff1a"


def test_every_chinese_letter_is_in_every_chinese_font():
    """GB 2312 is what each of them has: no rare letter, and none of the traditional ones slips in."""
    told = {letter for words in (catalogue("zh").fixed.values()) for letter in words}
    told |= {letter for _, _, words in catalogue("zh").patterns for letter in words}
    rare = [letter for letter in told if "\u2e80" <= letter <= "\u9fff" and not _in_gb2312(letter)]

    assert len(told) > 500
    assert rare == []


def _in_gb2312(letter):
    try:
        return bool(letter.encode("gb2312"))
    except UnicodeEncodeError:
        return False


@pytest.mark.parametrize("slo", [{}, {"ttft_p99": 5.0}], ids=["load", "limits"])
def test_the_knee_is_told_in_chinese(tmp_path, slo):
    """In the alternative text of the first figure, with its rates."""
    page = reports.write_all(make_result(tmp_path, Run(loads=(1.0, 2.0, 4.0), duration_s=30, slo=slo)))
    told = translated(page.read_text(encoding="utf-8"), "zh")
    (words,) = re.findall(r'<desc id="curve-ttft_user-description">([^<]*)</desc>', told)

    assert ("上限失守" if slo else "加负载而少有所增") in words
    assert re.findall("[a-z]{3,}", words.replace("req", "")) == []
