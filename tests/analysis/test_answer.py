"""The answer of a run says what its numbers say, and its knee lies where limits break or throughput saturates."""

from dataclasses import replace

import pytest

from harness.analysis.answer import Further, answer, knee, saturation
from harness.analysis.breakdowns import LengthBin, LengthVerdict
from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.slo import CLOSE, FEW, Objective, Outcome
from harness.analysis.steady_state import Span
from harness.analysis.warnings import Warning
from harness.messages import plain
from tests.made_runs import answered, columns, failed, ns

LIMIT = Objective("ttft_p99", "ttft_user", "p99", 5.0)
GAPS = Objective("itl_p99", "itl", "p99", 0.08)


def stage(load, *values, repeat=0, grew=False, pairs=None):
    """A stage of this load with these outcomes: pairs of an objective and its value."""
    pairs = [answered(i, i, [i + 0.5, i + 0.75]) for i in range(4)] if pairs is None else pairs
    requests, events = columns(pairs)
    span = Span(0, repeat, 0, ns(4), ns(5))
    found = summarize_stage(StageInput(requests, events, span, load, {}))
    outcomes = tuple(Outcome(objective, value) for objective, value in values)
    return replace(found, outcomes=outcomes, window=replace(found.window, grew=grew))


def poisson(rate, value, **fields):
    """A Poisson stage whose p99 TTFT is this."""
    return stage({"kind": "poisson", "rate": rate, "duration_s": 60.0}, (LIMIT, value), **fields)


def told(*stages, warnings=(), simulated=False):
    """The answer of some stages."""
    return str(answer(stages, warnings, simulated=simulated))


def test_a_sweep_says_up_to_where_the_limit_holds():
    """The last load that holds, its value, and the value of the next."""
    sentence = told(poisson(1.0, 1.0), poisson(4.0, 9.1), poisson(2.0, 4.2))

    assert sentence == "Up to 2 req/s p99 TTFT stays under 5.00 s (4.20 s); at 4 req/s p99 TTFT is 9.10 s."


def test_a_limit_that_an_interval_spans_is_close():
    """The value decides, and the sentence says that it is too close to be sure: met as well as missed."""
    close = [replace(one, outcomes=tuple(replace(o, unproven=CLOSE) for o in one.outcomes))
             for one in (poisson(1.0, 4.8), poisson(2.0, 5.2))]  # fmt: skip

    assert told(*close) == (
        "Up to 1 req/s p99 TTFT stays under 5.00 s (4.80 s), too close to be sure; at 2 req/s p99 TTFT is 5.20 s, too "
        "close to be sure."
    )
    assert told(close[0]).endswith("within the limit of 5.00 s, too close to be sure.")


def test_what_no_limit_proves_is_said_once():
    """At the end of those that hold where it is so of all; where it is so of one, beside that one."""
    both = stage({"kind": "poisson", "rate": 1.0, "duration_s": 60.0}, (LIMIT, 1.0), (GAPS, 0.02))
    first, second = both.outcomes
    few = replace(both, outcomes=(replace(first, unproven=FEW), replace(second, unproven=FEW)))
    mixed = replace(both, outcomes=(replace(first, unproven=FEW), second))
    next_load = poisson(2.0, 9.0)

    assert told(few, next_load) == (
        "Up to 1 req/s p99 TTFT stays under 5.00 s (1.00 s) and p99 ITL under 80.0 ms (20.0 ms) (too few answers to be "
        "sure); at 2 req/s p99 TTFT is 9.00 s."
    )
    assert told(mixed, next_load).startswith(
        "Up to 1 req/s p99 TTFT stays under 5.00 s (1.00 s) (too few answers to be"
    )
    assert told(mixed, next_load).count("too few") == 1


def test_a_verdict_by_length_says_up_to_which_prompt_the_limit_holds():
    """The longest prompts that hold with their value and interval, what comes beyond, and the other objectives."""
    first = Objective("ttft_p90", "ttft", "p90", 5.0)
    load = {"kind": "closed", "concurrency": 4, "requests": 90}
    one = stage(load, (first, 1.0), (GAPS, 0.02))
    short, long = LengthBin(1000, 2000, 45, 1.5, (1.0, 2.0)), LengthBin(2100, 4000, 45, 6.0, None)
    lost = LengthBin(4100, 8000, 45, float("inf"), None)

    def said(*bins):
        return str(answer([one], (), Further(LengthVerdict(first, bins)), simulated=False))

    beside = " At closed loop, concurrency 4 p99 ITL is 20.0 ms, within the limit of 80.0 ms."
    assert said(short, long) == (
        "p90 TTFT stays under 5.00 s for prompts of up to 2,000 tokens (1.50 s, 95 % CI 1.00 s to 2.00 s, at 1,000 to "
        "2,000 tokens); beyond it is 6.00 s at 2,100 to 4,000 tokens." + beside
    )
    assert said(short) == (
        "p90 TTFT stays under 5.00 s for prompts of up to 2,000 tokens, the longest sent (1.50 s, 95 % CI 1.00 s to "
        "2.00 s, at 1,000 to 2,000 tokens)." + beside
    )
    assert said(lost, short).startswith(
        "p90 TTFT is over 5.00 s even for the shortest prompts: without a bound at 4,100 to 8,000 tokens"
    )


def test_engines_come_before_a_verdict_by_length():
    """The sentence on several engines leads where the rest is detail by prompt length; else it follows the limits."""
    first = Objective("ttft_p90", "ttft", "p90", 5.0)
    load = {"kind": "closed", "concurrency": 4, "requests": 90}
    lengths = LengthVerdict(first, (LengthBin(1000, 2000, 45, 1.5, (1.0, 2.0)),))
    further = Further(lengths, plain("Rank 3 is slow."), classes=(plain("By class."),))
    sentence = str(answer([stage(load, (first, 1.0))], (), further, simulated=False))
    plainly = str(answer([stage(load, (first, 1.0))], (), replace(further, lengths=None), simulated=False))

    assert sentence.startswith("Rank 3 is slow. p90 TTFT stays under")
    assert sentence.endswith("By class.")
    assert plainly.endswith("Rank 3 is slow. By class.")


def test_a_load_above_one_that_fails_is_not_claimed():
    """Where 2 fails and 4 holds by luck, only 1 is claimed."""
    assert told(poisson(1.0, 1.0), poisson(2.0, 6.0), poisson(4.0, 4.0)).startswith("Up to 1 req/s")


def test_the_worst_repeat_counts():
    """A load holds only if every repeat of it does."""
    sentence = told(poisson(1.0, 1.0), poisson(2.0, 4.0), poisson(2.0, 7.0, repeat=1), poisson(1.0, 2.0, repeat=1))

    assert sentence == "Up to 1 req/s p99 TTFT stays under 5.00 s (2.00 s); at 2 req/s p99 TTFT is 7.00 s."


def test_all_loads_may_hold_or_none():
    """Where all hold the most that was tried is named; where none does, the least."""
    assert told(poisson(1.0, 1.0), poisson(2.0, 4.0)) == (
        "Up to 2 req/s, the highest load tested, p99 TTFT stays under 5.00 s (4.00 s)."
    )
    assert told(poisson(1.0, 8.0), poisson(2.0, 9.0)) == "Even at 1 req/s p99 TTFT is 8.00 s, over the limit of 5.00 s."


def test_a_growing_queue_holds_nothing():
    """A limit that is met only because the stage ended is not claimed."""
    sentence = told(poisson(1.0, 1.0), poisson(2.0, 4.0, grew=True))

    assert sentence.endswith("at 2 req/s the queue grows for as long as the load lasts.")


def test_failures_have_no_bound():
    """An infinite percentile is told by the failures behind it."""
    pairs = [answered(0, 0, [0.5]), answered(1, 1, [1.5]), failed(2, 2, 2.5)]
    sentence = told(poisson(1.0, 1.0), poisson(2.0, float("inf"), pairs=pairs))

    assert sentence.endswith("at 2 req/s p99 TTFT has no bound, as 1 of 3 requests failed.")


def test_what_cannot_be_told_is_not_claimed():
    """An unknown outcome ends the loads that hold."""
    assert told(poisson(1.0, 1.0), poisson(2.0, None)).endswith("at 2 req/s p99 TTFT could not be determined.")


def test_what_the_lowest_loads_do_not_tell_the_next_ones_may():
    """The answer begins where something is known, and claims nothing below."""
    holds = "p99 TTFT stays under 5.00 s (4.00 s)"
    unknown, low, high = poisson(0.5, None), poisson(1.0, 1.0), poisson(2.0, 4.0)

    assert (
        told(unknown, low, high, poisson(4.0, 9.1))
        == f"From 1 req/s to 2 req/s {holds}; at 4 req/s p99 TTFT is 9.10 s."
    )
    assert told(unknown, high, poisson(4.0, 9.1)) == f"At 2 req/s {holds}; at 4 req/s p99 TTFT is 9.10 s."
    assert told(unknown, low, high) == f"From 1 req/s to 2 req/s, the highest load tested, {holds}."
    assert told(unknown, poisson(1.0, None)) == "Even at 0.5 req/s p99 TTFT could not be determined."


def test_the_limit_that_breaks_is_the_one_told():
    """Of several limits all that hold are named, and then the one that is broken most."""
    load = {"kind": "closed", "concurrency": 8}
    first = stage(load, (LIMIT, 1.0), (GAPS, 0.02))
    second = stage({**load, "concurrency": 16}, (LIMIT, 2.0), (GAPS, 0.16))

    assert told(first, second) == (
        "Up to concurrency 8 p99 TTFT stays under 5.00 s (1.00 s) and p99 ITL under 80.0 ms (20.0 ms); "
        "at concurrency 16 p99 ITL is 160 ms."
    )


def test_one_stage_is_held_to_its_limit():
    """A single load is within its limit or over it."""
    assert told(poisson(2.0, 4.2)) == "At poisson 2 req/s p99 TTFT is 4.20 s, within the limit of 5.00 s."
    assert told(poisson(2.0, 5.2)) == "At poisson 2 req/s p99 TTFT is 5.20 s, over the limit of 5.00 s."


def test_loads_of_different_kinds_are_told_one_by_one():
    """Without an order there is no "up to"."""
    sentence = told(poisson(2.0, 4.2), stage({"kind": "constant", "rate": 1.0}, (LIMIT, 6.0)))

    assert sentence == (
        "At poisson 2 req/s p99 TTFT is 4.20 s, within the limit of 5.00 s. "
        "At constant 1 req/s p99 TTFT is 6.00 s, over the limit of 5.00 s."
    )


CLOSED = {"kind": "closed", "concurrency": 2}


def test_many_loads_of_different_kinds_are_told_together():
    """Every limit and which loads keep them all, then the first that does not and by what: two sentences."""
    loads = [stage({**CLOSED, "concurrency": users}, (LIMIT, 1.0), (GAPS, 0.02)) for users in (2, 16)]
    loads += [stage({"kind": "poisson", "rate": rate}, (LIMIT, 2.0), (GAPS, 0.05)) for rate in (2.0, 4.0)]
    over = [stage({"kind": "poisson", "rate": rate}, (LIMIT, rate), (GAPS, 0.05)) for rate in (8.0, 40.0)]
    limits = "p99 TTFT under 5.00 s and p99 ITL under 80.0 ms"
    held = "closed loop, concurrency 2; closed loop, concurrency 16; poisson 2 req/s; poisson 4 req/s"

    assert told(*loads, *over) == (
        f"{limits} hold at: {held}. "
        "The first load that does not keep them is poisson 8 req/s: p99 TTFT is 8.00 s, over the limit of 5.00 s."
    )
    assert told(*loads) == f"{limits} hold at every load tested: {held}."
    assert told(stage(CLOSED, (LIMIT, 6.0), (GAPS, 0.02)), *over) == (
        f"No load tested keeps all of {limits}. "
        "The first load that does not keep them is closed loop, concurrency 2: p99 TTFT is 6.00 s, "
        "over the limit of 5.00 s."
    )


def test_a_load_that_nothing_is_known_of_does_not_count_as_the_first_that_breaks():
    """Where another is over its limit; where none is, the answer says what could not be determined."""
    loads = [stage({**CLOSED, "concurrency": users}, (LIMIT, 1.0)) for users in (2, 4)]
    unknown, over = poisson(1.0, None), poisson(2.0, 9.0)

    assert "first load that does not keep them is poisson 2 req/s" in told(*loads, unknown, over)
    assert told(*loads, unknown).endswith("At poisson 1 req/s p99 TTFT could not be determined.")


def test_without_limits_output_and_latency_are_told():
    """One load by its output and TTFT; a sweep by its ends."""
    alone = stage({"kind": "closed", "concurrency": 8})
    more = stage({"kind": "closed", "concurrency": 64})

    assert told(alone).startswith("At closed loop, concurrency 8: throughput ")
    assert told(alone).endswith(" tok/s; TTFT p50 500 ms, p99 500 ms.")
    assert told(alone, more).startswith("At concurrency 8: ")
    assert " At concurrency 64: " in told(alone, more)


def test_where_every_request_failed_the_process_that_died_is_named():
    """Of several engines it says at once which log to read."""
    text = plain("The run did not come to its end: process decode-0: the engine died.")
    death = Warning("died", "invalid", text, plain("Read its log."))
    lost = poisson(1.0, None, pairs=[failed(0, 0, 1.0)])

    assert told(lost).startswith("No answer: all 1 requests failed (")
    assert told(lost, warnings=[death]).endswith(f"). {text}")


def test_an_invalid_run_answers_nothing():
    """The reason stands where the answer would."""
    warnings = [
        Warning("send_lag", "invalid", plain("Requests left late."), plain("Use more workers.")),
        Warning("x", "note", plain("y."), plain("z.")),
    ]

    assert told(poisson(1.0, 1.0), warnings=warnings) == "No valid answer: Requests left late."


def test_an_invalid_stage_is_left_out_and_named():
    """The valid stages answer; the one that is not, and why, stands after it."""
    second = replace(poisson(4.0, 1.0), span=Span(1, 0, 0, ns(4), ns(5)))
    late = Warning("send_lag", "invalid", plain("Requests left late."), plain("Use more workers."), stage=1)

    assert told(poisson(1.0, 1.0), second, warnings=[late]) == (
        "At poisson 1 req/s p99 TTFT is 1.00 s, within the limit of 5.00 s. "
        "Left out as not valid: poisson 4 req/s. Requests left late."
    )


def test_an_invalid_repeat_is_left_out_alone():
    """The other repeats of its stage answer; which one is left out is said."""
    again = replace(poisson(1.0, 9.0), span=Span(0, 1, 0, ns(4), ns(5)))
    late = Warning("send_lag", "invalid", plain("Requests left late."), plain("Use more workers."), stage=0, repeat=1)

    assert told(poisson(1.0, 1.0), again, warnings=[late]).endswith(
        "Left out as not valid: poisson 1 req/s, repeat 2. Requests left late."
    )


def test_a_simulated_answer_says_so_first():
    """Whatever it says, it begins with the word."""
    assert told(poisson(1.0, 1.0), simulated=True).startswith("Simulated: At ")
    assert told(simulated=True) == "Simulated: No answer: nothing was sent."


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([failed(0, 0, 1, "refused"), failed(1, 0, 1, "refused")], "all 2 requests failed (refused 2)."),
        ([failed(0, 0, 1, "", status="cancelled")], "1 were cancelled."),
        ([], "nothing was sent."),
    ],
)
def test_no_answer_says_why(pairs, words):
    """All failed, all cancelled, or nothing sent."""
    sentence = told(poisson(1.0, 1.0, pairs=pairs))

    assert sentence.startswith("No answer: ")
    assert sentence.endswith(words)


def test_of_repeats_without_limits_the_middle_one_speaks():
    """Three repeats of one load: the sentence has the output of the median one, neither the first nor the best."""
    rates = (100.0, 300.0, 200.0)
    load = {"kind": "closed", "concurrency": 2, "requests": 4}
    repeats = [stage(load, repeat=number) for number in range(3)]
    repeats = [
        replace(one, rates=replace(one.rates, output_token=rate)) for one, rate in zip(repeats, rates, strict=True)
    ]

    assert told(*repeats).startswith("At closed loop, concurrency 2: throughput 200 tok/s")


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([(1, 1.0), (2, 2.0), (4, 4.0)], None),
        ([(1, 1.0), (2, 1.9), (4, 2.2), (8, 2.3)], (1.9, 2.2)),
        ([(4, 100.0), (1, 30.0), (2, 60.0), (8, 90.0)], (100.0, 102.0)),
        ([(1, 1.0), (2, 1.0)], None),
        ([(1, float("nan")), (2, 1.0), (4, 1.0)], None),
    ],
)
def test_a_sweep_without_limits_has_its_knee_where_more_load_brings_little(loads, expected):
    """The first step that brings less than half of what the first load brought for as much."""
    assert saturation(loads) == expected


def test_a_knee_over_offered_rates_stands_at_what_was_offered():
    """Between the two loads that were offered, and not between what came of them."""
    loads = [(1, 1.0), (2, 1.9), (4, 2.2), (8, 2.3)]

    assert saturation(loads, {1: 1.1, 2: 2.1, 4: 3.9, 8: 8.0}) == (2.1, 3.9)


def summary_stage(index, rate, met):
    """A stage of an open loop with a limit."""
    load = {"kind": "poisson", "rate": rate}
    return {"index": index, "load": load, "offered_rate": rate, "slo": {"ttft_p99": {}}, "slo_met": met}


def test_with_limits_the_knee_lies_between_the_last_stage_that_holds_and_the_next():
    """A stage whose queue grew does not hold, and a single repeat that misses a limit breaks its stage."""
    stages = [summary_stage(1, 4.0, True), summary_stage(0, 2.0, True), summary_stage(2, 8.0, False)]

    assert knee(stages, set()) == {"by": "limits", "rate": "offered_rate", "held": 4.0, "broken": 8.0}
    assert knee(stages, {1}) == {"by": "limits", "rate": "offered_rate", "held": 2.0, "broken": 4.0}
    assert knee([*stages, summary_stage(0, 2.0, False)], set()) is None
