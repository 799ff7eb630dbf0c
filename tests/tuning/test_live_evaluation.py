"""An engine is started once for a point, resolved once, and its loads are runs of their own."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.api.tuning import _evaluator
from harness.client.connection import InFlightRequest
from harness.client.journal import AnswerJournal, SentJournal, whole_end
from harness.engines import process, vllm
from harness.engines.process import EngineEnding, ending_of
from harness.execution.reconcile import reconcile
from harness.messages import message, message_from, plain, render
from harness.results import store, table_files
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.tuning import live_evaluation
from harness.tuning.candidates import CandidateResolver, flag_resolver
from harness.tuning.early_stopping import StopDecision
from harness.tuning.evaluation import EarlyStopCheck
from harness.tuning.feasibility import CRASH, MEMORY_AT_START, TIMEOUT, failure_line
from harness.tuning.live_evaluation import (
    LiveEvaluator,
    LiveLoadMonitor,
    VirtualRunEvaluator,
    failure_from_log,
    measurement_in,
)
from harness.tuning.topology import laid_out
from harness.tuning.trial_series import look_interval_s, look_times, partial_measurement
from harness.workload import plan
from harness.workload.plan import StagePlan
from tests.fakes import answered, event, overheard
from tests.tuning.measurements import measured
from tests.tuning.studies import problem_in

FAKE = str(Path(__file__).parent.parent / "fake_engine")


def statuses(folder):
    """How many requests ended in which way."""
    (stage,) = store.read_json(folder, store.SUMMARY)["stages"]
    return stage["requests"]


def test_a_live_load_that_cannot_win_is_cut(tmp_path):
    """What is in flight is cancelled and no failure, what was planned is accounted for, and the engine serves on."""
    problem = problem_in(
        tmp_path, scenario={"workload": {"kind": "synthetic", "input_tokens": 16, "output_tokens": 400}},
        load={"constant": {"rate": 20, "requests": 400}},
    )  # fmt: skip
    (task,) = problem.tasks
    watch = EarlyStopCheck(lambda part: StopDecision(stop=np.isfinite(part.series["done"]).sum() > 2), 0.2)
    engine = Engine(kind="simulator", model=problem.engine.model, args=problem.engine.args)
    with LiveEvaluator("simulator").open(engine, tmp_path / "trial") as session:
        part = session.measure(task, task.stage, 1, watch)
        again = session.measure(task, Stage("constant", rate=20.0, requests=4), 2)
    told = statuses(tmp_path / "trial" / "load-1")

    assert part.stopped
    assert part.folder == "load-1"
    assert part.load_s < 20
    assert told["scheduled"] == 400 == sum(told[name] for name in ("completed", "failed", "cancelled", "never_sent"))
    assert told["failed"] == 0
    assert told["completed"] >= np.isfinite(part.series["done"]).sum() > 2
    assert min(told["cancelled"], told["never_sent"]) > 0
    assert not again.stopped
    assert again.metrics["failed"] == 0


CONVERSATION = {"kind": "conversation", "turns": 3, "input_tokens": 16, "output_tokens": 8}


def test_conversations_of_a_study_keep_virtual_time(tmp_path):
    """They are computed: each turn waits for the answer before it, and two loads of one are alike."""
    load = {"poisson": {"rate": 2, "duration": "90s"}}
    problem = problem_in(tmp_path, scenario={"workload": CONVERSATION}, load=load)
    (task,) = problem.tasks
    evaluator = _evaluator(problem, None, SimpleNamespace(on_run=lambda _progress: None))
    engine = Engine(kind="simulator", model=problem.engine.model, args=problem.engine.args)
    with evaluator.open(engine, tmp_path / "trial") as session:
        whole, again = (session.measure(task, task.stage, 1) for _ in range(2))
        few = EarlyStopCheck(lambda part: StopDecision(stop=np.isfinite(part.series["done"]).sum() > 9), 5.0)
        part = session.measure(task, task.stage, 1, few)
    requests = table_files.read_requests(tmp_path / "trial" / "load-1")
    later = requests.turn > 0
    ends = dict(zip(zip(requests.session, requests.turn, strict=True), requests.done_ns, strict=True))

    assert isinstance(evaluator, VirtualRunEvaluator)
    assert (whole.metrics["failed"], whole.simulated, whole.stopped) == (0, True, False)
    assert whole.metrics == again.metrics
    assert part.stopped
    assert np.ptp(requests.sent_ns) / 1e9 > 80
    assert later.sum() > 200
    turns = zip(requests.session[later], requests.turn[later], requests.sent_ns[later], strict=True)
    assert all(sent >= ends[session, turn - 1] for session, turn, sent in turns)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the engine's interpreter was asked, in order; no kept answers of other runs."""
    monkeypatch.setattr(vllm, "GRACE_S", 0.3)
    return overheard(tmp_path, monkeypatch)


def test_a_start_does_not_ask_what_the_study_was_told(asked, tmp_path):
    """Its code is imported once for all candidates, and by each engine itself; leased devices change nothing."""
    engine = {"kind": "vllm", "model": "m", "python": sys.executable, "args": {"max_num_seqs": 4}}
    env = {"PYTHONPATH": FAKE, "FAKE_VLLM": "serve"}
    problem = problem_in(tmp_path, scenario={"engine": {**engine, "env": env}})
    resolve = flag_resolver(problem)
    candidates = CandidateResolver(problem, resolve).candidates([{}, {"max_num_seqs": 8}])
    live = LiveEvaluator("vllm", resolve)
    for number, candidate in enumerate(candidates):
        leased = candidate.engine.model_copy(update={"devices": (number,)})
        with live.open(leased, tmp_path / f"trial-{number}") as session:
            assert session.started.effective["max_num_seqs"] == candidate.engine.args["max_num_seqs"]

    assert asked == ["versions", "resolve", "versions", "versions"]


def test_a_failure_is_told_by_the_codes_of_its_error(tmp_path):
    """Not by their wording: an engine's own words in the error may be any, and no language changes the class."""
    log = tmp_path / "engine.log"
    words = plain("shard 3 was not ready within its budget, exit status 137, SIGKILL")
    died = message("engines.died_with_status", status=1, reason=words)
    slow = message("engines.not_ready", limit_s=60.0, log="engine.log")
    killed = message("engines.died", reason=message("engines.killed"), log="engine.log")

    assert ending_of([died]) == EngineEnding(1)
    assert ending_of([message("engines.ended_by", signal="SIGTERM")]) == EngineEnding(-15)
    assert failure_from_log(log, [died]).kind == CRASH
    assert failure_from_log(log, [slow]).kind == TIMEOUT
    assert failure_from_log(log, [killed]).kind == MEMORY_AT_START


def test_a_cause_that_is_ours_reads_in_another_language(tmp_path):
    """It is kept as a message beside its English line; an engine's own words stay as they are."""
    log = tmp_path / "engine.log"
    slow = failure_from_log(log, [message("engines.not_ready", limit_s=60.0, log="engine.log")])
    killed = failure_from_log(log, [message("engines.killed")])
    log.write_text("ValueError: No available memory for the cache blocks.\n")
    own = failure_from_log(log, [message("engines.died_with_status", status=1, reason=plain("it said so"))])

    assert render(message_from(slow.message)) == slow.line
    assert render(message_from(slow.message), "zh") != slow.line
    assert render(failure_line(killed), "zh").isascii() is False
    assert (own.line, own.message) == ("ValueError: No available memory for the cache blocks.", None)


@pytest.mark.parametrize(("left", "words"), [((), "the memory was not free again"), (("device-1",), "")])
def test_a_device_is_busy_where_the_engine_room_says_so(asked, tmp_path, monkeypatch, left, words):
    """And not where an engine's own log has such words."""

    async def wait_for_memory(*_):
        return list(left)

    monkeypatch.setattr(process, "wait_for_memory", wait_for_memory)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "engine.log").write_text(words)
    env = {"PYTHONPATH": FAKE, "FAKE_VLLM": "serve"}
    live = LiveEvaluator("vllm")
    with live.open(Engine(kind="vllm", model="m", python=sys.executable, env=env), tmp_path / "trial"):
        busy_during = live.left_busy()

    assert (busy_during, live.left_busy()) == (False, bool(left))


BEGIN_NS = 10**15
SECOND_NS = 10**9
STAGE = Stage("constant", rate=2.0, requests=20)
GO_ON, STOP = StopDecision(stop=False), StopDecision(stop=True, rule="beaten")


def written(folder, until_s=math.inf):
    """The raw files of twenty requests of one stage, two a second, as two workers have written them by some time."""
    raw = folder / store.RAW
    raw.mkdir(parents=True)
    told = {"format": 1, "name": "f", "question": "?", "stages": [STAGE.as_dict()], "slo": {"ttft_p90": 1.0}}
    store.write_json(folder, store.RUN, told)
    due_ns = np.arange(20, dtype=np.int64) * SECOND_NS // 2
    plan.save(raw / "plan.npz", (StagePlan(0, 0, 0, STAGE, 50, 0, 20, 0, 0, due_ns),), None)
    (raw / store.BEGUN).write_text(json.dumps({"number": 0, "begin_ns": BEGIN_NS}) + "\n")
    for worker in range(2):
        ledger, spool = SentJournal(raw / f"ledger-{worker}.bin"), AnswerJournal(raw / f"spool-{worker}.bin")
        sent = (_exchange(seq, ordinal) for seq, ordinal in enumerate(range(worker, 20, 2)))
        for one in sorted(sent, key=lambda one: one.done_ns):
            _write(one, ledger, spool, BEGIN_NS + until_s * SECOND_NS)
        ledger.close()
        spool.close()
    return folder


def _exchange(seq, ordinal):
    """Every third request takes four seconds, the others one; the seventh is refused."""
    due_ns = BEGIN_NS + ordinal * SECOND_NS // 2
    one = InFlightRequest(seq, b"", due_ns, lambda _: None)
    one.sent_ns, one.done_ns = due_ns, due_ns + (4 if ordinal % 3 == 0 else 1) * SECOND_NS
    one.stamps = [one.done_ns]
    one.pieces = [answered(event(ids=[1]), event(ids=[2]))]
    one.failure = "refused" if ordinal == 7 else ""
    return one


def _write(one, ledger, spool, until_ns):
    if one.sent_ns > until_ns:
        return
    ordinal = 2 * (one.due_ns - BEGIN_NS) // SECOND_NS
    ledger.write(one.seq, (0, 0, 50 + ordinal, 0, 1, 0), (8, 2, 300), (one.due_ns, one.due_ns, one.sent_ns))
    if one.done_ns <= until_ns:
        spool.append(one)


def same(one, other):
    """Whether two measurements have the same series and metrics, NaN being NaN."""
    series = all(np.array_equal(one.series[name], other.series[name], equal_nan=True) for name in other.series)
    return series and one.metrics == pytest.approx(other.metrics, nan_ok=True) and one.load_s == other.load_s


def at(monkeypatch, passed_s):
    """Let the clock show so many seconds since the load's begin, and what a worker takes to write."""
    now_ns = BEGIN_NS + round((passed_s + 0.101) * SECOND_NS)
    monkeypatch.setattr(live_evaluation, "monotonic_ns", lambda: now_ns)


@pytest.mark.parametrize("passed_s", [3, 6, 9])
def test_a_load_under_way_shows_what_it_will_have_shown_by_then(tmp_path, monkeypatch, passed_s):
    """The raw files as they are at a time give the same part of the load as the finished result gives for that time."""
    seen = []
    whole = written(tmp_path / "whole")
    reconcile(whole)
    load = LiveLoadMonitor(
        written(tmp_path / "now", passed_s + 0.1), 1, EarlyStopCheck(lambda part: seen.append(part) or STOP, 1.0), True
    )
    at(monkeypatch, passed_s)

    assert load.enough()
    assert load.ended is seen[0]
    assert same(seen[0], partial_measurement(measurement_in(whole, 1, simulated=True), float(passed_s)))
    assert 0 < np.isfinite(seen[0].series["done"]).sum() < 20


def test_a_load_is_looked_at_once_at_each_time_to_look(tmp_path, monkeypatch):
    """Not before the first, not twice at one; where some were missed, the last of them counts."""
    seen = []
    load = LiveLoadMonitor(
        written(tmp_path), 1, EarlyStopCheck(lambda part: seen.append(part.load_s) or GO_ON, 2.0), True
    )
    for passed_s in (0.0, 1.9, 2.0, 2.1, 3.9, 4.0, 9.0, 9.9):
        at(monkeypatch, passed_s)
        assert not load.enough()

    assert seen == [2.0, 4.0, 8.0]
    assert load.ended is None


def test_a_frame_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    """The end of the whole frames, wherever the file is cut."""
    spool = AnswerJournal(tmp_path / "spool")
    ends = [0]
    for seq in range(3):
        spool.append(_exchange(seq, seq))
        ends.append((tmp_path / "spool").stat().st_size)
    spool.close()
    content = (tmp_path / "spool").read_bytes()

    for size in range(len(content) + 1):
        (tmp_path / "cut").write_bytes(content[:size])
        expected = max(end for end in ends if end <= size)
        assert whole_end(tmp_path / "cut") == expected
        assert whole_end(tmp_path / "cut", min(ends[1], expected)) == expected


def test_looks_are_twentieths_of_the_shortest_rival():
    """The same times in real and in virtual time: they do not hang on how long the load itself will take."""
    every_s = look_interval_s([measured([5.0, 10.0]), measured([20.0])])

    assert every_s == 0.5
    assert look_times(measured([1.0, 2.0]), every_s) == pytest.approx((0.5, 1.0, 1.5))
    assert look_times(measured([2.2]), every_s) == pytest.approx((0.5, 1.0, 1.5, 2.0))
    assert len(look_times(measured([7.0]))) == 19
    assert look_times(measured([]), look_interval_s([])) == ()


def test_a_pair_of_prefill_and_decode_is_started_and_measured(tmp_path):
    """A topology of real processes: each started, loaded through the proxy, and stopped at the end."""
    problem = problem_in(tmp_path, topology={"cards": 2, "prefill_decode": ["1:1"]}, objective="throughput_per_card")
    layout, base = problem.layouts[0], problem.engine.model_copy(update={"clock": "real"})
    engine = laid_out(base, "simulator", layout, "MooncakeConnectorV1")
    evaluator = LiveEvaluator("simulator")
    stage = Stage("closed", concurrency=2, requests=6)
    with evaluator.open(engine, tmp_path / "start") as session:
        shown = session.measure(problem.tasks[0], stage, 1)

    assert layout.name == "TP1 1P1D"
    assert evaluator.simulated
    assert shown.metrics["failed"] == 0
    assert shown.metrics["throughput"] > 0
    assert sorted(log.name for log in (tmp_path / "start").glob("engine-*.log")) == [
        "engine-decode-0.log", "engine-prefill-0.log", "engine-proxy.log",
    ]  # fmt: skip
