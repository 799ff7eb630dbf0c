"""The kernels of a real vLLM for CPUs give right results; the bench times them and ends with its parent."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.api.result import draw
from harness.errors import HarnessError
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.results import table_files
from harness.scenario.loader import load_scenario

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.engines

# Random shapes through every operator of a provider, each checked as the bench checks it; prints what was wrong.
RANDOM_CASES = """
import collections, json, random, sys
sys.path.append(sys.argv[1])
from kernels_bench.axes import problem
from kernels_bench.cases import Case
from kernels_bench.providers import inputs, open_named, reference
from kernels_bench.verify import verdict

provider, draw = open_named(sys.argv[2], {}), random.Random(int(sys.argv[3]))
told = collections.Counter()
wrong, refused = [], set()

def lengths(phase):
    kv = [draw.choice([draw.randint(1, 40), draw.randint(1, 600)]) for _ in range(draw.randint(1, 5))]
    if phase in ("decode", "mla_decode"):
        return (1,) * len(kv), tuple(kv)
    queries = kv if phase == "prefill" else [draw.randint(1, min(one, 64)) for one in kv]
    return tuple(1 if phase == "mixed" and place % 2 else one for place, one in enumerate(queries)), tuple(kv)

def case():
    phase = draw.choice(["decode", "decode", "prefill", "chunked_prefill", "mixed", "kv_write", "mla_decode"])
    order, (queries, kv) = draw.choice(["contiguous", "scattered"]), lengths(phase)
    if phase == "mla_decode":
        dtype = draw.choice(["bfloat16", "float32"])
        return Case(phase, queries, kv, 16, 1, 192, dtype, 16, order, kv_lora_rank=512, rope_size=64)
    kv_heads, head = draw.choice([1, 2, 4]), draw.choice([32, 64, 80, 96, 112, 128, 160, 192, 256])
    heads = kv_heads * draw.choice([1, 2, 7])
    dtype, size = draw.choice(["float32", "bfloat16", "float16"]), draw.choice([32, 64, 96, 128])
    return Case(phase, queries, kv, heads, kv_heads, head, dtype, size, order)

for seed in range(int(sys.argv[4])):
    one = case()
    assert problem(one) is None
    path = next(path for path in provider.paths() if one.phase in path.phases)
    reason = path.missing or provider.refuse(one, path.name)
    if reason:
        refused.add(str(reason))
        continue
    made = inputs.make(one, seed)
    prepared = provider.prepare(one, path.name, made)
    prepared.launches[0]()
    fault = verdict(reference.compare(prepared.result(0), reference.expected(one, made, 0)), one.dtype)
    told[one.phase] += 1
    wrong += [f"{fault}: {one}"] if fault else []
print(json.dumps({"told": told, "wrong": wrong, "refused": sorted(refused)}))
"""

# What a fault in a kernel looks like to the check: each of these has to be found wrong.
SABOTAGED = """
import json, sys
sys.path.append(sys.argv[1])
import torch
from kernels_bench.cases import Case
from kernels_bench.providers import inputs, reference
from kernels_bench.verify import verdict

case = Case("decode", (1, 1), (4000, 700), 8, 2, 64, "bfloat16", 128, "scattered")
made = inputs.make(case, 3)
right = reference.expected(case, made, 0)

def judged(**change):
    first = made.steps[0]
    step = type(first)(**{name: change.get(name, getattr(first, name)) for name in first.__slots__})
    other = inputs.Inputs(made.key_cache, made.value_cache, (step,))
    shorter = Case("decode", (1, 1), change.get("kv", case.kv_lens), 8, 2, 64, "bfloat16", 128)
    return verdict(reference.compare(reference.expected(shorter, other, 0), right), "bfloat16")

table = made.steps[0].block_table.clone()
table[0, [3, 4]] = table[0, [4, 3]]
other_block = made.steps[0].block_table.clone()
other_block[0, 5] = other_block[1, 1]
found = {
    "as it is": judged(),
    "two blocks exchanged": judged(block_table=table),  # without positions in the data, order does not matter
    "another sequence's block": judged(block_table=other_block),
    "a token left out": judged(kv=(3999, 700)),
    "a token too many": judged(kv=(4001, 700)),
    "heads exchanged": verdict(reference.compare(right.flip(1), right), "bfloat16"),
    "rounded to bfloat16": verdict(reference.compare(right.bfloat16(), right), "bfloat16"),
    "poison left": verdict(reference.compare(made.steps[0].out, right), "bfloat16"),
}
print(json.dumps({name: why and str(why) for name, why in found.items()}))
"""


def spoken(python, program, *words):
    """The last line that a program prints in the engine's interpreter, as JSON."""
    command = [python, "-c", program, str(ROOT), *map(str, words)]
    # Threads that wait asleep: on a busy machine two that wait awake keep each other from working.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_vllms_kernels_are_right_on_random_cases(vllm_python):
    """Every phase, dtype, head size, block size and order that the backend takes, within the stated tolerance."""
    found = spoken(vllm_python, RANDOM_CASES, "vllm_cpu", 11, 200)

    assert found["wrong"] == []
    assert all(reason.endswith("cannot be checked") for reason in found["refused"])  # a layout that is not known
    assert {"decode", "prefill", "chunked_prefill", "mixed", "kv_write", "mla_decode"} <= set(found["told"])


def test_plain_torch_is_right_on_random_cases(vllm_python):
    """The provider that runs everywhere agrees with the float32 reference, too."""
    assert spoken(vllm_python, RANDOM_CASES, "torch_reference", 12, 60)["wrong"] == []


def test_faults_of_a_kernel_are_found(vllm_python):
    """One token of four thousand, one block or a head in the wrong place is wrong; rounding is not."""
    found = spoken(vllm_python, SABOTAGED)

    assert (found["as it is"], found["two blocks exchanged"], found["rounded to bfloat16"]) == (None, None, None)
    assert found["another sequence's block"]
    assert found["a token left out"]
    assert found["a token too many"]
    assert found["heads exchanged"]
    assert "not numbers" in found["poison left"]


SMALL = """
name: small
question: Are small cases measured?
engine: {python: PYTHON}
kernels:
  heads: 8
  kv_heads: 2
  head_size: 64
  phase: [decode, kv_write]
  batch: [1, 4]
  kv_tokens: [100, 700]
  block_size: [32, 48]
  query_tokens: 16
  time: 200ms
  max_samples: 40
"""


def test_a_scenario_of_kernels_runs_to_a_page(vllm_python, tmp_path):
    """From the file to samples, limits, shares and a page; what the kernel cannot take is skipped with the reason."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("PYTHON", str(vllm_python)), encoding="utf-8")
    folder = tmp_path / "out"
    execute(RunSpec(load_scenario(path), folder, "harness run small.yaml", lambda _line: None))
    summary = finish(folder)
    rows = summary["kernels"]["rows"]
    page = draw(folder).read_text(encoding="utf-8")

    assert summary["kernels"]["provider"] == "vllm_cpu"
    assert summary["kernels"]["counts"] == {"measured": 8, "skipped": 8, "wrong": 0, "failed": 0}
    assert {row["reason"] for row in rows if row["status"] == "skipped"} == {
        "block size 48: the backend takes multiples of 32"
    }
    assert all(
        row["modes"]["cold"]["limits"]["measured"]["fraction"] > 0 for row in rows if row["status"] == "measured"
    )
    assert set(table_files.read_kernel_samples(folder)["mode"]) == {"cold", "hot"}
    assert "Roofline" in page


def test_the_bench_ends_with_its_parent(vllm_python, tmp_path):
    """Whoever holds its standard input is gone: it leaves in the middle of a case."""
    job = tmp_path / "job.json"
    case = {"phase": "decode", "query_lens": [1], "kv_lens": [64], "heads": 8, "kv_heads": 2, "head_size": 64}
    rule = {"noise": 1e-9, "min_samples": 10, "max_samples": 10**9, "max_time_s": 3600}
    job.write_text(json.dumps({"format": 1, "provider": "torch_reference", "cases": [case], "rule": rule}))
    command = [vllm_python, "-m", "kernels_bench", str(job), "--watched"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told = [json.loads(process.stdout.readline())["event"] for _ in range(2)]
        process.stdin.close()
        code = process.wait(60)

    assert told == ["device", "begin"]
    assert code == 1


# Two cases under a limit on memory that only the small one keeps; what the provider is told to be free is far more.
# No product of bfloat16 matrices came before, which would have had torch ask the system for AMX tiles.
TIGHT = """
import json, resource, sys
sys.path.append(sys.argv[1])
import torch
from kernels_bench.bench import Bench, rows
from kernels_bench.cases import Case
from kernels_bench.job import Job
from kernels_bench.providers import open_named
from kernels_bench.stopping import Rule

provider = open_named("vllm_cpu", {})
torch.ones(1 << 20).sum()  # threads of a pool bring memory of their own, and cannot be without
# Not as many steps as make it cold: how much that is depends on the machine's cache.
small = Case("decode", (1, 1), (100, 700), 8, 2, 64, "bfloat16", 128, num_blocks=7)
large = Case("decode", (1,), (700,), 8, 2, 64, "bfloat16", 128, num_blocks=1 << 15)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
job = Job((large, small), paths=("cpu_attention_with_kv_cache",), rule=Rule(max_time_s=0.1), modes=("hot",))
told = [line for line in rows(Bench(job, provider, provider.device(), ())) if line["event"] == "row"]
print(json.dumps([[line["case"], line["status"], line["reason"]] for line in told]))
"""


def test_memory_that_runs_out_costs_its_case_alone(vllm_python):
    """The allocator's own words are the reason, and the next case is checked and timed in the same process."""
    failed, measured = spoken(vllm_python, TIGHT)

    assert failed[:2] == [0, "failed"]
    assert failed[2].startswith("out of memory")
    assert measured == [1, "measured", None]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("kernels.paths=cpu_atention_with_kv_cache", "did you mean 'cpu_attention_with_kv_cache'?"),
        ("kernels.provider=torch_npu", "no kernels to measure with"),
    ],
)
def test_what_the_provider_does_not_have_is_told_before_anything_runs(vllm_python, tmp_path, change, told):
    """In one line, and no folder is left behind."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("PYTHON", str(vllm_python)), encoding="utf-8")

    with pytest.raises(HarnessError, match=re.escape(told)):
        execute(RunSpec(load_scenario(path, [change]), tmp_path / "out", "harness run small.yaml", lambda _line: None))
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_mode_that_a_device_lacks_is_skipped(vllm_python, tmp_path):
    """A CPU has no graphs: nothing was measured, and the table says why."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("PYTHON", str(vllm_python)), encoding="utf-8")
    changes = ["kernels.modes=graph", "kernels.block_size=32", "kernels.batch=1", "kernels.phase=decode"]
    execute(RunSpec(load_scenario(path, changes), tmp_path / "out", "harness run small.yaml", lambda _line: None))
    rows = finish(tmp_path / "out")["kernels"]["rows"]

    assert {(row["status"], row["reason"]) for row in rows} == {("skipped", "graph: a CPU has no graphs")}
