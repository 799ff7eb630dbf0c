"""The load keeps its due times, its cap and its users, in virtual time."""

import asyncio
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.load import LoadContext, PreparedRequest, PreparedRequests, StageLoad
from harness.clock import LoopClock
from harness.scenario.stages import Stage
from harness.workload import Session, Turn
from harness.workload.plan import StagePlan
from tests.fakes import FakeBooks, FakeWire, one_turn
from tests.virtual_loop import run_virtually

S = 1_000_000_000
BEGIN_NS = 5 * S


def stage_plan(stage, sessions, due_ns=None, warm=0, warm_ns=0):
    """A plan of one stage."""
    due = None if due_ns is None else np.asarray(due_ns, dtype=np.int64)
    return StagePlan(0, 0, 0, stage, 0, warm, sessions, 0, warm_ns, due)


def play(plan, *, users=0, service_ns=S, failure="", session=None, during=None):
    """Run a stage against a wire of fixed service time; its log and its wire."""

    async def main():
        clock = LoopClock(asyncio.get_running_loop())
        wire, log = FakeWire(clock, service_ns, failure=failure), FakeBooks()
        make = session or (lambda ordinal: one_turn(ordinal, measured=ordinal >= plan.warm))
        prepared = PreparedRequests(plan.ordinals(0, 1), make, clock)
        prepared.fill()
        context = LoadContext(clock, wire, log, prepared, next_turn, itertools.count())
        load = StageLoad(plan, context, users)
        arrivals = [] if plan.due_ns is None else plan.due_ns.tolist()
        if during is not None:
            during(clock, load, wire)
        await load.run(BEGIN_NS, arrivals)
        return log, wire

    return run_virtually(main)


def next_turn(like, number, replies):
    """A prepared of a later turn that carries how many replies it knows."""
    return PreparedRequest(like.session, number, b"%d" % len(replies), 8, 4, like.measured)


def test_open_loop_sends_at_due_times_whatever_the_answers_do():
    """Ten thousand requests over an hour go out at their due times though each answer takes an hour."""
    due_ns = np.sort(np.random.default_rng(1).integers(0, 3600 * S, 10_000))
    log, wire = play(stage_plan(Stage("poisson", rate=3.0), 10_000, due_ns), service_ns=3600 * S)

    sent = np.asarray([request.sent_ns for request, _ in log.started])
    assert np.abs(sent - BEGIN_NS - due_ns).max() < 1000
    assert [request.due_ns for request, _ in log.started] == (BEGIN_NS + due_ns).tolist()
    assert wire.most > 9_000
    assert len(log.ended) == 10_000


def test_a_cap_queues_without_losing_due_times():
    """Behind max_concurrency a request keeps its due time; it is ready when a slot is free."""
    plan = stage_plan(Stage("constant", rate=10.0, max_concurrency=2), 6, [i * S // 10 for i in range(6)])
    log, wire = play(plan, service_ns=S)

    started = [request for request, _ in log.started]
    assert wire.most == 2
    assert [e.due_ns - BEGIN_NS for e in started] == [i * S // 10 for i in range(6)]
    ready = [(e.ready_ns - BEGIN_NS) / S for e in started]
    assert ready == pytest.approx([0, 0.1, 1.0, 1.1, 2.0, 2.1], abs=1e-6)
    assert all(e.sent_ns >= e.ready_ns for e in started)


def test_closed_loop_holds_its_users_and_its_count():
    """Three users send ten requests: never more than three at a time, each due when the last answer came."""
    log, wire = play(stage_plan(Stage("closed", concurrency=3, requests=10), 10), users=3)

    starts = sorted((e.sent_ns - BEGIN_NS) / S for e, _ in log.started)
    assert wire.most == 3
    assert starts == pytest.approx([0, 0, 0, 1, 1, 1, 2, 2, 2, 3], abs=1e-6)
    ends = {round(e.done_ns / 1000) for e in log.ended}
    later = [e for e, _ in log.started if e.due_ns > BEGIN_NS]
    assert all(round(e.due_ns / 1000) in ends for e in later)


def test_closed_loop_by_time_takes_no_request_after_its_end():
    """With five seconds of load nothing is due at or after five seconds, and the rest is answered."""
    log, _ = play(stage_plan(Stage("closed", concurrency=2, duration_s=5.0), None), users=2)

    assert len(log.started) == 10
    assert max(e.due_ns for e, _ in log.started) < BEGIN_NS + 5 * S
    assert len(log.ended) == 10


def test_warm_up_hands_over_without_draining():
    """The first measured request goes out while warm-up requests are still being answered."""
    log, wire = play(stage_plan(Stage("closed", concurrency=4, requests=8), 8, warm=6), users=4)

    measured = [e for e, prepared in log.started if prepared.measured]
    warm = [e for e, prepared in log.started if not prepared.measured]
    assert (len(warm), len(measured)) == (6, 8)
    assert min(e.sent_ns for e in measured) < max(e.done_ns for e in warm)
    assert wire.most == 4


def test_a_conversation_waits_for_its_answer_and_its_think_time():
    """Turn k + 1 is due one think time after the answer to turn k, and knows k + 1 replies."""
    talk = Session(0, tuple(Turn(8, 4, think) for think in (0, 2 * S, 3 * S)))
    log, _ = play(
        stage_plan(Stage("constant", rate=1.0), 1, [0]), session=lambda _: PreparedRequest(talk, 0, b"0", 8, 4, True)
    )

    assert [(e.due_ns - BEGIN_NS) / S for e, _ in log.started] == pytest.approx([0, 3, 7], abs=1e-6)
    assert [prepared.payload for _, prepared in log.started] == [b"0", b"1", b"2"]


def test_a_conversation_ends_where_a_turn_fails():
    """After a failed answer there is no history to go on with."""
    talk = Session(0, (Turn(8, 4, 0), Turn(8, 4, 0)))
    log, _ = play(
        stage_plan(Stage("constant", rate=1.0), 1, [0]),
        session=lambda _: PreparedRequest(talk, 0, b"0", 8, 4, True),
        failure="reset",
    )

    assert len(log.started) == 1


def test_users_of_a_dead_engine_do_not_hammer_it():
    """A user whose request failed at once waits before the next: some ten a second, not thousands."""
    log, _ = play(
        stage_plan(Stage("closed", concurrency=1, duration_s=1.0), None), users=1, service_ns=1000, failure="refused"
    )

    assert len(log.started) == 10


def test_stop_sends_nothing_more_and_waits_for_what_is_in_flight():
    """After a stop at 2.5 s three requests have been sent and all three are answered."""

    def stop_later(clock, load, _wire):
        clock.call_at(BEGIN_NS + 5 * S // 2, load.stop)

    plan = stage_plan(Stage("constant", rate=1.0), 10, [i * S for i in range(10)])
    log, _ = play(plan, service_ns=10 * S, during=stop_later)

    assert len(log.started) == 3
    assert [e.failure for e in log.ended] == ["", "", ""]


@settings(max_examples=60, deadline=None)
@given(
    due_ms=st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    cap=st.none() | st.integers(1, 5),
    service_ms=st.integers(1, 3000),
    stop_ms=st.none() | st.integers(0, 6000),
)
def test_everything_sent_is_over_once_and_nothing_is_early(due_ms, cap, service_ms, stop_ms):
    """Whatever the arrivals, cap, service time and stop: each start has one end, none before due or over the cap."""

    def during(clock, load, _wire):
        if stop_ms is not None:
            clock.call_at(BEGIN_NS + stop_ms * S // 1000, load.stop)

    due_ns = [ms * S // 1000 for ms in sorted(due_ms)]
    plan = stage_plan(Stage("poisson", rate=1.0, max_concurrency=cap), len(due_ns), due_ns)
    log, wire = play(plan, service_ns=service_ms * S // 1000, during=during)

    started = [e for e, _ in log.started]
    assert sorted(e.seq for e in started) == sorted(e.seq for e in log.ended)
    assert all(e.due_ns <= e.ready_ns and e.sent_ns >= e.ready_ns - 1 for e in started)
    assert cap is None or wire.most <= cap
    assert stop_ms is not None or len(started) == len(due_ns)


def agent(*turns):
    """A session of (pause in s, parents), as prepared."""
    session = Session(0, tuple(Turn(8, 4, round(pause * S), parents) for pause, parents in turns))
    return lambda _: PreparedRequest(session, 0, b"0", 8, 4, True)


# A plan, two sub-agents at once (one with a tool of 2 s), the answer once both are there, and a later question.
AGENT = agent((0, ()), (0, (0,)), (2, (0,)), (0.5, (1, 2)), (9, ()))


@pytest.mark.parametrize(("speed", "starts"), [(None, [0, 1, 3, 4.5, 9]), (2.0, [0, 1, 2, 3.25, 4.5])])
def test_a_sessions_requests_wait_for_their_parents_and_tools(speed, starts):
    """Each is due its pause after the last of its parents' answers; a faster trace has faster tools."""
    stage = Stage("trace", speed=speed) if speed else Stage("constant", rate=1.0)
    log, _ = play(stage_plan(stage, 1, [0]), session=AGENT)
    due = {prepared.turn: (request.due_ns - BEGIN_NS) / S for request, prepared in log.started}

    assert [due[turn] for turn in range(5)] == pytest.approx(starts, abs=1e-6)
    assert len(log.ended) == 5


def test_several_of_a_session_are_open_at_once():
    """Children of one parent do not wait for each other."""
    log, wire = play(stage_plan(Stage("constant", rate=1.0), 1, [0]), session=agent((0, ()), *[(0, (0,))] * 4))

    assert wire.most == 4
    assert [request.due_ns for request, _ in log.started][1:] == [BEGIN_NS + S] * 4


def test_a_user_takes_its_next_session_when_all_of_one_is_over():
    """A closed loop holds so many sessions, however many of their requests are open."""
    session = agent((0, ()), (0, (0,)), (2, (0,)))
    log, _ = play(stage_plan(Stage("closed", concurrency=1, requests=2), 2), users=1, session=session)

    assert [(request.due_ns - BEGIN_NS) / S for request, _ in log.started] == pytest.approx(
        [0, 1, 3, 4, 5, 7], abs=1e-6
    )


def test_what_waits_for_a_failed_request_is_never_sent():
    """Its other children, and theirs, are not sent either; what began by itself is."""
    session = agent((0, ()), (0, (0,)), (0, (1,)), (9, ()))
    log, _ = play(stage_plan(Stage("constant", rate=1.0), 1, [0]), session=session, failure="reset")

    assert [prepared.turn for _, prepared in log.started] == [0, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 7), max_size=3)), min_size=1, max_size=8))
def test_every_session_is_sent_as_its_graph_says(rows):
    """Against the longest path: a request is due when the latest of its parents is answered, and its pause after it."""
    turns = [(pause, tuple(sorted({p % n for p in parents} if n else ()))) for n, (pause, parents) in enumerate(rows)]
    log, _ = play(stage_plan(Stage("constant", rate=1.0), 1, [0]), session=agent(*turns))
    due = {prepared.turn: round((request.due_ns - BEGIN_NS) / S) for request, prepared in log.started}
    expected = {}
    for number, (pause, parents) in enumerate(turns):
        expected[number] = max((expected[parent] + 1 for parent in parents), default=0) + (pause if number else 0)

    assert due == expected
