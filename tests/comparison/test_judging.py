"""Which verdicts, warnings and refusals come of two sides."""

import json
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli.app import main
from harness.cli.compare import lines_of
from harness.comparison.comparability import changed_settings
from harness.comparison.comparison import compare
from harness.comparison.judging import BETTER, BOTH, NO_DIFFERENCE, NOT_VALID, UNDETERMINED, WORSE, judge
from harness.comparison.measures import in_view, sample_of, stage_rows, value_of
from harness.comparison.repeats import Side, pairs
from harness.comparison.served import SERVED, repeats_of
from harness.comparison.sides import read_side
from harness.errors import InputError, ResultError
from harness.messages.rendering import CHINESE, render
from harness.results import store, table_files
from harness.scenario.gate import DEFAULT_GATE, Gate
from harness.scenario.metrics import RATES, measure_of
from tests.result_folder import Run, kept_warning, make_result, write_result

GATE = Gate.model_validate({"gate": {"tpot_mean": "2%", "output_token_rate": "2%", "failed_share": "1%"}})
MINUS = "\N{MINUS SIGN}"
LOAD = {"kind": "closed", "concurrency": 4, "requests": 100}


def repeat(values, number=0, **facts):
    """A repeat whose one stage shows these values of mean TPOT and output rate."""
    tpot_s, rate, *failed = values
    stage = {
        "index": 0, "repeat": 0, "label": "closed 4 users", "load": LOAD, "tpot": {"n": 100, "mean": tpot_s},
        "output_token_rate": rate, "requests": {"completed": 100 - sum(failed), "failed": sum(failed)},
    }  # fmt: skip
    run = {
        "name": "made", "question": "?", "stages": [LOAD], "payload_sha256": f"p{number}",
        "schedule_sha256": f"s{number}",
        "endpoint": "completions", "engine": {"kind": "vllm", "model": "tiny"}, **facts,
    }  # fmt: skip
    summary = {"stages": [stage], "verdict": {"valid": True, "warnings": []}}
    return repeats_of(f"run-{number}", run, summary, lambda: None)[0]


def side(name, rows, **facts):
    """A side of a repeat a row of values."""
    return Side(name, [repeat(row, number, **facts) for number, row in enumerate(rows)])


def verdicts(base, new, gate=GATE):
    """Verdicts by measure, of those that the gate names."""
    return {row.measure.key: row.verdict for row in judge(base, new, gate) if row.allowed is not None}


def cut(row):
    """The same repeat of a run that an interruption cut: some of its requests were cancelled."""
    stage = {**row.stages[0], "requests": {**row.stages[0]["requests"], "cancelled": 3}}
    summary = {"stages": [stage], "verdict": {**row.summary["verdict"], "interrupted": True}}
    return replace(row, summary=summary, stages={0: stage})


BASE = side("base", [(0.0100, 400.0), (0.0101, 396.0), (0.0099, 404.0), (0.0100, 401.0)])
SLOW = side("new", [(0.0106, 380.0), (0.0107, 376.0), (0.0105, 383.0), (0.0106, 381.0)])


def test_a_statistic_that_a_client_spoiled_is_not_judged():
    """Whichever side's client it was; what it did not spoil is judged as ever."""
    spoiled = [replace(run, stages={0: {**run.stages[0], "tpot": {**run.stages[0]["tpot"], "invalid": ["mean"]}}})
               for run in SLOW.repeats]  # fmt: skip
    rows = {row.measure.key: row for row in judge(BASE, Side("new", spoiled), GATE)}

    assert (rows["tpot_mean"].verdict, rows["output_token_rate"].verdict) == (UNDETERMINED, WORSE)
    assert str(rows["tpot_mean"].reason) == "the client of NEW may have added more than a tenth"


VALUES = st.tuples(st.floats(0.001, 1), st.floats(1, 1000), st.integers(0, 100))


@settings(max_examples=max(40, settings.default.max_examples // 4))
@given(st.lists(VALUES, min_size=3, max_size=6))
def test_a_side_beside_itself_is_never_better_or_worse(rows):
    """Whatever the repeats show, there is no difference between a side and itself."""
    found = judge(side("base", rows), side("new", rows), DEFAULT_GATE)

    assert {row.verdict for row in found} <= {NO_DIFFERENCE, UNDETERMINED}
    assert not any(row.broken for row in found)


@settings(max_examples=max(40, settings.default.max_examples // 4))
@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=6))
def test_exchanged_sides_exchange_their_verdicts(both):
    """Better turns into worse, a ratio into its inverse, an interval into that of the inverse."""
    base, new = side("base", [one for one, _ in both]), side("new", [other for _, other in both])
    turned = {BETTER: WORSE, WORSE: BETTER}
    for there, back in zip(judge(base, new, GATE), judge(new, base, GATE), strict=True):
        assert back.verdict == turned.get(there.verdict, there.verdict)
        if there.ratio is not None and there.measure.ratio:
            assert back.ratio * there.ratio == pytest.approx(1)
            assert back.low * there.high == pytest.approx(1)


def test_a_regression_beyond_the_gate_breaks_it():
    """6 % more TPOT and 5 % less output are beyond the 2 % allowed: exit 1, and the answer says by how much."""
    found = compare(BASE, SLOW, GATE)

    assert verdicts(BASE, SLOW) == {"tpot_mean": WORSE, "output_token_rate": WORSE, "failed_share": NO_DIFFERENCE}
    assert [row.measure.key for row in found.broken] == ["tpot_mean", "output_token_rate"]
    assert found.exit_code == 1
    assert found.verdict == WORSE
    assert "mean TPOT at stage 1 (closed loop, concurrency 4) is 6.0 % higher" in str(found.answer)


def test_worse_within_the_gate_does_not_break_it():
    """What is allowed is 10 %: worse is still said, and the exit code is 0."""
    found = compare(BASE, SLOW, Gate.model_validate({"gate": {"tpot_mean": "10%"}}))

    assert found.exit_code == 0
    assert found.verdict == WORSE
    assert "not significantly beyond the gate" in str(found.answer)


def test_a_faster_run_is_better():
    """The other way round everything is better, and nothing breaks."""
    found = compare(SLOW, BASE, GATE)

    assert found.verdict == BETTER
    assert found.exit_code == 0
    assert str(found.answer).startswith("Better: ")


def staged(name, rows):
    """A side of three repeats whose stages show these values of mean TPOT and output rate, a repeat 1 % slower each."""
    repeats = []
    for number in range(3):
        slow = 1 + number / 100
        own = [repeat((tpot_s * slow, rate / slow), number) for tpot_s, rate in rows]
        stages = [{**run.stages[0], "index": index} for index, run in enumerate(own)]
        summary = {"stages": stages, "verdict": {"valid": True, "warnings": []}}
        run = {**own[0].run, "stages": [LOAD] * len(rows)}
        repeats += repeats_of(f"run-{number}", run, summary, lambda: None)
    return Side(name, repeats)


def test_where_measures_went_both_ways_the_answer_has_both():
    """By measure from the smallest to the largest change and at which stages; one way alone is not said again."""
    base = staged("base", [(0.010, 100.0), (0.010, 200.0), (0.010, 300.0), (0.010, 400.0)])
    new = staged("new", [(0.0045, 217.0), (0.0048, 410.0), (0.010, 300.0), (0.020, 300.0)])
    found = compare(base, new, GATE)

    assert (found.exit_code, found.verdict) == (1, BOTH)
    assert str(found.answer).replace(MINUS, "-") == (
        "Worse: mean TPOT at stage 4 (closed loop, concurrency 4) is 100 % higher (+100 to +100 %). 1 more measure is "
        "beyond the gate. Better, by measure: mean TPOT -52.0 to -55.0 % at stages 1-2; output token rate +105 to "
        "+117 % at stages 1-2. Worse: mean TPOT +100 % at stage 4 (closed loop, concurrency 4); output token rate "
        "-25.0 % at stage 4 (closed loop, concurrency 4)."
    )
    assert "by measure" not in str(compare(BASE, SLOW, GATE).answer)
    assert "按指标，变好：" in render(found.answer, CHINESE)


def test_acceptance_of_sides_that_draft_stands_on_the_terminal():
    """One line a side, from the least to the most of its stages; none of a side that does not draft."""
    drafting = []
    for run in BASE.repeats:
        own = {"acceptance_rate": 0.62, "mean_accepted_length": 2.86, "drafts": 900}
        stage = {**run.stages[0], "speculation": own}
        drafting.append(replace(run, summary={**run.summary, "stages": [stage]}, stages={0: stage}))
    lines = [str(line) for line in lines_of(compare(BASE, Side("new", drafting), GATE))]

    assert [line for line in lines if line.startswith("Speculation")] == [
        "Speculation in NEW: 62.0 % of draft tokens accepted, mean accepted length 2.86."
    ]


def test_repeats_with_mates_are_compared_in_pairs():
    """Seeds that differ by half of all, each 3 % slower: shown in pairs, not where the pairs are unknown."""
    rows = [(0.01, 100.0), (0.015, 120.0), (0.02, 90.0), (0.012, 110.0)]
    base, new = side("base", rows), side("new", [(1.03 * tpot_s, rate) for tpot_s, rate in rows])
    alone = Side("new", [replace(one, run={**one.run, "payload_sha256": None}) for one in new.repeats])

    assert pairs(base, new) is not None
    assert verdicts(base, new)["tpot_mean"] == WORSE
    assert pairs(base, alone) is None
    assert verdicts(base, alone)["tpot_mean"] == NO_DIFFERENCE


def test_repeats_that_sent_the_same_several_times_are_two_groups():
    """Five runs of one seed a side have no mates of their own."""
    base = Side("base", [repeat((0.01, 100.0)) for _ in range(5)])

    assert pairs(base, base) is None


def test_a_measure_that_is_gone_breaks_the_gate():
    """Where nothing is answered any more there is no latency to hold, and the gate must not pass."""
    dead = [replace(one, stages={0: {**one.stages[0], "tpot": {"n": 0, "mean": None}}}) for one in BASE.repeats]
    found = compare(BASE, Side("new", dead), GATE)

    assert [row.measure.key for row in found.broken] == ["tpot_mean"]
    assert found.exit_code == 1


def test_failures_are_judged_by_their_share():
    """No failures against 20 of 100 in every repeat is worse, and latencies raises a warning."""
    failing = side("new", [(0.0100, 400.0, 20), (0.0101, 396.0, 22), (0.0099, 404.0, 18), (0.0100, 401.0, 21)])
    found = compare(BASE, failing, GATE)

    assert [row.measure.key for row in found.broken] == ["failed_share"]
    assert found.broken[0].ratio == pytest.approx(0.2025)
    assert "failures" in {warning.code for warning in found.warnings}


def test_too_few_requests_cannot_be_told():
    """The gate's smallest number of requests is a hundred; 99 are not judged, and a warning says so."""
    gate = Gate.model_validate({"gate": {"tpot_mean": "2%"}, "samples": 401})
    found = compare(BASE, SLOW, gate)

    assert [row.verdict for row in found.judged] == [UNDETERMINED]
    assert str(found.judged[0].reason) == "BASE has only 400 samples of the 401 needed"
    assert "not_judged" in {warning.code for warning in found.warnings}


def test_virtual_time_shows_nothing_of_the_noise_of_real_time():
    """Earlier runs of a simulator count where they kept the same clock; an earlier version had the real one alone."""
    engine = {"kind": "simulator", "model": "tiny", "simulated": True}
    keys = [
        SERVED.noise_key(side("new", [(0.01, 400.0)], engine=engine | clock).runs[0])
        for clock in ({}, {"clock": "real"}, {"clock": "virtual"})
    ]

    assert keys[0] == keys[1]
    assert keys[1] != keys[2]


def test_a_changed_clock_is_named():
    """Two runs of the simulator by different clocks are compared, and the clock stands among what changed."""
    engine = {"kind": "simulator", "model": "tiny", "simulated": True}
    sides = [
        side(name, [(0.01, 400.0)], engine=engine | {"clock": clock})
        for name, clock in (("base", "virtual"), ("new", "real"))
    ]

    assert SERVED.incompatibilities(*sides) == []
    assert ("engine.clock", "virtual", "real") in [
        (setting.name, setting.base, setting.new) for setting in changed_settings(*sides)
    ]


@pytest.mark.parametrize(
    ("facts", "fact"),
    [
        ({"payload_sha256": "other"}, "payload: p0, p1 and 2 more against other"),
        ({"schedule_sha256": "other"}, "schedule: s0, s1 and 2 more against other"),
        ({"engine": {"kind": "vllm", "model": "large"}}, "model: tiny against large"),
        ({"engine": {"kind": "simulator", "model": "tiny", "simulated": True}}, "engine: real against simulator"),
        (
            {"engine": {"kind": "vllm", "model": "tiny", "hollow": True}},
            "device computes: yes against no (stub)",
        ),
        ({"environment": {"npu": ["/dev/davinci0"]}}, "device: unknown against 1 NPU"),
        ({"endpoint": "chat"}, "endpoint: completions against chat"),
        ({"stages": []}, "stages: "),
    ],
)
def test_unlike_runs_are_refused_by_name(facts, fact):
    """Each fact that makes two runs unlike is a line of its own; with --anyway it is a warning."""
    other = side("new", [(0.0100, 400.0)] * 4, **facts)

    assert any(fact in str(one.text) for one in SERVED.incompatibilities(BASE, other))
    with pytest.raises(InputError) as refusal:
        compare(BASE, other, GATE)
    assert any(fact in line for line in refusal.value.lines)
    assert "unlike" in {warning.code for warning in compare(BASE, other, GATE, anyway=True).warnings}


def test_fewer_repeats_of_the_same_are_alike():
    """Two of the base's four seeds were run again: that is no other work."""
    some = Side("new", SLOW.repeats[:2])

    assert SERVED.incompatibilities(BASE, some) == []


def with_warnings(of, *warnings, valid=True):
    """The side with these warnings in the verdict of each of its runs."""
    told = [kept_warning(code, severity, text, "Do.", stage) for code, severity, text, stage in warnings]
    verdict = {"valid": valid, "warnings": told}
    return Side(of.name, [replace(one, summary={**one.summary, "verdict": verdict}) for one in of.repeats])


FULL = ("client_cpu", "invalid", "The client was a full core.", None)


@pytest.mark.parametrize("ended", [True, False])
def test_an_invalid_side_is_said_and_nothing_is_judged(ended):
    """A comparison with a result that is not valid answers nothing, says why once, breaks no gate and ends with 4."""
    broken = with_warnings(BASE, *([FULL] if ended else []), valid=False)
    found = compare(broken, SLOW, GATE)
    why = "The client was a full core." if ended else "its run did not end."

    assert str(found.answer) == f"No valid comparison: BASE is not valid (run-0, run-1, run-2, run-3): {why}"
    assert (found.verdict, found.exit_code, found.broken, found.sensitivity) == ("cannot be judged", 4, [], None)
    every = (*found.judged, *found.shown)
    assert all((row.verdict, row.reason) == (UNDETERMINED, NOT_VALID) for row in every)
    assert [warning.code for warning in found.warnings] == ["invalid"]


def test_a_measure_that_is_gone_from_an_invalid_side_breaks_no_gate():
    """Nothing was answered any more, and the result says itself that it is not valid: 4 and not 1."""
    dead = [replace(one, stages={0: {**one.stages[0], "tpot": {"n": 0, "mean": None}}}) for one in BASE.repeats]
    found = compare(BASE, with_warnings(Side("new", dead), FULL, valid=False), GATE)

    assert (found.broken, found.exit_code) == ([], 4)


def test_a_warning_that_both_sides_share_is_told_once():
    """Of eight runs that are not valid for one reason, and of those that tell it with other numbers."""
    both = [with_warnings(side, FULL, valid=False) for side in (BASE, SLOW)]
    runs = "run-0, run-1, run-2, run-3"
    found = compare(*both, GATE)
    other = compare(both[0], with_warnings(SLOW, (*FULL[:2], "The client was two cores.", None), valid=False), GATE)

    said = [str(warning.text) for one in (found, other) for warning in one.warnings if warning.code == "invalid"]
    assert said == [
        f"BASE and NEW are not valid ({runs}; {runs}): {FULL[2]}",
        f"BASE and NEW are not valid ({runs}; {runs}): of the first: {FULL[2]}",
    ]


@pytest.mark.parametrize(
    "name", ["cached_before", "client_error", "engine_starved", "dataset_repeated", "tokens_uncounted", "not_yet_known"]
)
def test_warnings_of_the_runs_are_warnings_of_their_comparison(name):
    """A prefix cache that held the prompts of one side only, and what else changes a number: once, with its step."""
    warning = (name, "warning", "It was so.", None)
    runs = "run-0, run-1, run-2, run-3"
    sides = [with_warnings(BASE, warning), with_warnings(SLOW, warning)]
    found = [compare(sides[0], SLOW, GATE), compare(BASE, sides[1], GATE), compare(*sides, GATE)]

    carried = [[(str(one.text), str(one.next)) for one in each.warnings if one.code == name] for each in found]
    assert carried == [
        [(f"In BASE only ({runs}): It was so.", "Do.")],
        [(f"In NEW only ({runs}): It was so.", "Do.")],
        [(f"In BASE and NEW ({runs}; {runs}): It was so.", "Do.")],
    ]
    assert [each.exit_code for each in found] == [1, 1, 1]


def test_a_carried_warning_names_its_stages_once():
    """Notes are not carried, nor what changes no number; stages that tell other numbers are told by the first."""
    rows = [("not_steady", "warning", f"TTFT rose {n} %.", n) for n in (0, 2)]
    quiet = [("no_warmup", "note", "Cold.", None), ("few_samples", "warning", "Few.", 0)]
    told = [str(warning.text) for warning in compare(with_warnings(BASE, *rows, *quiet), SLOW, GATE).warnings]

    assert told == ["In BASE only (run-0, run-1, run-2, run-3): stages 1, 3: of the first: TTFT rose 0 %."]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the same requests that differ by chance alone, and one that is slower."""
    place = tmp_path_factory.mktemp("runs")
    usual = Run(loads=(2.0, 4.0), warmup=0, failing=0.0, samples=False, output=(8, 32))
    make_result(place / "one", usual)
    jittered(place / "one", place / "two", 1.0)
    jittered(place / "one", place / "slow", 1.3)
    return place


def jittered(folder, other, factor):
    """The same requests, each answered in `factor` times the time, give or take a tenth."""
    requests, events = table_files.read_requests(folder), table_files.read_events(folder)
    chance = factor * np.random.default_rng(5).lognormal(0, 0.1, len(requests))
    moved = {
        name: (requests.sent_ns + (getattr(requests, name) - requests.sent_ns) * chance).astype(np.int64)
        for name in ("first_ns", "last_ns", "done_ns")
    }
    row = np.repeat(np.arange(len(requests)), np.diff(events.offsets))
    at_ns = requests.sent_ns[row] + ((events.at_ns - requests.sent_ns[row]) * chance[row]).astype(np.int64)
    records = replace(requests, **moved), replace(events, at_ns=at_ns)
    write_result(other, store.read_run(folder), records, store.read_json(folder, store.TIMELINE))


def test_a_folder_is_compared_with_itself_without_a_difference(runs):
    """Its requests are drawn together, so that every measure is exactly the same."""
    found = compare(read_side(runs / "one"), read_side(runs / "one"), DEFAULT_GATE)

    assert {row.verdict for row in (*found.judged, *found.shown)} <= {NO_DIFFERENCE, UNDETERMINED}
    assert all(row.ratio in (None, 0.0, 1.0) for row in (*found.judged, *found.shown))
    assert found.changes == []


SHOWN = [rate for rate in RATES if rate not in ("input_token_rate", "document_rate")]  # those are of documents


@pytest.mark.parametrize("key", ["ttft_mean", "ttft_p50", "tpot_p90", "itl_p99", "e2e_p95", "failed_share", *SHOWN])
def test_samples_have_the_value_that_the_summary_shows(runs, key):
    """The mean or percentile of a sample is the stage's own number."""
    one = read_side(runs / "one").repeats[0]
    measure = in_view(measure_of(key), one.stages[1]["load"])
    sample = sample_of(measure, stage_rows(one, 1))
    point = (
        sample.values.mean()
        if measure.statistic == "mean"
        else np.percentile(sample.values, float(measure.statistic[1:]))
    )

    assert point == pytest.approx(value_of(measure, one.stages[1]), rel=1e-6)


def test_a_folder_of_several_is_a_side_of_repeats(tmp_path):
    """Each run in it is a repeat, in the order of their numbers."""
    for name in ("10", "9"):
        make_result(tmp_path / name, Run(loads=(2.0,), duration_s=3, samples=False))

    assert [repeat.name for repeat in read_side(tmp_path).repeats] == ["9", "10"]


def test_a_folder_that_holds_nothing_is_refused(tmp_path):
    """It is told what was expected."""
    with pytest.raises(ResultError, match="holds no result; expected a folder with run"):
        read_side(tmp_path)


def told(capsys, *words):
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def stated(place):
    """A gate of what is judged without one, which says that runs differ by 1 %."""
    path = place / "gate.yaml"
    measures = ", ".join(f"{key}: 0.5%" for key in DEFAULT_GATE.gate if key != "ttft_p99")
    path.write_text(f"gate: {{{measures}}}\nbetween_runs: 1%\n", encoding="utf-8")
    return path


def test_the_command_writes_a_page_and_its_companions(runs, tmp_path, capsys):
    """Answers that take 1.3 times as long: exit 1, a line why, and four files."""
    code, out, err = told(
        capsys, "compare", runs / "one", runs / "slow", "--out", tmp_path / "c", "--gate", stated(tmp_path)
    )
    found = json.loads((tmp_path / "c" / "compare.json").read_text())
    suite = ET.parse(tmp_path / "c" / "compare.xml").getroot()[0]

    assert code == 1
    assert err.startswith("harness: regression: ")
    assert out.splitlines()[-1] == str(tmp_path / "c" / "compare.html")
    assert found["verdict"] == "worse"
    assert not found["gate_held"]
    assert int(suite.get("failures")) == sum(row["gate_broken"] for row in found["measures"]) > 0
    assert "SIMULATED" in suite.get("name")
    assert "Gate failed" in (tmp_path / "c" / "compare.md").read_text()
    assert "SIMULATED" in (tmp_path / "c" / "compare.html").read_text()


def test_two_runs_that_differ_by_chance_hold_the_gate(runs, tmp_path, capsys):
    """The same requests with other service times by chance are no difference; exit 0."""
    words = ("compare", runs / "one", runs / "two", "--out", tmp_path / "c", "--gate", stated(tmp_path))
    code, out, _ = told(capsys, *words)

    assert code == 0
    assert out.startswith("This comparison can detect changes of ")
    assert out.splitlines()[1].startswith("Simulated: No significant difference in ")


def test_a_faulty_gate_is_told_by_file_line_and_key(runs, tmp_path, capsys):
    """As faults of scenarios are."""
    (tmp_path / "gate.yaml").write_text("gate:\n  tpot_men: 5%\n")
    code, _, err = told(capsys, "compare", runs / "one", runs / "two", "--gate", tmp_path / "gate.yaml")

    assert code == 2
    assert err == f"harness: {tmp_path}/gate.yaml:2: gate.tpot_men: unknown measure; did you mean 'tpot_mean'?\n"


def test_hostile_names_stand_as_text_on_the_page(tmp_path, capsys):
    """Markup in a question, a model or a folder's name is never more than text."""
    evil = "<script>alert(1)</script>"
    for name in ("a", "b<img src=x>"):
        make_result(
            tmp_path / name,
            Run(loads=(2.0,), duration_s=20, output=(4, 8), question=evil, model=evil, warmup=0, samples=False),
        )
    told(capsys, "compare", tmp_path / "a", tmp_path / "b<img src=x>", "--out", tmp_path / "c")
    page = (tmp_path / "c" / "compare.html").read_text()

    assert evil not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert evil not in (tmp_path / "c" / "compare.md").read_text()


def test_an_unfinished_run_is_refused(runs, tmp_path, capsys):
    """Without a summary it is told how to make one."""
    make_result(tmp_path / "cut", Run(loads=(2.0,), duration_s=5))
    (tmp_path / "cut" / store.SUMMARY).unlink()
    code, _, err = told(capsys, "compare", tmp_path / "cut", runs / "one")

    assert code == 2
    assert "`harness report" in err


def test_help_of_compare_needs_nothing_heavy():
    """The command line answers without numpy or pandas."""
    script = (
        "import sys; from harness.cli.app import main\n"
        "try: main(['compare', '--help'])\nexcept SystemExit: print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines()[-1] == "False"


def test_rates_of_an_older_summary_are_told_anew(tmp_path):
    """A folder that an earlier version summed up, with rates of other requests, is no other than itself."""
    new = make_result(tmp_path / "new", Run(loads=(2.0,), duration_s=30))
    old = make_result(tmp_path / "old", Run(loads=(2.0,), duration_s=30))
    summary = store.read_json(old, store.SUMMARY)
    for stage in summary["stages"]:
        del stage["rates_window"]
        stage |= {name: 2 * stage[name] for name in ("request_rate", "output_token_rate", "goodput")}
    store.write_json(old, store.SUMMARY, summary)
    rows = {row.measure.key: row for row in judge(read_side(old), read_side(new), GATE)}

    assert rows["output_token_rate"].base == pytest.approx(rows["output_token_rate"].new)


@pytest.mark.parametrize("sides", [("BASE",), ("NEW",)])
def test_a_stage_that_was_cut_is_not_judged(sides):
    """Whatever its numbers; the reason names the side, and the end is that of a comparison that judged nothing."""
    base = Side("base", [*BASE.repeats[:3], cut(BASE.repeats[3])]) if "BASE" in sides else BASE
    new = Side("new", [*SLOW.repeats[:3], cut(SLOW.repeats[3])]) if "NEW" in sides else SLOW
    comparison = compare(base, new, GATE)

    assert {row.verdict for row in comparison.judged} == {UNDETERMINED}
    assert {str(row.reason) for row in comparison.judged} == {f"{sides[0]} was interrupted"}
    assert str(comparison.answer).endswith(f"cannot be judged; {sides[0]} was interrupted.")
    assert comparison.exit_code == 4


def test_a_cut_stage_without_a_value_breaks_no_gate():
    """That nothing was answered before an interruption is no failure of the new side; without one it is."""
    nothing = [(None, None), (None, None), (None, None), (None, None)]
    new = side("new", nothing)
    assert {row.measure.key for row in compare(BASE, new, GATE).broken} == {"tpot_mean", "output_token_rate"}

    interrupted = Side("new", [cut(row) for row in new.repeats])
    assert compare(BASE, interrupted, GATE).exit_code == 4
    assert not compare(BASE, interrupted, GATE).broken
