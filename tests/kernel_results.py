"""Results of kernels made from numbers: what a bench would have told, finished as any run."""

import json

from harness.execution.reconcile import finish
from harness.results import store

CASES = [(batch, tokens) for batch in (1, 8) for tokens in (512, 2048)]


def make_kernels(folder, seconds, *, repeats=1, lost=(), rate=1e10, cases=4, **facts):
    """A result of a case for each of `CASES`, cold and hot; `seconds(case, repeat)` is the median of its samples.

    `cases` is how many were asked for, of which those beyond had no turn. `lost` holds (case, repeat, status);
    `facts` are of the device, the provider, the path and the axes.
    """
    told = {"name": "A CPU", "provider": "vllm_cpu", "path": "attend", "dtype": "bfloat16", "device": {}} | facts
    raw = folder / store.RAW
    raw.mkdir(parents=True)
    store.write_json(folder, store.RUN, _run(told, cases))
    lines = [_device(told, rate)]
    for repeat in range(repeats):
        for case in range(len(CASES)):
            status = next((word for number, place, word in lost if (number, place) == (case, repeat)), "measured")
            lines.append(_row(case, repeat, told["path"], status, seconds(case, repeat)))
    (raw / "kernels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder, finish(folder)


def _run(told, count):
    cases = []
    for batch, tokens in [*CASES, *((64, 1 << place) for place in range(count - len(CASES)))]:
        axes = {"phase": "decode", "model": "m", "dtype": told["dtype"], "block_size": 128, "batch": batch}
        cases.append({"labels": list({**axes, "kv_tokens": tokens}.items()), "kv_lens": [tokens] * batch})
    engine = {"kind": "auto", "simulated": False, "model": None}
    return {
        "format": 1, "name": "k", "question": "How fast?", "engine": engine, "stages": [],
        "kernels": {"cases": cases, "skipped": []},
    }  # fmt: skip


def _device(told, rate):
    limits = [{"source": "measured", "bytes_per_s": rate, "flops_per_s": {"bfloat16": 1e12, "float16": 1e12}}]
    return {
        "event": "device", "provider": told["provider"], "kind": "cpu", "name": told["name"], "memory_bytes": 1,
        "cache_bytes": 2, "facts": told["device"], "missing": {}, "limits": limits,
    }  # fmt: skip


def _row(case, repeat, path, status, seconds):
    row = {"event": "row", "case": case, "repeat": repeat, "path": path, "status": status, "reason": "so it is"}
    if status != "measured":
        return row
    times_ns = [round(1e9 * seconds * (1 + 0.01 * ((7 * place % 21) - 10) / 10)) for place in range(21)]
    ideal_s = 1e-4
    far = {"source": "measured", "bound": "memory", "ideal_s": ideal_s, "fraction": ideal_s / seconds}
    far["gap_s"] = seconds - ideal_s
    found = {
        "n": 21, "median_s": seconds, "ci95_s": [seconds * 0.995, seconds * 1.005], "min_s": seconds,
        "launch_s": seconds, "stop": "quiet", "noise": 0.005, "marks": [], "limits": {"measured": far},
        "bytes_per_s": 1e6 / seconds, "flops_per_s": 2e6 / seconds,
        "samples": [[1, time_ns, time_ns, None] for time_ns in times_ns],
    }  # fmt: skip
    errors = {"worst": 0.1, "typical": 0.01, "not_finite": 0, "elements": 9}
    work = {"flops": 200, "read_bytes": 90, "write_bytes": 10}
    modes = {"cold": found, "hot": dict(found)}
    return row | {"reason": None, "work": work, "throttled": False, "errors": errors, "modes": modes}
