"""Runs a job of JSON inside the engine's interpreter: a line of JSON a case, as each is done.

`python -m kernels_bench JOB.json`, or the job on standard input. With `--watched` behind the file it ends when its
standard input does, as it does when the parent is gone. Exits with 0 when all cases have had their turn, with
3 where no provider is available; the parent sees which case a process died on by the `begin` line before it.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from kernels_bench.bench import Bench, device_line, limits_of, rows, strange_path
from kernels_bench.job import Job, job_from
from kernels_bench.providers import open_named
from kernels_bench.providers.base import Unavailable


def main(words: Sequence[str]) -> int:
    """Run the job of a file, or of standard input."""
    lines = _own_stdout()
    if "--watched" in words[1:]:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        text = Path(words[0]).read_text(encoding="utf-8") if words else sys.stdin.read()
        job = job_from(json.loads(text))
        _run(job, lines)
    except (OSError, ValueError, Unavailable) as fault:
        _tell(lines, {"event": "fault", "reason": str(fault)})
        return 3 if isinstance(fault, Unavailable) else 2
    return 0


def _own_stdout() -> IO[str]:
    """Standard output for our lines alone: what libraries print goes to standard error from here on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def _end_with_stdin() -> None:
    """Leave at once, launches in flight included, when whoever holds the other end is gone."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def _run(job: Job, lines: IO[str]) -> None:
    provider = open_named(job.provider, dict(job.options))
    if job.threads:
        from kernels_bench.providers.processor import use_threads  # noqa: PLC0415 - needs torch

        use_threads(job.threads)
    strange = strange_path(provider, job.paths)
    if strange:
        _tell(lines, {"event": "fault", "reason": strange, "asked": True})
        return
    device = provider.device()
    limits = limits_of(job, provider, device)
    _tell(lines, device_line(provider, device, limits))
    for row in rows(Bench(job, provider, device, limits)):
        _tell(lines, row)
    _tell(lines, {"event": "done"})


def _tell(lines: IO[str], row: dict[str, Any]) -> None:
    print(json.dumps(row, allow_nan=False), file=lines, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
