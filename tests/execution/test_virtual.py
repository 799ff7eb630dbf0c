"""Runs in virtual time are those of real time, computed: the same requests, schedule, steps and kinds of files."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from harness.analysis.warnings.client import CLIENT_CHECKS
from harness.api.running import RunOptions, run_loaded
from harness.client.journal import read_sent
from harness.clock import REAL_TIME, VIRTUAL_TIME
from harness.engines import resolve_clock
from harness.errors import ScenarioError
from harness.execution.reconcile import finish, read_stage_starts
from harness.execution.run import RunSpec, execute, execute_async
from harness.execution.run_folder import open_folder
from harness.execution.virtual import VirtualRun
from harness.messages import current_language, language, localized
from harness.results import store, table_files
from harness.results.request_table import COMPLETED, MEASURED
from harness.scenario.engine import Engine
from harness.scenario.loader import load_scenario
from harness.simulator.engine import EARLY_NS
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.virtual_time import Arrival, simulate
from harness.workload import build
from harness.workload.plan import plan

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
# Few places, a small budget and a cache for few requests: they queue, are cut in chunks, and preempted.
TIGHT = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 128, "num_gpu_blocks_override": 7}
PROMPTS = {"kind": "synthetic", "input_tokens": {"uniform": [60, 200]}, "output_tokens": {"uniform": [5, 80]}}
SLOWEST_S = 0.5  # of the median request, by the way through processes and sockets


def scenario(folder, load, name="check", **more):
    """A scenario file with this load on the simulator."""
    content = {
        "name": name,
        "question": "Does it hold?",
        "engine": {"kind": "simulator", "model": MODEL},
        "workload": PROMPTS,
        "load": load,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content | more), encoding="utf-8")
    return path


def result(folder, load, name="check", *, overrides=(), **more):
    """The folder of a finished run of such a scenario."""
    loaded = load_scenario(scenario(folder, load, name, **more), overrides)
    spec = RunSpec(loaded, folder / f"{name}-out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    finish(spec.folder)
    return spec.folder


def test_every_token_comes_when_the_step_that_made_it_ends(tmp_path):
    """For an open loop all token times are those of the steps of a bare scheduler, to the nanosecond."""
    tight = {"kind": "simulator", "model": MODEL, "args": TIGHT}
    folder = result(tmp_path, [{"poisson": {"rate": 40, "requests": 60}}], engine=tight)
    requests, events = table_files.read_requests(folder), table_files.read_events(folder)
    loaded = load_scenario(tmp_path / "check.yaml").scenario
    workload = build(loaded.workload, endpoint="completions", seed=0, vocabulary=None, folder=tmp_path)
    stage = plan(loaded, workload)[0]
    arrivals = [
        Arrival(int(due), workload.prompt(session, 0).ids.tolist(), workload.session(session).turns[0].output_tokens)
        for session, due in enumerate(stage.due_ns)
    ]
    bare = simulate(settings_from_flags({"model": MODEL, **TIGHT}), arrivals)

    assert bare.preemptions.sum() > 0
    assert bare.waiting.max() > 0
    assert requests.sent_ns.tolist() == stage.due_ns.tolist()
    for row, session in enumerate(requests.session):
        at_ns = events.at_ns[events.offsets[row] : events.offsets[row + 1]]
        assert at_ns.tolist() == bare.token_ns[session].tolist()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of one scenario in virtual and in real time: requests so far apart that none meets another."""
    load = [{"constant": {"rate": 4, "requests": 16}}]
    more = {"workload": PROMPTS | {"output_tokens": 8}, "workers": 1}
    return {
        clock: result(tmp_path_factory.mktemp(clock), load, overrides=(f"engine.clock={clock}",), **more)
        for clock in (VIRTUAL_TIME, REAL_TIME)
    }


def test_both_clocks_send_the_same_requests_at_the_same_times(both):
    """Payload and schedule have one hash, and so have the due times and lengths of all requests."""
    runs = [store.read_run(both[clock]) for clock in (VIRTUAL_TIME, REAL_TIME)]
    tables = [table_files.read_requests(both[clock]) for clock in (VIRTUAL_TIME, REAL_TIME)]

    assert len({run["payload_sha256"] for run in runs}) == 1
    assert len({run["schedule_sha256"] for run in runs}) == 1
    assert [run["engine"]["clock"] for run in runs] == [VIRTUAL_TIME, REAL_TIME]
    for name in ("session", "due_ns", "input_tokens", "output_tokens", "output_asked"):
        assert getattr(tables[0], name).tolist() == getattr(tables[1], name).tolist()


def test_real_time_is_virtual_time_and_what_the_machine_adds(both):
    """Of requests alone in the engine, real time is never below virtual time, and most are little above it."""
    virtual, real = (table_files.read_requests(both[clock]) for clock in (VIRTUAL_TIME, REAL_TIME))
    for begin, end in (("sent_ns", "first_ns"), ("first_ns", "last_ns"), ("sent_ns", "done_ns")):
        added_ns = (getattr(real, end) - getattr(real, begin)) - (getattr(virtual, end) - getattr(virtual, begin))

        # Either end of a gap may be late: by as much as the first token was.
        least_ns = -EARLY_NS - (0 if begin == "sent_ns" else int(np.max(real.first_ns - real.sent_ns)))
        assert added_ns.min() >= least_ns
        assert np.median(added_ns) < SLOWEST_S * 1e9


LOADS = {
    "open": {"load": [{"poisson": {"rate": [20, 60], "requests": 40}}], "warmup": {"duration": "2s"}},
    "ramp": {"load": [{"ramp": {"from": 5, "to": 40, "duration": "4s"}}]},
    "closed": {"load": [{"closed": {"concurrency": [2, 8], "requests": 30}}], "warmup": {"requests": 4}},
    "closed-by-time": {"load": [{"closed": {"concurrency": 4, "duration": "5s"}}], "warmup": {"duration": "1s"}},
    "capped": {"load": [{"constant": {"rate": 100, "requests": 40, "max_concurrency": 2}}]},
    "chat": {"load": [{"poisson": {"rate": 20, "requests": 20}}], "endpoint": "chat"},
    "whole": {"load": [{"poisson": {"rate": 20, "requests": 20}}], "stream": False},
    "repeats": {"load": [{"poisson": {"rate": 20, "requests": 20}}], "repeats": 3},
    "conversation": {
        "load": [{"closed": {"concurrency": 4, "requests": 10}}],
        "workload": {"kind": "conversation", "turns": 3, "input_tokens": 20, "output_tokens": 8, "think_time": "1s"},
    },
    "chat-conversation": {
        "load": [{"poisson": {"rate": 2, "requests": 10}}],
        "endpoint": "chat",
        "workload": {"kind": "conversation", "turns": 2, "input_tokens": 20, "output_tokens": 8},
    },
    "trace": {
        "load": [{"trace": {"speed": [1, 4]}}],
        "workload": {"kind": "trace", "path": "trace.jsonl", "format": "mooncake"},
    },
    "prefix": {
        "load": [{"poisson": {"rate": 20, "requests": 40}}],
        "workload": {**PROMPTS, "input_tokens": 200, "prefix": {"tokens": 150, "groups": 2}},
        "engine": {
            "kind": "simulator",
            "model": MODEL,
            "args": {"enable_prefix_caching": True, "enable_prompt_tokens_details": True},
        },
    },
}


@pytest.mark.parametrize("name", LOADS)
def test_every_kind_of_load_runs(tmp_path, name):
    """All requests of all stages are answered in full, and the summary says whose time it is."""
    rows = [{"timestamp": 300 * n, "input_length": 40, "output_length": 8, "hash_ids": [n]} for n in range(20)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = result(tmp_path, name=name, **LOADS[name])
    requests, summary = table_files.read_requests(folder), store.read_json(folder, store.SUMMARY)
    codes = {warning["code"] for warning in summary["verdict"]["warnings"]}

    assert set(requests.status) == {COMPLETED}
    assert (requests.output_tokens == requests.output_asked).all()
    assert (requests.phase == MEASURED).sum() >= 20
    assert summary["engine"]["clock"] == VIRTUAL_TIME
    assert summary["answer"].startswith("Simulated in virtual time: ")
    assert {stage["client_error"]["clock"] for stage in summary["stages"]} == {"virtual"}
    assert not codes & {check.__name__ for check in CLIENT_CHECKS} - {"stamps"}
    assert "no_selfcheck" not in codes
    assert store.read_run(folder)["client"]["workers"] == 0


def test_a_shared_prefix_is_found_in_the_cache(tmp_path):
    """The cache of the engine is one and lasts for the run."""
    requests = table_files.read_requests(result(tmp_path, name="prefix", **LOADS["prefix"]))

    assert (requests.cached_tokens > 0).sum() >= len(requests) - 4


def test_the_engine_is_sampled_by_the_same_clock(tmp_path):
    """Running, waiting and KV use are there for every second of the stage, and what the client counts four times."""
    samples = table_files.read_samples(result(tmp_path, [{"constant": {"rate": 5, "duration": "10s"}}]))
    for name, least in (
        ("vllm:num_requests_running", 10),
        ("vllm:num_requests_waiting", 10),
        ("vllm:kv_cache_usage_perc", 10),
        ("in_flight", 40),
    ):
        at_ns = samples.at_ns[samples.name == name]
        assert len(at_ns) >= least
        assert at_ns.max() <= 12 * 10**9


def test_a_run_is_the_same_each_time(tmp_path):
    """Two runs have the same requests and events, bit for bit."""
    load = [{"closed": {"concurrency": 8, "requests": 40}}]
    one, two = (result(tmp_path, load, name=name) for name in ("one", "two"))

    for read in (table_files.read_requests, table_files.read_events):
        first, second = read(one), read(two)
        for column in first.__slots__:
            assert np.asarray(getattr(first, column)).tolist() == np.asarray(getattr(second, column)).tolist()


def test_refusals_and_timeouts_are_failures_as_of_a_server(tmp_path):
    """A body that the server refuses has its status; an answer longer than the timeout ends when that is over."""
    load = [{"constant": {"rate": 50, "requests": 40}}]
    refused = table_files.read_requests(result(tmp_path, load, extra_body={"n": 0}, name="refused"))
    late = table_files.read_requests(
        result(tmp_path, load, workload={**PROMPTS, "output_tokens": 200}, timeout="300ms", name="late")
    )

    assert set(refused.error) == {"http_400"}
    assert set(late.error) == {"timeout"}
    assert set((late.done_ns - late.sent_ns).tolist()) == {300_000_000}


def test_its_lines_are_in_the_language_of_who_runs_it(tmp_path):
    """The run has a thread of its own, which has no language; lines and snapshots come in that of the caller."""
    told, seen = [], []
    loaded = load_scenario(scenario(tmp_path, [{"poisson": {"rate": 40, "requests": 10}}]))
    with language("zh"):
        spec = RunSpec(
            loaded,
            tmp_path / "out",
            "",
            lambda line: told.append(localized(line)),
            on_snapshot=lambda _: seen.append(current_language()),
        )
        assert execute(spec).exit_code == 0

    assert any(line.startswith("阶段 1/1") for line in told)
    assert set(seen) == {"zh"}


def test_it_runs_within_a_running_loop_and_reports_there(tmp_path):
    """Lines and snapshots of the run come on the loop's own thread, in order, the last with the whole stage."""
    lines, seen = [], []
    loaded = load_scenario(scenario(tmp_path, [{"constant": {"rate": 50, "requests": 20}}]))

    async def main():
        here = asyncio.get_running_loop()

        def on_snapshot(progress):
            assert asyncio.get_running_loop() is here
            seen.append(progress)

        spec = RunSpec(loaded, tmp_path / "out", "", lambda line: lines.append(str(line)), on_snapshot=on_snapshot)
        return await execute_async(spec)

    assert asyncio.run(main()).exit_code == 0
    assert lines[1].startswith("clock: virtual (")
    assert lines[-1].startswith("stage 1/1: ")
    assert seen[-1].ended[0].answered == 20


@pytest.mark.parametrize(
    ("engine", "clock"),
    [
        ({}, VIRTUAL_TIME),
        ({"clock": "virtual"}, VIRTUAL_TIME),
        ({"clock": "real"}, REAL_TIME),
        ({"port": 8123}, REAL_TIME),
        ({"host": "0.0.0.0"}, REAL_TIME),
    ],
)
def test_virtual_time_is_the_default_where_nobody_wants_a_server(engine, clock):
    """A port or an address to listen at asks for a server; else the scenario's word, else virtual time."""
    assert resolve_clock(Engine(kind="simulator", **engine))[0] == clock


def test_offline_stages_have_no_real_time(tmp_path):
    """Their simulator always computes, so that a scenario which asks for real time is refused."""
    path = scenario(tmp_path, [{"offline": {"requests": 20}}])

    with pytest.raises(ScenarioError, match="always computed; expected virtual"):
        load_scenario(path, ("engine.clock=real",))


@contextlib.contextmanager
def harness(*words):
    """A command of the harness as a process, with what it says."""
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_stops_and_reports(tmp_path, signals):
    """The first Ctrl-C sends nothing more and waits for answers, the second gives them up; both keep a result."""
    load = [{"constant": {"rate": 50, "duration": "1h"}}]
    folder = tmp_path / "out"
    with harness("run", scenario(tmp_path, load, workload={**PROMPTS, "output_tokens": 400}), "--out", folder) as run:
        for line in run.stderr:
            if "stage 1/1" in line:
                break
        for _ in range(signals):
            run.send_signal(signal.SIGINT)
        run.communicate(timeout=120)
    account = store.read_json(folder, store.SUMMARY)["stages"][0]["requests"]

    assert run.returncode == 130
    assert account["never_sent"] > 0
    assert account["scheduled"] == 180_000
    assert (folder / "report.html").exists()


PRIMED = {**PROMPTS, "input_tokens": 300, "output_tokens": 3, "prefix": {"hit_rate": 0.4, "groups": 200}}


@pytest.mark.parametrize(("stage", "end"), [(0, VirtualRun.stop), (1, VirtualRun.stop), (0, VirtualRun.cut)])
def test_priming_stops_as_a_stage_does(tmp_path, stage, end):
    """No more is sent of what primes a stage, nor of the stage; stages before it are a result, else there is none."""
    load = [{"closed": {"concurrency": 4, "requests": 12}}] * 2
    spec = RunSpec(load_scenario(scenario(tmp_path, load, workload=PRIMED)), tmp_path / "out", "", lambda _: None)
    open_folder(spec)
    primed = []

    class Stopped(VirtualRun):
        """A run that is ended when the second of a stage's beginnings was sent."""

        async def _prime(self, plan, builder, context, log):
            primed.append(plan.number)
            if plan.number == stage:
                builder.prime = partial(self._draw, builder.prime)
            await super()._prime(plan, builder, context, log)

        def _draw(self, prime, number):
            if number == 1:
                end(self)
            return prime(number)

    Stopped(spec).main()
    raw = tmp_path / "out" / store.RAW
    rows = read_sent(raw / "ledger-0.bin")

    assert primed == list(range(stage + 1))
    assert len(rows) <= stage * 212 + 2
    assert (raw / store.BEGUN).exists() is (stage > 0)
    assert read_stage_starts(raw).stopped_ns is not None or stage == 0


def test_a_killed_run_can_be_reported(tmp_path):
    """What was computed before a SIGKILL is in the raw files, and `finish` makes a result of it."""
    folder = tmp_path / "out"
    with harness("run", scenario(tmp_path, [{"constant": {"rate": 50, "duration": "1h"}}]), "--out", folder) as run:
        journal = folder / store.RAW / "spool-0.bin"
        while run.poll() is None and not (journal.exists() and journal.stat().st_size > 10_000):
            time.sleep(0.05)
        run.kill()
    finish(folder)

    assert store.read_json(folder, store.SUMMARY)["stages"][0]["requests"]["completed"] > 0


def test_a_page_is_drawn_of_it(tmp_path):
    """The page says that the times are those of virtual time, and has no table of the client's error."""
    loaded = load_scenario(scenario(tmp_path, [{"constant": {"rate": 50, "requests": 30}}]))
    page = run_loaded(loaded, RunOptions(out=tmp_path / "out")).page.read_text(encoding="utf-8")

    assert "in virtual time by the built-in engine simulator" in page
    assert "no client stands between" in page


def _live_stages(folder):
    """The stages of a run as its last live figures had them, and its folder."""
    folder.mkdir()
    load = [{"poisson": {"rate": rate, "requests": 60}} for rate in (20, 60)]
    snapshots = []
    loaded = load_scenario(scenario(folder, load))
    spec = RunSpec(loaded, folder / "out", "", lambda _: None, on_snapshot=snapshots.append)
    assert execute(spec).exit_code == 0
    finish(spec.folder)
    return max((snapshot.ended for snapshot in snapshots), key=len), spec.folder


def test_live_figures_of_identical_runs_are_the_same(tmp_path):
    """They depend on virtual time alone; every gap is counted, so that they are those of all measured answers."""
    first, folder = _live_stages(tmp_path / "first")
    again, _ = _live_stages(tmp_path / "again")
    requests, events = table_files.read_requests(folder), table_files.read_events(folder)
    gaps_s = [[], []]
    for row, stage in enumerate(requests.stage):
        if requests.phase[row] == MEASURED:
            gaps_s[stage] += (np.diff(events.at_ns[events.offsets[row] : events.offsets[row + 1]]) * 1e-9).tolist()

    assert first == again
    assert [stage.itl.n for stage in first] == [len(gaps) for gaps in gaps_s]
    for stage, gaps in zip(first, gaps_s, strict=True):
        assert stage.itl.p95 == pytest.approx(np.quantile(gaps, 0.95, method="inverted_cdf"), rel=0.011)


def test_the_engines_own_split_adds_up_to_what_the_client_saw(tmp_path):
    """In virtual time nothing is outside of the engine: queue and prefill are the time to first token, to the ns."""
    args = {"max_num_seqs": 4, "enable_per_request_metrics": True}
    engine = {"kind": "simulator", "model": MODEL, "args": args}
    folder = result(tmp_path, [{"poisson": {"rate": 60, "requests": 60}}], engine=engine)
    requests, (stage,) = table_files.read_requests(folder), store.read_json(folder, store.SUMMARY)["stages"]

    assert (requests.server_queue_ns + requests.server_prefill_ns == requests.first_ns - requests.sent_ns).all()
    assert (requests.server_decode_ns == requests.last_ns - requests.first_ns).all()
    assert (requests.server_queue_ns > 0).sum() > 20
    assert stage["server_split"]["n"] == 60
    assert stage["server_split"]["outside"]["max"] == 0.0
    assert stage["server_split"]["queue"]["p50"] == pytest.approx(np.median(requests.server_queue_ns) / 1e9)


RANKS = {"kind": "simulator", "model": MODEL, "args": {"data_parallel_size": 4, "rank_slowdown": [1, 1, 1, 4]}}
PAIRS = {"kind": "deployment", "model": MODEL, "preset": {"prefill_decode": {"prefill": 2, "decode": 2}}}


def test_a_slow_rank_is_found(tmp_path):
    """Four ranks by number in samples and summary; the warning names the one whose steps take four times as long."""
    long = {"kind": "synthetic", "input_tokens": 50, "output_tokens": 300}
    folder = result(tmp_path, [{"closed": {"concurrency": 16, "requests": 200}}], engine=RANKS, workload=long)
    summary = store.read_json(folder, store.SUMMARY)
    stage = summary["stages"][0]
    sources = set(table_files.read_samples(folder).source)

    assert [engine["name"] for engine in stage["engines"]] == ["0", "1", "2", "3"]
    assert {"server", "server/0", "server/3"} <= sources
    assert "engine 3 lags" in summary["answer"]


def test_two_pairs_are_simulated_as_one_engine(tmp_path):
    """Engines by the names of their processes, each with its log; what decode fetched is counted with its time."""
    folder = result(tmp_path, [{"poisson": {"rate": 20, "requests": 60}}], engine=PAIRS)
    run, stage = store.read_run(folder), store.read_json(folder, store.SUMMARY)["stages"][0]
    engines = {engine["name"]: engine for engine in stage["engines"]}

    assert run["engine"]["kind"] == "deployment"
    assert run["engine"]["clock"] == VIRTUAL_TIME
    assert list(engines) == ["prefill-0", "prefill-1", "decode-0", "decode-1"]
    assert sum(engines[name]["kv_transfer"]["count"] for name in ("decode-0", "decode-1")) == 60
    assert "kv_transfer" not in engines["prefill-0"]
    assert (folder / "engine-decode-1.log").read_text(encoding="utf-8").startswith("npu-harness simulator")
    assert table_files.read_requests(folder).status.tolist() == [COMPLETED] * 60


def test_pairs_keep_virtual_time_bit_for_bit(tmp_path):
    """Two runs of one seed have the same times of every token."""
    load = [{"closed": {"concurrency": 6, "requests": 30}}]
    runs = [result(tmp_path, load, name, engine=PAIRS) for name in ("one", "other")]
    first, other = (table_files.read_events(folder).at_ns.tolist() for folder in runs)

    assert first == other
