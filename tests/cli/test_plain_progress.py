"""The progress of a run where there is no terminal."""

from dataclasses import replace

from harness.cli.plain_progress import PlainProgress
from harness.messages import language, localized
from harness.results.progress import LiveLatency
from tests.cli.progresses import FIRST, MEASURING_KERNELS, RUNNING, STAGE, STARTING_UP

LOG = "Loading weights"


def _said(*snapshots, often=True, name="en"):
    lines = []
    progress = PlainProgress(lambda line: lines.append(localized(line)), often=often)
    with language(name):
        for snapshot in snapshots:
            progress.show(snapshot)
    return lines


def test_what_a_stage_came_to_is_a_line():
    """Once, however often it is seen; its figures say that they are live ones, not those of the result's window."""
    counts = "stage 1/4 (poisson 1 req/s): 46 answered, 7 in flight, 0 failed; live, over all measured requests: "
    ended = f"{counts}1.91 req/s, 412 tok/s, TTFT from sent p50 412 ms, p95 1.03 s, ITL p95 38.1 ms"

    assert _said(RUNNING, RUNNING) == [ended]
    assert _said(RUNNING, often=False) == [ended]


def test_a_stage_without_figures_shows_its_counts():
    """Nothing stands behind them where no rate and no latency could be formed."""
    failed = replace(
        FIRST, answered=0, failed=9, in_flight=0, request_rate=0.0, output_token_rate=0.0,
        ttft=LiveLatency(), itl=LiveLatency(),
    )  # fmt: skip

    assert _said(replace(RUNNING, ended=(failed,))) == ["stage 1/4 (poisson 1 req/s): 0 answered, 9 failed"]


def test_a_long_stage_says_a_word_a_minute():
    """Not more: ten minutes of it are ten lines."""
    first = replace(RUNNING, ended=())
    snapshots = [
        replace(first, at_s=second / 2, stage=replace(STAGE, elapsed_s=second / 2)) for second in range(1, 1200)
    ]
    lines = _said(*snapshots)

    assert len(lines) == 9
    assert lines[0].startswith("stage 2/4, 1:00: 46 answered, 7 in flight, 0 failed")
    assert lines[0].endswith("; about 3 min left")
    assert _said(*snapshots, often=False) == []


def test_a_long_start_says_what_the_engine_logs():
    """And for how long it has been starting."""
    start = replace(STARTING_UP, log_line=LOG)

    assert _said(start) == ["vllm-ascend has been starting for 1:24; its log: Loading weights"]
    assert _said(replace(start, log_line="")) == ["vllm-ascend has been starting for 1:24"]
    assert _said(start, name="zh") == ["vllm-ascend 已启动 1:24；日志：Loading weights"]
    assert _said(MEASURING_KERNELS) == []


def test_repeats_are_named():
    """Stages are counted within a repeat."""
    stage = replace(FIRST, repeat=1)

    assert _said(replace(RUNNING, repeats=2, ended=(stage,)))[0].startswith("stage 1/2, repeat 2/2 (poisson 1 req/s)")
