"""A kernel scenario from its job to its files and its page, whatever its child does."""

import csv
import json
import re
import sys
import textwrap
from pathlib import Path

import pytest

import reports
from harness.api.result import read_result, report
from harness.cli.result_lines import result_lines
from harness.engines.simulator import calibrated_flags
from harness.errors import EXIT_DONE, EXIT_ENGINE, EngineError, InputError, ScenarioError
from harness.execution.kernels import BenchEnvironment, bench_lines
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.kernels.job import kernel_plan
from harness.kernels.repeats import row_reason
from harness.kernels.result import find_warnings, row_name
from harness.messages import render
from harness.results import store, table_files
from harness.scenario.engine import Engine
from harness.scenario.loader import load_scenario
from harness.simulator.chips import KernelCalibration, chip_named, read_calibration
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import StepCost
from tests.kernel_results import make_kernels

SHIPPED = Path(__file__).parents[2] / "scenarios" / "paged_attention.yaml"
HEAD = "name: k\nquestion: How fast?\nkernels:\n"

# Answers as the bench does, without torch; what it does to a case stands in `ACT`.
FAKE = """
import json, os, signal, sys, time
job = json.load(open(sys.argv[4]))
tell = lambda **line: print(json.dumps(line), flush=True)
limits = dict(source="measured", bytes_per_s=1e10 + os.getpid(), flops_per_s={"bfloat16": 1e11})
limits = job["measured"] or limits
act = json.loads(os.environ["ACT"])
if "fault" in act:
    tell(event="fault", reason=act["fault"]); sys.exit(3)
tell(event="device", provider="vllm_cpu", kind="cpu", name="A <b>CPU</b>", memory_bytes=1, cache_bytes=2,
     facts=act.get("facts", {}), missing={}, limits=[limits])
for index, case in enumerate(job["cases"]):
    if index < job["begin"] or index in job["without"]: continue
    tell(event="begin", case=index)
    doing = act.get(str(index))
    if doing == "die": os.kill(os.getpid(), signal.SIGSEGV)
    if doing == "hang": time.sleep(600)
    status = doing or "measured"
    row = dict(event="row", case=index, path="attend", status=status, reason="so it is")
    if status == "measured":
        seconds = 1e-3 * (index + 1)
        far = dict(source="measured", bound="memory", ideal_s=seconds / 2, fraction=.5, gap_s=seconds / 2)
        found = dict(n=2, median_s=seconds, ci95_s=[seconds * .9, seconds * 1.1], min_s=seconds, launch_s=seconds)
        found |= dict(stop="quiet", noise=.01, marks=["noisy"] if index == 0 else [], limits={"measured": far})
        found |= dict(bytes_per_s=1e9, flops_per_s=2e9, samples=[[1, 10, 20, None], [1, 11, 21, 15]])
        row |= dict(reason=None, work=dict(flops=100, read_bytes=40, write_bytes=10), throttled=False)
        row |= dict(errors=dict(worst=.1, typical=.01, not_finite=0, elements=9), modes={"cold": found, "hot": found})
    tell(**row)
tell(event="done")
"""

QUIET = {"facts": {}}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An interpreter that plays the bench; how it acts is told by what it returns."""
    program = tmp_path / "fake.py"
    program.write_text(FAKE, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    def act(**how):
        monkeypatch.setenv("ACT", json.dumps(how))
        return str(python)

    return act


def scenario(tmp_path, keys, python=None):
    """A loaded scenario with these keys of `kernels`."""
    return load_scenario(scenario_file(tmp_path, keys), [f"engine.python={python}"] if python else [])


def scenario_file(tmp_path, keys):
    """The file of a scenario with these keys of `kernels`."""
    path = tmp_path / "k.yaml"
    path.write_text(HEAD + textwrap.indent(keys, "  "), encoding="utf-8")
    return path


THREE = "batch: [1, 2]\nkv_tokens: [64, 128]\nblock_size: [32, 128]\ntimeout: 60s\n"


def run(tmp_path, python, keys=THREE):
    """Run a scenario with the fake and finish it; the folder, the outcome and the summary."""
    folder = tmp_path / "out"
    outcome = execute(RunSpec(scenario(tmp_path, keys, python), folder, "harness run k.yaml", lambda _line: None))
    return folder, outcome, finish(folder)


def test_a_run_leaves_samples_a_table_and_a_summary(tmp_path, fake):
    """Raw samples in Parquet with nulls where a device has no events, a CSV line a mode, rows in the summary."""
    folder, outcome, summary = run(tmp_path, fake())
    samples = table_files.read_kernel_samples(folder)
    lines = list(csv.DictReader((folder / "kernels.csv").read_text(encoding="utf-8").splitlines()))

    assert outcome.exit_code == EXIT_DONE
    assert len(samples["case"]) == 8 * 2 * 2
    assert samples["device_ns"][:2] == [None, 15]
    assert len(lines) == 8 * 2
    assert lines[0]["batch"] == "1"
    assert lines[0]["measured_fraction"] == "0.5"
    assert summary["kernels"]["counts"] == {"measured": 8, "skipped": 0, "wrong": 0, "failed": 0}
    assert summary["verdict"]["valid"] is True
    assert summary["answer"].startswith("8 of 8 cases measured on A <b>CPU</b> with vllm_cpu: 50.0 % of the")
    assert not (folder / store.RAW).exists()
    assert finish(folder) == summary  # once more, from the files alone


def test_threads_without_a_core_are_a_warning():
    """Of a busy machine all times are too long, also where they are alike."""
    modes = {mode: {"marks": marks} for mode, marks in {"cold": ["crowded"], "hot": []}.items()}
    row = {"status": "measured", "throttled": False, "modes": modes}
    warning = next(one for one in find_warnings([row], {"facts": {}}) if one.code == "crowded_kernel")

    assert str(warning.text) == "In 1 of 2 measurements a thread waited for a core that another process had."


def test_a_process_that_dies_costs_one_case(tmp_path, fake):
    """The next one begins behind it and is held to the limits that the first one measured."""
    _, outcome, summary = run(tmp_path, fake(**{"2": "die", "7": "die"}))
    failed = [row for row in summary["kernels"]["rows"] if row["status"] == "failed"]

    assert outcome.exit_code == EXIT_DONE
    assert summary["kernels"]["counts"] == {"measured": 6, "skipped": 0, "wrong": 0, "failed": 2}
    assert [(row["case"], row["reason"]) for row in failed] == [
        (2, "the process died of SIGSEGV"),
        (7, "the process died of SIGSEGV"),
    ]
    assert [warning["code"] for warning in summary["verdict"]["warnings"]] == ["failed_case", "noisy_kernel"]
    assert len(summary["kernels"]["limits"]) == 1


def test_a_run_whose_processes_kept_dying_is_read_as_it_ended(tmp_path, fake, monkeypatch):
    """With exit code 3 and the reason, though cases without a turn look like an interrupt; its page is drawn."""
    monkeypatch.setattr("harness.execution.kernels.MOST_DEATHS", 2)
    _, outcome, _ = run(tmp_path, fake(**{"2": "die", "4": "die"}))
    result = read_result(tmp_path / "out")

    assert (outcome.exit_code, result.exit_code) == (EXIT_ENGINE, EXIT_ENGINE)
    assert result.reasons == tuple(map(str, outcome.lines))
    assert report(result).exists()


def test_repeats_are_processes_of_their_own(tmp_path, fake):
    """Held to the limits of the first one; a case on which one died is not tried again, and the others go on."""
    loaded = load_scenario(scenario_file(tmp_path, THREE), ["repeats=3", f"engine.python={fake(**{'2': 'die'})}"])
    told = []
    execute(RunSpec(loaded, tmp_path / "out", "harness run k.yaml", told.append))
    kernels = finish(tmp_path / "out")["kernels"]
    rates = {row["modes"]["hot"]["n"] for row in kernels["rows"] if row["modes"]}

    assert kernels["counts"] == {"measured": 7, "skipped": 0, "wrong": 0, "failed": 1}
    assert (kernels["repeats"], kernels["between_runs"], rates) == (3, pytest.approx(0, abs=1e-12), {6})
    assert set(table_files.read_kernel_samples(tmp_path / "out")["repeat"]) == {0, 1, 2}
    assert len(kernels["limits"]) == 1
    assert sum("the process died" in line for line in map(str, told)) == 1
    assert str(told[-1]).startswith(
        "repeat 3/3, 8/8 decode, batch 2, 128 KV tokens, block size 128, attend: cold 8.00 ms"
    )


def test_a_run_that_was_ended_says_what_had_no_turn(tmp_path):
    """What was measured is kept; what was not is counted, and raises a warning."""
    _, summary = make_kernels(tmp_path / "a", lambda _case, _repeat: 1e-3, cases=6)

    assert summary["answer"].startswith("4 of 6 cases measured on A CPU")
    assert [warning["code"] for warning in summary["verdict"]["warnings"]] == ["interrupted"]
    assert summary["verdict"]["warnings"][0]["text"].startswith("2 of 6 cases had no turn")


def test_a_process_that_hangs_is_stopped(tmp_path, fake):
    """A case that says nothing for its time is given up; those after it have their turn."""
    _, _, summary = run(tmp_path, fake(**{"0": "hang"}), THREE.replace("60s", "1s"))

    assert summary["kernels"]["rows"][0]["reason"] == "the process said nothing for 1 s and was stopped"
    assert summary["kernels"]["counts"]["measured"] == 7


def test_reasons_and_names_read_in_another_language(tmp_path, fake):
    """They are kept as messages beside the English text; an earlier file's text, or a plug-in's, stays as it is."""
    _, _, summary = run(tmp_path, fake(**{"2": "die", "7": "wrong"}))
    dead, wrong = (row for row in summary["kernels"]["rows"] if row["status"] != "measured")
    earlier = {name: value for name, value in dead.items() if not name.endswith("_message")}

    assert (dead["reason"], render(row_reason(dead), "zh")) == ("the process died of SIGSEGV", "进程被 SIGSEGV 终止")
    assert render(row_reason(wrong), "zh") == wrong["reason"] == "so it is"
    assert render(row_name(wrong), "zh") == "decode、batch 2、KV 128 token、块大小 128、attend"
    assert str(row_name(wrong)) == wrong["name"] == "decode, batch 2, 128 KV tokens, block size 128, attend"
    assert render(row_reason(earlier), "zh") == dead["reason"]
    assert render(row_name(earlier), "zh") == dead["name"]


def test_a_wrong_kernel_makes_the_result_invalid(tmp_path, fake):
    """Its case has no times, and the run is not valid."""
    _, _, summary = run(tmp_path, fake(**{"1": "wrong"}))

    assert summary["verdict"]["valid"] is False
    assert summary["kernels"]["rows"][1]["modes"] == {}
    assert "1 cases gave wrong results and were not timed (attend" in result_lines(summary)[2]


def test_a_hollow_device_makes_the_result_invalid():
    """A stand-in that computes nothing publishes nothing."""
    warnings = find_warnings([], {"facts": {"hollow": "yes"}})

    assert [warning.code for warning in warnings] == ["hollow"]
    assert {warning.severity for warning in warnings} == {"invalid"}


def test_what_beats_the_measured_limit_is_a_warning():
    """A cold kernel above the limit of its own run shows that the limit is none; a hot one may be, out of the cache."""

    def found(**shares):
        modes = {mode: {"marks": [], "limits": {"measured": {"fraction": share}}} for mode, share in shares.items()}
        return [one.code for one in find_warnings([{"status": "measured", "throttled": False, "modes": modes}], QUIET)]

    assert found(cold=1.2, hot=0.5) == ["limit_beaten"]
    assert found(cold=1.04, hot=3.0) == []


def test_a_machine_without_a_provider_is_told_in_one_line(tmp_path, fake):
    """What was tried, and what to give instead; nothing is left behind."""
    with pytest.raises(EngineError) as told:
        run(tmp_path, fake(fault="torch_reference: there is no torch here"))

    assert "there is no torch here; expected an interpreter that has vLLM or torch" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_an_interpreter_that_is_none_is_told(tmp_path):
    """The key that names it, and what was expected."""
    with pytest.raises(EngineError, match=r"engine.python: /no/python cannot be run"):
        run(tmp_path, "/no/python")


def test_this_interpreter_has_no_kernels_where_it_has_no_torch(tmp_path):
    """The real bench starts in any Python, and says what is missing."""
    pytest.importorskip("harness")
    if any((Path(place) / "torch").is_dir() for place in sys.path):
        pytest.skip("torch is installed here")
    order = kernel_plan(scenario(tmp_path, THREE))
    place = BenchEnvironment(sys.executable, {}, tmp_path / "log", 60.0)

    with pytest.raises(EngineError, match="torch_reference: there is no torch here"):
        list(bench_lines(order.job, place))


def test_the_page_shows_figures_tables_and_warnings(tmp_path, fake):
    """Roofline, lengths and block sizes with texts in place of pictures; the device's words stay text."""
    folder, _, _ = run(tmp_path, fake(**{"7": "wrong"}))
    page = reports.write_all(folder).read_text(encoding="utf-8")

    assert page.count('<svg class="chart" role="img"') == 3
    assert "Roofline" in page
    assert "Decode: effect of block size" in page
    assert re.search(r"batch 2: [0-9.]+ ms at 64 KV tokens", page)
    assert "A &lt;b&gt;CPU&lt;/b&gt;" in page
    assert "<b>CPU</b>" not in page
    assert "so it is" in page


def test_the_page_of_nothing_measured_says_why(tmp_path, fake):
    """No figure, but the table of what was lost."""
    folder, _, summary = run(tmp_path, fake(**{str(index): "skipped" for index in range(8)}))
    page = reports.write_all(folder).read_text(encoding="utf-8")

    assert "<svg" not in page
    assert "Nothing was measured." in page
    assert [warning["code"] for warning in summary["verdict"]["warnings"]] == ["nothing_measured"]


def test_the_shipped_scenario_makes_cases(tmp_path):
    """Every combination of its axes, some of them ragged, none skipped."""
    order = kernel_plan(load_scenario(SHIPPED))
    ragged = [case for case in order.job.cases if len(set(case.kv_lens)) > 1]

    assert len(order.job.cases) == 36
    assert order.skipped == ()
    assert {case.batch for case in ragged} == {8}
    assert min(min(case.kv_lens) for case in ragged) >= 300
    assert [name for name, _ in order.job.chips] == ["910B1", "910B2", "910B3", "910B4", "910_93", "310P"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("heads: 8\n", "heads, kv_heads and head_size stand together"),
        ("heads: 8\nkv_heads: 2\nhead_size: 64\nmodel: Qwen3-8B\n", "model and heads stand together"),
        ("head_size: 0\n", "head_size"),
        ("block_size: 0\n", "block_size"),
        ("phase: decod\n", "phase"),
        ("min_samples: 9\nmax_samples: 3\n", "min_samples 9 is above max_samples 3"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(tmp_path, keys, told):
    """With the line and the key, before anything runs."""
    with pytest.raises(ScenarioError, match=told):
        scenario(tmp_path, keys)


def test_axes_without_any_case_are_refused(tmp_path):
    """A grid of which nothing can run is a fault of the input."""
    with pytest.raises(
        InputError, match="no combination makes a case: 3 KV heads do not divide 8 heads; expected 2 or 4"
    ):
        kernel_plan(scenario(tmp_path, "heads: 8\nkv_heads: 3\nhead_size: 64\n"))


def test_an_unknown_model_has_a_nearest_one(tmp_path):
    """The presets that there are, or the shape itself."""
    with pytest.raises(InputError, match=r"kernels.model: 'Qwen2.5-8B' has no preset; did you mean"):
        kernel_plan(scenario(tmp_path, "model: Qwen2.5-8B\n"))


def test_measured_kernels_time_the_simulators_attention(tmp_path, fake):
    """Decodes tell the share of the bandwidth; the steps of the twin follow it, and a given flag stands."""
    folder, _, _ = run(tmp_path, fake())
    chip = chip_named("cpu-2core")
    found = read_calibration(folder, chip)
    told = Engine(kind="simulator", calibration=str(folder), args={"chip": "cpu-2core"})
    slow, fast = (
        StepCost(settings_from_flags({"model": "Qwen2.5-7B", "chip": "cpu-2core", "cache_efficiency": share}))
        for share in (0.1, 0.8)
    )

    assert found.flags == {"cache_efficiency": pytest.approx(1e9 / chip.bandwidth, rel=1e-3)}
    assert KernelCalibration(3e-6, None).flags == {"cache_efficiency": 3e-6}  # slow as it may be, not nothing
    assert calibrated_flags(told)["cache_efficiency"] == found.flags["cache_efficiency"]
    assert (
        calibrated_flags(told.model_copy(update={"args": {"chip": "cpu-2core", "cache_efficiency": 0.5}}))[
            "cache_efficiency"
        ]
        == 0.5
    )
    assert slow.terms_of(8, 10_000, ()).decode_attention_s > 7 * fast.terms_of(8, 10_000, ()).decode_attention_s
    with pytest.raises(InputError, match=r"was measured on A <b>CPU</b>; chip 910B3 expects an NPU"):
        read_calibration(folder, chip_named("910B3"))
