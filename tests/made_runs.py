"""Runs made by hand, or served by a small queue, for tests of the analysis."""

import heapq
from dataclasses import replace

import numpy as np

from harness.results.request_table import (
    COMPLETED,
    FAILED,
    MEASURED,
    MISSING,
    NEVER_SENT,
    WARMUP,
    Record,
    events_from,
    requests_from,
    samples_from,
)
from harness.units import NS_PER_S

NO_SAMPLES = samples_from([])


def ns(seconds):
    """Seconds as whole nanoseconds."""
    return round(seconds * NS_PER_S)


def answered(index, due, token_times, tokens=None, *, sent=None, **fields):
    """A completed request and its events: due and sent in seconds, an event at each of `token_times`."""
    tokens = tokens or [1] * len(token_times)
    sent = due if sent is None else sent
    record = Record(
        index=index,
        stage=0,
        repeat=0,
        phase=MEASURED,
        session=index,
        turn=0,
        worker=0,
        due_ns=ns(due),
        ready_ns=ns(due),
        sent_ns=ns(sent),
        first_ns=ns(token_times[0]),
        last_ns=ns(token_times[-1]),
        done_ns=ns(token_times[-1]),
        connect_ns=0,
        input_asked=10,
        input_tokens=10,
        output_asked=sum(tokens),
        output_tokens=sum(tokens),
        first_tokens=tokens[0],
        events=len(tokens),
        counted_by="usage",
        status=COMPLETED,
        http_status=200,
    )
    return replace(record, **fields), ([ns(at) for at in token_times], tokens)


def failed(index, due, done, error="http_500", **fields):
    """A request that was sent when due and failed without a token."""
    record, _ = answered(index, due, [done])
    lost = {"first_ns": MISSING, "last_ns": MISSING, "output_tokens": 0, "first_tokens": 0, "events": 0}
    return replace(record, **{**lost, "status": FAILED, "error": error, **fields}), ([], [])


def never_sent(index, due, **fields):
    """A request that was planned only."""
    record, _ = failed(index, due, due)
    gone = {"ready_ns": MISSING, "sent_ns": MISSING, "done_ns": MISSING, "error": ""}
    return replace(record, **{**gone, "status": NEVER_SENT, **fields}), ([], [])


def columns(pairs):
    """Requests and Events of (record, events) pairs."""
    pairs = sorted(pairs, key=lambda pair: pair[0].index)
    return requests_from(record for record, _ in pairs), events_from([events for _, events in pairs])


def hand_made():
    """A streamed answer, one in pairs of tokens sent a millisecond late, a failure, a single token, and a warm-up."""
    return [
        answered(0, -1.0, [-0.5, 0.5], phase=WARMUP),
        answered(1, 0.0, [0.5, 0.6, 0.7]),
        answered(2, 1.0, [1.5, 1.7], [2, 2], sent=1.001),
        failed(3, 2.0, 2.2),
        answered(4, 3.0, [3.9]),
    ]


def run_json(stages, **fields):
    """What run.json says, as far as the analysis asks."""
    engine = {"kind": "vllm", "simulated": False, "model": "tiny", "effective": {"block_size": 128}}
    base = {"format": 1, "name": "made", "question": "Does it count?", "repeats": 1, "slo": {}, "stream": True}
    return {**base, "engine": engine, "client": {"selfcheck": None}, "stages": stages, **fields}


def span_row(start, stop, end, stage=0, repeat=0):
    """A row of timeline.json, of times in seconds."""
    return {"stage": stage, "repeat": repeat, "start_ns": ns(start), "stop_ns": ns(stop), "end_ns": ns(end)}


def served(arrivals, service, servers):
    """When each arrival begins to be served and is done, by so many servers in the order of arrival."""
    free = [0.0] * servers
    begun, done = [], []
    for at, needs in zip(arrivals, service, strict=True):
        begun.append(max(heapq.heappop(free), at))
        done.append(begun[-1] + needs)
        heapq.heappush(free, done[-1])
    return begun, done


def open_run(rate, duration, servers, service, rng):
    """Poisson arrivals at a queue with log-normal service of this mean; (record, events) pairs of 4 tokens each."""
    arrivals = np.sort(rng.uniform(0, duration, rng.poisson(rate * duration)))
    needs = rng.lognormal(np.log(service) - 0.18, 0.6, len(arrivals))
    begun, done = served(arrivals, needs, servers)
    return [
        answered(i, due, list(np.linspace(start + (end - start) / 5, end, 4)))
        for i, (due, start, end) in enumerate(zip(arrivals, begun, done, strict=True))
    ]


def closed_run(users, requests, answer_s, *, prefill_s=0.0, tokens=4, start=0.0):
    """A closed loop: each user sends when answered; prefills go one at a time. `answer_s(i)` is the decode time."""
    ready = [(start, user) for user in range(users)]
    heapq.heapify(ready)
    prefill_free, pairs = start, []
    for i in range(requests):
        at, user = heapq.heappop(ready)
        prefill_free = max(prefill_free, at) + prefill_s
        end = prefill_free + answer_s(i)
        times = list(np.linspace(prefill_free + (end - prefill_free) / tokens, end, tokens))
        pairs.append(answered(i, at, times))
        heapq.heappush(ready, (end, user))
    return pairs
