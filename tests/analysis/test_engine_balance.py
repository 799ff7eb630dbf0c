"""A slow engine and an uneven load are found, and chance is not taken for them."""

import math

import numpy as np
import pytest

from harness.analysis.engine_balance import balance_of, balance_sentence
from harness.analysis.engines import engine_activities, series_by_source
from harness.messages import plain, render
from harness.results.request_table import samples_from
from harness.telemetry.server_metrics import GENERATION, KV_USE, PREEMPTIONS, PROMPT, RUNNING, WAITING
from harness.units import NS_PER_S

TOKENS = 100  # a request
REQUEST_S = 4.0


def pool(rng, seconds, rate, request_s=REQUEST_S, tokens=TOKENS):
    """Running requests and tokens generated so far, at every second, of an engine with room for all that come."""
    arrivals = np.sort(rng.uniform(-20, seconds, rng.poisson(rate * (seconds + 20))))
    takes = rng.exponential(request_s, len(arrivals))
    at = np.arange(seconds + 1)[:, None]
    inside = np.clip((at - arrivals) / takes, 0, 1)
    running = ((at >= arrivals) & (at < arrivals + takes)).sum(axis=1)
    return running.astype(float), np.floor(inside.sum(axis=1) * tokens)


def balance(engines, seconds, processes=(), request_s=REQUEST_S):
    """The balance of engines: by source, values by name at every second."""
    rows = [
        (i * NS_PER_S, source, name, float(value))
        for source, named in engines.items()
        for name, values in named.items()
        for i, value in enumerate(np.broadcast_to(values, seconds + 1))
    ]
    run = {"engine": {"processes": [{"name": name, "role": role} for name, role in processes]}}
    series, span = series_by_source(samples_from(rows)), (0, seconds * NS_PER_S)
    return balance_of(engine_activities(series, run, span), series, span, request_s)


def ranks(pools):
    """Data-parallel ranks of one server."""
    return {
        f"server/{i}": {RUNNING: running, WAITING: 0, KV_USE: 0.1, GENERATION: tokens}
        for i, (running, tokens) in enumerate(pools)
    }


@pytest.mark.parametrize("count", [2, 4, 16])
def test_a_slow_rank_is_found(count):
    """A rank whose steps take twice as long holds twice the requests for the same tokens, and is named."""
    rng = np.random.default_rng(count)
    engines = ranks([pool(rng, 120, 3.0, REQUEST_S * (2 if i == 1 else 1)) for i in range(count)])
    found = balance(engines, 120)
    (lag,) = found.lags

    assert (lag.engine, lag.role) == ("1", "replica")
    assert lag.times == pytest.approx(2, rel=0.2)
    assert lag.others_s == pytest.approx(REQUEST_S / TOKENS, rel=0.15)
    assert found.uneven == ()
    assert found.imbalance["replica"]["running"] == pytest.approx(2 / ((count + 1) / count), rel=0.2)
    assert "engine 1 lags" in render(balance_sentence([(plain("3 req/s"), found)]))


def test_a_slow_rank_is_found_where_the_balancer_keeps_them_equally_full():
    """With as many requests as the others it makes half of their tokens."""
    rng = np.random.default_rng(0)
    fast = [np.cumsum(rng.poisson(500, 121)) for _ in range(3)]
    engines = ranks([(np.full(121, 20.0), tokens) for tokens in (*fast, np.cumsum(rng.poisson(250, 121)))])
    (lag,) = balance(engines, 120).lags

    assert lag.engine == "3"
    assert lag.work_share == pytest.approx(250 / 437.5, rel=0.05)


def test_a_stuck_rank_has_no_time_a_token():
    """It holds requests and makes nothing: infinitely slow, and JSON has no infinity."""
    rng = np.random.default_rng(1)
    good = [pool(rng, 60, 3.0) for _ in range(3)]
    found = balance(ranks([*good, (np.full(61, 5.0), np.zeros(61))]), 60)

    assert math.isinf(found.lags[0].times)
    assert found.as_dict()["lagging"][0]["token_s"] is None
    assert "stuck" in render(balance_sentence([(plain("x"), found)]))


def test_chance_makes_no_lag_and_no_unevenness():
    """Of 200 runs of equal ranks under random routing, hardly any is taken for uneven or slow."""
    rng = np.random.default_rng(5)
    found = [
        balance(ranks([pool(rng, 60, rate) for _ in range(4)]), 60)
        for rate in (0.3, 2.0, 10.0, 40.0)
        for _ in range(50)
    ]

    assert sum(bool(each.lags) for each in found) <= 4
    assert sum(bool(each.uneven) for each in found) <= 4


@pytest.mark.parametrize("seconds", [3, 10, 14])
def test_a_short_run_is_not_judged(seconds):
    """Fewer parts than four, each as long as a request, show nothing."""
    engines = ranks([pool(np.random.default_rng(2), seconds, 3.0, REQUEST_S * (1 + 4 * (i == 1))) for i in range(2)])
    found = balance(engines, seconds)

    assert (found.lags, found.uneven) == ((), ())
    assert found.imbalance["replica"]["running"] >= 1


def test_an_engine_with_more_work_is_no_slow_one():
    """Three times the requests make three times the tokens: the load is uneven, and the engine is named for that."""
    rng = np.random.default_rng(3)
    found = balance(ranks([pool(rng, 120, 9.0 if i == 2 else 3.0) for i in range(3)]), 120)
    first = max(found.uneven, key=lambda uneven: uneven.value)

    assert found.lags == ()
    assert (first.engine, first.quantity) == ("2", "running")
    assert "engine 2 runs" in render(balance_sentence([(plain("x"), found)]))


def test_an_engine_that_gets_nothing_is_idle():
    """One that a proxy does not know."""
    rng = np.random.default_rng(4)
    found = balance(ranks([pool(rng, 60, 3.0), pool(rng, 60, 3.0), (np.zeros(61), np.zeros(61))]), 60)

    assert [load.engine.name for load in found.idle] == ["2"]
    assert balance(ranks([(np.zeros(61), np.zeros(61))] * 3), 60).idle == ()


def test_an_even_run_says_so():
    """And one engine alone has no balance."""
    steady = (np.full(61, 8.0), np.arange(61) * 100.0)
    found = balance(ranks([steady, steady]), 60)

    assert render(balance_sentence([(plain("x"), found)])).startswith("The 2 engines carried the load evenly")
    assert balance_sentence([(plain("x"), balance({"server": {RUNNING: 3, GENERATION: np.arange(61)}}, 60))]) is None
    assert balance({}, 60).as_dict() == {}


def test_engines_of_unlike_speed_are_not_called_even():
    """A balancer gives a slow engine less: as many run everywhere. In few parts that is not proved, but it is said."""
    steady, slow = (np.full(13, 8.0), np.arange(13) * 100.0), (np.full(13, 8.0), np.arange(13) * 70.0)
    found = balance(ranks([steady, steady, slow]), 12, request_s=6.0)
    sentence = render(balance_sentence([(plain("x"), found)]))

    assert found.lags == ()
    assert "on engine 2 a token took 1.43 times as long as on the others" in sentence
    assert "evenly" not in sentence


def test_a_slower_engine_of_few_requests_is_named_without_calling_the_load_even():
    """Its requests stay longer, so that it runs more than the others: too few to prove it, and no even load."""
    steady, slow = (np.full(13, 1.0), np.arange(13) * 20.0), (np.full(13, 4.0), np.arange(13) * 20.0)
    found = balance(ranks([steady, steady, steady, slow]), 12, request_s=6.0)
    sentence = render(balance_sentence([(plain("x"), found)]))

    assert (found.lags, found.imbalance["replica"]["running"]) == ((), pytest.approx(16 / 7))
    assert sentence.startswith("On engine 3 a token took 4.00 times as long as on the others; the stage is too short")


def test_a_window_shorter_than_a_request_calls_no_engines_even():
    """As under overload: as many requests everywhere, most of them waiting, and one engine makes hardly a token."""
    steady, slow = (np.full(13, 99.0), np.arange(13) * 500.0), (np.full(13, 99.0), np.arange(13) * 50.0)
    found = balance(ranks([steady, steady, slow]), 12, request_s=20.0)
    sentence = render(balance_sentence([(plain("x"), found)]))

    assert found.lags == ()
    assert "on engine 2 a token took 10.0 times as long as on the others" in sentence


def test_engines_whose_queues_differ_are_not_called_even():
    """Running requests are alike where every engine is full: one that works more, and has a queue, is not even."""
    steady = (np.full(61, 8.0), np.arange(61) * 100.0)
    engines = ranks([steady, steady, (np.full(61, 8.0), np.arange(61) * 130.0)])
    engines["server/2"][WAITING] = 3.0

    assert balance_sentence([(plain("x"), balance(engines, 60, request_s=100.0))]) is None


def test_engines_that_make_no_token_are_none_slower():
    """As where they embed: nothing is generated, and nothing is said of the time of a token."""
    found = balance(ranks([(np.full(61, 8.0), np.zeros(61))] * 2), 60)

    assert found.slowest == ()
    assert found.lags == ()


PAIR = (("prefill-0", "prefill"), ("decode-0", "decode"), ("decode-1", "decode"))


def pair(prefill, decode):
    """A pair of one prefill engine and two decode engines: waiting requests and KV use of each side."""
    grown = np.arange(61) * 100.0
    sides = [("prefill-0", prefill), ("decode-0", decode), ("decode-1", decode)]
    return {
        f"server/{name}": {RUNNING: 4, WAITING: waiting, KV_USE: kv, PREEMPTIONS: 0, PROMPT: grown, GENERATION: grown}
        for name, (waiting, kv) in sides
    }


@pytest.mark.parametrize(
    ("prefill", "decode", "side", "words"),
    [
        (
            (5.0, 0.2),
            (0.0, 0.3),
            "prefill",
            "the prefill side is full (5.00 requests waiting an engine, KV cache 20.0 %)",
        ),
        ((0.1, 0.2), (3.0, 0.97), "decode", "the decode side is full"),
        ((50.0, 0.2), (2.0, 0.5), "prefill", "the prefill side is full"),
        ((50.0, 0.2), (2.0, 0.95), "both", "both sides"),
        ((0.1, 0.95), (2.0, 0.5), "both", "both sides of the pair are full"),
        ((0.1, 0.2), (0.2, 0.3), "neither", "neither side of the pair is full"),
    ],
)
def test_the_full_side_of_a_pair_is_told(prefill, decode, side, words):
    """By requests that wait for it, or a cache that is full; the two sides are never taken for one."""
    found = balance(pair(prefill, decode), 60, PAIR)

    assert found.as_dict()["full_side"] == side
    assert words in render(balance_sentence([(plain("4 req/s"), found)]))
    assert set(found.imbalance) == {"decode"}


def test_a_pair_that_splits_nothing_is_told():
    """As where a proxy sends an endpoint to the decode side alone: no side is called full or not full."""
    engines = pair((0.0, 0.0), (0.2, 0.3))
    engines["server/prefill-0"] |= {PROMPT: 0, GENERATION: 0, RUNNING: 0}
    found = balance(engines, 60, PAIR)

    assert (found.is_unsplit, found.full_side) == (True, None)
    assert "no prompt reached the prefill side" in render(balance_sentence([(plain("4 req/s"), found)]))
    assert not balance(pair((0.0, 0.0), (0.2, 0.3)), 60, PAIR).is_unsplit


def test_requests_that_wait_for_their_kv_do_not_fill_the_decode_side():
    """VLLM counts them as waiting, and as deferred beside."""
    engines = pair((0.0, 0.1), (6.0, 0.3))
    for name in ("decode-0", "decode-1"):
        engines[f"server/{name}"]["vllm:num_requests_waiting_by_reason:deferred"] = 5.5

    assert balance(engines, 60, PAIR).full_side == "neither"


def test_the_answer_says_from_which_load_on_a_side_is_full():
    """The first load with a full side, and whether it is the same one from there on; else up to which none is."""
    none, prefill, decode = (
        balance(pair(*sides), 60, PAIR)
        for sides in (((0.1, 0.2), (0.1, 0.2)), ((5.0, 0.2), (0.1, 0.2)), ((0.1, 0.2), (5.0, 0.2)))
    )

    def told(*balances):
        return render(balance_sentence([(plain(f"{rate} req/s"), own) for rate, own in enumerate(balances, 1)]))

    assert told(none, prefill, prefill).startswith("From 2 req/s on the prefill side is full")
    assert told(none, prefill, decode).startswith("At 2 req/s the prefill side is full")
    assert told(none, none, decode).startswith("At 3 req/s the decode side is full")
    assert told(none, none).startswith("Up to 2 req/s neither side of the pair is full")
    assert told(none).startswith("At 1 req/s neither side of the pair is full")
    assert balance_sentence([]) is None
