"""The block of a run, at several widths and in both languages."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.live_view import block, curve
from harness.messages import language
from harness.results.progress import DRAINING, STOPPING, WARMUP, EngineLoad, StageTrend
from tests.cli.progresses import DRAWING, MEASURING_KERNELS, RUNNING, STAGE, STARTING_UP

ALL = [RUNNING, STARTING_UP, MEASURING_KERNELS, DRAWING]


def _trend():
    trend = StageTrend()
    for number, tokens in enumerate([0, 100, 300, 600, 1000, 1400]):
        engine = EngineLoad(number + 2, max(0, number - 3))
        trend.add(replace(STAGE, elapsed_s=number, counted_s=number / 2, output_tokens=tokens), engine)
    return trend


def _shown(progress, width, name="en", **options):
    with language(name):
        return [line.plain.rstrip() for line in block(progress, width, _trend(), **options)]


def test_a_stage_at_80_columns():
    """Everything that one asks while it runs, in eight lines."""
    assert _shown(RUNNING, 79) == [
        "stage 2/4     poisson 2 req/s, 60 s   SIMULATED",
        "measuring     ━━━━━━━━━━━━━━━━────────────────────────   41 %   0:24 of 1:00",
        "requests      offered 2.03 req/s   achieved 1.91 req/s   46 answered",
        "              7 in flight   0 failed",
        "output        412 tok/s   ▃▅▆██",
        "latency       TTFT from sent p50 412 ms   p95 1.03 s   ITL p95 38.1 ms",
        "engine        7 running ▃▄▅▆▇█   2 waiting ▁▁▁▁▂▃   KV cache 34.2 %",
        "whole run     1 of 4 stages done   about 3 min left",
    ]


def test_a_stage_at_60_columns_in_chinese():
    """A Chinese letter takes two columns."""
    assert _shown(RUNNING, 59, "zh") == [
        "阶段 2/4  泊松 2 req/s，60 秒   模拟",
        "测量中    ━━━━━━━━━━━─────────────────   41 %   0:24 / 1:00",
        "请求      到达 2.03 req/s   完成 1.91 req/s   已完成 46",
        "          在途 7   失败 0",
        "输出      412 tok/s   ▃▅▆██",
        "时延      TTFT（按实际发送） p50 412 ms   p95 1.03 s",
        "          ITL p95 38.1 ms",
        "引擎      运行 7 ▃▄▅▆▇█   排队 2 ▁▁▁▁▂▃   KV 缓存 34.2 %",
        "全程      已完成 1/4 个阶段   约剩 3 min",
    ]


def test_the_start_of_an_engine():
    """Its kind, for how long, and its own last line: no markup and no control code of it acts."""
    assert _shown(STARTING_UP, 79) == [
        "run           chat",
        "now           ⠇ vllm-ascend starts   1:24",
        "its log       Loading [bold]weights[/bold]: 33%  [2J ]0;title done",
    ]


def test_kernels_and_the_page():
    """Cases instead of stages; no counters of a stage while the page is drawn."""
    assert _shown(MEASURING_KERNELS, 79) == [
        "run           attention",
        "now           ━━━━━━━━━━━───────────────────────   32 %   13 of 40 cases   0:30",
        "whole run     about 62 s left",
    ]
    assert _shown(DRAWING, 79)[1] == "now           ⠏ result and page are made   1:24"


def test_repeats_and_what_is_missing_and_ascii():
    """Stages are counted within a repeat; what is not known is left out; a bar of ASCII where it must be."""
    progress = replace(RUNNING, repeats=2, simulated=False, engine=EngineLoad(None, 0.0, None), eta_s=None)
    stage = replace(STAGE, repeat=1, planned_s=None, offered_rate=None, share=None, requests=None, ttft=STAGE.ttft)
    lines = _shown(replace(progress, stage=stage), 99, ascii_only=True)

    assert lines == [
        "stage 2/2     poisson 2 req/s, 60 s   repeat 2/2",
        "measuring     ----------------------------------------   0:24",
        "requests      achieved 1.91 req/s   46 answered   7 in flight   0 failed",
        "output        412 tok/s",
        "latency       TTFT from sent p50 412 ms   p95 1.03 s   ITL p95 38.1 ms",
        "engine        0 waiting",
        "whole run     1 of 4 stages done",
    ]


@pytest.mark.parametrize(("state", "words"), [(WARMUP, "warm-up"), (DRAINING, "last answers")])
def test_warm_up_and_last_answers_show_as_such(state, words):
    """In place of `measuring`."""
    assert _shown(replace(RUNNING, stage=replace(STAGE, state=state)), 79)[1].startswith(words)


def test_answers_of_the_warm_up_are_counted_apart():
    """What is answered is what the result and the line at a stage's end have: it never falls; no rate is not 0."""
    stage = replace(STAGE, answered=8, answered_in_warmup=8, offered_rate=None, request_rate=None)
    rows = _shown(replace(RUNNING, stage=stage), 99)

    assert rows[2] == "requests      0 answered   8 more in the warm-up   7 in flight   0 failed"


def test_a_stage_that_the_user_ended_says_so():
    """No bar that goes on and no time left: nothing more is sent."""
    progress = replace(RUNNING, stage=replace(STAGE, state=STOPPING), eta_s=None)

    assert _shown(progress, 79)[1] == "stopping      what is in flight ends, nothing more is sent   0:24"
    assert _shown(progress, 79)[-1] == "whole run     1 of 4 stages done"
    assert _shown(progress, 79, "zh")[1].startswith("停止中")


def test_failures_are_marked():
    """Red, where there are any."""
    lines = block(replace(RUNNING, stage=replace(STAGE, failed=3)), 99, StageTrend())
    marked = [line.plain[span.start : span.end] for line in lines for span in line.spans if span.style == "bold red"]

    assert marked == ["3 failed"]


@given(st.sampled_from(ALL), st.integers(20, 200), st.sampled_from(["en", "zh"]), st.booleans())
def test_no_line_is_wider_than_the_terminal(progress, width, name, ascii_only):
    """From 20 columns on, in both languages."""
    with language(name):
        lines = block(progress, width, _trend(), ascii_only=ascii_only)

    assert all(line.cell_len <= width for line in lines)


@given(st.sampled_from(ALL), st.integers(48, 200), st.sampled_from(["en", "zh"]))
def test_nothing_is_lost_in_a_narrow_terminal(progress, width, name):
    """Cells move to further lines; but for bars and long foreign lines all words of 200 columns are there."""

    def words(lines):
        text = " ".join(line for line in lines if "Loading" not in line)
        return sorted(word for word in text.split() if not set(word) & set("━─▁▃█"))

    assert words(_shown(progress, width, name)) == words(_shown(progress, 200, name))


def test_the_trend_begins_anew_with_a_stage_and_ignores_what_it_knows():
    """A snapshot between two counts says nothing new."""
    trend = _trend()
    trend.add(replace(STAGE, counted_s=2.5, output_tokens=1400))
    known = trend.token_rates()
    trend.add(replace(STAGE, number=2, counted_s=0.5, output_tokens=10))

    assert known == [200, 400, 600, 800, 800]
    assert curve(known, 800) == "▃▅▆██"
    assert (trend.token_rates(), trend.queue()) == ([], ([], []))


@given(st.integers(1, 500))
def test_the_curve_of_the_queue_is_of_the_whole_stage(seconds):
    """Up to ten means of equal parts, in order, from its first second to its last; two snapshots a second are one."""
    trend = StageTrend()
    for half in range(2 * seconds):
        trend.add(replace(STAGE, elapsed_s=half / 2), EngineLoad(half // 2, None))
    running, waiting = trend.queue()

    assert len(running) == min(10, seconds)
    assert running == sorted(running)
    assert waiting == [0] * len(running)
    assert sum(running) / len(running) == pytest.approx((seconds - 1) / 2, abs=max(1, seconds / 10))


def test_a_queue_that_waits_shows_on_the_scale_of_what_runs():
    """Both curves end at the highest of both; where nothing ran or waited there is none."""
    trend = StageTrend()
    for second in range(4):
        trend.add(replace(STAGE, elapsed_s=second), EngineLoad(4, 2 * second))
    with_engine = replace(RUNNING, engine=EngineLoad(4, 6, None))

    assert block(with_engine, 120, trend)[5].plain.rstrip() == "engine        4 running ▆▆▆▆   6 waiting ▁▃▆█"
    assert block(with_engine, 120, StageTrend())[5].plain.rstrip() == "engine        4 running   6 waiting"


@pytest.mark.parametrize(
    ("name", "words"),
    [("en", "fullest decode-1: 7 running, 12 waiting"), ("zh", "最满 decode-1：运行 7，排队 12")],
)
def test_the_fullest_of_several_engines_is_named(name, words):
    """Beside what all have together, and on a line of its own where there is no room."""
    engine = EngineLoad(20.0, 12.0, 0.5, "decode-1", 7.0, 12.0)

    assert words in "\n".join(_shown(replace(RUNNING, engine=engine), 120, name))
    assert all(len(line) <= 50 for line in _shown(replace(RUNNING, engine=engine), 50, name))
