"""/metrics is read as its names mean it, whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.run_folder import Watched
from harness.telemetry.server_metrics import (
    CACHE_CONFIG,
    MAXIMUM,
    MOST_ENGINES,
    SERIES,
    SERVER,
    SHARE,
    cache_config,
    parse_samples,
    read_metrics,
)
from harness.telemetry.server_metrics import cache_configs as configs

RUNNING, KV, HITS = "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total"
TWO = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.61
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.72
"""


def test_shares_of_two_engines_are_never_added():
    """Counts have a sum; shares have a mean, a maximum, and each its own engine."""
    found = read_metrics(TWO)

    assert found[SERVER] == {RUNNING: 7, KV: pytest.approx(0.665), KV + MAXIMUM: 0.72}
    assert (found["server/0"], found["server/1"]) == ({RUNNING: 3, KV: 0.61}, {RUNNING: 4, KV: 0.72})


def test_a_single_engine_is_the_server():
    """Nothing is said twice where there is one engine."""
    assert read_metrics(TWO.replace('engine="1"', 'engine="0"').replace("m", "m")) == {SERVER: {RUNNING: 4, KV: 0.72}}


@pytest.mark.parametrize("known", SERIES)
def test_every_name_of_vllms_history_is_read(known):
    """An older name says what the newest says."""
    name, join = SERIES[known]
    value = 0.5 if join == SHARE else 50

    assert read_metrics(f'{known}{{model_name="m"}} {value}') == {SERVER: {name: value}}


def test_a_number_under_two_names_counts_once():
    """Releases that renamed a metric show it under both names for a while."""
    text = 'vllm:gpu_prefix_cache_hits_total{engine="0"} 50\nvllm:prefix_cache_hits_total{engine="0"} 60\n'

    assert read_metrics(text) == {SERVER: {HITS: 60}}


def test_a_router_names_its_servers():
    """Where no label is called engine, what else differs tells the engines apart."""
    text = f'{KV}{{server="http://a",model_name="m"}} 0.2\n{KV}{{server="http://b",model_name="m"}} 0.4\n'

    assert read_metrics(text)[SERVER] == {KV: pytest.approx(0.3), KV + MAXIMUM: 0.4}
    assert set(read_metrics(text)) == {SERVER, "server/http://a", "server/http://b"}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (f"{RUNNING} 3", 3),
        (f"{RUNNING}{{}} 3.", 3),
        (f"  {RUNNING}\t+3e0 1395066363000\r", 3),
        (f"{RUNNING} .5e1 -3982045.2", 5),
        (f'{RUNNING}{{a="}} 9",b="\\"{{\\\\"}} 4 # {{trace="x"}} 7 1.5', 4),
        (f'{RUNNING}{{ engine = "0" , }} 2', 2),
        (f"{RUNNING} 1\n{RUNNING} 2", 2),
    ],
)
def test_every_form_of_a_sample_is_read(line, value):
    """Exponents, times and exemplars after the value, odd labels; of the same series the last."""
    assert read_metrics(line) == {SERVER: {RUNNING: value}}


@pytest.mark.parametrize(
    "value", ["NaN", "+Inf", "-Inf", "-7", "1e300", "9" * 5000, "many", "1_000", "0x10", "٣", "", "1,5", "{}", "#"]
)
def test_what_is_no_count_is_left_out(value):
    """Text, no number, or one that no server can have counted."""
    assert read_metrics(f"{RUNNING} {value}\n{KV} 0.5") == {SERVER: {KV: 0.5}}


@pytest.mark.parametrize("value", ["1.33", "-0.1", "61", "nan"])
def test_a_share_lies_between_nothing_and_all(value):
    """What is more than the whole is no share."""
    assert read_metrics(f"{KV} {value}") == {}


def test_many_engines_are_joined_and_not_kept():
    """An unbounded number of engines does not become an unbounded file."""
    text = "".join(f'{KV}{{engine="{i}"}} {i / 100}\n{RUNNING}{{engine="{i}"}} 2\n' for i in range(MOST_ENGINES + 1))
    found = read_metrics(text)

    assert set(found) == {SERVER}
    assert found[SERVER] == {KV: pytest.approx(MOST_ENGINES / 200), KV + MAXIMUM: 0.32, RUNNING: 2 * MOST_ENGINES + 2}


def test_each_engine_has_its_configuration():
    """Numbers are numbers where JSON can hold them; the first engine speaks where one is asked for."""
    text = "".join(
        f'{CACHE_CONFIG}{{engine="{i}",num_gpu_blocks="{i + 9}",gpu="0.9",odd="nan",big="{"9" * 400}",on="True"}} 1\n'
        for i in range(2)
    )

    assert {engine: labels["num_gpu_blocks"] for engine, labels in configs(text).items()} == {"0": 9, "1": 10}
    assert cache_config(text) == {
        "engine": 0, "num_gpu_blocks": 9, "gpu": 0.9, "odd": "nan", "big": "9" * 400, "on": True,
        "data_parallel_size": 2, "num_gpu_blocks_by_engine": {"0": 9, "1": 10},
    }  # fmt: skip
    assert cache_config("") == {}


@given(st.text() | st.text(alphabet='vllm:kv_cache_usage_perc{}="\\,# 0.eE+-NaInf\n'))
def test_no_text_is_too_odd(text):
    """Whatever a server answers is read without a fault, and every value kept is finite."""
    watched = Watched()
    watched.add_metrics(0, f'{text}\n{KV} {text}\n{KV}{{{text}}} 0.5\n{RUNNING}{{engine="{text}"}} 1')

    assert all(0 <= value < 1e18 for _, _, _, value in watched.rows)
    assert cache_config(text) is not None


values = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 6))


@given(st.lists(st.tuples(st.integers(0, 1000), values), min_size=1, max_size=8))
def test_joined_values_stay_between_the_engines_own(engines):
    """A mean share lies between the least and the highest, a sum is all counts, each engine keeps its own."""
    lines = [f'{KV}{{engine="{i}"}} {share!r}\n{RUNNING}{{engine="{i}"}} {n}' for i, (n, share) in enumerate(engines)]
    found = read_metrics("\n".join(lines))
    shares = [share for _, share in engines]

    assert found[SERVER][RUNNING] == sum(n for n, _ in engines)
    assert min(shares) - 1e-12 <= found[SERVER][KV] <= max(shares) + 1e-12
    assert found[SERVER].get(KV + MAXIMUM, shares[0]) == max(shares)
    assert [found[f"server/{i}"][KV] for i in range(len(engines)) if len(engines) > 1] == shares * (len(engines) > 1)
    assert len(list(parse_samples("\n".join(lines), (KV,)))) == len(engines)
