"""Results of other tools become result folders of ours, as far as they are known.

What the file does not say stays absent, and is said: when requests were due, whether the client
kept up, or, where it holds only statistics, everything of single requests.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.comparison.repeats import Side
from harness.comparison.served import repeats_of
from harness.comparison.sides import read_side
from harness.errors import ResultError
from harness.execution.reconcile import finish
from harness.importers.foreign_summary import Benchmark, Foreign, bare_summary
from harness.importers.guidellm import guidellm
from harness.importers.vllm_bench import vllm_bench
from harness.messages import Message, message
from harness.results import store, table_files
from harness.results.request_table import Record, events_from, requests_from
from harness.units import NS_PER_S

_PAUSE_NS = NS_PER_S  # between two benchmarks of a file, which does not say what was


def is_foreign(path: Path) -> bool:
    """Whether a path is a file, and so no result folder."""
    return path.is_file()


def read_foreign(path: Path) -> Foreign:
    """What a result file says.

    Raises:
        ResultError: where it is none that is known here.
    """
    objects = _objects(path)
    first = objects[0] if objects else {}
    if isinstance(first.get("benchmarks"), list):
        return guidellm(first, path)
    if "request_throughput" in first and "completed" in first:
        return vllm_bench(objects, path)
    raise ResultError(message("importers.unknown", path=str(path), expected=_expected(path)))


def _expected(path: Path) -> Message:
    """The nearest right answer for a file that is no result."""
    if (path.parent / store.RUN).exists():
        return message("importers.its_folder", folder=str(path.parent))
    return message("importers.run_first" if path.suffix in (".yaml", ".yml") else "importers.known_kinds")


def _objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file: one, or several that follow each other, as `--append-result` writes them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ResultError(
            message("importers.unreadable", path=str(path), reason=str(fault), expected=_expected(path))
        ) from None
    decoder, objects, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as fault:
            raise ResultError(
                message("importers.no_json", path=str(path), reason=str(fault), expected=_expected(path))
            ) from None
        objects.append(value)
    if not all(isinstance(item, dict) for item in objects):
        raise ResultError(message("importers.no_object", path=str(path)))
    return objects


def import_file(path: Path, folder: Path) -> Path:
    """Write the result folder of a file; the folder.

    Raises:
        ResultError: where the file is no result, or the folder holds one already.
    """
    foreign = read_foreign(path)
    if (folder / store.RUN).exists():
        raise ResultError(message("importers.holds_result", folder=str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    run = _run(foreign, path)
    store.write_json(folder, store.RUN, run)
    if all(benchmark.requests for benchmark in foreign.benchmarks):
        _write_records(folder, foreign.benchmarks)
        finish(folder)
    else:
        store.write_json(folder, store.TIMELINE, _bare_timeline(foreign.benchmarks))
        store.write_json(folder, store.SUMMARY, bare_summary(foreign, run))
    return folder


def side_of(path: Path) -> Side:
    """A file as one side of a comparison.

    Raises:
        ResultError: where it is no result.
    """
    with tempfile.TemporaryDirectory(prefix="harness-import-") as scratch:
        side = read_side(import_file(path, Path(scratch) / "imported"))
        records = side.repeats[0].records()
    first = side.repeats[0]
    return Side(path.name, repeats_of(path.name, first.run, first.summary, lambda: records))


def name_of(path: Path) -> str:
    """A scenario's name made of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:80] or "imported"


def _run(foreign: Foreign, path: Path) -> dict[str, Any]:
    return {
        "format": store.FORMAT,
        "name": name_of(path),
        "question": str(message("importers.question", tool=foreign.tool, file=path.name)),
        "started_utc": foreign.started_utc,
        "scenario_file": path.name,
        "scenario_text": "",
        "scenario_sha256": None,
        "imported": {"tool": foreign.tool, "file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "seed": None,
        "overrides": [],
        "repeats": 1,
        "stages": [dict(benchmark.load) for benchmark in foreign.benchmarks],
        "slo": {},
        "endpoint": foreign.endpoint,
        "stream": True,
        "environment": {},
        "client": {"version": __version__, "selfcheck": None},
        "rerun": f"harness report {path.name}",
        "payload_sha256": None,
        "schedule_sha256": None,
        "lengths_exact": True,
        "dataset": None,
        "notes": [note.as_dict() for note in foreign.notes],
        "shares_prompts": True,
        "engine": {
            "kind": "attach",
            "simulated": foreign.simulated,
            "hollow": False,
            "model": foreign.model,
            "asked": {},
            "command": [],
            "effective": {},
        },
    }


def _write_records(folder: Path, benchmarks: Sequence[Benchmark]) -> None:
    records: list[Record] = []
    events: list[tuple[Sequence[int], Sequence[int]]] = []
    timeline: list[dict[str, int]] = []
    zero_ns = 0
    for stage, benchmark in enumerate(benchmarks):
        shifted = [request.shifted(zero_ns, len(records) + i, stage) for i, request in enumerate(benchmark.requests)]
        records += [record for record, _, _ in shifted]
        events += [(times, tokens) for _, times, tokens in shifted]
        last_ns = max([zero_ns, *(record.done_ns for record, _, _ in shifted)])
        stop_ns = max([zero_ns, *(record.sent_ns for record, _, _ in shifted)])
        timeline.append(_span(stage, zero_ns, stop_ns, last_ns))
        zero_ns = last_ns + _PAUSE_NS
    requests = requests_from(records)
    table_files.write_requests(folder, requests)
    table_files.write_events(folder, requests.index, events_from(events))
    store.write_json(folder, store.TIMELINE, timeline)


def _span(stage: int, start_ns: int, stop_ns: int, end_ns: int) -> dict[str, int]:
    return {"stage": stage, "repeat": 0, "start_ns": start_ns, "stop_ns": stop_ns, "end_ns": end_ns}


def _bare_timeline(benchmarks: Sequence[Benchmark]) -> list[dict[str, int]]:
    spans, zero_ns = [], 0
    for stage, benchmark in enumerate(benchmarks):
        end_ns = zero_ns + round(_seconds(benchmark.statistics) * NS_PER_S)
        spans.append(_span(stage, zero_ns, end_ns, end_ns))
        zero_ns = end_ns + _PAUSE_NS
    return spans


def _seconds(statistics: Mapping[str, Any]) -> float:
    return float(statistics.get("window_s") or 1.0)
