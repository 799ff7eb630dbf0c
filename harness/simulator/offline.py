"""What would the simulated engine make of a batch? `python -m harness.simulator.offline JOB`, in virtual time.

The stand-in for a program that generates with vLLM (harness/engines/offline_child.py): the same job, the
same notes, and times that are computed. The first call begins now; what follows lies on the
engine's own clock, which is through with an hour in a moment.
"""

import json
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from harness.clock import monotonic_ns
from harness.results.request_table import MISSING
from harness.simulator.boot_lines import startup_lines
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import cache_labels, memory_of
from harness.simulator.metrics_page import Metrics, State, exposition
from harness.simulator.tokenizer import encode
from harness.simulator.virtual_time import Arrival, Simulated, simulate_in_turn

_POLL_S = 0.02
_SAMPLES = 50  # of a call: enough for a line on the page


def main(place: str) -> None:
    """Make every call of a job."""
    job = json.loads(Path(place).read_text(encoding="utf-8"))
    settings = settings_from_flags(job["flags"])
    memory = memory_of(settings)
    sys.stderr.write("".join(f"{line}\n" for line in startup_lines(settings, memory)))
    cache = exposition(Metrics(), State(0, 0, 0.0, 0, 0, 0), model=settings.name, cache=cache_labels(settings, memory))
    notes, begun = Path(job["notes"]), Path(job["begun"])
    _add(notes, [{"ready_ns": monotonic_ns(), "metrics": cache}])
    while not Path(job["go"]).exists():
        time.sleep(_POLL_S)
    with Path(job["prompts"]).open(encoding="utf-8") as prompts:
        batches = [_arrivals(prompts, call["requests"], settings.shape.vocab) for call in job["calls"]]
    begin_ns = zero_ns = monotonic_ns()
    for number, done in enumerate(simulate_in_turn(settings, batches)):
        end_ns = zero_ns + int(done.step_ns.max(initial=begin_ns - zero_ns))
        _add(begun, _stage(job["calls"][number], begin_ns, end_ns))
        _add(notes, [{"call": number, "begin_ns": begin_ns}])
        lines = zip(batches[number], done.token_ns, done.cached_tokens.tolist(), strict=True)
        answers = (_done(arrival, (times + zero_ns).tolist(), cached, end_ns) for arrival, times, cached in lines)
        _add(notes, ({"call": number, "place": place, "done": answer} for place, answer in enumerate(answers)))
        _add(notes, [*_samples(done, zero_ns), {"call": number, "end_ns": end_ns}])
        begin_ns = end_ns
    _add(notes, [{"finished": True}])


def _add(path: Path, lines: "Iterator[Mapping[str, Any]] | list[Mapping[str, Any]]") -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _arrivals(prompts: TextIO, count: int, vocab: int) -> list[Arrival]:
    """The next prompts, all at the begin."""
    asked = [json.loads(line) for line in islice(prompts, count)]
    return [Arrival(0, _ids(one["prompt"], vocab), one["max_tokens"]) for one in asked]


def _ids(prompt: Any, vocab: int) -> "array[int]":
    return array("q", encode(prompt, vocab) if isinstance(prompt, str) else prompt)


def _stage(call: Mapping[str, Any], begin_ns: int, end_ns: int) -> Iterator[Mapping[str, Any]]:
    if call["opens"]:
        yield {"number": call["number"], "begin_ns": begin_ns}
    if call["measured"]:
        yield {"number": call["number"], "end_ns": end_ns}


def _done(arrival: Arrival, at_ns: list[int], cached: int, end_ns: int) -> list[Any]:
    """One answer: done, first and last token, tokens in, of these cached, tokens out, error, every token."""
    counts = len(arrival.prompt), cached, len(at_ns)
    if not at_ns:
        return [end_ns, MISSING, MISSING, *counts, "no_tokens", []]
    return [at_ns[-1], at_ns[0], at_ns[-1], *counts, "", at_ns]


def _samples(done: Simulated, zero_ns: int) -> Iterator[Mapping[str, Any]]:
    """What /metrics would have shown on the way, at some fifty steps of a call."""
    for step in range(0, len(done.step_ns), max(1, len(done.step_ns) // _SAMPLES)):
        values = {"num_requests_running": done.running[step], "num_requests_waiting": done.waiting[step]}
        text = "\n".join(f"vllm:{name} {int(value)}" for name, value in values.items())
        yield {"at_ns": zero_ns + int(done.step_ns[step]), "metrics": text}


if __name__ == "__main__":
    main(sys.argv[1])
