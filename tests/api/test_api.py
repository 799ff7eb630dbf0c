"""The public API: its names, their documentation and types, and a run on the simulator from a script and a notebook."""

import asyncio
import dataclasses
import inspect
import json
import subprocess
import sys
import typing

import pytest

import harness
from harness.errors import EXIT_ENGINE, EXIT_INPUT, EXIT_INTERRUPTED, EngineError, InputError, RunInterruptedError
from harness.messages import message, render
from harness.results import store
from harness.safety.interrupts import STOPPED
from tests.result_folder import Run, kept_warning, make_result
from tests.tuning.studies import written

PUBLIC = {
    *("Acceptance", "EngineResult", "PrefixCache", "ServerTimes"),
    *("Comparison", "HarnessError", "Latency", "Result", "StageResult", "StudyResult", "Summary", "Warning"),
    *("Options", "Plugin", "Progress"),
    *("compare", "language", "load_scenario", "read_result", "report", "run", "run_async", "tune", "tune_async"),
    "__version__",
}
DIED = message("client.worker_died", worker=1, status=-9)
DEAD = {"kind": "simulator", "died": str(DIED), "died_message": DIED.as_dict()}
SCENARIO = """\
name: api
question: Does it answer?
engine: {kind: simulator, model: Qwen2.5-0.5B}
workload: {kind: synthetic, input_tokens: 16, output_tokens: 4}
load: [{closed: {concurrency: 2, requests: 6}}]
slo: {ttft_p50: 30s}
"""


@pytest.fixture
def scenario(tmp_path):
    """A small scenario on the simulator."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path / "s.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished result."""
    return make_result(tmp_path_factory.mktemp("api") / "run", Run(loads=(2.0, 4.0), duration_s=10))


def test_the_exported_names_are_these():
    """A name that is added or lost is a decision, not an accident."""
    assert set(harness.__all__) == PUBLIC
    assert set(dir(harness)) == PUBLIC
    assert all(getattr(harness, name) is not None for name in PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_is_documented_and_typed(name):
    """A docstring each, of methods and properties too; every parameter and every result has an annotation."""
    public = getattr(harness, name)
    members = [public]
    if inspect.isclass(public):
        members += [member for key, member in vars(public).items() if not key.startswith("_") and callable(member)]
        members += [member.fget for member in vars(public).values() if isinstance(member, property)]

    for member in members:
        assert inspect.getdoc(member), member
        if inspect.isfunction(member):
            parameters = [each for each in inspect.signature(member).parameters.values() if each.name != "self"]
            assert all(each.annotation is not inspect.Parameter.empty for each in parameters), member
            assert inspect.signature(member).return_annotation is not inspect.Signature.empty, member


@pytest.mark.parametrize(
    "name",
    ["Comparison", "EngineResult", "Latency", "Progress", "Result", "StageResult", "StudyResult", "Summary", "Warning"],
)
def test_values_are_frozen(name):
    """A value is what was measured, and stays so."""
    value = getattr(harness, name)

    assert value.__dataclass_params__.frozen
    assert all(typing.get_type_hints(value) or field.type for field in dataclasses.fields(value))


def test_importing_harness_loads_nothing_heavy():
    """`harness --help` answers at once: the API's modules load when a name of theirs is first used."""
    code = "import sys, harness; print([m for m in ('numpy', 'pandas', 'pydantic', 'harness.api') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"


def test_an_unknown_name_is_no_attribute():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        harness.nothing  # noqa: B018 - the access is what is tested


def test_a_scenario_runs_from_a_script_to_numbers(scenario, tmp_path):
    """`harness.run` gives the numbers of summary.json, a frame of requests, and the page."""
    loaded = harness.load_scenario(scenario, set={"load.0.closed.requests": 4})
    lines = []
    result = harness.run(loaded, out=tmp_path / "out", on_progress=lines.append)
    kept = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    requests = result.requests()

    assert (result.exit_code, result.reasons, result.folder) == (0, (), tmp_path / "out")
    assert result.page == tmp_path / "out" / "report.html"
    assert result.page.exists()
    (stage,) = result.summary.stages
    assert stage.ttft.p99 == kept["stages"][0]["ttft"]["p99"]
    assert stage.slo_met is True
    assert result.slo_met
    assert result.summary.simulated
    assert "simulated" in {warning.code for warning in result.warnings}
    assert len(requests) == 4
    assert ((requests["first_ns"] - requests["sent_ns"]) > 0).all()
    assert any("stage 1/1" in line for line in lines)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["overrides"] == ["load.0.closed.requests=4"]


def test_a_scenario_runs_within_a_running_event_loop(scenario, tmp_path):
    """As in a notebook, whose loop runs: `run` says what to do there, and `run_async` does it."""

    async def cell():
        with pytest.raises(InputError, match=r"an event loop is running, .* expected `await harness\.run"):
            harness.run(scenario, out=tmp_path / "refused")
        return await harness.run_async(str(scenario), out=tmp_path / "out")

    result = asyncio.run(cell())

    assert result.summary.stages[0].requests["completed"] == 6
    assert not (tmp_path / "refused").exists()


def test_the_language_reaches_progress_and_result(scenario, tmp_path):
    """Lines are made in tasks and threads, and read in the language of whoever began the run."""
    lines = []

    async def cell():
        with harness.language("zh"):
            running = asyncio.create_task(
                harness.run_async(str(scenario), out=tmp_path / "out", on_progress=lines.append)
            )
        result = await running
        with harness.language("zh"):
            return harness.read_result(result.folder)._repr_html_(), str(harness.read_result(result.folder))

    shown, answer = asyncio.run(cell())

    assert lines[0] == "引擎：simulator（按场景指定）"
    assert any(line.startswith("阶段 1/1：") for line in lines)
    assert "<th>阶段</th><th>请求/秒</th>" in shown
    assert "<li>警告：" in shown or "<li>提示：" in shown
    assert answer.startswith("虚拟时间模拟：")
    assert answer.endswith("（有效）")


def test_errors_carry_their_exit_code(tmp_path):
    """A caller decides by the class or by the number that the command would exit with."""
    with pytest.raises(harness.HarnessError) as missing:
        harness.run(tmp_path / "none.yaml")

    assert missing.value.exit_code == EXIT_INPUT
    assert (EngineError.exit_code, RunInterruptedError.exit_code) == (EXIT_ENGINE, EXIT_INTERRUPTED)
    with pytest.raises(harness.HarnessError, match="no such folder"):
        harness.read_result(tmp_path / "none")


def test_a_scenario_is_found_by_its_name_as_the_command_finds_it(tmp_path, monkeypatch):
    """One that ships, of a run and of a study too; a file of the working folder comes before it."""
    monkeypatch.chdir(tmp_path)
    assert harness.load_scenario("smoke", set={"seed": 5}).scenario.seed == 5
    with pytest.raises(harness.HarnessError, match=r"^url=foo bar: "):
        harness.run("smoke", url="foo bar")
    with pytest.raises(harness.HarnessError, match=r"^trials=-1: "):
        harness.tune("tune", trials=-1)
    with pytest.raises(harness.HarnessError, match=r"did you mean 'smoke'\?"):
        harness.load_scenario("smokee")
    (tmp_path / "smoke.yaml").write_text(SCENARIO)

    assert harness.load_scenario("smoke").scenario.name == "api"


def test_a_wrong_argument_is_named_as_it_was_given(scenario, tmp_path):
    """An address that is none and a number of trials below one are errors of the input, in one line each."""
    with pytest.raises(harness.HarnessError, match=r"^url=foo bar: engine\.url: expected an address") as address:
        harness.run(scenario, url="foo bar", out=tmp_path / "out")
    with pytest.raises(harness.HarnessError, match=r"^trials=-1: budget\.trials: ") as trials:
        harness.tune(written(tmp_path, space={"max_num_seqs": [4, 8]}), trials=-1, out=tmp_path / "out")

    assert address.value.exit_code == trials.value.exit_code == EXIT_INPUT
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["s.yaml", "s.yaml/x", "s.yaml/x/y"])
def test_a_result_folder_cannot_lie_where_a_file_is(scenario, tmp_path, name):
    """Of a run and of a study one line with exit code 2; the file stays as it was."""
    study = written(tmp_path, space={"max_num_seqs": [4, 8]}, budget={"trials": 1})
    out = tmp_path / name
    for begin in (harness.run, harness.tune):
        with pytest.raises(harness.HarnessError) as raised:
            begin(study if begin is harness.tune else scenario, out=out)

        (line,) = raised.value.localized_lines()
        assert line.startswith(f"--out {out}: cannot be made (")
        assert raised.value.exit_code == EXIT_INPUT
    assert scenario.read_text() == SCENARIO


def test_an_engine_that_does_not_answer_is_an_engine_error(scenario, tmp_path):
    """No folder is left, and the exit code is that of the command."""
    with pytest.raises(EngineError) as raised:
        harness.run(scenario, url="http://127.0.0.1:9", out=tmp_path / "out")

    assert raised.value.exit_code == EXIT_ENGINE
    assert not (tmp_path / "out").exists()


def test_a_result_is_read_again_as_it_was(folder):
    """Numbers of the folder, in the order of its stages; latencies in seconds with their intervals."""
    result = harness.read_result(str(folder))
    kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))

    assert result.summary.answer == kept["answer"]
    assert result.valid == kept["verdict"]["valid"]
    assert len(result.warnings) == len(kept["verdict"]["warnings"])
    assert [stage.index for stage in result.summary.stages] == [0, 1]
    assert [stage.e2e.p50 for stage in result.summary.stages] == [stage["e2e"]["p50"] for stage in kept["stages"]]
    for stage, raw in zip(result.summary.stages, kept["stages"], strict=True):
        assert stage.ttft.ci95 == {name: tuple(ends) for name, ends in raw["ttft"]["ci95"].items()}
        assert stage.user_token_rate == raw["efficiency"]["user_token_rate"]
        assert stage.npu_token_rate == raw["efficiency"]["npu_token_rate"]
        assert stage.cost_per_million_output_tokens is None
    assert result.summary.recommendation == kept["decision"]["text"]
    assert set(result.samples().columns) == {"at_ns", "source", "name", "value"}


@pytest.mark.parametrize(
    ("run", "counts", "ending"),
    [
        ({}, {}, (0, ())),
        ({"engine": DEAD}, {"never_sent": 3}, (EXIT_ENGINE, (render(DIED, "zh"),))),
        ({"engine": {"kind": "simulator", "died": "it died"}}, {}, (EXIT_ENGINE, ("it died",))),
        ({"interrupted": True}, {}, (EXIT_INTERRUPTED, (render(STOPPED, "zh"),))),
        ({}, {"never_sent": 3}, (EXIT_INTERRUPTED, (render(STOPPED, "zh"),))),
        ({}, {"never_sent": 3, "failed": 1}, (0, ())),
        ({}, {"never_sent": 3, "failed": 1, "cancelled": 1}, (EXIT_INTERRUPTED, (render(STOPPED, "zh"),))),
    ],
)
def test_a_result_that_is_read_says_how_its_run_ended(tmp_path, run, counts, ending):
    """Of a death and an interrupt what run.json keeps; else 130 where requests were cut off.

    Later turns of a session that failed are never sent, without any interrupt.
    """
    folder = make_result(tmp_path / "run", Run(loads=(2.0,), duration_s=10, failing=0))
    store.write_json(folder, store.RUN, {**store.read_json(folder, store.RUN), **run})
    summary = store.read_json(folder, store.SUMMARY)
    summary["stages"][0]["requests"] |= counts
    if counts:
        summary["verdict"]["warnings"].append(kept_warning("interrupted", "warning", "It was cut.", "Run again."))
    store.write_json(folder, store.SUMMARY, summary)
    with harness.language("zh"):
        result = harness.read_result(folder)

    assert (result.exit_code, result.reasons) == ending


def test_a_result_shows_itself_in_a_notebook_with_everything_escaped(folder):
    """The answer and a row a stage; what a scenario says is text, never markup."""
    result = harness.read_result(folder)
    evil = dataclasses.replace(result.summary, answer="<script>alert(1)</script>")
    shown = dataclasses.replace(result, summary=evil)._repr_html_()

    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count("<tr>") == 1 + len(result.summary.stages)
    assert "poisson 2 req/s" in result._repr_html_()
    assert str(result).startswith(result.summary.answer)


def test_two_results_are_compared(folder, tmp_path):
    """The verdict, the exit code of a gate, and a page where one is wanted."""
    other = make_result(tmp_path / "other", Run(loads=(2.0, 4.0), duration_s=10, slots=2))
    comparison = harness.compare(harness.read_result(folder), other, out=tmp_path / "page")

    assert comparison.verdict in ("worse", "better and worse", "better", "cannot be told", "no difference shown")
    assert comparison.exit_code in (0, 1, 4)
    assert (tmp_path / "page" / "compare.html").exists()
    with pytest.raises(InputError, match="is both BASE and NEW"):
        harness.compare(folder, folder)


def test_the_page_of_a_result_is_drawn_in_the_current_language(folder):
    """Within `harness.language("zh")` pages are Chinese."""
    with harness.language("zh"):
        chinese = harness.report(folder).read_text(encoding="utf-8")
    english = harness.report(harness.read_result(folder)).read_text(encoding="utf-8")

    assert ('lang="zh-Hans"' in chinese, 'lang="zh-Hans"' in english) == (True, False)


def test_the_exit_code_of_a_script_is_that_of_the_command(folder):
    """How the run ended comes first; validity and limits count where they are asked about."""
    result = harness.read_result(folder)
    stages = tuple(dataclasses.replace(stage, slo_met=False) for stage in result.summary.stages)
    summary = dataclasses.replace(result.summary, valid=False, stages=stages)
    bad = dataclasses.replace(result, summary=summary)

    assert [bad.status(), bad.status(strict=True), bad.status(enforce_slo=True)] == [0, 4, 1]
    assert dataclasses.replace(bad, exit_code=130).status(strict=True) == 130


def test_a_study_runs_from_python(tmp_path):
    """A small study on the simulator in virtual time: the winner's flags, its command, a frame of trials."""
    small = {"space": {"max_num_seqs": [4, 16]}, "budget": {"trials": 2}, "confirm": {"best": 1, "repeats": 2}}
    result = harness.tune(written(tmp_path, **small), trials=2, out=tmp_path / "out")
    trials = result.trials()

    assert result.exit_code == 0
    assert result.simulated
    assert result.page.exists()
    assert result.lines
    assert list(trials["number"]) == [0, 1]
    assert "max_num_seqs" in trials
