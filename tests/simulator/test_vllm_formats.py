"""/metrics is what a Prometheus parser reads."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.vllm_formats import EngineState, Histogram, Metrics, exposition

STATE = EngineState(running=3, waiting=2, kv_usage=0.25, preemptions=1, prefix_queries=100, prefix_hits=40)
SAMPLE = re.compile(r'[a-z0-9_:]+\{([a-z_]+="(\\.|[^"\\])*",?)*\} -?[0-9.e+-]+')


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_histogram_counts_up_to_each_bound(values):
    """As many as are not above it, and the sum of all."""
    histogram = Histogram((1, 10, 50))
    for value in values:
        histogram.observe(value)
    below = [sum(value <= bound for value in values) for bound in (1, 10, 50)]

    assert [sum(histogram.counts[: place + 1]) for place in range(3)] == below
    assert sum(histogram.counts) == len(values)
    assert abs(histogram.total - sum(values)) < 1e-6


def test_several_equal_observations_count_each():
    """One call for all tokens of a step."""
    histogram = Histogram((1,))
    histogram.observe(0.5, 7)

    assert (histogram.counts, histogram.total) == ([7, 0], 3.5)


def test_every_line_is_a_comment_or_a_sample():
    """Names, labels with anything in them, and numbers."""
    text = exposition([(Metrics(), STATE)], model='a "b" \\ c', cache={"block_size": 128, "cache_dtype": None})
    lines = text.splitlines()

    assert all(line.startswith("# TYPE ") or SAMPLE.fullmatch(line) for line in lines)
    assert text.endswith("\n")
    assert 'vllm:num_requests_waiting{engine="0",model_name="a \\"b\\" \\\\ c"} 2.0' in lines
    assert 'vllm:prefix_cache_hits_total{engine="0",model_name="a \\"b\\" \\\\ c"} 40.0' in lines


def test_speculation_is_counted_by_position():
    """The names and labels are vLLM's; without speculation there are none."""
    state = replace(STATE, drafts=10, draft_tokens=20, accepted_by_position=(7, 4))
    lines = exposition([(Metrics(), state)], model="m", cache={}).splitlines()
    labels = 'engine="0",model_name="m"'

    assert f"vllm:spec_decode_num_drafts_total{{{labels}}} 10.0" in lines
    assert f"vllm:spec_decode_num_draft_tokens_total{{{labels}}} 20.0" in lines
    assert f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}} 11.0" in lines
    assert f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="1"}} 4.0' in lines
    assert "spec_decode" not in exposition([(Metrics(), STATE)], model="m", cache={})


def test_every_name_is_typed_once():
    """No metric is declared twice."""
    names = re.findall(r"^# TYPE (\S+) ", exposition([(Metrics(), STATE)], model="m", cache={}), re.MULTILINE)

    assert len(names) == len(set(names))
    assert {"vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:generation_tokens_total"} <= set(names)
