"""A program for the engine's interpreter: it generates with vLLM's `LLM`, without a server, and notes the times.

Run by path with the standard library and what is installed there: `offline_child.py JOB`. The job
(harness/engines/offline.py writes it and says what is noted) names files and calls. Flags are read as
`vllm serve` reads them; those that only a server has are without effect. An answer's `done` is when the engine's
`step` gave it out; its first and last token are what vLLM noted on its own clock, the same CLOCK_MONOTONIC, in
`RequestOutput.metrics`.
"""

import importlib
import itertools
import json
import os
import runpy
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

MISSING = -1
_POLL_S, _SCRAPE_S = 0.05, 1.0
_GOOD_ENDS = ("length", "stop")
_DEFAULTS = {"temperature": 0, "ignore_eos": True}  # as in the body of a request to a server


class NotesWriter:
    """Where lines go: each reaches the kernel before the next thing happens."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._notes = os.open(job["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._begun = job["begun"]

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Note lines."""
        os.write(self._notes, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def stage(self, **words: int) -> None:
        """Note when a stage begins or ends."""
        with open(self._begun, "a", encoding="utf-8") as file:  # noqa: PTH123 - not there before a stage begins
            file.write(json.dumps(words) + "\n")


def main(place: str) -> None:
    """Make every call of a job."""
    job = json.loads(Path(place).read_text(encoding="utf-8"))
    notes = NotesWriter(job)
    vllm = importlib.import_module("vllm")
    unknown = sorted(set(job["sampling"]) - set(_sampling_names(vllm)))
    if unknown:
        notes.add({"refused": unknown, "known": _sampling_names(vllm)})
        return
    engine = vllm.LLM(**vars(_engine_args(job["words"])))
    metrics = _Metrics(tuple(job["watched"]))
    notes.add({"ready_ns": time.monotonic_ns(), "metrics": metrics.text()})
    while not os.path.exists(job["go"]):  # noqa: PTH110 - the cheapest check
        time.sleep(_POLL_S)
    threading.Thread(target=_scrape, args=(metrics, notes), daemon=True).start()
    with open(job["prompts"], encoding="utf-8") as prompts:  # noqa: PTH123 - read bit by bit
        for number, call in enumerate(job["calls"]):
            requests = _requests(prompts, call["requests"], job["sampling"], vllm.SamplingParams)
            _Call(engine, notes, number, call).make(*requests)
    notes.add(metrics.now(), {"finished": True})


def _sampling_names(vllm: Any) -> list[str]:
    """The names of all sampling parameters: a msgspec struct, before that a dataclass."""
    kind = vllm.SamplingParams
    names = list(getattr(kind, "__struct_fields__", ())) or list(getattr(kind, "__dataclass_fields__", ()))
    return sorted(name for name in names if not name.startswith("_"))


def _engine_args(words: list[str]) -> Any:
    """The engine's arguments out of the words of `vllm serve`, by the server's own parser."""
    parser = runpy.run_path(str(Path(__file__).with_name("interpreter_probe.py")))["_parser"]()
    kind = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    return kind.from_cli_args(parser.parse_args(words))


def _requests(prompts: TextIO, count: int, sampling: Mapping[str, Any], params: Any) -> tuple[list[Any], list[Any]]:
    """The next prompts, as `LLM.generate` takes them, and the sampling parameters of each."""
    rows = [json.loads(line) for line in itertools.islice(prompts, count)]
    inputs = [{"prompt" if isinstance(row["prompt"], str) else "prompt_token_ids": row["prompt"]} for row in rows]
    options = [{**_DEFAULTS, "max_tokens": row["max_tokens"], **sampling} for row in rows]
    return inputs, [params(**{name: value for name, value in row.items() if value is not None}) for row in options]


class _Call:
    """One call of `LLM.generate`, its answers noted as the engine gives them out."""

    def __init__(self, engine: Any, notes: NotesWriter, number: int, call: Mapping[str, Any]) -> None:
        self._engine, self._notes, self._number, self._call = engine, notes, number, call
        self._first = int(getattr(engine.request_counter, "counter", 0))  # ids are counted on from here
        self._done_ns: dict[str, int] = {}
        self._begin_ns = 0

    def make(self, prompts: list[Any], params: list[Any]) -> None:
        """Make it, between two notes of the time."""
        inner = self._engine.llm_engine
        step = inner.step
        inner.step = lambda: self._note_finished(step())
        self._begin_ns = time.monotonic_ns()
        if self._call["opens"]:
            self._notes.stage(number=self._call["number"], begin_ns=self._begin_ns)
        self._notes.add({"call": self._number, "begin_ns": self._begin_ns})
        answers = self._engine.generate(prompts, params, use_tqdm=False)
        end_ns = time.monotonic_ns()
        inner.step = step
        # The order of what is returned is that of the prompts; it corrects what was noted on the way.
        self._notes.add(*self._lines(enumerate(answers), end_ns), {"call": self._number, "end_ns": end_ns})
        if self._call["measured"]:
            self._notes.stage(number=self._call["number"], end_ns=end_ns)

    def _note_finished(self, outputs: list[Any]) -> list[Any]:
        """Note the answers that a step has made whole, so that they are kept whatever happens next."""
        now_ns = time.monotonic_ns()
        whole = [output for output in outputs if output.finished]
        for output in whole:
            self._done_ns[output.request_id] = now_ns
        known = [(int(row.request_id) - self._first, row) for row in whole if str(row.request_id).isdigit()]
        if known:
            self._notes.add(*self._lines(iter(known), now_ns))
        return outputs

    def _lines(self, answers: Iterator[tuple[int, Any]], now_ns: int) -> Iterator[dict[str, Any]]:
        for place, answer in answers:
            done_ns = self._done_ns.get(answer.request_id, now_ns)
            yield {"call": self._number, "place": place, "done": _done(answer, self._begin_ns, done_ns)}


def _done(answer: Any, begin_ns: int, done_ns: int) -> list[Any]:
    """One answer: done, first and last token, tokens in, of these cached, tokens out, and the error."""
    tokens = sum(len(output.token_ids) for output in answer.outputs)
    bad = [output.finish_reason for output in answer.outputs if output.finish_reason not in _GOOD_ENDS]
    error = str(bad[0] or "no_end") if bad else "" if tokens else "no_tokens"
    cached = getattr(answer, "num_cached_tokens", None)
    return [
        done_ns,
        *_token_times(answer.metrics, begin_ns, done_ns),
        len(answer.prompt_token_ids or ()),
        MISSING if cached is None else cached,
        tokens,
        error,
    ]


def _token_times(stats: Any, begin_ns: int, done_ns: int) -> tuple[int, int]:
    """First and last token by the engine core's clock; MISSING where it notes none, or another machine's."""
    first, last = (round(getattr(stats, name, 0.0) * 1e9) for name in ("first_token_ts", "last_token_ts"))
    return (first, last) if begin_ns <= first <= last <= done_ns else (MISSING, MISSING)


class _Metrics:
    """The engine's counters, as a server's /metrics would show them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def text(self) -> str:
        """The lines of the names that are watched."""
        latest = importlib.import_module("prometheus_client").generate_latest().decode()
        return "\n".join(line for line in latest.splitlines() if line.startswith(self._names))

    def now(self) -> dict[str, Any]:
        """A sample of them."""
        return {"at_ns": time.monotonic_ns(), "metrics": self.text()}


def _scrape(metrics: _Metrics, notes: NotesWriter) -> None:
    while True:
        notes.add(metrics.now())
        time.sleep(_SCRAPE_S)


if __name__ == "__main__":
    del sys.path[0]  # this file's own folder: its neighbours are not for the engine's interpreter
    main(sys.argv[1])
