"""What the kernel paths of an NPU launch on the stub CANN; runs in the engine's interpreter, prints JSON.

Beside `main`, which calls every path once with a call log of its own, these are the timings that nothing publishes:
the provider's clock on a queue whose operators take a known time.
"""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from kernels_bench.bench import Bench, limits_of, rows
from kernels_bench.cases import Case
from kernels_bench.job import Job
from kernels_bench.providers import inputs, open_named
from kernels_bench.providers.base import HOLLOW
from kernels_bench.providers.clocks import clocked
from kernels_bench.roofline import Limits
from kernels_bench.stopping import Rule
from kernels_bench.timing import sample

DECODE = Case("decode", (1, 1, 1), (5, 200, 300), heads=8, kv_heads=2, head_size=128)
CASES = {
    "decode": DECODE,
    "prefill": replace(DECODE, phase="prefill", query_lens=(5, 130), kv_lens=(5, 130)),
    "chunked_prefill": replace(DECODE, phase="chunked_prefill", query_lens=(7, 64), kv_lens=(300, 128)),
    "mixed": replace(DECODE, phase="mixed", query_lens=(1, 9), kv_lens=(129, 20)),
    "mla_decode": Case(
        "mla_decode", (1, 1), (100, 260), heads=16, kv_heads=1, head_size=192, kv_lora_rank=512, rope_size=64
    ),
    "kv_write": replace(DECODE, phase="kv_write", query_lens=(4, 2), kv_lens=(4, 130)),
}
CALLS = 5


def called(provider, case, path, log):
    """One launch of a path with the call log at `log`: the shape of what it gives, and whether it has a workspace."""
    prepared = provider.prepare(case, path, inputs.moved(inputs.make(case, 0, 1), provider.torch_device))
    provider.synchronize()
    os.environ["FAKE_CANN_LOG"] = str(log)
    prepared.launches[0]()
    provider.synchronize()
    os.environ["FAKE_CANN_LOG"] = ""
    return [list(prepared.result(0).shape), "workspace" in prepared.launches[0].keywords]


def launches_of(provider, phase, path):
    """Two launches of a path, on data of their own."""
    case = replace(CASES[phase], num_blocks=2 * CASES[phase].used_blocks)
    made = inputs.moved(inputs.make(case, 0, 2), provider.torch_device)
    return list(provider.prepare(case, path, made).launches)


def timed(provider, launches):
    """A sample of a batch as the provider takes it, and one of a clock that waits for nothing."""
    batch = [launches[index % len(launches)] for index in range(CALLS)]
    timing = provider.time(batch)
    careless = clocked(batch, lambda: None)
    provider.synchronize()
    return {**asdict(timing), "careless_ns": careless.wall_ns}


def sampled(provider, launches):
    """Nanoseconds a launch, as the bench finds them, with its marks."""
    series = sample(provider, launches, Rule(min_samples=5, max_samples=5, min_time_s=0))
    return {"median_ns": series.median_ns, "launch_ns": series.launch_ns, "marks": list(series.marks)}


def graphed(options, log):
    """A batch of graph replays, timed; with the operators that a replay calls on the host in the log."""
    provider = open_named("torch_npu", options)
    found = {}
    for phase, path in (
        ("decode", "fia"),
        ("decode", "pa_workspace"),
        ("mla_decode", "mla_fia_v2"),
        ("kv_write", "scatter_pa"),
    ):
        replays = provider.graph(launches_of(provider, phase, path))
        if isinstance(replays, str):
            found[path] = replays
            continue
        os.environ["FAKE_CANN_LOG"] = f"{log}-{path}"
        found[path] = timed(provider, replays)
        os.environ["FAKE_CANN_LOG"] = ""
    return found


def judged(facts):
    """Status and reason that the bench gives to a kernel that is right, on a device of these facts; and its limits."""
    provider = open_named("torch_reference", {"device": "cpu"})
    device = replace(provider.device(), facts=facts)
    case = replace(DECODE, num_blocks=DECODE.used_blocks)
    rule = Rule(min_samples=1, max_samples=1)
    job = Job((case,), modes=("hot",), rule=rule, measured=Limits("measured", 1e9, {"bfloat16": 1e9}))
    limits = limits_of(job, provider, device)
    row = next(row for row in rows(Bench(job, provider, device, limits)) if row["event"] == "row")
    return [row["status"], row["reason"], len(limits)]


def main(folder):
    """Do all of it."""
    provider = open_named("torch_npu", {})
    device = provider.device()
    shapes = {}
    for path in provider.paths():
        for phase in path.phases:
            log = Path(folder) / f"{path.name}-{phase}"
            shapes[log.name] = str(path.missing) if path.missing else called(provider, CASES[phase], path.name, log)
    found = {
        "device": [device.kind, device.name, device.memory_bytes, device.cache_bytes, dict(device.facts)],
        "shapes": shapes,
        "timed": timed(provider, launches_of(provider, "decode", "fia")),
        "sampled": sampled(provider, launches_of(provider, "decode", "fia")),
        "graph": graphed({}, Path(folder) / "replay"),
        "updated": graphed({"graph_updates": True}, Path(folder) / "updated"),
        "judged": {"hollow": judged({HOLLOW: True}), "real": judged({})},
        "telemetry": dict(provider.telemetry()),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
