"""The simulated scheduler keeps vLLM's rules."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.simulator.replay import limits_of_trace
from harness.simulator.scheduler import Scheduler
from harness.simulator.scheduler_types import Request, SchedulerLimits
from tests.scheduler_traces import random_trace

LIMITS = SchedulerLimits(block_size=4, num_blocks=100, max_num_seqs=8, token_budget=32, max_model_len=256)


def request(name, prompt, outputs=4, priority=0, adapter=""):
    """A request with a prompt of ints, or of so many tokens of its own."""
    tokens = list(prompt) if not isinstance(prompt, int) else [hash((name, i)) % 1000 for i in range(prompt)]
    answer = lambda start, end: range(1_000_000 + start, 1_000_000 + end)  # noqa: E731 - a function of one line
    return Request(name, tokens, outputs, answer, priority=priority, adapter=adapter)


def started(limits, *requests):
    """A scheduler with these requests waiting."""
    scheduler = Scheduler(limits)
    for each in requests:
        scheduler.add(each)
    return scheduler


def taken(step):
    """Tokens by request of a step."""
    return {each.id: each.taken for each in step.scheduled}


def test_running_requests_come_before_waiting_ones():
    """A decode gets its token before a new prompt gets the rest of the budget."""
    scheduler = started(LIMITS, request("a", 8))
    scheduler.complete(scheduler.schedule())
    scheduler.add(request("b", 100))

    assert taken(scheduler.schedule()) == {"a": 1, "b": 31}


def test_without_chunked_prefill_a_long_prompt_blocks_those_behind_it():
    """The head of the line waits for a whole budget, and nobody passes it."""
    limits = replace(LIMITS, chunked_prefill=False, token_budget=64)
    scheduler = started(limits, request("a", 40), request("b", 40), request("c", 2))

    assert taken(scheduler.schedule()) == {"a": 40}


def test_no_more_requests_run_than_max_num_seqs():
    """A third prompt waits though budget and blocks are there."""
    scheduler = started(replace(LIMITS, max_num_seqs=2), request("a", 2), request("b", 2), request("c", 2))

    assert taken(scheduler.schedule()) == {"a": 2, "b": 2}


def test_a_long_prompt_is_cut_to_the_threshold_only_in_company():
    """Alone it may use the whole budget."""
    limits = replace(LIMITS, long_prefill_token_threshold=10)
    alone = started(limits, request("a", 60))
    together = started(limits, request("a", 60), request("b", 5))

    assert taken(alone.schedule()) == {"a": 32}
    assert taken(together.schedule()) == {"a": 10, "b": 5}


def test_a_prompt_is_let_in_only_when_all_of_it_fits():
    """Its first chunk would fit, the whole does not; without the rule it is let in."""
    limits = replace(LIMITS, num_blocks=11, token_budget=16)
    reserved = started(limits, request("a", 20), request("b", 30))
    free = started(replace(limits, reserve_full_prompt=False), request("a", 12), request("b", 36))

    assert taken(reserved.schedule()) == {"a": 16}
    assert taken(reserved.schedule()) == {"a": 4}
    assert taken(free.schedule()) == {"a": 12, "b": 4}


def test_the_youngest_is_preempted_and_nobody_is_let_in_that_step():
    """When blocks run out the last admitted request goes to the head of the waiting ones."""
    limits = replace(LIMITS, num_blocks=5, block_size=4)
    first, second = request("a", 8, outputs=9), request("b", 7, outputs=9)
    scheduler = started(limits, first, second)
    scheduler.complete(scheduler.schedule())
    scheduler.add(request("c", 1))
    step = scheduler.schedule()

    assert [each.id for each in step.preempted] == ["b"]
    assert taken(step) == {"a": 1}
    assert [each.id for each in scheduler.waiting] == ["b", "c"]
    assert second.computed == 0
    assert scheduler.counters.preemptions == 1


def test_the_lowest_priority_is_preempted_and_gives_its_tokens_back():
    """By priority any may go, also one that this step had scheduled; the next one gets the tokens of it."""
    limits = replace(LIMITS, num_blocks=6, token_budget=9, by_priority=True)
    low, high = request("low", 8, outputs=9, priority=5), request("high", 8, outputs=9)
    scheduler = started(limits, low)
    scheduler.complete(scheduler.schedule())
    scheduler.add(high)
    scheduler.complete(scheduler.schedule())
    step = scheduler.schedule()

    assert [each.id for each in step.preempted] == ["low"]
    assert taken(step) == {"high": 1}
    assert (step.decodes, step.decode_context, step.prefills) == (1, 8, [])
    assert [each.id for each in scheduler.waiting] == ["low"]


def test_waiting_requests_come_by_priority_and_then_as_they_came():
    """The lowest number goes first."""
    scheduler = started(
        replace(LIMITS, by_priority=True, max_num_seqs=3),
        request("a", 2, priority=1), request("b", 2), request("c", 2), request("d", 2, priority=-1),
    )  # fmt: skip

    assert list(taken(scheduler.schedule())) == ["d", "b", "c"]


@pytest.mark.parametrize(("version", "expected"), [("0.32", {"b": 1}), ("0.33", {"b": 1, "c": 1})])
def test_a_request_that_preempts_itself_ends_the_step_in_0_32_only(version, expected):
    """In 0.33 those after it, of a higher priority, go on: it has just freed its blocks."""
    limits = replace(LIMITS, num_blocks=7, by_priority=True, engine_version=version)
    scheduler = started(limits, request("b", 5, priority=1), request("a", 7, priority=9))
    scheduler.complete(scheduler.schedule())
    scheduler.add(request("c", 5))
    scheduler.complete(scheduler.schedule())
    step = scheduler.schedule()

    assert [each.id for each in step.preempted] == ["a"]
    assert taken(step) == expected


@pytest.mark.parametrize(
    ("version", "expected"), [("0.32", [3, 0, 0, 0, 0]), ("0.33", [0, 0, 3, 0, 0])], ids=["0.32", "0.33"]
)
def test_prefills_keep_their_distance_while_others_decode(version, expected):
    """Under 0.33 with an interval of 4 three steps have none after the one that had; 0.32 has no such rule alone."""
    scheduler = started(replace(LIMITS, prefill_interval=4, engine_version=version), request("a", 4, outputs=40))
    scheduler.complete(scheduler.schedule())
    scheduler.complete(scheduler.schedule())
    scheduler.add(request("b", 3, outputs=1))
    prefills = []
    for _ in expected:
        step = scheduler.schedule()
        prefills.append(step.tokens - step.decodes)
        scheduler.complete(step)

    assert prefills == expected


def test_coordinated_engines_hold_prefills_when_they_are_asked_to():
    """The interval is counted by whoever coordinates them, in either version."""
    for version in ("0.32", "0.33"):
        limits = replace(LIMITS, prefill_interval=4, coordinated=True, engine_version=version)
        scheduler = started(limits, request("a", 4, outputs=40))
        scheduler.complete(scheduler.schedule(held=True))
        scheduler.add(request("b", 3))
        held = scheduler.schedule(held=True)
        scheduler.complete(held)

        assert taken(held) == {"a": 1}
        assert taken(scheduler.schedule()) == {"a": 1, "b": 3}


@pytest.mark.parametrize(("version", "expected"), [("0.32", {"a": 6}), ("0.33", {"a": 6, "c": 2})])
def test_a_chunk_that_may_not_end_there_blocks_the_queue_in_0_32_only(version, expected):
    """Of the second prompt 4 of 6 tokens fit, which would end within 6 of its end."""
    limits = replace(LIMITS, token_budget=10, prefill_lookahead=6, engine_version=version)
    scheduler = started(limits, request("a", 6), request("b", 6), request("c", 2))

    assert taken(scheduler.schedule()) == expected


@pytest.mark.parametrize(("version", "expected"), [("0.32", ["b"]), ("0.33", [])])
def test_adapters_in_use_are_those_of_the_step_or_of_all_that_run(version, expected):
    """A running request that this step passes over keeps its adapter's place in 0.33."""
    limits = replace(LIMITS, token_budget=8, max_loras=1, engine_version=version, max_model_len=9)
    stuck = request("a", 8, adapter="1")
    scheduler = started(limits, stuck)
    scheduler.schedule()  # its token is not there yet: nothing of it can be scheduled
    scheduler.add(request("b", 4, adapter="2"))
    scheduler.add(request("c", 1, adapter="2"))

    assert [each.id for each in scheduler.schedule().admitted][:1] == expected


def test_a_queue_that_a_step_cannot_drain_ends_the_distance():
    """Else prefills would come one budget an interval, and the queue would grow without a bound."""
    limits = replace(LIMITS, token_budget=8, prefill_interval=4, engine_version="0.33", max_num_seqs=3)
    scheduler = started(limits, *(request(name, 7, outputs=40) for name in "abcde"))
    admitted = []
    for _ in range(4):
        step = scheduler.schedule()
        admitted.append([each.id for each in step.admitted])
        scheduler.complete(step)

    assert admitted == [["a", "b"], ["c"], [], []]


def test_a_repeated_prompt_is_found_but_for_its_last_block():
    """The last token is always computed, so of 16 tokens in blocks of 4 at most 12 are found."""
    scheduler = started(LIMITS, request("a", range(16), outputs=1))
    scheduler.complete(scheduler.schedule())
    again = request("b", range(16))
    scheduler.add(again)

    assert taken(scheduler.schedule()) == {"b": 4}
    assert again.first_hit == 12
    assert (scheduler.counters.prefix_queries, scheduler.counters.prefix_hits) == (32, 12)


def test_a_block_is_found_already_in_the_step_that_fills_it():
    """Two equal prompts in one step share blocks."""
    scheduler = started(LIMITS, request("a", range(9)), request("b", range(9)))

    assert taken(scheduler.schedule()) == {"a": 9, "b": 1}


def test_an_answer_serves_the_next_turn():
    """A prompt that holds the former answer finds its blocks."""
    scheduler = started(LIMITS, request("a", range(6), outputs=6))
    while scheduler.running or scheduler.waiting:
        scheduler.complete(scheduler.schedule())
    follow = request("b", [*range(6), *range(1_000_006, 1_000_012), 5, 5])
    scheduler.add(follow)
    scheduler.schedule()

    assert follow.first_hit == 8


def test_an_aborted_request_gives_its_blocks_back():
    """Whether it waits or runs, also between a step's start and its end."""
    first, second = request("a", 8), request("b", 8)
    scheduler = started(LIMITS, first, second)
    free = scheduler.pool.free
    step = scheduler.schedule()
    scheduler.abort(first)
    sampled, _ = scheduler.complete(step)
    scheduler.abort(second)
    scheduler.abort(second)

    assert sampled == [second]
    assert scheduler.pool.free == free
    assert not scheduler.running
    assert not scheduler.waiting


@given(seed=st.integers(0, 100_000))
@hypothesis_settings(max_examples=60, deadline=None)
def test_tokens_are_conserved(seed):
    """On any trace: within the budget, every finished request has all its tokens, all blocks come back."""
    trace = random_trace(seed)
    limits = limits_of_trace(trace["config"])
    waiting = [request(each["id"], each["prompt"], each["output_tokens"]) for each in trace["requests"]]
    scheduler = started(limits, *waiting)
    while (step := scheduler.schedule()).scheduled or step.preempted:
        assert step.tokens <= limits.token_budget
        assert len(scheduler.running) <= limits.max_num_seqs
        scheduler.complete(step)

    for each in waiting:
        room = limits.max_model_len - len(each.prompt)
        assert not each.finished or each.num_tokens == len(each.prompt) + min(each.max_tokens, room)
    assert scheduler.pool.free == limits.num_blocks - 1 - sum(len(each.blocks) for each in scheduler.running)


@pytest.mark.parametrize("caching", [True, False])
def test_all_blocks_come_back(caching):
    """After a run in a cache too small for all, every block is free again."""
    limits = replace(LIMITS, num_blocks=9, prefix_caching=caching)
    scheduler = started(limits, *(request(str(i), 9, outputs=12) for i in range(5)))
    while scheduler.running or scheduler.waiting:
        scheduler.complete(scheduler.schedule())

    assert scheduler.pool.free == 8
    assert scheduler.counters.preemptions > 0
