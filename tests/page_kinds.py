"""Pages that are of no single run: a comparison, an index, kernels, a study.

Made, hostile and long: every name and text from outside would run if it were markup.
"""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import reports
from harness.comparison.comparison import compare
from harness.comparison.history import histories
from harness.comparison.sides import read_side
from harness.messages import language, message
from harness.results import store
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE
from reports import history_page, kernels_page
from tests.kernel_results import make_kernels
from tests.reports.test_tuning import MEMORY, study, trial
from tests.result_folder import Run, kept_warning, make_result

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
LONG = EVIL + "m" * 160
COMPARED = Run(
    loads=(2.0, 4.0), duration_s=20, warmup=0, samples=False, output=(4, 24), question=EVIL, model=LONG, name="it"
)


def comparison(place: Path) -> str:
    """Two runs of which one has a single slot, and other flags."""
    for name, slots in ((f"a{EVIL.replace('/', '')}", 12), ("b", 1)):
        folder = make_result(place / name, replace(COMPARED, slots=slots))
        run = store.read_run(folder)
        run["engine"]["asked"] = {"max_num_seqs": slots, EVIL: EVIL}
        store.write_json(folder, store.RUN, run)
    sides = [read_side(folder) for folder in sorted(place.iterdir())]
    stated = DEFAULT_GATE.model_copy(update={"between_runs": 0.01})
    found = compare(*sides, stated, anyway=True)
    (place / "out").mkdir()
    return reports.write_comparison(place / "out", found).read_text(encoding="utf-8")


def index(place: Path) -> str:
    """Four runs of one scenario, the last one slow."""
    folders = []
    for day, slots in enumerate((12, 12, 12, 1), 1):
        folder = make_result(place / f"{day}<b>", replace(COMPARED, slots=slots))
        changed = store.read_run(folder) | {"started_utc": f"2026-11-0{day}T10:00:00", "name": LONG}
        store.write_json(folder, store.RUN, changed)
        folders.append(folder)
    return history_page.render(histories(folders), place)


def tuning(place: Path) -> str:
    """A study with a failure, a broken limit, a stopped trial and a confirmation."""
    failed = trial(2, None, status="failed", failure=MEMORY | {"line": LONG}, origin="screened")
    both = [{"name": "goodput", "direction": "maximise"}, {"name": "ttft_p99", "direction": "minimise"}]
    trials = [failed if one["number"] == 2 else one for one in study()["trials"]]
    told = study(
        name=LONG, question=EVIL, engine={"model": LONG}, notes=[EVIL], trials=trials, objectives=both, front=[0, 1]
    )
    (place / "study.json").write_text(json.dumps(told), encoding="utf-8")
    (place / "winner.txt").write_text(f"vllm serve {LONG}", encoding="utf-8")
    return reports.write_study(place).read_text(encoding="utf-8")


_BOUND = MappingProxyType({"bound": "memory", "ideal_s": 1e-4, "gap_s": 1e-4})


def kernels(_place: Path) -> str:
    """Cases of two phases at two block sizes, one of them wrong and one skipped."""
    rows, cases = [], []
    for phase in ("decode", "chunked_prefill"):
        for size in (32, 128):
            for tokens in (512, 2048):
                labels = {"phase": phase, "model": "m", "dtype": "bfloat16", "block_size": size, "batch": 8}
                labels |= {"kv_tokens": tokens}
                seconds = 1e-6 * tokens * (1 + 16 / size)
                rows.append(_row(len(rows), labels, seconds))
                cases.append({"labels": labels, "kv_lens": [tokens] * 8})
    for status in ("wrong", "skipped"):
        rows.append(rows[0] | {"status": status, "reason": EVIL, "modes": {}})
    warnings = [kept_warning("noisy_kernel", "warning", "3 of 9 measurements stayed noisier than asked for.",
                             "Leave the machine alone, or give kernels.time more.")]  # fmt: skip
    limits = [{"source": source, "bytes_per_s": 1e10, "flops_per_s": {"bfloat16": 1e11 * (1 + more)}}
              for more, source in enumerate(("measured", "chip"))]  # fmt: skip
    device = {"name": EVIL, "cache_bytes": 1 << 25, "facts": {"threads": 2}}
    counts = {"measured": len(cases), "skipped": 1, "wrong": 1, "failed": 0}
    found = {
        "rows": rows, "limits": limits, "provider": "vllm_cpu", "device": device, "counts": counts,
        "missing": {"fia": EVIL}, "repeats": 3, "between_runs": 0.013,
    }  # fmt: skip
    summary = {
        "simulated": False, "verdict": {"valid": False, "warnings": warnings}, "kernels": found,
        "answer": f"8 of 10 cases measured on {EVIL} with vllm_cpu.",
        "answer_message": message(
            "kernels.answer", measured=8, cases=10, device=EVIL, provider="vllm_cpu"
        ).as_dict(),
    }  # fmt: skip
    run = {
        "name": LONG, "question": EVIL, "kernels": {"cases": cases}, "rerun": f"harness run {LONG}",
        "environment": {"host": EVIL},
    }  # fmt: skip
    return kernels_page.render(run, summary)


def _row(case: int, labels: dict, seconds: float) -> dict:
    """A measured row: cold and hot, with the first marked as noisy."""
    held = {source: dict(_BOUND) | {"source": source, "fraction": 0.4} for source in ("measured", "chip")}
    figures = {
        "n": 40, "median_s": seconds, "ci95_s": [seconds * 0.9, seconds * 1.1], "min_s": seconds, "launch_s": seconds,
        "bytes_per_s": 1e9, "flops_per_s": 2e9, "marks": ["noisy", "faster-later"] if case == 0 else [], "limits": held,
    }  # fmt: skip
    return {
        "case": case, "path": "attention_with_a_rather_long_name", "status": "measured", "reason": None,
        "labels": labels, "throttled": case == 1, "work": {"flops": 100, "read_bytes": 40, "write_bytes": 10},
        "modes": {"cold": figures, "hot": figures},
    }  # fmt: skip


def kernels_compared(place: Path, rate: float = 1e10) -> str:
    """Two results of kernels with repeats, one of a hostile and longer name: slower, faster, lost, and as before."""
    times = {"a": (1.0, 1.0, 1.0, 1.0), "b": (1.3, 0.8, 1.0, 1.01)}
    sides = []
    for name, factors in times.items():
        lost = [(2, 0, "failed")] if name == "b" else []
        folder, _ = make_kernels(
            place / name,
            lambda case, repeat, factors=factors: factors[case] * 1e-3 * (1 + case) * (1 + 0.002 * (repeat % 3)),
            repeats=4, lost=lost, rate=1e10 if name == "a" else rate, dtype="bfloat16",
            path="attention_with_a_rather_long_name", device={EVIL: EVIL if name == "a" else LONG},
        )  # fmt: skip
        run = store.read_run(folder)
        store.write_json(folder, store.RUN, run | {"name": LONG, "question": EVIL})
        sides.append(read_side(folder))
    (place / "out").mkdir()
    found = compare(*sides, KERNEL_GATE, anyway=True)
    return reports.write_comparison(place / "out", found).read_text(encoding="utf-8")


KINDS = {
    "compare": comparison, "index": index, "kernels": kernels, "kernels_compared": kernels_compared, "tuning": tuning,
}  # fmt: skip


@functools.cache
def drawn(kind: str, lang: str) -> str:
    """A page of one of `KINDS` in a language: drawn once for all tests of a process."""
    with tempfile.TemporaryDirectory(prefix="page-kinds-") as place, language(lang):
        return KINDS[kind](Path(place))
