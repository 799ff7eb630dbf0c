"""Kernels that changed from one result to another, and on what grounds that is said."""

import json
import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.cli.app import main
from harness.comparison.comparison import compare
from harness.comparison.history import histories
from harness.comparison.judging import BETTER, NO_DIFFERENCE, UNDETERMINED, WORSE
from harness.comparison.sides import read_side
from harness.errors import InputError
from harness.kernels.repeats import merge_repeats, process_spread
from harness.results import store
from harness.scenario.gate import KERNEL_GATE, Gate, for_kernels
from harness.statistics.difference import by_ranks
from reports import history_page
from tests.kernel_results import CASES, make_kernels
from tests.result_folder import Run, make_result

STATED = KERNEL_GATE.model_copy(update={"between_runs": 0.02})
TIMES = hnp.arrays(float, st.integers(6, 60), elements=st.floats(0.001, 100))


def steady(case, _repeat):
    """A millisecond for the first case, two for the second, and so on."""
    return 1e-3 * (case + 1)


def drifting(spread, seed, factor=1.0):
    """Times whose medians differ from process to process by this standard deviation of their logarithm."""
    rng = np.random.default_rng(seed)
    drawn = {}

    def seconds(case, repeat):
        key = (case, repeat)
        drawn.setdefault(key, rng.normal(0, spread))
        return factor * 1e-3 * (case + 1) * math.exp(drawn[key])

    return seconds


def compared(base, new, gate=KERNEL_GATE, **how):
    """Two folders compared."""
    return compare(read_side(base), read_side(new), gate, **how)


def verdicts(found):
    """The verdict of each case, cold."""
    return [row.verdict for row in found.judged if "cold" in row.label]


def test_a_change_beyond_what_runs_differ_by_is_shown(tmp_path):
    """Of single runs a fifth is, where the gate says that runs differ by 2 %; two per cent are as much as that."""
    factors = (1.2, 1.02, 0.8, 1.0)
    base = make_kernels(tmp_path / "a", steady)[0]
    new = make_kernels(tmp_path / "b", lambda case, repeat: factors[case] * steady(case, repeat))[0]
    found = compared(base, new, STATED)

    assert verdicts(found) == [WORSE, NO_DIFFERENCE, BETTER, NO_DIFFERENCE]
    assert found.exit_code == 1
    assert str(found.answer).startswith(
        "Of 8 measurements of kernels 2 are slower, 2 faster and 0 lost: time of decode, "
    )
    assert [warning.code for warning in found.warnings] == ["few_repeats"]
    assert "2.00 % is taken for it, as the gate says" in str(found.warnings[0].text)


def test_a_result_beside_itself_shows_nothing(tmp_path):
    """Nor does it break the gate."""
    folder = make_kernels(tmp_path / "a", drifting(0.05, 1), repeats=4)[0]
    found = compared(folder, folder)

    assert {row.verdict for row in found.judged} == {NO_DIFFERENCE}
    assert found.exit_code == 0
    assert str(found.answer) == "No significant difference in 8 measurements of kernels."


def test_repeats_tell_how_far_runs_differ(tmp_path):
    """Five per cent are shown over processes that differ by half of one, and not over ones that differ by ten."""
    found = []
    for spread in (0.005, 0.1):
        base = make_kernels(tmp_path / f"a{spread}", drifting(spread, 1), repeats=6)[0]
        new = make_kernels(tmp_path / f"b{spread}", drifting(spread, 3, factor=1.05), repeats=6)[0]
        found.append(compared(base, new))

    assert verdicts(found[0]) == [WORSE] * 4
    assert verdicts(found[1]) == [NO_DIFFERENCE] * 4
    assert found[0].warnings == []


def test_a_folder_of_results_is_a_side_of_repeats(tmp_path):
    """As turns of `--against` leave them: each result counts as one, or as many as it has repeats."""
    for side, factor in (("a", 1.0), ("b", 1.3)):
        for turn in range(4):
            make_kernels(tmp_path / side / str(turn), drifting(0.01, turn, factor))
    found = compared(tmp_path / "a", tmp_path / "b")

    assert len(found.base.repeats) == 4
    assert verdicts(found) == [WORSE] * 4


def test_false_alarms_are_as_rare_as_promised():
    """Of 400 pairs of runs that differ by the share that is taken for it, about one in twenty stands out at 5 %."""
    rng = np.random.default_rng(5)

    def run():
        return math.exp(rng.normal(0, 0.02)) * rng.lognormal(0, 0.02, 40)

    chances = [by_ranks([run()], [run()], 0.02).p_value() for _ in range(400)]

    assert 0.02 < np.mean(np.asarray(chances) < 0.05) < 0.08


@given(TIMES, TIMES, st.floats(0.001, 0.1) | st.just(0.0))
def test_ranks_turn_round_with_their_sides(base, new, between):
    """Exchanging the sides negates the effect; its error and degrees of freedom stay, and the last are enough."""
    there, back = by_ranks([base], [new], between), by_ranks([new], [base], between)
    if there is None or back is None:  # neighbours resemble each other so much that they are worth fewer than six
        assert there is back
        return

    assert back.estimate == pytest.approx(-there.estimate)
    assert back.error == pytest.approx(there.error)
    assert back.dof == pytest.approx(there.dof)
    assert there.error >= between * math.sqrt(2) * (1 - 1e-12)
    assert there.dof >= (min(len(base), len(new)) - 1) * (1 - 1e-9)


def test_five_values_have_no_interval():
    """The least and the largest of five hold the median in fifteen cases of sixteen only."""
    five, six = np.arange(1.0, 6), np.arange(1.0, 7)

    assert by_ranks([five], [six], 0.02) is None
    assert by_ranks([six], [six], 0.02).estimate == 0


def test_repeats_become_one_row():
    """Its time is the geometric mean of their medians, its interval Student's t of them, its limit held anew."""
    figures = [
        {"n": 10, "median_s": seconds, "ci95_s": None, "min_s": seconds, "launch_s": 1.0, "noise": 0.1, "marks": [],
         "bytes_per_s": 4 / seconds, "flops_per_s": 8 / seconds,
         "limits": {"measured": {"ideal_s": 0.5, "fraction": 0.5 / seconds, "gap_s": seconds - 0.5}}}
        for seconds in (1.0, 4.0)
    ]  # fmt: skip
    row = {"case": 0, "path": "p", "status": "measured", "reason": None, "throttled": False, "errors": {"worst": 0.1}}
    (found,) = merge_repeats([row | {"repeat": place, "modes": {"hot": one}} for place, one in enumerate(figures)])
    hot = found["modes"]["hot"]

    assert (hot["median_s"], hot["n"], hot["min_s"]) == (pytest.approx(2), 20, 1)
    assert hot["bytes_per_s"] * hot["median_s"] == pytest.approx(4)
    assert hot["limits"]["measured"]["fraction"] == pytest.approx(0.25)
    assert hot["between_runs"] == pytest.approx(math.log(4) / math.sqrt(2))
    assert hot["ci95_s"][1] / 2 == pytest.approx(math.exp(12.7062 * math.log(4) / 2), rel=1e-4)
    assert process_spread([found]) == hot["between_runs"]


def test_what_one_repeat_found_wrong_is_not_measured(tmp_path):
    """The reason names the repeat; the others of its kind are no time."""
    _, summary = make_kernels(tmp_path / "a", steady, repeats=3, lost=[(2, 1, "wrong")])
    row = summary["kernels"]["rows"][2]

    assert (row["status"], row["reason"], row["modes"]) == ("wrong", "repeat 2: so it is", {})
    assert summary["kernels"]["counts"]["measured"] == 3
    assert summary["verdict"]["valid"] is False


def test_processes_that_differ_is_a_warning(tmp_path):
    """More than a comparison would take them to differ by; the share is in the summary."""
    noisy = make_kernels(tmp_path / "a", drifting(0.1, 1), repeats=5)[1]
    calm = make_kernels(tmp_path / "b", drifting(0.005, 1), repeats=5)[1]

    assert [warning["code"] for warning in noisy["verdict"]["warnings"]] == ["processes_differ"]
    assert noisy["kernels"]["between_runs"] == pytest.approx(0.1, rel=0.5)
    assert calm["verdict"]["warnings"] == []
    assert make_kernels(tmp_path / "c", steady)[1]["kernels"]["between_runs"] is None


@pytest.mark.parametrize("status", ["wrong", "failed"])
def test_a_kernel_that_is_lost_breaks_the_gate(tmp_path, status):
    """It was measured, and now it is wrong or fails: no time can hold the gate."""
    base = make_kernels(tmp_path / "a", steady)[0]
    new = make_kernels(tmp_path / "b", steady, lost=[(1, 0, status)])[0]
    found = compared(base, new, STATED)
    back = compared(new, base, STATED)

    assert [row.part for row in found.broken] == ["batch 1, 2048 KV tokens, block size 128"] * 2
    assert str(found.broken[0].reason) == f"NEW {status}: so it is"
    assert back.broken == []
    assert [row.verdict for row in back.judged].count(UNDETERMINED) == 2


def test_what_cannot_be_compared_is_refused_by_name(tmp_path):
    """Another device, provider or dtype; a stand-in; a result of requests."""
    base = make_kernels(tmp_path / "a", steady)[0]
    others = {
        "device: A CPU against Ascend910B3": {"name": "Ascend910B3"},
        "provider: vllm_cpu against torch_reference": {"provider": "torch_reference", "path": "plain"},
        "dtype: bfloat16 against float16": {"dtype": "float16"},
        "path: attend against attend_v2": {"path": "attend_v2"},
    }
    for number, (words, facts) in enumerate(others.items()):
        new = make_kernels(tmp_path / str(number), steady, **facts)[0]
        with pytest.raises(InputError) as refused:
            compared(base, new)
        assert [line.split("not comparable: ")[1].split(";")[0] for line in refused.value.lines] == [words]
        found = compared(base, new, anyway=True)
        assert len(found.judged) == 2 * len(CASES)
        assert {row.verdict for row in found.judged} == {UNDETERMINED}
        assert "unlike" in [warning.code for warning in found.warnings]


def test_a_hollow_result_has_nothing_to_compare(tmp_path):
    """Not even where it is wanted anyway."""
    base = make_kernels(tmp_path / "a", steady)[0]
    wrong = [(case, 0, "wrong") for case in range(len(CASES))]
    new = make_kernels(tmp_path / "b", steady, lost=wrong, device={"hollow": True})[0]

    with pytest.raises(InputError, match=r"device computes: yes against no \(stub\)"):
        compared(base, new)
    with pytest.raises(InputError, match="nothing was measured on a stub that computes nothing"):
        compared(base, new, anyway=True)


def test_kernels_and_requests_are_two_kinds(tmp_path):
    """Neither way round is there anything to compare."""
    base = make_kernels(tmp_path / "a", steady)[0]
    requests = make_result(tmp_path / "r", Run(loads=(4.0,), duration_s=5))
    for sides in ((base, requests), (requests, base)):
        with pytest.raises(InputError, match="one has kernels and the other requests"):
            compared(*sides)


def test_a_machine_that_moved_is_a_warning(tmp_path):
    """The copy that each run measures says as much of it as of the kernels."""
    base = make_kernels(tmp_path / "a", steady)[0]
    new = make_kernels(tmp_path / "b", steady, rate=0.8e10)[0]
    found = {warning.code: str(warning.text) for warning in compared(base, new).warnings}

    assert "moved 20.0 % fewer bytes a second in NEW" in found["machine_moved"]
    assert "machine_moved" not in [warning.code for warning in compared(base, base).warnings]


def test_a_gate_allows_a_share_of_the_time(tmp_path, capsys):
    """A fifth slower breaks a gate of 5 % and not one of 50 %; exit 1, and lines that say why."""
    base = make_kernels(tmp_path / "a", steady)[0]
    new = make_kernels(tmp_path / "b", lambda case, repeat: 1.2 * steady(case, repeat))[0]
    ends = []
    for allowed in (5, 50):
        gate = tmp_path / f"{allowed}.yaml"
        gate.write_text(f"gate: {{kernel_time: {allowed}%, ttft_p99: 3%}}\nbetween_runs: 2%\n", encoding="utf-8")
        words = ["compare", str(base), str(new), "--gate", str(gate), "--out", str(tmp_path / f"out{allowed}")]
        with pytest.raises(SystemExit) as end:
            main(words)
        ends.append((end.value.code, len(capsys.readouterr().err.splitlines())))

    assert ends == [(1, 8), (0, 0)]


@pytest.mark.parametrize(
    ("names", "kernels", "refusal"),
    [("ttft_p99", True, "says nothing of kernels"), ("kernel_time", False, "says nothing of requests")],
)
def test_a_gate_of_the_other_kind_is_refused(tmp_path, capsys, names, kernels, refusal):
    """A gate that judges nothing would hold always."""
    make = make_kernels(tmp_path / "a", steady)[0] if kernels else make_result(tmp_path / "a", Run(duration_s=5))
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"gate: {{{names}: 5%}}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(make), str(make), "--gate", str(gate), "--out", str(tmp_path / "out")])

    assert end.value.code == 2
    assert refusal in capsys.readouterr().err


def test_what_a_gate_does_not_say_is_that_of_kernels():
    """Few samples, and nothing taken for what runs differ by; what it says stands."""
    gate = for_kernels(Gate.model_validate({"gate": {"kernel_time": "3%"}, "between_runs": "4%"}))

    assert (gate.gate, gate.between_runs, gate.samples) == ({"kernel_time": 0.03}, 0.04, 1)
    assert KERNEL_GATE.between_runs is None


def test_a_comparison_is_a_page_and_its_companions(tmp_path, capsys):
    """Every measurement in HTML, Markdown, JUnit and JSON; on the terminal those that changed."""
    slow = drifting(1e-4, 2)
    base = make_kernels(tmp_path / "a", drifting(1e-4, 1), repeats=3)[0]
    new = make_kernels(tmp_path / "b", lambda case, repeat: (1.5 if case == 3 else 1) * slow(case, repeat), repeats=3)[
        0
    ]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["compare", str(base), str(new), "--out", str(out)])
    said = capsys.readouterr()
    page = (out / "compare.html").read_text(encoding="utf-8")
    suite = ET.parse(out / "compare.xml").getroot()[0]
    judged = json.loads((out / "compare.json").read_text(encoding="utf-8"))

    assert end.value.code == 1
    assert said.out.count("batch 8, 2048 KV tokens") == 3
    assert "batch 1, 512" not in said.out
    assert "regression: time of decode, cold, attend, batch 8, 2048 KV tokens, block size 128 is 50.0 %" in said.err
    assert (
        page.count("batch 1, 512 KV tokens, block size 128</th>")
        + page.count("batch 1, 512 KV tokens, block size 128<small")
        == 2
    )
    assert "Repeats of one result stand close in time" in page
    assert (suite.get("tests"), suite.get("failures")) == ("8", "2")
    assert len({case.get("name") for case in suite}) == 8
    assert [row["gate_broken"] for row in judged["measures"]] == ([False] * 3 + [True]) * 2
    assert "| decode, cold, attend |" in (out / "compare.md").read_text(encoding="utf-8")


def test_cases_that_one_side_lacks_are_counted(tmp_path):
    """They are no measure of the comparison, and a note says how many."""
    base, new = (make_kernels(tmp_path / name, steady)[0] for name in "ab")
    summary = store.read_json(base, store.SUMMARY)
    summary["kernels"]["rows"] = summary["kernels"]["rows"][:3]
    store.write_json(base, store.SUMMARY, summary)
    found = compared(base, new)

    assert len(found.judged) == 6
    assert [str(warning.text) for warning in found.warnings if warning.code == "stages"] == [
        "Only one side has 2 of the measurements."
    ]


def test_an_index_counts_the_kernels_that_changed(tmp_path):
    """Results of kernels stand in an index as any others; one in which nothing was measured does not spoil it."""
    made = [
        make_kernels(tmp_path / "1", drifting(0.01, 1), repeats=4)[0],
        make_kernels(tmp_path / "2", drifting(0.01, 2, 1.3), repeats=4)[0],
        make_kernels(tmp_path / "3", steady, lost=[(case, 0, "failed") for case in range(len(CASES))])[0],
    ]
    for day, folder in enumerate(made, 1):
        store.write_json(folder, store.RUN, store.read_run(folder) | {"started_utc": f"2026-11-0{day}T10:00:00"})
    (history,) = histories(made)
    page = history_page.write(made).read_text(encoding="utf-8")

    assert [list(history_page.described_changes(entry)) for entry in history.entries] == [
        [],
        [("worse: 8 kernel times", "worse")],
        [],
    ]
    assert "worse: 8 kernel times" in page
