"""What a gate file may say, and how its faults are told."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.app import main
from harness.comparison.measures import in_view
from harness.errors import ScenarioError
from harness.scenario.gate import DEFAULT_GATE, Gate
from harness.scenario.loader import check_file, load_gate
from harness.scenario.metrics import LATENCIES, RATES, STATISTICS, measure_of


def faults(path, text):
    """What is told about a gate of this text, without its path."""
    path.write_text(text)
    return [line.removeprefix(f"{path}:") for line in check_file(path)]


def test_a_gate_is_read(tmp_path):
    """Shares are per cent; what is not said has its default."""
    path = tmp_path / "gate.yaml"
    path.write_text("gate: {ttft_p99: 5%, failed_share: 0.5 %}\nsamples: 200\n")
    gate = load_gate(path)

    assert gate.gate == {"ttft_p99": 0.05, "failed_share": 0.005}
    assert gate.samples == 200
    assert (gate.confidence, gate.smallest, gate.between_runs) == (0.95, 0.005, None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gate:\n  tpot_p98: 5%\n", "2: gate.tpot_p98: unknown measure; did you mean 'tpot_p99'?"),
        ("gate:\n  tpot_p99: 5\n", "2: gate.tpot_p99: expected a share in per cent, such as 5%, got 5"),
        ("gate:\n  tpot_p99: 120%\n", "2: gate.tpot_p99: expected a number below 1"),
        ("gate: {}\n", "1: gate: expected at least 1 value"),
        ("gate: {tpot_p99: 5%}\nsample: 3\n", "2: sample: unknown key; did you mean 'samples'?"),
        ("gate: {tpot_p99: 5%}\nconfidence: 0.9\n", "2: confidence: expected a share in per cent, such as 5%, got 0.9"),
    ],
)
def test_faults_are_told_by_line_and_key(tmp_path, text, line):
    """One line each, with what was expected and the nearest right answer."""
    assert any(told.startswith(line.split(", got")[0]) for told in faults(tmp_path / "gate.yaml", text))


def test_validate_accepts_a_gate_and_refuses_a_faulty_one(tmp_path, capsys):
    """`harness validate` takes gates beside scenarios."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("gate: {goodput: 5%}\n")
    bad.write_text("gate: {godput: 5%}\n")
    codes = []
    for path in (good, bad):
        with pytest.raises(SystemExit) as end:
            main(["validate", str(path)])
        codes.append(end.value.code)

    assert codes == [0, 2]
    assert "did you mean 'goodput'?" in capsys.readouterr().err


def test_a_missing_gate_is_told(tmp_path):
    """As any other file."""
    with pytest.raises(ScenarioError, match="no such file"):
        load_gate(tmp_path / "gate.yaml")


def test_what_is_judged_by_default_is_known():
    """Each measure of the default gate has a meaning, and none is allowed to be much worse."""
    assert [measure_of(key).key for key in DEFAULT_GATE.gate] == list(DEFAULT_GATE.gate)
    assert max(DEFAULT_GATE.gate.values()) <= 0.01


def test_an_open_loop_is_judged_from_the_due_time():
    """As objectives are: ttft and e2e in the user's view where requests come by the clock."""
    assert in_view(measure_of("ttft_p99"), {"kind": "poisson"}).metric == "ttft_user"
    assert in_view(measure_of("ttft_p99"), {"kind": "closed"}).metric == "ttft"
    assert in_view(measure_of("tpot_p99"), {"kind": "poisson"}).metric == "tpot"


KEYS = st.sampled_from([f"{metric}_{name}" for metric in LATENCIES for name in STATISTICS] + [*RATES, "failed_share"])


@given(st.dictionaries(KEYS, st.integers(0, 99), min_size=1))
def test_the_schema_of_a_gate_takes_what_the_gate_takes(allowed):
    """The JSON Schema and the model agree on every known measure."""
    written = {"gate": {key: f"{share}%" for key, share in allowed.items()}}
    jsonschema.validate(written, Gate.model_json_schema())

    assert Gate.model_validate(written).gate == {key: share / 100 for key, share in allowed.items()}
