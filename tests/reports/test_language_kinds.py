"""Is every text of a comparison, an index, a kernel bench and a study there in Chinese?"""

import re
from dataclasses import replace

import pytest

import reports
from harness.cli import app
from harness.comparison.comparison import compare
from harness.comparison.repeats import Side, read_side
from harness.scenario.gate import DEFAULT_GATE, Gate
from reports.language import missing, translated
from tests.page_kinds import COMPARED, KINDS, kernels_compared
from tests.result_folder import kept_warning, make_result

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
    said = [line.replace("harness run", "") for line in texts["zh"]]  # a command is no English
    english = [line for line in said if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", line)]

    assert english == ["## Does it hold here?"]
    assert len(texts["en"]) == len(texts["zh"])


def test_what_cannot_be_judged_is_said_in_chinese(tmp_path):
    """One run a side, kernels of a machine that moved, a gate beyond sight, earlier runs, unlike work."""
    sides = _sides(tmp_path)
    again = []
    for seed in range(4):
        run = replace(COMPARED, question="Q?", model="m", seed=seed, failing=0.0)
        again.append(read_side(make_result(tmp_path / f"c{seed}", run)))
    asked = Gate.model_validate({"gate": {"tpot_mean": "3%", "ttft_p99": "90%"}, "samples": 25})
    several = [
        Side(side.name, [one for run in runs for one in run.repeats])
        for side, runs in zip(sides, (again[:2], again[2:]), strict=True)
    ]
    found = [
        compare(*sides, DEFAULT_GATE, anyway=True),
        compare(*sides, DEFAULT_GATE, anyway=True, earlier=[one for run in again for one in run.repeats]),
        compare(*several, asked, anyway=True),
    ]
    pages = [kernels_compared(tmp_path, rate=0.8e10)]
    for number, one in enumerate(found):
        (tmp_path / f"out{number}").mkdir()
        pages.append(reports.write_comparison(tmp_path / f"out{number}", one).read_text(encoding="utf-8"))

    assert [text for page in pages for text in missing(page, "zh")] == []


CACHED = (
    "The engine found 99.8 % of the prompts' tokens in its prefix cache, though no two prompts of this run begin "
    "alike: it has seen them before."
)
ENDED = "The stage did not run to its end: {} requests were cancelled and 3 never sent."


@pytest.mark.parametrize("valid", [True, False])
def test_a_comparison_of_runs_with_warnings_is_said_in_chinese(tmp_path, valid):
    """Warnings carried over from one side and from both, failures at a stage by its name, sides that are not valid."""
    usual = replace(COMPARED, question="Does it hold here?", model="m")
    sides = [read_side(make_result(tmp_path / name, replace(usual, failing=share))) for name, share in SHARES.items()]
    for side, cancelled in zip(sides, (1, 2), strict=True):
        rows = [("cached_before", CACHED, None)] if cancelled == 1 else []
        rows += [("interrupted", ENDED.format(cancelled), stage) for stage in (0, 1)]
        verdict = {
            "valid": valid,
            "warnings": [
                kept_warning(code, "warning", text, "Run it again to the end.", stage) for code, text, stage in rows
            ],
        }
        side.repeats[0].summary["verdict"] = verdict
    stated = DEFAULT_GATE.model_copy(update={"between_runs": 0.01})
    (tmp_path / "out").mkdir()
    page = reports.write_comparison(tmp_path / "out", compare(*sides, stated, anyway=True)).read_text(encoding="utf-8")

    assert ("No valid comparison: BASE and NEW are not valid (a; b): its run did not end." in page) == (not valid)
    assert "In BASE only (a): The engine found 99.8 % of" in page
    assert "In BASE and NEW (a; b): stages 1, 2: of the first: The stage did not run" in page
    assert re.search(r"0 % of requests failed in BASE and [\d.]+ % in NEW at stage 1 \(poisson 2 req/s\): ", page)
    assert missing(page, "zh") == []


SHARES = {"a": 0.0, "b": 0.3}


def _sides(place):
    """Two runs of which the second has a single slot."""
    usual = replace(COMPARED, question="Does it hold here?", model="m")
    return [read_side(make_result(place / name, replace(usual, slots=slots))) for name, slots in (("a", 12), ("b", 1))]


@pytest.mark.parametrize("words", [["compare", "a", "b"], ["tune"]])
def test_the_command_line_asks_for_a_language(words):
    """Of a comparison and of a study too; English unless said otherwise."""
    assert app._parser().parse_args([*words, "--lang", "zh"]).lang == "zh"
    assert app._parser().parse_args(words).lang == "en"
