"""Counters that engines only log: KV transfers of Mooncake's connectors, and how evenly experts are loaded.

Wordings of vLLM 0.23 to 0.33 and of vllm-ascend 0.23. vllm-ascend logs one line a transfer and rank, with its time and
no bytes (MooncakeConnectorV1, MooncakeHybridConnector; the layerwise one only at level DEBUG). vLLM logs every ten
seconds what its connector moved meanwhile ("KV Transfer metrics"); where a connector has counters in /metrics (NIXL),
those are read and its lines are not.
"""

import re
from collections.abc import Iterator
from pathlib import Path

TRANSFERS, TRANSFER_SECONDS, TRANSFER_BYTES = "kv_transfers", "kv_transfer_seconds", "kv_transfer_bytes"
"""What a log tells of KV transfers so far: how many, the time they took together, their bytes."""
EP_IMBALANCE = "ep_imbalance"
"""The tokens of the busiest expert-parallel rank over the mean of all, as the engine logged it last."""

_MIB = float(1 << 20)
_MOST_BYTES = 1 << 20  # of a log that are read at a time; of more, the newest
_RANK = re.compile(r"^\(\w*?_DP(\d{1,5})\D")
_ASCEND_TRANSFER = re.compile(r"KV cache transfer for request \S+ took ([\d.]+) ms")
_TRANSFERS = re.compile(r"KV Transfer metrics: (.*)")
_FACT = re.compile(r"([A-Z][^=,]*)=([\d.]+)")
_EPLB = re.compile(r"EPLB step: \d+ .*balancedness=([\d.]+)")
_ASCEND_EPLB = re.compile(r"Expert hotness imbalance, current: mean=([\d.]+)")


class LogCounters:
    """Follows one log from where it ends now; `read` gives what has changed, by data-parallel rank ("" for none)."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._at = _size(log)
        self._rest = b""
        self._values: dict[str, dict[str, float]] = {}

    def read(self) -> dict[str, dict[str, float]]:
        """The values of each rank whose lines have come since; counts since the beginning."""
        changed: set[str] = set()
        for line in self._lines():
            rank = _rank_of(line)
            own = self._values.setdefault(rank, {})
            for name, value in _values_of(line):
                own[name] = value if name == EP_IMBALANCE else own.get(name, 0.0) + value
                changed.add(rank)
        return {rank: dict(self._values[rank]) for rank in sorted(changed)}

    def _lines(self) -> Iterator[str]:
        size = _size(self._log)
        begin = max(self._at, size - _MOST_BYTES)
        if size <= self._at:
            return
        with self._log.open("rb") as file:
            file.seek(begin)
            new = file.read(size - begin)
        rest = self._rest if begin == self._at else b""
        self._at = begin + len(new)
        whole, _, self._rest = (rest + new).rpartition(b"\n")
        self._rest = self._rest[-_MOST_BYTES:]
        yield from whole.decode("utf-8", "replace").splitlines()


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _rank_of(line: str) -> str:
    """The data-parallel rank whose process wrote a line, as vLLM prefixes it: `(Worker_DP1_TP0 pid=7) ...`."""
    match = _RANK.match(line)
    return "" if match is None else str(int(match.group(1)))


def _values_of(line: str) -> Iterator[tuple[str, float]]:
    """What a line tells: counts to add, or the last value of a share."""
    if match := _ASCEND_TRANSFER.search(line):
        yield from ((TRANSFERS, 1.0), (TRANSFER_SECONDS, _number(match.group(1)) / 1e3))
    elif match := _TRANSFERS.search(line):
        facts = {name.strip(): _number(text) for name, text in _FACT.findall(match.group(1))}
        count = facts.get("Num successful transfers", 0.0)
        if count:
            yield TRANSFERS, count
            yield TRANSFER_SECONDS, count * facts.get("Avg xfer time (ms)", 0.0) / 1e3
            yield TRANSFER_BYTES, count * facts.get("Avg MB per transfer", 0.0) * _MIB
    elif (match := _EPLB.search(line)) and _number(match.group(1)) > 0:
        yield EP_IMBALANCE, 1.0 / _number(match.group(1))
    elif match := _ASCEND_EPLB.search(line):
        yield EP_IMBALANCE, _number(match.group(1))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
