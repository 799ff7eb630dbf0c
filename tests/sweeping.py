"""A run that is ended from outside at a chosen moment, and what is left of it then."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.client.journal import ROW
from harness.results import store, table_files

SCENARIO = {
    "name": "swept",
    "question": "Is anything lost?",
    "engine": {"kind": "simulator", "model": "Qwen/Qwen2.5-0.5B-Instruct", "clock": "real"},
    "workload": {"kind": "synthetic", "input_tokens": 16, "output_tokens": 8},
    "load": [{"constant": {"rate": 100, "requests": 60}}, {"closed": {"concurrency": 8, "requests": 40}}],
    "workers": 2,
}
REQUESTS = 100


def sent(out):
    """How many requests the ledgers of a run have."""
    size = 0
    for path in (out / "raw").glob("ledger-*.bin"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size += sum(1 for at in range(0, 4096 * 64, ROW.itemsize) if _written(file, at))
    return size


def _written(file, at):
    file.seek(at)
    return int.from_bytes(file.read(4) or b"\0", "little") == 1


MOMENTS = {  # by what has happened, in the order in which it does
    "imports": lambda _out, process: time.monotonic() - process.begun > 0.15,
    "folder": lambda out, _: (out / "run.json").exists(),
    "engine starts": lambda _, process: child_of(process, "serve-sim") is not None,
    "workers wait": lambda out, _: (out / "raw" / "job.json").exists(),
    "stage begins": lambda out, _: (out / "raw" / store.BEGUN).exists(),
    "in the load": lambda out, _: sent(out) >= 10,
    "late in the load": lambda out, _: sent(out) >= 50,
    "account": lambda out, _: (out / store.SAMPLES).exists(),
    "summary": lambda out, _: (out / store.REQUESTS).exists(),
    "page": lambda out, _: (out / store.SUMMARY).exists(),
}


def child_of(process, *words):
    """The child of a run whose command has all these words; None where there is none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if all(any(word in part for part in child.cmdline()) for word in words):
                    return child
    return None


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, what it said, and who of its family still lives."""

    code: int
    words: str
    orphans: list
    reached: bool


def _hear_hangups() -> None:
    """Tests that were started under nohup hand an ignored SIGHUP on, which the harness respects."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(folder: Path, moment, hit, scenario=SCENARIO) -> Ended:
    """Run a scenario into FOLDER/out, call `hit(process)` once `moment(out, process)` holds, and wait for the end."""
    path, out = folder / "swept.yaml", folder / "out"
    path.write_text(json.dumps(scenario), encoding="utf-8")
    command = [sys.executable, "-m", "harness", "run", str(path), "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_hangups,  # noqa: PLW1509 - no other thread runs in these tests
    )
    process.begun = time.monotonic()
    try:
        while not (reached := moment(out, process)) and process.poll() is None:
            time.sleep(0.002)
        family = family_of(process)
        if reached:
            hit(process)
        words, _ = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=20)
        return Ended(process.returncode, words, alive, reached)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def family_of(process):
    """All descendants of a run."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def account(out):
    """Statuses of all requests, after checking that each planned request is there once."""
    from harness.execution.reconcile import finish  # noqa: PLC0415 - not needed where a folder holds nothing

    finish(out)
    requests = table_files.read_requests(out)
    found = dict.fromkeys(("completed", "failed", "cancelled", "never_sent"), 0)
    for status in requests.status:
        found[status] += 1
    return found
