"""Every error of a scenario file is one exact line: place, key, what is wrong, and what was expected."""

import re
from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.messages import language
from harness.scenario.error_messages import dotted, is_secret, show
from harness.scenario.loader import check_file, load_scenario

ROOT = Path(__file__).resolve().parents[2]
BAD = sorted((ROOT / "tests" / "data" / "bad").glob("*.yaml"))
_LINES = (ROOT / "tests" / "data" / "bad_values.txt").read_text(encoding="utf-8").splitlines()[1:]
VALUES = [(override, line.strip()) for override, line in zip(_LINES[::2], _LINES[1::2], strict=True)]
GOOD = """\
name: good
question: Is this a scenario?
engine: {kind: simulator}
workload: {kind: synthetic, input_tokens: 100, output_tokens: 10}
load:
  - poisson: {rate: 1, duration: 60s}
"""


@pytest.fixture
def good(tmp_path):
    """A file without a fault, to be spoiled by overrides."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_told_by_exactly_its_lines(path, monkeypatch):
    """Each file in tests/data/bad begins with the lines that are told about it."""
    monkeypatch.chdir(ROOT)
    shown = path.relative_to(ROOT)
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# fault")]

    assert check_file(shown) == [f"{shown}{comment.removeprefix('# fault')}" for comment in comments]


@pytest.mark.parametrize(("override", "line"), VALUES)
def test_a_bad_value_is_told_in_one_line(good, override, line):
    """Place, key, what was expected and what was found, with the nearest name where one is near."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(good, [override])

    place = rf"(--set {re.escape(override)}|--set {override.partition('=')[0]}=…|{good}:\d): "
    assert [re.sub(place, "", told, count=1) for told in caught.value.lines] == [line]


@pytest.mark.parametrize(("override", "line"), VALUES)
def test_a_bad_value_is_told_in_chinese_too(good, override, line):
    """In one line that has the same places, keys and values, and no English sentence."""
    with pytest.raises(ScenarioError) as caught, language("zh"):
        load_scenario(good, [override])
    with language("zh"):
        lines = caught.value.localized_lines()
    place, reason = lines[0].split("：", 1)

    assert len(lines) == 1
    assert place in (f"--set {override}", f"--set {override.partition('=')[0]}=…") or place.startswith(str(good))
    assert re.search("[\u4e00-\u9fff]", reason)
    assert re.findall(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", reason.replace(override.partition("=")[2], "")) == []
    if ".kind: missing" not in line and ": missing; expected" in line:
        assert reason.endswith("：缺少该键")


@pytest.mark.parametrize(
    "override",
    [
        "engine.args.api_key=sk-secret",
        "engine.args.--api-key=sk-secret",
        "engine.args.hf_token=sk-secret",
        "engine.env.HF_TOKEN=sk-secret",
        "engine.env.OPENAI_API_KEY=sk-secret",
        "engine.api_key_env=sk-secret",
        "engine.api_key=sk-secret",
        "engine={kind: attach, url: 'http://user:sk-secret@127.0.0.1'}",
        "extra_body={headers: [{api_key: sk-secret}]}",
    ],
)
def test_a_secret_is_refused_and_never_repeated(good, override):
    """A key that stands in a file or an override is a fault, and the fault does not show it."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(good, [override])

    assert "sk-secret" not in str(caught.value)


def test_paths_are_written_as_they_are_typed():
    """Positions stand in brackets, names after dots."""
    assert dotted(("load", 0, "poisson", "rate", 1)) == "load[0].poisson.rate[1]"


def test_long_values_are_cut():
    """A fault stays one line of bearable length."""
    assert len(show("x" * 1000)) == 60
    assert show("x" * 1000).endswith("…")


def test_counts_of_tokens_are_no_secrets():
    """Names that only sound like secrets are left alone."""
    names = ["input_tokens", "max_num_batched_tokens", "stop_token", "secretary", "api_keys_seen", "eos_token"]

    assert [name for name in names if is_secret(name)] == []
