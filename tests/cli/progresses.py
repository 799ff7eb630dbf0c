"""Progresses of runs, as a terminal gets them."""

from dataclasses import replace

from harness.results.progress import (
    ENDED,
    KERNELS,
    LOADING,
    MEASURING,
    REPORTING,
    STARTING,
    EngineLoad,
    LiveLatency,
    Progress,
    StageProgress,
)

STAGE = StageProgress(
    1, 1, 0, {"kind": "poisson", "rate": 2.0, "duration_s": 60.0}, MEASURING, elapsed_s=24.4, counted_s=24.2,
    planned_s=60.0, remaining_s=35.6, share=0.41, requests=120, sent=53, answered=46, failed=0, in_flight=7,
    output_tokens=9978, offered_rate=2.03, request_rate=1.91, output_token_rate=412.3,
    ttft=LiveLatency(50, 0.412, 1.03, 1.2), itl=LiveLatency(9900, 0.021, 0.0381, 0.04),
)  # fmt: skip
FIRST = replace(STAGE, number=0, index=0, state=ENDED, load={"kind": "poisson", "rate": 1.0, "duration_s": 60.0})
RUNNING = Progress(
    "chat", LOADING, 84.5, simulated=True, engine_kind="simulator", model="Qwen2.5-7B", stages=4, stage=STAGE,
    ended=(FIRST,), engine=EngineLoad(7, 2, 0.342), eta_s=155.0,
)  # fmt: skip
ODD_LINE = "Loading [bold]weights[/bold]: 33% \x1b[2J\x1b]0;title\x07done"
STARTING_UP = Progress("chat", STARTING, 84.0, engine_kind="vllm-ascend", log_line=ODD_LINE)
MEASURING_KERNELS = Progress("attention", KERNELS, 30.0, cases_done=13, cases=40, eta_s=62.0)
DRAWING = replace(RUNNING, phase=REPORTING, stage=None, eta_s=None)
