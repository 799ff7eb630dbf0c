"""A scenario file becomes what it says, with overrides in place."""

import hashlib
from pathlib import Path

import pytest

from harness.api.running import url_overrides
from harness.errors import EXIT_INPUT, ScenarioError
from harness.messages import language
from harness.scenario.files import find_scenario
from harness.scenario.loader import check_file, load_gate, load_scenario, load_study
from harness.scenario.stages import Stage
from harness.scenario.yaml_document import Override

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))
TEXT = """\
# a comment, and a word in UTF-8: Größe
name: good
question: Is this a scenario?
engine: {kind: simulator, args: {max-model-len: 4096}}
workload: {kind: synthetic, input_tokens: 100, output_tokens: 10}
load:
  - poisson: {rate: [1, 2], duration: 1m}
slo: {ttft_p99: 80ms}
"""


@pytest.fixture
def good(tmp_path):
    """A scenario file without a fault."""
    path = tmp_path / "good.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def told(path, *overrides, flags=()):
    """The lines that are told about a file."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, overrides, flags)
    return list(caught.value.lines)


def test_a_file_becomes_a_scenario_with_its_provenance(good):
    """Text, hash and overrides are kept beside the checked values."""
    loaded = load_scenario(good, ["seed=3"])

    assert loaded.scenario.stages == (Stage("poisson", 1.0, duration_s=60.0), Stage("poisson", 2.0, duration_s=60.0))
    assert loaded.scenario.slo == {"ttft_p99": pytest.approx(0.08)}
    assert loaded.scenario.seed == 3
    assert loaded.text == TEXT
    assert loaded.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert loaded.overrides == ("seed=3",)
    assert loaded.file("a.csv") == good.parent / "a.csv"


def test_flags_are_known_in_snake_case(good):
    """However a flag is spelled, the engine's arguments hold it one way."""
    loaded = load_scenario(good, ["engine.args.--max-num-seqs=8"])

    assert loaded.scenario.engine.args == {"max_model_len": 4096, "max_num_seqs": 8}


def test_later_overrides_win(good):
    """Overrides are laid over the file in the order given."""
    loaded = load_scenario(good, ["load.0.poisson.rate=5", "load.0.poisson.rate=6", "slo=", "slo={}"])

    assert [stage.rate for stage in loaded.scenario.stages] == [6.0]
    assert loaded.scenario.slo == {}


def test_overrides_do_not_change_the_hash(good):
    """The hash is of the file; what was laid over it stands beside it."""
    assert load_scenario(good, ["seed=9"]).sha256 == load_scenario(good).sha256


def test_other_flags_are_laid_over_and_named(good):
    """What --url means for the scenario goes through the same checks, and a fault names --url."""
    attach = Override(("engine", "kind"), "attach", "--url here")
    url = Override(("engine", "url"), "http://127.0.0.1:8000", "--url http://127.0.0.1:8000")
    bad = Override(("engine", "url"), "here", "--url here")

    assert load_scenario(good, (), [attach, url]).scenario.engine.url == "http://127.0.0.1:8000"
    assert told(good, flags=[attach, bad]) == [
        "--url here: engine.url: expected an address such as http://127.0.0.1:8000, got 'here'"
    ]


@pytest.mark.parametrize("name", ["pd_disaggregation", "data_parallel"])
def test_an_address_takes_the_place_of_any_engine(name):
    """As the note below simulated numbers says: of a deployment none of its processes remain."""
    engine = load_scenario(find_scenario(name), (), url_overrides("127.0.0.1:8000", "--url")).scenario.engine

    assert (engine.kind, engine.url, engine.processes, engine.preset) == ("attach", "http://127.0.0.1:8000", None, None)


def test_faults_of_file_and_overrides_are_told_together(good):
    """Faults of the file come first, by line; those of overrides name the override."""
    good.write_text(TEXT.replace("80ms", "-8").replace("{kind: sim", "{knd: sim"), encoding="utf-8")

    assert told(good, "sede=1", "load.0.poisson.rate=0") == [
        f"{good}:4: engine.knd: unknown key; did you mean 'kind'?",
        f"{good}:8: slo.ttft_p99: expected a number above 0, got -8",
        "--set load.0.poisson.rate=0: load[0].poisson.rate: expected a number above 0, got 0",
        "--set sede=1: sede: unknown key; did you mean 'seed'?",
    ]


def test_a_scenario_that_is_not_there_is_told_with_its_neighbour(good):
    """The nearest file of the folder is offered."""
    missing = good.with_name("god.yaml")

    assert told(missing) == [f"{missing}: no such file; did you mean '{good}'?"]


def test_a_scenario_without_neighbours_is_told():
    """Where nothing is near, a scenario file is asked for."""
    assert told(Path("no/such/place.yaml")) == ["no/such/place.yaml: no such file; expected a scenario file"]


@pytest.mark.parametrize(
    ("load", "english", "chinese"),
    [
        (load_scenario, "expected a scenario file", "应为场景文件"),
        (load_study, "expected a study file", "应为调优任务文件"),
        (load_gate, "expected a gate file", "应为门禁文件"),
    ],
)
def test_a_file_that_is_not_there_is_told_by_its_kind(load, english, chinese):
    """What should stand there is what was looked for, in both languages."""
    with pytest.raises(ScenarioError) as raised:
        load(Path("no/such/place.yaml"))
    with language("zh"):
        (line,) = raised.value.localized_lines()

    assert str(raised.value) == f"no/such/place.yaml: no such file; {english}"
    assert line == f"no/such/place.yaml：没有此文件；{chinese}"


def test_a_folder_is_no_scenario(tmp_path):
    """A folder in place of a file is told in words."""
    assert told(tmp_path) == [f"{tmp_path}: a folder; expected a YAML file"]


def test_other_encodings_are_told_with_the_line(tmp_path):
    """A file that is not UTF-8 is told where it stops being so."""
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: x\nquestion: Größe\n".encode("latin-1"))

    assert told(path) == [f"{path}:2: not UTF-8; expected a text file saved as UTF-8"]


def test_a_file_without_end_is_not_read_to_its_end():
    """A device that never ends is refused like any long text."""
    assert told(Path("/dev/zero")) == ["/dev/zero:1: too long; expected at most 1000000 characters"]


def test_a_byte_order_mark_is_no_fault(good):
    """Editors that write one are forgiven."""
    good.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())

    assert check_file(good) == []


def test_a_missing_trace_is_looked_up_from_the_scenario(good):
    """The fault shows the path as it was looked up, and the nearest file there."""
    (good.parent / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    work = "workload={kind: trace, path: trase.csv}"

    assert told(good, work) == [
        f"--set {work}: workload.path: {good.parent / 'trase.csv'}: no such file; did you mean 'trace.csv'?"
    ]


def test_wrong_input_exits_as_such(good):
    """Faults in a scenario are exit code 2."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(good, ["seed=x"])

    assert caught.value.exit_code == EXIT_INPUT


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_is_without_fault(path):
    """Every scenario that ships can be run, is named after its file and asks a question."""
    study = "\nscenario:" in path.read_text(encoding="utf-8")
    asked = load_study(path).study if study else load_scenario(path).scenario

    assert asked.name == path.stem.replace("_", "-")
    assert asked.question.endswith("?")


def test_enough_scenarios_ship():
    """One for each question that the manual names."""
    names = {path.stem for path in SHIPPED}

    assert names >= {
        "smoke", "chat", "adapters", "long_context", "burst", "shared_prefix", "multi_turn", "capacity",
        "offline_batch", "long_output", "trace_replay",
    }  # fmt: skip
