"""/metrics is read as its names mean it, whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.watching import Watched
from harness.telemetry.server_metrics import (
    CACHE_CONFIG,
    MAXIMUM,
    MOST_ENGINES,
    SERIES,
    SERVER,
    SHARE,
    STALE_NS,
    START_TIME,
    JoinedProcesses,
    cache_config,
    is_counter,
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
    name, join, label = SERIES[known]
    value = 0.5 if join == SHARE else 50
    kept, labels = (f"{name}:3", f',{label}="3"') if label else (name, "")

    assert read_metrics(f'{known}{{model_name="m"{labels}}} {value}') == {SERVER: {kept: value}}


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
    assert found[SERVER] == {
        KV: pytest.approx(MOST_ENGINES / 200),
        KV + MAXIMUM: MOST_ENGINES / 100,
        RUNNING: 2 * MOST_ENGINES + 2,
    }


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


GENERATED, POSITIONS = "vllm:generation_tokens_total", "vllm:spec_decode_num_accepted_tokens_per_pos_total"


def test_a_label_that_tells_values_apart_gives_each_a_name():
    """Accepted tokens by position, of each engine and of all; a label without a usable value is left out."""
    rows = [("0", "0", 9), ("0", "1", 4), ("1", "0", 7), ("1", "a b", 3)]
    text = "".join(f'{POSITIONS}{{engine="{engine}",position="{p}"}} {n}\n' for engine, p, n in rows)

    assert read_metrics(text) == {
        SERVER: {f"{POSITIONS}:0": 16, f"{POSITIONS}:1": 4},
        "server/0": {f"{POSITIONS}:0": 9, f"{POSITIONS}:1": 4},
        "server/1": {f"{POSITIONS}:0": 7},
    }


def test_a_label_of_the_series_makes_no_engine():
    """Operations of one store, or why requests ended, are counts of one engine, with or without an engine label."""
    text = "".join(f'vllm:mooncake_store_operation_bytes_total{{operation="{o}",status="ok"}} 8\n' for o in "ab")

    assert read_metrics(text) == {SERVER: {"vllm:mooncake_store_operation_bytes_total": 16}}


def test_no_label_fills_the_file():
    """However many values a label takes, a bounded number of names is kept."""
    text = "".join(f'{POSITIONS}{{engine="0",position="{p}"}} 1\n' for p in range(1000))

    assert len(read_metrics(text)[SERVER]) == 64


def test_a_process_is_named_and_its_engines_within_it():
    """One engine has the name of its process, several are numbered within it; the server is nobody's alone."""
    one = f'{START_TIME} 5\n{RUNNING}{{engine="0"}} 3\n'

    assert read_metrics(one, "decode-0") == {"server/decode-0": {RUNNING: 3, START_TIME: 5}}
    assert set(read_metrics(TWO, "decode-0")) == {"server/decode-0/0", "server/decode-0/1"}
    assert read_metrics(TWO + f"{START_TIME} 5", "a")["server/a"] == {START_TIME: 5}


def test_ten_engines_stand_in_the_order_of_their_numbers():
    """Engine 10 comes after engine 9."""
    text = "".join(f'{RUNNING}{{engine="{i}"}} 1\n' for i in (10, 9, 1, 0))

    assert list(read_metrics(text)) == [SERVER, "server/0", "server/1", "server/9", "server/10"]


counts = st.lists(st.integers(0, 1000), min_size=1, max_size=6)


@given(st.lists(counts, min_size=1, max_size=4))
def test_processes_together_count_what_each_counts(steps):
    """Growing counts of several processes grow together by what each grows, whenever one begins to answer."""
    joined, totals = JoinedProcesses(), [0] * len(steps)
    ends = []
    for turn in range(max(map(len, steps))):
        for number, own in enumerate(steps):
            if turn >= number and turn < len(own):  # process 1 answers first in turn 1, and so on
                totals[number] += own[turn]
                joined.add(turn, str(number), [{GENERATED: float(totals[number])}])
        ends.append(joined.values(turn)[GENERATED])
    first = steps[0][0]
    grown = sum(sum(own[turn + 1 :]) for turn, own in enumerate(steps))

    assert ends == sorted(ends)
    assert ends[-1] - first == grown


def test_a_dead_process_keeps_its_counts_and_runs_nothing():
    """The count of all never falls when one goes; what it had running is over."""
    joined = JoinedProcesses()
    for process in "ab":
        joined.add(0, process, [{GENERATED: 50.0, RUNNING: 4.0, KV: 0.5, START_TIME: 1.0}])
    both = joined.values(0)
    joined.add(STALE_NS + 1, "a", [{GENERATED: 70.0, RUNNING: 4.0, KV: 0.9}])

    assert both == {GENERATED: 100, RUNNING: 8, KV: 0.5, KV + MAXIMUM: 0.5}
    assert joined.values(STALE_NS + 1) == {GENERATED: 120, RUNNING: 4, KV: 0.9}
    assert JoinedProcesses().values(0) == {}
    assert [is_counter(name) for name in (GENERATED, f"{POSITIONS}:3", RUNNING, KV)] == [True, True, False, False]
