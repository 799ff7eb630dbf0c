"""Each engine of a stage in numbers, from what it showed of itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.engines import engine_activities, engine_names, growth_of, series_by_source
from harness.results.request_table import samples_from
from harness.telemetry.server_metrics import (
    FINISHED,
    GENERATION,
    HITS,
    KV_USE,
    PREEMPTIONS,
    PROMPT,
    QUERIES,
    RUNNING,
    WAITING,
)
from harness.units import NS_PER_S


def series(values):
    """Series a second apart, by (source, name)."""
    return series_by_source(
        samples_from([(i * NS_PER_S, *pair, v) for pair, own in values.items() for i, v in enumerate(own)])
    )


def run_of(*processes):
    """run.json of these processes: name, role and devices of each."""
    rows = [{"name": name, "role": role, "devices": devices} for name, role, devices in processes]
    return {"engine": {"processes": rows}}


WINDOW = (2 * NS_PER_S, 6 * NS_PER_S)


def test_an_engine_is_told_by_its_gauges_and_the_growth_of_its_counts():
    """Gauges over the samples within the window, counts between the samples nearest to its ends."""
    source = "server/decode-0"
    counts = [0, 10, 20, 30, 40, 50, 60, 70]
    known = series(
        {
            (source, RUNNING): [0, 9, 1, 2, 3, 4, 5, 99],
            (source, WAITING): [0, 0, 0, 0, 0, 0, 0, 0],
            (source, KV_USE): [0, 0, 0.1, 0.2, 0.3, 0.2, 0.2, 0.9],
            (source, PREEMPTIONS): [0, 0, 0, 0, 1, 1, 1, 5],
            (source, FINISHED): [0, 1, 2, 3, 4, 5, 6, 7],
            (source, PROMPT): counts,
            (source, GENERATION): [10 * value for value in counts],
            (source, QUERIES): counts,
            (source, HITS): [value / 4 for value in counts],
            ("engine/decode-0", "engine_cpu_cores"): [9, 9, 1, 2, 1, 2, 1, 9],
            ("device-0", "core_share"): [0, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0],
            ("device-1", "core_share"): [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0],
            ("device-1.1", "core_share"): [0, 0, 0.7, 0.7, 0.7, 0.7, 0.7, 0],
            ("device-1.1", "watts"): [0, 0, 90, 90, 90, 90, 90, 0],
            ("device-1", "watts"): [0, 0, 10, 10, 10, 10, 10, 0],
        }
    )
    (load,) = engine_activities(known, run_of(("decode-0", "decode", [1, 2]), ("proxy", "proxy", None)), WINDOW)

    assert load.as_dict() == {
        "name": "decode-0",
        "process": "decode-0",
        "role": "decode",
        "devices": [1, 2],
        "running": {"mean": 3.0, "max": 5.0},
        "waiting": {"mean": 0.0, "max": 0.0},
        "kv_use": {"mean": pytest.approx(0.2), "max": 0.3},
        "preemptions": 1,
        "requests": 4,
        "prompt_tokens": 40,
        "generation_tokens": 400,
        "span_s": 4.0,
        "prefix_hit_rate": 0.25,
        "cpu_cores": 1.4,
        "npu": {"core_share": pytest.approx(0.6), "watts": 100.0},  # devices 1 and 2 of three chips
    }


def test_engines_are_named_by_process_and_rank_in_their_order():
    """A process with one engine by itself, ranks of one with several by their numbers, 10 after 9."""
    sources = ["server", "server/a/10", "server/a/9", "server/a-b", "server/p", "engine/a"]
    known = series({(source, RUNNING): [1.0] for source in sources})
    names = engine_names(known, run_of(("p", "prefill", None), ("a", "decode", None), ("a-b", "decode", None)))

    assert [(each.name, each.process, each.role) for each in names] == [
        ("p", "p", "prefill"),
        ("a/9", "a", "decode"),
        ("a/10", "a", "decode"),
        ("a-b", "a-b", "decode"),
    ]


def test_ranks_of_one_server_and_an_engine_alone_have_numbers():
    """Results of before, which know no processes, name their engines the same way."""
    ranks = series({(source, RUNNING): [1.0] for source in ("server", "server/1", "server/0")})

    assert [each.name for each in engine_names(ranks, {})] == ["0", "1"]
    assert [each.source for each in engine_names(series({("server", RUNNING): [1.0]}), {"engine": None})] == ["server"]
    assert engine_names(series({("host", "host_cpu_share"): [1.0]}), {}) == []
    assert engine_names(series({("server", RUNNING): [9.0], ("server", f"{KV_USE}:max"): [0.5]}), {}) == []  # too many


def test_what_was_not_sampled_in_a_window_is_not_told():
    """No value within it, a counter that fell, and one sample at both ends."""
    known = series({("server", RUNNING): [1.0] * 3, ("server", GENERATION): [5.0, 3.0, 9.0]})

    assert engine_activities(known, {}, (100 * NS_PER_S, 200 * NS_PER_S)) == ()
    (load,) = engine_activities(known, {}, (0, 2 * NS_PER_S))
    assert load.counts["generation_tokens"] is None
    assert load.as_dict()["span_s"] is None
    assert growth_of(known, "server", GENERATION, (NS_PER_S, NS_PER_S + 5)) is None


def test_kv_that_was_moved_is_told_by_where_it_went():
    """From engine to engine by any connector, and to a store and back; what a log tells has no bytes."""
    names = {
        "vllm:nixl_xfer_time_seconds_sum": [0, 1, 2.0],
        "vllm:nixl_xfer_time_seconds_count": [0, 4, 10],
        "vllm:nixl_bytes_transferred_sum": [0, 100, 900],
        "vllm:kv_offload_load_bytes_total": [0, 5, 7],
        "vllm:kv_offload_store_bytes_total": [0, 5, 8],
    }
    known = series({("server", RUNNING): [1, 1, 1]} | {("server", name): own for name, own in names.items()})
    logged = series(
        {("server", RUNNING): [1, 1], ("server", "kv_transfers"): [0, 3], ("server", "kv_transfer_seconds"): [0, 0.5]}
    )
    (load,), (other,) = engine_activities(known, {}, (0, 2 * NS_PER_S)), engine_activities(logged, {}, (0, NS_PER_S))

    assert load.as_dict()["kv_transfer"] == {"count": 10, "seconds": 2, "bytes": 900}
    assert load.as_dict()["kv_store"] == {"bytes": 15}
    assert other.as_dict()["kv_transfer"] == {"count": 3, "seconds": 0.5}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30), st.data())
def test_growth_is_what_was_counted_between_two_samples(steps, data):
    """The sum of the steps between the samples nearest to the ends, wherever the ends lie."""
    counts = np.cumsum(steps).tolist()
    first = data.draw(st.integers(0, len(steps) - 2))
    last = data.draw(st.integers(first + 1, len(steps) - 1))
    off = data.draw(st.integers(-NS_PER_S // 2 + 1, NS_PER_S // 2 - 1))
    growth = growth_of(
        series({("server", GENERATION): counts}), "server", GENERATION, (first * NS_PER_S + off, last * NS_PER_S + off)
    )

    assert growth is not None
    assert (growth.value, growth.span_s) == (sum(steps[first + 1 : last + 1]), last - first)
