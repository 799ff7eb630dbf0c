"""What do the first answers of a run say of who gave them: the embedded engine, and which model?

A proxy may drop every header and keep the body: the embedded engine names itself in both.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from harness.client.journal import read_frames
from harness.results import store
from harness.safety.redaction import redact

LOOKED_AT = 64  # answers of each worker; a balancer has shown all its servers by then
# The header, the fingerprint, the owner and the version of harness/simulator/server.py.
SIGNS = re.compile(rb"(?i)x-npu-harness-simulated:\s*1|npu-harness[- ]simulator|npu\.harness\.simulator")
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.){1,200})"')


def note_signs(folder: Path) -> None:
    """Add to run.json what the answers in a run's raw folder say of the engine."""
    simulated, models = False, []
    for raw in _first_answers(folder / store.RAW):
        simulated = simulated or SIGNS.search(raw) is not None
        named = _MODEL.search(raw)
        models += [] if named is None else [redact(named.group(1).decode("utf-8", "replace"))]
    run = store.read_run(folder)
    engine = dict(run.get("engine") or {})
    told = {"answered_models": list(dict.fromkeys(models))} if models else {}
    marks = told | ({"simulated": True} if simulated else {})
    if any(engine.get(name) != value for name, value in marks.items()):
        store.write_json(folder, store.RUN, {**run, "engine": engine | marks})


def _first_answers(raw: Path) -> Iterator[bytes]:
    for path in sorted(raw.glob("spool-*.bin")):
        for frame in islice(read_frames(path), LOOKED_AT):
            yield b"".join(frame.pieces)
