"""Does the README say what is so?"""

import re
import shutil
from pathlib import Path

import pytest

from harness.doctor import examine
from harness.doctor.findings import FAULTS, lines_of
from harness.errors import HarnessError
from harness.scenario.loader import check_file, load_scenario, load_study
from harness.scenario.models import ENGINE_KINDS, SLO_METRICS, Engine, Scenario
from harness.scenario.stages import STAGE_KINDS
from harness.scenario.workload import Conversation, Dataset, Synthetic, TraceWork
from harness.simulator.boot_lines import startup_lines
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from tests.machines import A2, BARE_CONTAINER, PYTHON

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
IN_CODE = set(re.findall(r"`([^`]+)`", PROSE))
WORDS = {word for text in IN_CODE for word in re.findall(r"[\w-]+", text)}
SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_is_listed_with_its_question(path):
    """The table of scenarios names each file and asks what the file asks; the study has a section of its own."""
    if path.stem == "tune":
        assert f"[scenarios/tune.yaml](scenarios/tune.yaml), which\nasks: {load_study(path).study.question}" in README
        return
    assert f"| [{path.stem}](scenarios/{path.name}) | {load_scenario(path).scenario.question} |" in README


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL))
def test_what_the_manual_shows_can_be_run(text, tmp_path):
    """Each YAML example is a scenario or a study without a fault."""
    shutil.copy(ROOT / "scenarios" / "chat.yaml", tmp_path)
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")

    assert check_file(path) == []


@pytest.mark.parametrize(
    "part", [Scenario, Engine, Synthetic, Conversation, Dataset, TraceWork], ids=lambda p: p.__name__
)
def test_every_key_is_in_the_manual(part):
    """No key of a scenario goes unmentioned, but for those that hardly anyone needs."""
    assert set(part.keys()) - WORDS <= {"vocabulary"}


def test_what_the_walk_shows_of_the_doctor_is_what_it_says():
    """The healthy host and the bare container of the walk are those of the doctor's own tests."""
    told = lines_of(examine(A2.probe(), PYTHON))
    bare = [one for one in examine(BARE_CONTAINER.probe(), PYTHON) if one.state in FAULTS and one.topic != "mounts"]

    assert "\n".join(told) in README
    assert "\n".join(lines_of(bare)) in README


def test_what_the_walk_shows_of_memory_is_what_the_twin_says():
    """Start-up lines and refusals of the walk come from the embedded engine's own arithmetic."""
    serving = settings_from_flags({"model": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": "32768"})
    half = {"model": "Qwen/Qwen2.5-14B-Instruct", "max_model_len": "32768", "gpu_memory_utilization": "0.5"}

    assert "\n".join(startup_lines(serving, memory_of(serving))) in README
    for flags in ({"model": "Qwen/Qwen2.5-72B-Instruct"}, half):
        with pytest.raises(HarnessError) as refused:
            memory_of(settings_from_flags(flags))
        assert f"harness: {refused.value}\n" in README


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
