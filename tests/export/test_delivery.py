"""Delivery never harms a run: it is bounded, tells a fault once, and keeps only the newest live figures."""

import sys
import threading

import pytest

from harness import plugins
from harness.cli.app import main
from harness.errors import InputError
from harness.export import delivery
from harness.export.delivery import Exports, exporter_of, exporting
from harness.export.points import snapshot_of
from harness.plugins import Plugin
from harness.results.progress import LOADING, Progress, StageProgress
from tests.contracts.exporter import live, result
from tests.result_folder import Run, make_result


def told_by(word):
    """The lines that are told when live figures and a result go to a target."""
    lines = []
    with exporting([word], lines.append) as exports:
        for target in exports.targets:
            target.live(live())
            target.result(result())
    return lines


class Kept:
    """An exporter that keeps what it gets, and waits where it is told to."""

    def __init__(self, gate=None):
        self.live_steps, self.results, self.closed, self.gate = [], [], False, gate
        self.begun = threading.Event()

    def live(self, snapshot):
        """Keep the step."""
        self.begun.set()
        if self.gate is not None:
            self.gate.wait()
        self.live_steps.append(snapshot.points[0].step)

    def result(self, snapshot):
        """Keep it."""
        self.results.append(snapshot)

    def close(self):
        """Note it."""
        self.closed = True


def progress(at_s):
    """A run at a second."""
    stage = StageProgress(0, 0, 0, {"kind": "poisson", "rate": 1.0}, in_flight=2)
    return Progress("made", LOADING, at_s, simulated=True, engine_kind="simulator", model="m", stage=stage)


@pytest.fixture
def kept(monkeypatch):
    """A target `kept` whose exporter is at hand, and the lines that are told."""

    def open_with(gate=None):
        exporter = Kept(gate)
        monkeypatch.setattr(delivery, "TARGETS", {"kept": Plugin(delivery.Options, lambda _address: exporter)})
        return exporter

    return open_with


def test_live_figures_come_now_and_then_and_the_result_at_the_end(kept, tmp_path):
    """Of the run's own time every five seconds; a phase without a stage has none."""
    exporter, lines = kept(), []
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=5))
    with exporting(["kept"], lines.append) as exports:
        exports.progress(Progress("made", LOADING, 0.0))
        for at_s in (0.0, 1.0, 4.9):
            exports.progress(progress(at_s))
        exports.result(folder)

    assert exporter.live_steps == [0]
    assert [snapshot.name for snapshot in exporter.results] == [snapshot_of(folder).name]
    assert exporter.closed
    assert lines == []


def test_a_slow_target_gets_the_figures_that_are_new(kept):
    """What comes while one message is under way is left out, and nobody waits for it."""
    gate = threading.Event()
    exporter = kept(gate)
    with exporting(["kept"], lambda _line: None) as exports:
        exports.progress(progress(0.0))
        exporter.begun.wait()
        for at_s in (10.0, 20.0, 30.0):
            exports.progress(progress(at_s))
        gate.set()

    assert exporter.live_steps == [0]


def test_a_target_that_hangs_is_left_behind(kept):
    """After a bounded time, with one line; its thread does not keep the process."""
    gate, lines = threading.Event(), []
    exporter = kept(gate)
    with exporting(["kept"], lines.append, final_s=0.0) as exports:
        exports.progress(progress(0.0))
        exporter.begun.wait()
    gate.set()

    assert [line.code for line in lines] == ["export.too_slow"]


def test_a_target_that_fails_is_told_once(kept, monkeypatch):
    """However often it fails; the words of its fault are one line."""
    exporter, lines = kept(), []

    def fail(_snapshot):
        raise RuntimeError("no such table\nand more")

    monkeypatch.setattr(exporter, "live", fail)
    monkeypatch.setattr(exporter, "result", fail)
    with exporting(["kept"], lines.append) as exports:
        exports.targets[0].live(live())
        exports.targets[0].result(result())

    assert [str(line) for line in lines] == ["--export kept: RuntimeError: no such table; the run is not affected"]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("otle", "--export 'otle': no such target; did you mean 'otel'?"),
        ("csv=x", "--export 'csv': no such target; expected one of otel, mlflow, prometheus-push"),
    ],
)
def test_an_unknown_target_is_one_line(word, line):
    """With the nearest right one."""
    with pytest.raises(InputError) as caught:
        exporter_of(word)

    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("target", "module", "package"),
    [("otel", "harness.export.otel", "opentelemetry"), ("mlflow", "harness.export.mlflow", "mlflow")],
)
def test_a_missing_package_names_its_extra(monkeypatch, target, module, package):
    """Before anything runs."""
    for name in [name for name in sys.modules if name == module or name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"is not installed; pip install 'npu-harness\[{target}\]'"):
        exporter_of(target)


PACKAGE = """
from harness import Options, Plugin

class Printed:
    def __init__(self, address):
        self.file = open(address, "w")
    def live(self, snapshot):
        print("live", snapshot.name, file=self.file)
    def result(self, snapshot):
        print("result", snapshot.name, len(snapshot.points), file=self.file)
    def close(self):
        self.file.close()

KIND = Plugin(Options, Printed)
"""


def test_a_package_brings_a_target_of_its_own(tmp_path, monkeypatch):
    """By an entry point; it gets its address and the snapshots, as those that are built in do."""
    (tmp_path / "printed_package.py").write_text(PACKAGE)
    info = tmp_path / "printed_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: printed-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[npu_harness.exporters]\nprinted = printed_package:KIND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._installed.cache_clear()
    try:
        lines = told_by(f"printed={tmp_path / 'out.txt'}")
    finally:
        plugins._installed.cache_clear()

    assert lines == []
    assert (tmp_path / "out.txt").read_text().splitlines()[-1] == "result made 3"


def test_a_password_of_an_address_stands_in_no_file(tmp_path, capfd):
    """Neither in run.json, which holds the command, nor on the page, nor in the line of a fault."""
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["run", "smoke", "--out", str(out), "--export", "prometheus-push=http://me:pass-word-1234@127.0.0.1:9"])
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]

    assert "run.json" in {path.name for path in out.iterdir()}
    assert not any(b"pass-word-1234" in text for text in texts)
    assert "pass-word-1234" not in "".join(capfd.readouterr())


def test_without_targets_nothing_happens(tmp_path):
    """Not even the result is read."""
    Exports().progress(progress(0.0))
    Exports().result(tmp_path / "none")


def test_an_existing_result_is_exported(kept, tmp_path, capsys):
    """By `harness report DIR --export`, after its page was drawn."""
    exporter = kept()
    folder = make_result(tmp_path, Run(loads=(2.0, 4.0), duration_s=5))
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder), "--export", "kept"])

    assert end.value.code == 0
    assert len(exporter.results) == 1
    assert exporter.results[0].attributes["npu_harness.simulated"] is True
    assert "report.html" in capsys.readouterr().out


def test_export_is_not_for_two_engines_in_turn(tmp_path, capsys):
    """--against has several results, each of which `report` exports."""
    with pytest.raises(SystemExit) as end:
        main(["run", "smoke", "--against", "seed=2", "--export", "otel"])

    assert end.value.code == 2
    assert "not with --against" in capsys.readouterr().err
