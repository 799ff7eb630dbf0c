"""The real command, run against a reference server, and what it uses meanwhile."""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.truths import CheckedStage, checked_stages
from harness.results import store, table_files
from harness.results.request_table import Events, Requests, Samples
from harness.selfcheck.exactness import Exactness, exactness
from harness.selfcheck.reference_server.ground_truth import GroundTruth, TokenSchedule, read
from harness.selfcheck.selfcheck import started
from harness.units import NS_PER_S

_LOOK_S = 0.05
_LIMIT_S = 300

SCENARIO = """\
name: {name}
question: How exact is the client?
seed: 7
workers: {workers}
engine: {{model: reference-server}}
workload: {{kind: synthetic, input_tokens: 128, output_tokens: {tokens}}}
load:
  - {load}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """One finished `harness run`: its records, the truth beside them, and what it cost.

    `wall_s` is the command from start to end, `peak_bytes` the largest sum of resident memory
    of its processes, `load_s` the time from the start of the load to the last answer, `cpu_s` the
    CPU time of all its processes, start and page included.
    """

    run: dict[str, Any]
    requests: Requests
    events: Events
    samples: Samples
    sent: GroundTruth
    wall_s: float
    load_s: float
    peak_bytes: int
    cpu_s: float
    summary: dict[str, Any]
    timeline: list[dict[str, int]]

    @property
    def checked(self) -> CheckedStage:
        """The numbers of the first stage's result beside the truth."""
        return checked_stages((self.requests, self.events), self.timeline, self.run, self.sent)[0]

    def exactness(self, streams: int) -> Exactness:
        """Records beside the truth, of a closed loop."""
        return exactness(streams, self.requests, self.events, self.samples, self.sent)


def scenario(name: str, load: str, tokens: int, workers: int = 1) -> str:
    """A scenario file with this load, 128 tokens in and `tokens` out."""
    return SCENARIO.format(name=name, load=load, tokens=tokens, workers=workers)


def ran(text: str, schedule: TokenSchedule, folder: Path) -> Ran:
    """Run a scenario through the command line, against a reference server of its own process, into a new folder."""
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(text, encoding="utf-8")
    out, log = folder / "result", folder / "truth.npz"
    raise_file_limit()
    before_s = children_cpu_s()
    with started(schedule, log, life_s=_LIMIT_S) as server:
        words = ("run", str(folder / "scenario.yaml"), "--url", server.url, "--out", str(out), "--quiet")
        wall_s, peak_bytes = watched([*command(), *words], folder / "said.txt")
        cpu_s = children_cpu_s() - before_s  # the server has not been waited for yet
    spans = store.read_json(out, store.TIMELINE)
    load_s = (max(span["end_ns"] for span in spans) - min(span["start_ns"] for span in spans)) / NS_PER_S
    parts = (table_files.read_requests(out), table_files.read_events(out), table_files.read_samples(out))
    summary = store.read_json(out, store.SUMMARY)
    return Ran(store.read_run(out), *parts, read(log), wall_s, load_s, peak_bytes, cpu_s, summary, spans)


def children_cpu_s() -> float:
    """CPU time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command() -> list[str]:
    """The command as installed, or else as a module."""
    script = Path(sys.executable).with_name("harness")
    return [str(script)] if script.exists() else [sys.executable, "-m", "harness"]


def watched(words: list[str], said: Path) -> tuple[float, int]:
    """Seconds that a command took, and the most memory that it and its children held together."""
    with said.open("wb") as output:
        begin = time.monotonic()
        process = psutil.Popen(words, stdout=output, stderr=output)
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _held_bytes(process))
            try:
                process.wait(_LOOK_S)
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                if time.monotonic() - begin > _LIMIT_S:
                    process.kill()
        wall_s = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {process.returncode}\n{said.read_text(encoding='utf-8')}")
    return wall_s, peak_bytes


def _held_bytes(process: psutil.Process) -> int:
    held = 0
    for one in (process, *_children(process)):
        try:
            held += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def raise_file_limit() -> None:
    """A thousand streams need a thousand descriptors; the command inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
