"""The progress of a run in few lines, for logs: what each stage came to, and a word a minute in between."""

from harness.cli.terminal import OutputLog
from harness.messages import Message, Parameter, message
from harness.results.progress import STARTING, Progress, StageProgress, StudyProgress
from harness.scenario.stages import load_name

EVERY_S = 60.0


class PlainProgress:
    """Lines of one run; `show` takes every snapshot and says what is worth a line."""

    def __init__(self, log: OutputLog, *, often: bool) -> None:
        """Without `often` only what a stage came to."""
        self._log = log
        self._often = often
        self._ended = 0
        self._told_s = 0.0

    def show(self, progress: Progress | StudyProgress) -> None:
        """Take in a snapshot; a study has its own lines, one a trial."""
        if isinstance(progress, StudyProgress):
            return
        for stage in progress.ended[self._ended :]:
            self._log(stage_ends(stage, progress))
            self._told_s = progress.at_s
        self._ended = max(self._ended, len(progress.ended))
        if self._often and progress.at_s - self._told_s >= EVERY_S and (line := _line(progress)) is not None:
            self._log(line)
            self._told_s = progress.at_s


def stage_ends(stage: StageProgress, progress: Progress) -> Message:
    """What a stage came to by its live counts, named so: the result's figures are those of a window of the stage."""
    words: dict[str, Parameter] = {"stage": _place(stage, progress), "load": load_name(stage.load)}
    words["counts"] = _counts(stage)
    figures = _figures(stage)
    if not figures:
        return message("live.stage_ends_uncounted", **words)
    return message("live.stage_ends", figures=figures, **words)


def stage_so_far(stage: StageProgress, progress: Progress) -> Message:
    """What a stage under way has come to."""
    figures = [*_counts(stage), *_figures(stage)]
    return message("live.stage_goes_on", stage=_place(stage, progress), elapsed_s=stage.elapsed_s, figures=figures)


def _line(progress: Progress) -> Message | None:
    """What goes on now; None where there is nothing to say."""
    stage = progress.stage
    if stage is not None:
        line = stage_so_far(stage, progress)
        if progress.eta_s:
            return message("live.with_eta", line=line, eta_s=progress.eta_s)
        return line
    if progress.phase == STARTING:
        kind, log = progress.engine_kind, progress.log_line
        if log:
            return message("live.starting_for_log", kind=kind, at_s=progress.at_s, log=log)
        return message("live.starting_for", kind=kind, at_s=progress.at_s)
    return None


def _place(stage: StageProgress, progress: Progress) -> Message:
    stages = max(1, progress.stages // max(1, progress.repeats))
    place = message("live.stage", number=stage.index + 1, stages=stages)
    if progress.repeats == 1:
        return place
    repeat = message("live.repeat", repeat=stage.repeat + 1, repeats=progress.repeats)
    return message("live.stage_of_repeat", stage=place, repeat=repeat)


def _counts(stage: StageProgress) -> list[Message]:
    answered = stage.answered - stage.answered_in_warmup  # as the result has it
    counts = [message("live.answered", count=answered), message("live.failed", count=stage.failed)]
    if stage.in_flight:
        counts.insert(1, message("live.in_flight", count=stage.in_flight))
    return counts


def _figures(stage: StageProgress) -> list[Message]:
    """Rates and latencies of all measured requests so far; those that could be formed."""
    figures = []
    if stage.request_rate:
        figures.append(message("live.request_rate", rate=stage.request_rate))
    if stage.output_token_rate:
        figures.append(message("live.token_rate", rate=stage.output_token_rate))
    if stage.ttft.n:
        figures.append(message("live.ttft", p50_s=stage.ttft.p50, p95_s=stage.ttft.p95))
    if stage.itl.n:
        figures.append(message("live.itl", p95_s=stage.itl.p95))
    return figures
