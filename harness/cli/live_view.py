"""What a run does now as lines of a terminal, at any width: one block of rows, each a label and cells that wrap.

Pure: a progress and a width give lines, as rich texts. A text from outside (an engine's log line, a model's name) goes
in as plain text, so that no markup in it acts, and without control codes.
"""

import contextvars
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text

from harness.cli.screen import Screen
from harness.clock import monotonic_ns
from harness.errors import displayable
from harness.messages import Message, localized, message
from harness.results.progress import (
    CONFIRMING,
    DRAINING,
    KERNELS,
    LOADING,
    MEASURING,
    PREPARING,
    REPORTING,
    SEARCHING,
    STARTING,
    STOPPING,
    WARMUP,
    EngineLoad,
    Progress,
    StageProgress,
    StageTrend,
    StudyProgress,
)
from harness.scenario.stages import load_and_end
from harness.units import NS_PER_S

_SPARKS = "▁▂▃▄▅▆▇█"
_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_GAP = "   "
_TICK_S = 1.0
_LEAST_CELLS = 24  # columns beside the labels; in a narrower terminal lines are cut
_STATES = {
    WARMUP: message("live.warmup"),
    MEASURING: message("live.measuring"),
    DRAINING: message("live.draining"),
    STOPPING: message("live.stopping"),
}
_PHASES = {
    STARTING: message("live.starting"),
    PREPARING: message("live.preparing"),
    LOADING: message("live.loading"),
    KERNELS: message("live.kernels"),
    REPORTING: message("live.reporting"),
}
_LABELS = (*_STATES.values(), message("live.requests"), message("live.whole"))  # the block keeps its columns
DIM, GOOD, BUSY, BAD, STRONG = "dim", "green", "yellow", "bold red", "bold"


@dataclass(frozen=True, slots=True)
class Row:
    """A label, and cells beside it: they are laid out on as many lines as they need."""

    label: str
    cells: tuple[Text, ...]


def curve(values: Sequence[float], highest: float) -> str:
    """Values as one character each, from nothing to `highest`; nothing where they are few, or all 0."""
    if len(values) < 3 or not highest:
        return ""
    return "".join(_SPARKS[round(value / highest * (len(_SPARKS) - 1))] for value in values)


class LiveBlock:
    """The block of one run on a screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._trend = StageTrend()
        self._last: tuple[int, Progress | StudyProgress] | None = None
        self._ended = threading.Event()
        context = contextvars.copy_context()  # with the user's language
        self._ticker = threading.Thread(target=lambda: context.run(self._tick), daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Draw no more."""
        self._ended.set()
        self._ticker.join()

    def _tick(self) -> None:
        """Let the time go on while no snapshot comes, as while a trial or a page is computed."""
        while not self._ended.wait(_TICK_S):
            last = self._last
            since_s = 0.0 if last is None else (monotonic_ns() - last[0]) / NS_PER_S
            if last is not None and since_s >= _TICK_S:
                self._draw(_later(last[1], since_s))

    def show(self, progress: Progress | StudyProgress) -> None:
        """Draw a snapshot in place of the last."""
        run = progress.run if isinstance(progress, StudyProgress) else progress
        if run is not None:
            self._trend.add(run.stage, run.engine)
        self._last = (monotonic_ns(), progress)
        self._draw(progress)

    def _draw(self, progress: Progress | StudyProgress) -> None:
        self._screen.draw(block(progress, self._screen.width, self._trend, ascii_only=self._screen.ascii_only))


def _later(progress: Progress | StudyProgress, since_s: float) -> Progress | StudyProgress:
    """What was said, so much later."""
    eta_s = None if progress.eta_s is None else max(0.0, progress.eta_s - since_s)
    return replace(progress, at_s=progress.at_s + since_s, eta_s=eta_s)


def block(progress: Progress | StudyProgress, width: int, trend: StageTrend, *, ascii_only: bool = False) -> list[Text]:
    """The lines of a progress, none wider than `width` columns."""
    if isinstance(progress, StudyProgress):
        rows = list(_study_rows(progress, trend, ascii_only=ascii_only))
    else:
        rows = list(_rows(progress, trend, ascii_only=ascii_only))
    labels = max(Text(label).cell_len for label in (*(row.label for row in rows), *map(localized, _LABELS))) + 2
    room = max(_LEAST_CELLS, width - labels)
    lines = [line for row in rows for line in _lines(row, labels, room, ascii_only=ascii_only)]
    for line in lines:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


def _rows(progress: Progress, trend: StageTrend, *, ascii_only: bool) -> Iterable[Row]:
    stage = progress.stage
    yield _head(progress)
    if stage is None:
        yield from _waiting_rows(progress, ascii_only=ascii_only)
    else:
        state = localized(_STATES.get(stage.state, _PHASES[progress.phase]))
        yield Row(state, tuple(_state_cells(stage)))
        yield Row(localized("live.requests"), tuple(_request_cells(stage)))
        yield Row(
            localized("live.tokens"),
            tuple(
                _token_cells(stage, "" if ascii_only else curve(rates := trend.token_rates(), max(rates, default=0.0)))
            ),
        )
        if stage.ttft.n or stage.itl.n:
            yield Row(localized("live.latency"), tuple(_latency_cells(stage)))
    curves = ("", "") if ascii_only or stage is None else _queue_curves(trend)
    if progress.engine is not None and (cells := tuple(_engine_cells(progress.engine, *curves))):
        yield Row(localized("live.engine"), cells)
    yield from _whole_row(progress)


def _queue_curves(trend: StageTrend) -> tuple[str, str]:
    """What ran and what waited in the engine, on one scale."""
    running, waiting = trend.queue()
    highest = max((*running, *waiting), default=0.0)
    return curve(running, highest), curve(waiting, highest)


def _state_cells(stage: StageProgress) -> Iterable[Text]:
    """How much of the stage is done; once it is stopped, that the rest is not sent."""
    if stage.state == STOPPING:
        yield _text(message("live.in_flight_ends"), BUSY)
        yield _text(message("live.time", elapsed_s=stage.elapsed_s))
        return
    yield Text(_BAR, BUSY if stage.state == WARMUP else GOOD)
    yield _share(stage.share)
    yield _stage_time(stage)


_BAR = "\0"  # in place of a bar, which takes what the line has left


def _study_rows(study: StudyProgress, trend: StageTrend, *, ascii_only: bool) -> Iterable[Row]:
    """Which trial is tried and how, what its engine does, the best so far, and what is left."""
    marks = [Text(localized("live.simulated"), BUSY)] if study.simulated else []
    yield Row(localized("live.study"), (Text(displayable(study.name), STRONG), *marks))
    yield Row(localized("live.now"), tuple(_trial_cells(study)))
    settings = [Text(displayable(f"{name} {_setting(value)}")) for name, value in study.point.items()]
    if study.phase == SEARCHING and study.trial is not None:
        yield Row(localized("live.tries"), tuple(settings) or (_text(message("live.base_configuration")),))
    if study.run is not None:
        whole, own = localized("live.whole"), list(_rows(study.run, trend, ascii_only=ascii_only))
        yield from (row for row in own[1:] if row.label != whole)
    if study.best is not None:
        yield Row(localized("live.best"), tuple(_best_cells(study)))
    ended = [message("live.trials_ended", count=study.done)]
    ended += [message("live.trials_stopped", count=study.stopped)] if study.stopped else []
    ended += [message("live.trials_failed", count=study.failed)] if study.failed else []
    eta = [message("live.eta", eta_s=study.eta_s)] if study.eta_s else []
    yield Row(localized("live.whole"), tuple(map(_text, (*ended, *eta))))


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _trial_cells(study: StudyProgress) -> Iterable[Text]:
    if study.phase == REPORTING:
        yield _text(_PHASES[REPORTING])
        return
    if study.phase == CONFIRMING:
        done, planned = study.turns_done, study.turns
        who = message("live.default_again") if study.trial is None else message("live.trial_again", number=study.trial)
    else:
        done, planned = study.done, study.trials or 0
        who = message("live.next_trial")
        if study.trial is not None:
            who = message("live.trial", number=study.trial, origin=study.origin)
    if planned:
        yield Text(_BAR, GOOD)
        yield _share(min(1.0, done / planned))
        yield _text(message("live.turn_of", number=min(done + 1, planned), count=planned))
    yield _text(who, STRONG)
    yield _text(message("live.since", at_s=study.at_s), DIM)


def _best_cells(study: StudyProgress) -> Iterable[Text]:
    value = message("live.best_value", name=study.objective, value=study.best, number=study.best_trial)
    yield _text(value, STRONG)
    if study.default is not None:
        yield _text(message("live.default_value", value=study.default))
        if study.default > 0 and study.best is not None:
            yield _text(message("live.best_ratio", ratio=study.best / study.default))


def _head(progress: Progress) -> Row:
    stage = progress.stage
    marks = [Text(localized("live.simulated"), BUSY)] if progress.simulated else []
    if stage is None:
        return Row(localized("live.run"), (Text(displayable(progress.name), STRONG), *marks))
    scenario_stages = max(1, progress.stages // max(1, progress.repeats))
    place = localized("live.stage", number=stage.index + 1, stages=scenario_stages)
    cells = [Text(displayable(localized(load_and_end(stage.load))), STRONG)]
    if progress.repeats > 1:
        cells.append(Text(localized("live.repeat", repeat=stage.repeat + 1, repeats=progress.repeats)))
    return Row(place, (*cells, *marks))


def _waiting_rows(progress: Progress, *, ascii_only: bool) -> Iterable[Row]:
    """What goes on where no stage runs: the engine starts, kernels are measured, the result is made."""
    spin = "" if ascii_only else _SPIN[round(progress.at_s * 2) % len(_SPIN)] + " "
    words = _text(_PHASES[progress.phase])
    if progress.phase == STARTING and progress.engine_kind:
        words = _text(message("live.starting_kind", kind=progress.engine_kind))
    if progress.phase == PREPARING and progress.ended:
        words = _text(message("live.preparing_stage", number=progress.ended[-1].number + 2, stages=progress.stages))
    cells = [Text(spin, GOOD).append_text(Text(words.plain, "default"))]
    if progress.phase == KERNELS and progress.cases:
        cells = [Text(_BAR, GOOD), _share(progress.cases_done / progress.cases)]
        cells.append(_text(message("live.cases", done=progress.cases_done, count=progress.cases)))
    if progress.at_s:
        cells.append(_text(message("live.since", at_s=progress.at_s), DIM))
    yield Row(localized("live.now"), tuple(cells))
    if progress.log_line:
        yield Row(localized("live.log"), (Text(displayable(progress.log_line), DIM),))


def _stage_time(stage: StageProgress) -> Text:
    if stage.planned_s is not None:
        text = message("live.time_of", elapsed_s=min(stage.elapsed_s, stage.planned_s), planned_s=stage.planned_s)
        if stage.state == DRAINING:
            text = message("live.time", elapsed_s=stage.elapsed_s)
    elif stage.requests is not None:
        over = stage.answered + stage.failed + stage.cancelled
        text = message("live.requests_of", done=over, count=stage.requests, elapsed_s=stage.elapsed_s)
    else:
        text = message("live.time", elapsed_s=stage.elapsed_s)
    return _text(text)


def _request_cells(stage: StageProgress) -> Iterable[Text]:
    if stage.offered_rate is not None:
        yield _text(message("live.offered", rate=stage.offered_rate))
    if stage.request_rate is not None:
        yield _text(message("live.achieved", rate=stage.request_rate))
    answered = message("live.answered", count=stage.answered - stage.answered_in_warmup)  # as the result has it
    yield _text(answered)
    if stage.answered_in_warmup:
        yield _text(message("live.answered_in_warmup", count=stage.answered_in_warmup), DIM)
    yield _text(message("live.in_flight", count=stage.in_flight))
    yield _text(message("live.failed", count=stage.failed), BAD if stage.failed else "")


def _token_cells(stage: StageProgress, curve: str) -> Iterable[Text]:
    yield _text(message("live.token_rate", rate=stage.output_token_rate), STRONG)
    if curve:
        yield Text(curve, "cyan")


def _latency_cells(stage: StageProgress) -> Iterable[Text]:
    if stage.ttft.n:
        yield _text(message("live.ttft_p50", p50_s=stage.ttft.p50))
        yield _text(message("live.p95", p95_s=stage.ttft.p95))
    if stage.itl.n:
        yield _text(message("live.itl", p95_s=stage.itl.p95))


def _engine_cells(engine: EngineLoad, running: str, waiting: str) -> Iterable[Text]:
    """What the engine says of itself; `running` and `waiting` are curves of it."""
    if engine.running is not None:
        yield _with_curve(_text(message("live.engine_running", count=round(engine.running))), running)
    if engine.waiting is not None:
        style = BUSY if engine.waiting else ""
        yield _with_curve(_text(message("live.engine_waiting", count=round(engine.waiting)), style), waiting)
    if engine.kv_usage is not None:
        yield _text(message("live.kv_usage", share=engine.kv_usage), BUSY if engine.kv_usage > 0.95 else "")
    if engine.fullest:
        counts = {"running": round(engine.fullest_running or 0), "waiting": round(engine.fullest_waiting or 0)}
        yield _text(message("live.fullest_engine", engine=displayable(engine.fullest), **counts))


def _with_curve(cell: Text, curve: str) -> Text:
    return cell if not curve else Text.assemble(cell, " ", (curve, "cyan"))


def _whole_row(progress: Progress) -> Iterable[Row]:
    cells = []
    if progress.stages > 1 and progress.phase != REPORTING:
        cells.append(_text(message("live.stages_done", done=len(progress.ended), count=progress.stages)))
    if progress.eta_s is not None and (progress.eta_s >= 1 or progress.stage is None) and progress.eta_s > 0:
        cells.append(_text(message("live.eta", eta_s=progress.eta_s)))
    if cells:
        yield Row(localized("live.whole"), tuple(cells))


def _text(message: Message, style: str = "") -> Text:
    return Text(localized(message), style)


def _share(share: float | None) -> Text:
    return Text("" if share is None else f"{round(100 * share)} %")


def _lines(row: Row, labels: int, room: int, *, ascii_only: bool) -> Iterable[Text]:
    """A row on as many lines as its cells need, each below the first cell."""
    cells = [cell for cell in row.cells if cell.plain]
    label = Text(row.label, DIM)
    label.pad_right(labels - label.cell_len)
    for line in _wrapped(cells, room):
        yield label + Text(_GAP).join(_with_bars(line, room, ascii_only=ascii_only))
        label = Text(" " * labels)


def _wrapped(cells: Sequence[Text], room: int) -> Iterable[list[Text]]:
    line: list[Text] = []
    taken = 0
    for cell in cells:
        size = 10 if cell.plain == _BAR else cell.cell_len
        if line and taken + len(_GAP) + size > room:
            yield line
            line, taken = [], 0
        taken += size + (len(_GAP) if line else 0)
        line.append(cell)
    if line:
        yield line


def _with_bars(line: Sequence[Text], room: int, *, ascii_only: bool) -> list[Text]:
    """The cells of a line, its bar as long as there is room for, up to 40 columns."""
    shares = [cell.plain for cell in line if cell.plain.endswith(" %") and cell.plain[:-2].strip().isdigit()]
    rest = sum(cell.cell_len for cell in line if cell.plain != _BAR) + len(_GAP) * (len(line) - 1)
    share = float(shares[0][:-2]) / 100 if shares else None
    length = max(4, min(40, room - rest))
    return [
        _bar(share, length, str(cell.style), ascii_only=ascii_only) if cell.plain == _BAR else cell for cell in line
    ]


def _bar(share: float | None, length: int, style: str, *, ascii_only: bool) -> Text:
    done, left = ("#", "-") if ascii_only else ("━", "─")
    full = round((share or 0.0) * length)
    return Text(done * full, style).append(left * (length - full), DIM)
