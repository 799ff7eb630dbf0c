"""The engines of a run on its page: their table, their lines, and what is found of them."""

import json
import re

import pytest

import reports
from harness.messages import language
from harness.results.folder import read_files
from reports.data import gather
from reports.engines import MOST_LINES, engine_key, engine_tables, lead, over_time_drawing
from tests.result_folder import Run, make_result

PAIR = [
    ("prefill-0", "prefill", [0]),
    ("decode-0", "decode", [1]),
    ("decode-1", "decode", [2]),
    ("proxy", "proxy", None),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """A run on four ranks of which one takes twice as long for a token."""
    return make_result(tmp_path_factory.mktemp("ranks"), Run(loads=(1.0, 2.0), duration_s=60, engines=4, slow="2"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run on a prefill engine and two decode engines."""
    return make_result(tmp_path_factory.mktemp("pair"), Run(loads=(2.0,), duration_s=30, processes=PAIR))


def test_a_stage_has_a_row_an_engine(ranks):
    """Its state and counts as summary.json has them, the engine that lags marked, and the imbalance below."""
    _, table = engine_tables(gather(read_files(ranks)))
    stage = json.loads((ranks / "summary.json").read_text())["stages"][1]
    running = [float(row[1].text) for row in table.rows]

    assert [row[0].text for row in table.rows] == ["0", "1", "2", "3"]
    assert [row[0].below for row in table.rows] == ["", "", "lags", ""]
    assert running == pytest.approx([engine["running"]["mean"] for engine in stage["engines"]], rel=0.01)
    assert table.heads[:4] == ["engine", "running", "waiting", "KV cache"]
    assert [row[0].text for row in table.foot] == ["max / mean"]
    assert float(table.foot[0][1].text.rstrip("×")) == pytest.approx(max(running) / (sum(running) / 4), rel=0.01)
    assert lead(gather(read_files(ranks))) == "poisson 1 req/s and poisson 2 req/s: engine 2 lags."


def test_engines_of_a_pair_have_panels_by_role_and_names(pair):
    """Prompt tokens of the prefill side, output of the decode side; the proxy has no engine."""
    data = gather(read_files(pair))
    drawing = over_time_drawing(data)
    names = {panel.name: [line.name for line in panel.lines] for panel in drawing.panels}

    assert names["prompt tokens per second, prefill"] == ["prefill-0"]
    assert names["output tokens per second, decode"] == ["decode-0", "decode-1"]
    assert [row[0].below for row in engine_tables(data)[0].rows] == ["prefill, NPU 0", "decode, NPU 1", "decode, NPU 2"]
    assert lead(data) == "poisson 2 req/s: neither side of the pair is full."


@pytest.mark.parametrize(("count", "lines"), [(MOST_LINES, MOST_LINES), (MOST_LINES + 1, 3)])
def test_sixteen_engines_have_a_line_each(tmp_path, count, lines):
    """In eight colours, whole and dashed, so that no two look alike; of more the lowest, the mean and the highest."""
    data = gather(read_files(make_result(tmp_path, Run(loads=(2.0,), duration_s=8, engines=count))))
    drawing, key = over_time_drawing(data), engine_key(data)
    looks = {(line.colour, line.dashed) for line in drawing.panels[0].lines}

    assert len(looks) == len(drawing.panels[0].lines) == lines
    assert len({(engine.colour, engine.dashed) for engine in key}) == len(key) == (count if lines == count else 0)


def test_the_page_has_the_engines_in_both_languages(ranks):
    """A section with its table, key and figure, and the answer that names the engine that lags."""
    pages = {}
    for name in ("en", "zh"):
        with language(name):
            pages[name] = reports.write_all(ranks, name).read_text(encoding="utf-8")

    assert "At 2 req/s engine 2 lags: a token takes 2." in pages["en"]
    assert "引擎 2 偏慢" in pages["zh"]
    for page in pages.values():
        assert 'href="#engines"' in page
        assert re.findall(r'<span class="line( dashed)?" style="--chip: var\(--(engine-\d)\)">', page) == [
            ("", f"engine-{number}") for number in range(4)
        ]
        assert "<tfoot>" in page


def test_one_engine_has_no_section(tmp_path):
    """Its series stand with those of the server, and summary.json has it."""
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=8))
    data = gather(read_files(folder))

    assert (engine_tables(data), engine_key(data), over_time_drawing(data), lead(data)) == ([], [], None, "")
    assert 'id="engines"' not in reports.write_all(folder, "en").read_text(encoding="utf-8")
    assert [engine["name"] for engine in json.loads((folder / "summary.json").read_text())["stages"][0]["engines"]] == [
        "0"
    ]


def test_an_engine_that_decodes_has_no_prompt_rate(pair):
    """Its counter counts prompts that the other side computed."""
    table = engine_tables(gather(read_files(pair)))[0]
    place = table.heads.index("prompt tok/s")
    rates = {row[place].text for row in (*table.rows, *table.foot) if "decode" in row[0].below}

    assert "–" in rates
    assert rates <= {"–", ""}
