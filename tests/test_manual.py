"""What the manual says and shows is what the code does and prints."""

import re
import shlex
import shutil

import pytest

import harness
from docs.tools import drawing, generated, record, warnings
from harness.doctor import examine
from harness.doctor.findings import FAULTS, finding_lines
from harness.errors import HarnessError
from harness.scenario.engine import ENGINE_KINDS
from harness.scenario.loader import load_scenario, load_study
from harness.scenario.metrics import LATENCIES
from harness.scenario.stages import STAGE_KINDS
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.vllm_formats import startup_lines
from harness.tuning.study_loader import check_any
from tests.machines import A2, BARE_CONTAINER, PYTHON
from tests.manual import DOCS, EVERY, OUTPUTS, PAGES, READMES, ROOT, blocks, built, chinese_of, words, written

MOST_LINES = 180
MOST_PICTURE_BYTES = 300_000
SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))
EXAMPLES = [(page, number) for page in EVERY for number, _ in enumerate(blocks(written(page), "yaml"))]
SCENARIO = DOCS / "reference" / "scenario.md"
FILES = {path.name for room in ("harness", "reports", "kernels_bench") for path in (ROOT / room).rglob("*.py")}
OLD_WORDS = re.compile(r"\b(doubt|doubts|twin|twins|metronome|spool|ledger|crew)\b", re.IGNORECASE)
SHOWN_TWICE = {"against", "selfcheck", "first_run", "validate"}  # in the tutorial and in a how-to, or in the README


def shown(name):
    """A block of docs/outputs."""
    return (OUTPUTS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_is_listed_with_its_question(path):
    """The page of scenarios names each file, asks what the file asks, and shows it."""
    loaded = load_study(path).study if path.stem == "tune" else load_scenario(path).scenario
    page = built(DOCS / "reference" / "scenarios.md")

    assert f"| [{path.stem}](#{path.stem}) | {loaded.question} |" in page
    assert path.read_text(encoding="utf-8").partition("\n")[2].strip() in page


@pytest.mark.parametrize(("page", "number"), EXAMPLES, ids=lambda value: getattr(value, "stem", str(value)))
def test_what_the_manual_shows_can_be_run(page, number, tmp_path):
    """Each YAML example is a scenario, a study or a gate without a fault."""
    for name in ("chat.yaml", "long_context.yaml", "mixed_prompts.yaml"):
        shutil.copy(ROOT / "scenarios" / name, tmp_path)
    path = tmp_path / "example.yaml"
    path.write_text(blocks(written(page), "yaml")[number], encoding="utf-8")

    assert check_any(path) == []


@pytest.mark.parametrize("part", [name for name, part in generated.schema()["$defs"].items() if "properties" in part])
def test_every_key_is_in_the_manual(part):
    """No key of a scenario or study goes unmentioned on the page of scenario files."""
    assert set(generated.schema()["$defs"][part]["properties"]) - words(built(SCENARIO)) == set()


def test_every_kind_is_in_the_manual():
    """Kinds of engine and load, and what an objective may limit."""
    assert {*ENGINE_KINDS, *STAGE_KINDS, *LATENCIES} - words(built(SCENARIO)) == set()


def test_what_is_shown_of_the_doctor_is_what_it_says():
    """The healthy host and the bare container are those of the doctor's own tests."""
    host = finding_lines(examine(A2.view(), PYTHON))
    bare = [row for row in examine(BARE_CONTAINER.view(), PYTHON) if row.severity in FAULTS and row.topic != "mounts"]

    assert "\n".join(host) in shown("doctor_host")
    assert "\n".join(finding_lines(bare)) in shown("doctor_container")


def test_what_is_shown_of_memory_is_what_the_simulator_says():
    """Start-up lines and refusals come from the simulator's own arithmetic."""
    serving = settings_from_flags({"model": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": "32768"})
    half = {"model": "Qwen/Qwen2.5-14B-Instruct", "max_model_len": "32768", "gpu_memory_utilization": "0.5"}

    assert "\n".join(startup_lines(serving, memory_of(serving))) in shown("serve_sim")
    for flags in ({"model": "Qwen/Qwen2.5-72B-Instruct"}, half):
        with pytest.raises(HarnessError) as refused:
            memory_of(settings_from_flags(flags))
        assert f"harness: {refused.value}\n" in shown("out_of_memory")


def test_what_is_shown_of_faults_is_what_validate_says(tmp_path, monkeypatch):
    """The mistyped file of the tutorial gives these lines."""
    shutil.copy(OUTPUTS / "mistyped.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [f"harness: {line}" for line in check_any(tmp_path / "mistyped.yaml")]

    assert [line.replace(f"{tmp_path}/", "") for line in lines] == shown("validate").splitlines()[1:]


def test_every_recorded_output_is_shown_in_both_languages():
    """Each block of docs/outputs stands in an English page and in its Chinese one, and can be recorded."""
    names = {path.stem for path in OUTPUTS.glob("*.txt")}
    used = {
        language: re.findall(r'--8<-- "docs/outputs/(\w+)\.txt"', "".join(map(text_of, pages)))
        for language, pages in (("en", PAGES), ("zh", map(chinese_of, PAGES)))
    }

    assert set(used["en"]) == set(used["zh"]) == names
    assert names == {*record.COMMANDS, *record.KEPT, "doctor_host", "doctor_container"}
    assert {name for name in names if used["en"].count(name) > 1} <= SHOWN_TWICE


def text_of(page):
    """A file's text."""
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("language", READMES)
def test_the_readme_is_short_and_shows_what_was_recorded(language):
    """At most 180 lines; its first run is the recorded one."""
    text = READMES[language].read_text(encoding="utf-8")

    assert len(text.splitlines()) <= MOST_LINES
    assert f"```console\n{shown('first_run')}```" in text


def test_pictures_are_small():
    """Each picture of the manual is at most 300 kB."""
    sizes = {path.name: path.stat().st_size for path in (DOCS / "pictures").glob("*.png")}

    assert set(sizes) == {"run.png", "study.png", "run.zh.png", "study.zh.png"}
    assert {name for name, size in sizes.items() if size > MOST_PICTURE_BYTES} == set()


@pytest.mark.parametrize("language", READMES)
def test_files_that_the_readme_points_to_are_there(language):
    """Links lead somewhere; those of docs/ are checked by its strict build."""
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(READMES[language])) if "://" not in link]

    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", [*EVERY, *map(chinese_of, PAGES)], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_files_of_the_code_that_a_page_names_are_there(page):
    """A path such as harness/client/load.py exists."""
    named = re.findall(r"`((?:harness|reports|kernels_bench|tests|docs|scenarios|benchmarks)/[\w/.-]+)`", text_of(page))
    short = set(re.findall(r"`(\w+\.py)`", text_of(page)))  # beside a path of the same room

    assert [path for path in named if not (ROOT / path).exists()] == []
    assert short - FILES == set()


@pytest.mark.parametrize("page", EVERY, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_that_a_page_shows_exist(page):
    """Each `harness ...` of a shell block is a command with flags that it takes."""
    choices, _ = generated.subcommands()
    lines = "\n".join(blocks(text_of(page), "sh")).replace("\\\n", " ").splitlines()
    shown = [shlex.split(line, comments=True) for line in lines if line.startswith("harness ")]

    for _, command, *rest in [
        line for line in shown if not line[1].startswith("-") and not line[1].startswith("serve-")
    ]:
        flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert flags - set(choices[command]._option_string_actions) == set(), command


def test_every_warning_is_in_the_manual():
    """A reader finds the code of each warning that a result may carry, in the tables and with its sentences."""
    meaning = built(DOCS / "reference" / "warnings.md").partition("## All sentences")[0]

    assert len(warnings.codes()) > 50
    assert warnings.codes() - words(meaning) == set()


def test_every_public_name_is_in_the_manual():
    """The page of the Python API documents each exported name, and its examples use no other."""
    page = built(DOCS / "reference" / "api.md")
    documented = set(re.findall(r"heading: harness\.(\w+)", page))

    assert documented == set(harness.__all__) - {"__version__"}
    assert set(re.findall(r"\bharness\.(\w+)\(", "".join(blocks(page, "python")))) <= documented


def test_the_drawing_of_the_rooms_shows_the_rooms():
    """Every package of harness stands in the drawing, which is the one that is committed."""
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    drawn = {name for rank in drawing.ROOMS for name, *_ in rank}

    assert drawn == rooms
    for number, language in enumerate(("en", "zh"), 1):
        assert text_of(DOCS / "assets" / f"rooms.{language}.svg") == drawing.drawn(number)


@pytest.mark.parametrize("page", EVERY, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_the_manual_uses_the_words_of_the_field(page):
    """None of the words that the project no longer uses stands in a page, but for what was printed."""
    assert OLD_WORDS.findall(text_of(page).replace(shown("first_run"), "")) == []
