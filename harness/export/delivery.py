"""Delivery of metrics to targets: in a thread each, within a bounded time, and never in the way of a run.

A target that is slow gets the newest live figures and none of those between; one that fails is told once, and the run
goes on.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError, InputError, displayable, suggestion
from harness.export.points import Snapshot, live_snapshot, snapshot_of
from harness.messages import Message, message
from harness.plugins import EXPORTERS, Plugin, installed, plugin_of
from harness.results.progress import Progress, StudyProgress
from harness.safety.redaction import register_password
from harness.scenario.base import FileModel as Options

REQUEST_S = 5.0  # one message to a collector
FINAL_S = 15.0  # the result to a target: a run is not held up longer at its end
LIVE_EVERY_S = 5.0  # of the run's own time, between two live figures: collectors scrape no more often
_LONGEST_REASON = 300  # letters of a library's words
_EXTRA = {"otel": "otel", "mlflow": "mlflow", "prometheus-push": "prometheus"}  # the extra of pip that a target needs
Log = Callable[[Message], None]


class Exporter(Protocol):
    """Sends snapshots to one collector; whatever it raises becomes one line, and the run goes on.

    It is used by one thread, and a call may take `REQUEST_S`.
    """

    def live(self, snapshot: Snapshot) -> None:
        """Send the figures of a run under way."""

    def result(self, snapshot: Snapshot) -> None:
        """Send the metrics of a finished result."""

    def close(self) -> None:
        """End what is open."""


def _otel(address: str | None) -> Exporter:
    from harness.export.otel import OtelExporter  # noqa: PLC0415 - of an extra

    return OtelExporter(address)


def _mlflow(address: str | None) -> Exporter:
    from harness.export.mlflow import MlflowExporter  # noqa: PLC0415 - of an extra

    return MlflowExporter(address)


def _prometheus(address: str | None) -> Exporter:
    from harness.export.prometheus import PushExporter  # noqa: PLC0415 - of an extra

    return PushExporter(address)


TARGETS: Mapping[str, Plugin] = {
    "otel": Plugin(Options, _otel),
    "mlflow": Plugin(Options, _mlflow),
    "prometheus-push": Plugin(Options, _prometheus),
}


def exporter_of(word: str) -> tuple[str, Exporter]:
    """The target of a word such as `otel` or `otel=http://127.0.0.1:4318`, with its name.

    Raises:
        InputError: there is no such target, its package is not installed, or it needs an address, or another one.
    """
    name, _, address = word.partition("=")
    known = [*TARGETS, *installed(EXPORTERS)]
    if name not in known:
        raise InputError(message("export.unknown", word=name, hint=suggestion(name, known)))
    if address:
        register_password(address)
    try:
        exporter: Exporter = plugin_of(EXPORTERS, TARGETS, name).factory(address or None)
    except ModuleNotFoundError as fault:
        extra = _EXTRA.get(name, name)
        raise InputError(message("export.no_package", target=name, package=str(fault.name), extra=extra)) from None
    except HarnessError:
        raise
    except Exception as fault:
        raise InputError(message("export.bad_address", target=name, reason=_reason(fault))) from fault
    return name, exporter


def _reason(fault: Exception) -> str:
    words = str(fault).strip().splitlines() or [""]
    return displayable(f"{type(fault).__name__}: {words[0]}"[:_LONGEST_REASON])


@dataclass(slots=True)
class _Target:
    """One target and its thread: jobs are live figures, of which only the newest is kept, and results."""

    name: str
    exporter: Exporter
    log: Log
    _jobs: "queue.Queue[tuple[str, Snapshot] | None]" = field(default_factory=queue.Queue)
    _idle: threading.Event = field(default_factory=threading.Event)
    _told: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name=f"export-{self.name}", daemon=True)
        self._thread.start()

    def live(self, snapshot: Snapshot) -> None:
        """Send live figures, if nothing is under way."""
        if self._idle.is_set() and self._jobs.empty():
            self._put("live", snapshot)

    def result(self, snapshot: Snapshot) -> None:
        """Send a result, and wait for it for a bounded time."""
        self._put("result", snapshot)

    def _put(self, kind: str, snapshot: Snapshot) -> None:
        self._idle.clear()
        self._jobs.put((kind, snapshot))

    def close(self, timeout_s: float) -> None:
        """Let what is under way end within a time; a thread that hangs is left behind."""
        self._jobs.put(None)
        assert self._thread is not None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._tell(message("export.too_slow", target=self.name, limit_s=timeout_s))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._send(*job)
            if self._jobs.empty():
                self._idle.set()
        with contextlib.suppress(Exception):
            self.exporter.close()

    def _send(self, kind: str, snapshot: Snapshot) -> None:
        try:
            (self.exporter.live if kind == "live" else self.exporter.result)(snapshot)
        except Exception as fault:  # noqa: BLE001 - a collector's fault, whatever it is, is a line and harms no run
            self._tell(message("export.failed", target=self.name, reason=_reason(fault)))

    def _tell(self, line: Message) -> None:
        if not self._told:
            self._told = True
            self.log(line)


@dataclass(slots=True)
class Exports:
    """All targets of a command; without any it does nothing."""

    targets: Sequence[_Target] = ()
    _last_s: float = -LIVE_EVERY_S

    def progress(self, progress: Progress | StudyProgress) -> None:
        """Hand on the live figures of a run or a study, now and then."""
        has_figures = isinstance(progress, StudyProgress) or progress.stage is not None
        if not self.targets or not has_figures or progress.at_s - self._last_s < LIVE_EVERY_S:
            return
        self._last_s = progress.at_s
        snapshot = live_snapshot(progress)
        for target in self.targets:
            target.live(snapshot)

    def result(self, folder: Path) -> None:
        """Hand on the metrics of a finished result or study.

        Raises:
            ResultError: where there is none.
        """
        if self.targets:
            snapshot = snapshot_of(folder)
            for target in self.targets:
                target.result(snapshot)


@contextlib.contextmanager
def exporting(words: Sequence[str], log: Log, final_s: float = FINAL_S) -> Iterator[Exports]:
    """Exports to the targets of `--export`, whose threads end with the context.

    Raises:
        InputError: as `exporter_of`.
    """
    targets = [_Target(name, exporter, log) for name, exporter in map(exporter_of, dict.fromkeys(words))]
    for target in targets:
        target.start()
    try:
        yield Exports(targets)
    finally:
        for target in targets:
            target.close(final_s)
