"""Does the README say what is so?"""

import re
from pathlib import Path

import pytest

from harness.scenario.loading import check_file, load_scenario
from harness.scenario.models import ENGINE_KINDS, SLO_METRICS, Engine, Scenario
from harness.scenario.stages import STAGE_KINDS
from harness.scenario.workload import Conversation, Dataset, Synthetic, TraceWork

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
IN_CODE = set(re.findall(r"`([^`]+)`", PROSE))
WORDS = {word for text in IN_CODE for word in re.findall(r"[\w-]+", text)}
SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_is_listed_with_its_question(path):
    """The table of scenarios names each file and asks what the file asks."""
    assert f"| [{path.stem}](scenarios/{path.name}) | {load_scenario(path).scenario.question} |" in README


def test_the_example_is_a_scenario(tmp_path):
    """What the manual shows can be run."""
    path = tmp_path / "example.yaml"
    path.write_text(README.split("```yaml\n")[1].split("```")[0], encoding="utf-8")

    assert check_file(path) == []


@pytest.mark.parametrize(
    "part", [Scenario, Engine, Synthetic, Conversation, Dataset, TraceWork], ids=lambda p: p.__name__
)
def test_every_key_is_in_the_manual(part):
    """No key of a scenario goes unmentioned, but for those that hardly anyone needs."""
    assert set(part.keys()) - WORDS <= {"vocabulary"}


def test_every_kind_is_in_the_manual():
    """Kinds of engine and load, and what an objective may limit."""
    assert {*ENGINE_KINDS, *STAGE_KINDS, *SLO_METRICS} - WORDS == set()


def test_every_doubt_is_in_the_manual():
    """A reader finds the name of each doubt that a result may carry."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "harness").rglob("*.py")]
    names = {name for source in sources for name in re.findall(r'Doubt\("(\w+)"', source)}

    assert names
    assert names - WORDS == set()


def test_files_that_the_manual_points_to_are_there():
    """Links lead somewhere."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]

    assert [link for link in links if not (ROOT / link).exists()] == []
