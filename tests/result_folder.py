"""The folder of a finished run, made from seeded fake records."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.summary import summarize
from harness.analysis.warnings import Warning
from harness.messages import plain
from harness.results import store, table_files
from harness.results.request_table import (
    COLUMNS,
    MISSING,
    Events,
    Requests,
    Samples,
    requests_from_columns,
    samples_from,
)
from harness.units import NS_PER_S

SCENARIO = """\
name: {name}
question: {question}
seed: {seed}
engine:
  kind: simulator
  model: {model}
  args: {{max_model_len: 65536, max_num_seqs: 48, gpu_memory_utilization: 0.9}}
workload:
  kind: synthetic
  input_tokens: {{lognormal: {{median: 3000, sigma: 0.6, min: 200, max: 16000}}}}
  output_tokens: {{uniform: [64, 320]}}
load:
  - poisson: {{rate: [0.5, 1, 2, 4], duration: 60s}}
warmup: {{requests: 8}}
slo: {{ttft_p99: 5s, tpot_p99: 80ms}}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What a fake run is like; the defaults are an ordinary sweep of four stages."""

    name: str = "long-context"
    question: str = "Does TTFT hold as prompts grow to 32k tokens?"
    model: str = "Qwen/Qwen2.5-7B-Instruct"
    kind: str = "poisson"
    loads: Sequence[float] = (0.5, 1.0, 2.0, 4.0)  # rates, or concurrencies of a closed loop
    duration_s: float = 60.0
    seed: int = 7
    slots: int = 12
    output: tuple[int, int] = (64, 320)
    warmup: int = 8
    failing: float = 0.01  # the share of requests that fail
    message: str = "the server closed the connection in the middle of a stream"
    simulated: bool = True
    samples: bool = True
    repeats: int = 1
    stream: bool = True
    engines: int = 1
    processes: Sequence[tuple[str, str, list[int] | None]] = ()  # of a deployment: name, role and devices
    slow: str = ""  # the engine whose tokens take twice as long
    slo: dict[str, float] = field(default_factory=lambda: {"ttft_p99": 5.0, "tpot_p99": 0.08})


def make_result(folder: Path, run: Run | None = None) -> Path:
    """Write every file of a finished run that the page is drawn from."""
    run = run or Run()
    requests, events, timeline = fake_records(run)
    samples = fake_samples(run, requests, timeline) if run.samples else samples_from([])
    return write_result(folder, run_json(run), (requests, events), timeline, samples)


def write_result(folder: Path, run: dict[str, Any], records: tuple[Requests, Events], timeline, samples=None) -> Path:
    """Write the files of a run, its summary made by the harness itself."""
    requests, events = records
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder, store.RUN, run)
    table_files.write_requests(folder, requests)
    table_files.write_events(folder, requests.index, events)
    store.write_json(folder, store.TIMELINE, timeline)
    if samples is not None and len(samples):
        table_files.write_samples(folder, samples)
    summary = summarize(requests, events, samples_from([]) if samples is None else samples, timeline, run)
    store.write_json(folder, store.SUMMARY, summary)
    return folder


def fake_records(run: Run) -> tuple[Requests, Events, list[dict[str, int]]]:
    """Requests through a queue for `slots` places whose decode slows as they fill."""
    rng = np.random.default_rng(run.seed)
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    arrivals: list[np.ndarray] = []
    timeline: list[dict[str, int]] = []
    zero_s = 0.0
    for repeat in range(run.repeats):
        for stage, load in enumerate(run.loads):
            end_s = _stage(run, rng, (stage, repeat), load, zero_s, rows, arrivals)
            stop_s = zero_s + run.duration_s
            last_s = max(end_s, stop_s)
            timeline.append(_place(rows, (stage, repeat), (zero_s, stop_s, last_s)))
            zero_s = last_s + 2.0
    counts = np.array([len(at) for at in arrivals], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *arrivals])
    return requests_from_columns(rows), Events(offsets, flat, np.ones(len(flat), dtype=np.int32)), timeline


def _place(rows: dict[str, list[Any]], key: tuple[int, int], times_s: tuple[float, float, float]) -> dict[str, int]:
    """A line of timeline.json: the stage begins with its first measured request, where warm-up came before."""
    mine = zip(rows["stage"], rows["repeat"], rows["phase"], rows["due_ns"], strict=True)
    due_ns = [(phase, due) for stage, repeat, phase, due in mine if (stage, repeat) == key]
    warm = any(phase == "warmup" for phase, _ in due_ns)
    first_ns = next((due for phase, due in due_ns if phase == "measured"), _ns(times_s[0]))
    return {
        "stage": key[0],
        "repeat": key[1],
        "start_ns": first_ns if warm else _ns(times_s[0]),
        "stop_ns": _ns(times_s[1]),
        "end_ns": _ns(times_s[2]),
    }


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _stage(run, rng, key, load, zero_s, rows, arrivals) -> float:
    """Append one stage's rows and event times; returns when its last answer ended, in seconds."""
    free = [zero_s] * (int(load) if run.kind == "closed" else run.slots)
    heapq.heapify(free)
    due_s, end_s = zero_s, zero_s
    while True:
        earliest = free[0]
        due_s = earliest if run.kind == "closed" else due_s + rng.exponential(1 / load)
        if due_s >= zero_s + run.duration_s:
            return end_s
        start_s = max(due_s, heapq.heappop(free))
        busy = sum(1 for at in free if at > start_s)
        done_s = _request(run, rng, key, (due_s, start_s, busy), rows, arrivals)
        heapq.heappush(free, done_s)
        end_s = max(end_s, done_s)


def _request(run, rng, key, times, rows, arrivals) -> float:
    due_s, start_s, busy = times
    index = len(rows["index"])
    asked_in = int(np.clip(rng.lognormal(np.log(3000), 0.6), 200, 16000))
    asked_out = int(rng.integers(*run.output, endpoint=True))
    prefill_s = asked_in / 14_000 * (1 + busy / run.slots) + rng.gamma(2, 0.004)
    gaps = 0.011 * (1 + 1.4 * busy / run.slots) * rng.lognormal(0, 0.22, asked_out - 1)
    gaps[rng.random(asked_out - 1) < 0.004] += 0.12
    fails = rng.random() < run.failing
    got = int(asked_out * rng.random()) if fails else asked_out
    at_s = start_s + prefill_s + np.concatenate([[0.0], np.cumsum(gaps)])[:got]
    at_ns = np.round(at_s * NS_PER_S).astype(np.int64)
    done_s = float(at_s[-1]) if got else start_s + prefill_s
    sent_ns = _ns(due_s) + int(rng.exponential(60_000))
    row = {
        "index": index,
        "stage": key[0],
        "repeat": key[1],
        "phase": "warmup" if index < run.warmup else "measured",
        "session": index,
        "turn": 0,
        "worker": index % 2,
        "due_ns": _ns(due_s),
        "ready_ns": _ns(due_s),
        "sent_ns": sent_ns,
        "first_ns": int(at_ns[0]) if got else MISSING,
        "last_ns": int(at_ns[-1]) if got else MISSING,
        "done_ns": _ns(done_s) + 200_000,
        "connect_ns": 0,
        "resends": 0,
        "sent_bound_ns": 0,
        "first_bound_ns": 0,
        "late_ns": 40_000,
        "blurred": 0,
        "input_asked": asked_in,
        "input_tokens": asked_in,
        "cached_tokens": 0,
        "reusable_tokens": 0,
        "output_asked": asked_out,
        "output_tokens": got,
        "first_tokens": int(got > 0),
        "events": got,
        "counted_by": "usage",
        "status": "failed" if fails else "completed",
        "http_status": 200,
        "error": "cut_stream" if fails else "",
        "message": run.message if fails else "",
    }
    for name in COLUMNS:
        rows[name].append(row.get(name, MISSING))
    arrivals.append(at_ns)
    return done_s


def run_json(run: Run) -> dict[str, Any]:
    """run.json as `harness run` writes it."""
    text = SCENARIO.format(name=run.name, question=run.question, seed=run.seed, model=run.model)
    return {
        "format": 1,
        "name": run.name,
        "question": run.question,
        "started_utc": "2026-11-22T17:30:00Z",
        "scenario_file": f"scenarios/{run.name}.yaml",
        "scenario_text": text,
        "scenario_sha256": "5f" * 32,
        "payload_sha256": "a1" * 32,
        "schedule_sha256": "0c" * 32,
        "seed": run.seed,
        "overrides": ["engine.args.max_num_seqs=48"],
        "repeats": run.repeats,
        "stages": [load_of(run, load) for load in run.loads],
        "slo": run.slo,
        "endpoint": "completions",
        "stream": run.stream,
        "engine": {
            "kind": "simulator" if run.simulated else "vllm-ascend",
            "simulated": run.simulated,
            "model": run.model,
            "url": "http://127.0.0.1:40123",
            "asked": {"max_model_len": 65536, "max_num_seqs": 48, "gpu_memory_utilization": 0.9},
            "command": [
                "harness",
                "serve-sim",
                "--model",
                run.model,
                "--max-model-len",
                "65536",
                "--max-num-seqs",
                "48",
                "--gpu-memory-utilization",
                "0.9",
                "--enforce-eager",
            ],
            "effective": {
                "block_size": 128,
                "max_num_seqs": 48,
                "max_model_len": 32768,
                "gpu_memory_utilization": 0.9,
                "num_gpu_blocks": 3120,
                "enable_prefix_caching": True,
            },
            **_processes(run),
        },
        "environment": {
            "host": "bench-01",
            "cpu": "Kunpeng-920",
            "cores": 64,
            "memory_bytes": 512 * 2**30,
            "os": "openEuler 24.03",
            "python": "3.11.7",
            "packages": {"npu-harness": "0.1.0", "numpy": "2.4.6"},
            "npu": [] if run.simulated else ["/dev/davinci0", "/dev/davinci1"],
            "cann": None if run.simulated else "8.3.RC1",
        },
        "client": {
            "workers": 2,
            "version": "0.1.0",
            "selfcheck": {
                "floor_ttft_s": 0.0008,
                "floor_gap_p99_s": 0.0011,
                "ceiling_tokens_per_s": 94_958.0,
                "ceiling_streams": 1000,
                "limited_by": "client",
                "steps": [{"streams": 100}],
            },
        },
        "rerun": f"harness run scenarios/{run.name}.yaml --seed {run.seed}",
    }


def _processes(run: Run) -> dict[str, Any]:
    """The processes of a deployment, as run.json has them."""
    rows = [
        {"name": name, "role": role, "kind": "simulator", "url": None, "devices": devices, "simulated": run.simulated}
        for name, role, devices in run.processes
    ]
    return {"processes": rows} if rows else {}


def load_of(run: Run, load: float) -> dict[str, Any]:
    """A stage as run.json and summary.json show it."""
    what = {"concurrency": int(load)} if run.kind == "closed" else {"rate": load}
    return {"kind": run.kind, **what, "duration_s": run.duration_s}


def _engine_series(run: Run, running, rng) -> dict[tuple[str, str], np.ndarray]:
    """What each of several engines, or each process, says of itself."""
    names = [name for name, role, _ in run.processes if role != "proxy"]
    engines = names or [str(number) for number in range(run.engines if run.engines > 1 else 0)]
    series: dict[tuple[str, str], np.ndarray] = {}
    for engine in engines:
        slow = 2.0 if engine == run.slow else 1.0
        own = slow * running * rng.uniform(0.9, 1.1, len(running)) / max(1, len(engines))
        values = {
            "vllm:num_requests_running": np.round(own, 2),
            "vllm:num_requests_waiting": np.round(np.maximum(0.0, own - run.slots / len(engines)), 2),
            "vllm:kv_cache_usage_perc": np.clip(own / run.slots, 0, 1),
            "vllm:num_preemptions_total": np.cumsum(own > run.slots).astype(float),
            "vllm:prompt_tokens_total": np.cumsum(np.round(900 * own / slow)),
            "vllm:generation_tokens_total": np.cumsum(np.round(40 * own / slow)),
            "vllm:prefix_cache_queries_total": np.cumsum(np.round(900 * own / slow)),
            "vllm:prefix_cache_hits_total": np.cumsum(np.round(300 * own / slow)),
        }
        series |= {(f"server/{engine}", name): value for name, value in values.items()}
    shares = np.clip(running / run.slots, 0, 1)
    return series | ({("server", "vllm:kv_cache_usage_perc:max"): shares} if engines else {})


def fake_samples(run: Run, requests: Requests, timeline) -> Samples:
    """Server and client series, a value a second."""
    rng = np.random.default_rng(run.seed + 1)
    at_ns = np.arange(0, timeline[-1]["end_ns"], NS_PER_S, dtype=np.int64)
    sent, done = np.sort(requests.sent_ns), np.sort(requests.done_ns)
    held = (np.searchsorted(sent, at_ns) - np.searchsorted(done, at_ns)).astype(float)
    running = np.minimum(held, run.slots)
    series = {
        ("server", "vllm:num_requests_running"): running,
        ("server", "vllm:num_requests_waiting"): held - running,
        ("server", "vllm:kv_cache_usage_perc"): np.clip(running / run.slots * 0.9, 0, 1),
        ("server", "vllm:num_preemptions_total"): np.cumsum(held > run.slots * 2).astype(float),
        **_engine_series(run, running, np.random.default_rng(run.seed + 2)),
        ("client-0", "cpu_share"): np.clip(0.05 + held / 300 + rng.normal(0, 0.01, len(at_ns)), 0, 1),
        ("client-0", "loop_lag_s"): rng.exponential(0.0003, len(at_ns)),
        ("client-1", "cpu_share"): np.clip(0.05 + held / 300 + rng.normal(0, 0.01, len(at_ns)), 0, 1),
        ("client-1", "loop_lag_s"): rng.exponential(0.0003, len(at_ns)),
    }
    n = len(at_ns)
    return Samples(
        np.tile(at_ns, len(series)),
        np.repeat(np.array([source for source, _ in series], dtype=object), n),
        np.repeat(np.array([name for _, name in series], dtype=object), n),
        np.concatenate(list(series.values())),
    )


def kept_warning(code, severity, text, step, stage=None):
    """A warning as summary.json has it, its sentences the same in every language."""
    return Warning(code, severity, plain(text), plain(step), stage).as_dict()
