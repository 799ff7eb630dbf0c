"""Published serving results of vllm-ascend, and what the simulated engine predicts for them.

Kinds: "tpot_ms" mean time per output token, "ttft_ms" mean time to first token, "output_rate" output
tokens/s, "request_rate" requests/s. The figures are those of vllm-ascend's documents, nightly
baselines and issues; 2025 figures come from releases that launched kernels one by one and had
no asynchronous scheduling, so they are predicted with those switched off and a term of their own.
The tiny model on two cores was measured by this project.

The terms of harness/simulator/step_cost.py were fitted to these very figures: that they agree shows that one
small set of terms explains them, not how well it foretells others.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.simulator.engine_config import Settings, settings_from_flags
from harness.simulator.step_cost import TERMS, StepCost
from harness.simulator.virtual_time import Arrival, SimulatedRun, simulate

TINY = str(Path(__file__).parent / "data" / "tiny_qwen2")
OF_2025 = {"enforce_eager": True, "async_scheduling": False}
REQUEST_S_OF_2025 = 352e-6  # the host's work for each request in a step, in those releases
GRAPHS = {"cudagraph_mode": "FULL_DECODE_ONLY"}


@dataclass(frozen=True)
class Anchor:
    """One published figure: flags of the engine, lengths, concurrency, requests, what was measured."""

    name: str
    flags: dict[str, Any]
    tokens_in: int
    tokens_out: int
    concurrency: int
    kind: str
    published: float
    requests: int = 0
    rate: float = 0.0  # requests/s, 0: as fast as possible
    shared: float = 0.0  # share of the prompt that all requests have in common
    unmet: str = field(default="", compare=False)  # why it cannot be met


def _a2(model, tp, **more):
    return {"model": model, "chip": "910B3", "tp": tp, **more}


def _a3(model, tp, **more):
    return {"model": model, "chip": "A3", "tp": tp, "max_num_batched_tokens": 8192, **GRAPHS, **more}


def _310p(model, tp):
    return {"model": model, "chip": "310P", "tp": tp, "max_num_seqs": 32, "max_model_len": 20480,
            "gpu_memory_utilization": 0.8, **GRAPHS}  # fmt: skip


_QWEN32 = _a2("Qwen3-32B", 4, **OF_2025)
_CPU = {"model": TINY, "chip": "cpu-2core", "max_model_len": 8192}
_W8A8_A2 = _a2("Qwen3-32B-W8A8", 4, max_num_batched_tokens=40960, gpu_memory_utilization=0.9, **GRAPHS)
_W8A8_A3 = _a3("Qwen3-32B-W8A8", 4, gpu_memory_utilization=0.9)

ANCHORS = (
    *(Anchor(f"tiny model on two cores 256/64, {kind}", _CPU, 256, 64, 16, kind, value, 64)
      for kind, value in (("output_rate", 3486), ("tpot_ms", 3.3), ("ttft_ms", 71))),
    Anchor("Qwen3-8B, 10 at once", _a2("Qwen3-8B", 1, **OF_2025), 220, 200, 10, "tpot_ms", 25.85, 10),
    Anchor("Qwen3-8B, 10 at once, first token", _a2("Qwen3-8B", 1, **OF_2025), 220, 200, 10, "ttft_ms", 127.1, 10,
           unmet="the lengths of the ten prompts are not published, nor how far apart they came"),
    Anchor("Qwen3-8B offline 128/128", _a2("Qwen3-8B", 1, **OF_2025), 128, 128, 10, "output_rate", 349.97, 10),
    Anchor("Qwen2.5-7B, concurrency 5", _a2("Qwen2.5-7B", 1, **OF_2025), 100, 250, 5, "tpot_ms", 32.9,
           unmet="the V0 engine of release 0.7.3, whose steps cost the host more"),
    Anchor("Qwen2.5-0.5B eager 512/256", _a2("Qwen2.5-0.5B", 1, enforce_eager=True), 512, 256, 50, "output_rate",
           2597.67, 200),
    *(Anchor(f"Qwen3-32B tp4 150/2700, concurrency {c}", _QWEN32, 150, 2700, c, "tpot_ms", ms)
      for c, ms in ((1, 55.1), (15, 61.6), (26, 64.7))),
    *(Anchor(f"Qwen3-32B tp4 735/1880, concurrency {c}", _QWEN32, 735, 1880, c, "tpot_ms", ms)
      for c, ms in ((1, 53.1), (24, 64.0), (34, 70.0))),
    *(Anchor(f"Qwen3-32B tp4 666/231, concurrency {c}", _QWEN32, 666, 231, c, "tpot_ms", ms)
      for c, ms in ((1, 54.1), (8, 58.8), (14, 61.8))),
    Anchor("Qwen3-8B 128/100, 20 req/s, at most 40", _a2("Qwen3-8B", 1, max_num_batched_tokens=40960, **GRAPHS),
           128, 100, 40, "output_rate", 1514, 500, rate=20),
    Anchor("Qwen3-32B W8A8 tp4 3500/1500", _W8A8_A2, 3500, 1500, 72, "output_rate", 1065.179),
    Anchor("Qwen3-32B W8A8 A3 tp4 3500/1500", {**_W8A8_A3, "max_num_batched_tokens": 40960, "max_num_seqs": 80}, 3500,
           1500, 76, "output_rate", 1249.018),
    Anchor("the same, newer configuration", {**_W8A8_A3, "max_model_len": 5500}, 3500, 1500, 76, "output_rate",
           1326.599),
    Anchor("the same, concurrency 46", _W8A8_A3, 3500, 1500, 46, "output_rate", 942.23),
    Anchor("QwQ-32B A3 tp4 3500/1500", _a3("QwQ-32B", 4, max_num_batched_tokens=2048), 3500, 1500, 60, "output_rate",
           724.59),
    Anchor("Qwen3-30B-A3B W8A8 A3 tp1 3500/1500",
           _a3("Qwen3-30B-A3B-W8A8", 1, max_num_batched_tokens=16384, max_num_seqs=100, max_model_len=5600),
           3500, 1500, 45, "output_rate", 812.34),
    Anchor("Qwen3-32B W8A8 A3 tp4 3500/1, nothing shared", {**_W8A8_A3, "max_model_len": 8192}, 3500, 1, 48,
           "request_rate", 3.5855, 210),
    Anchor("the same, 75 % shared", {**_W8A8_A3, "max_model_len": 8192}, 3500, 1, 48, "request_rate", 12.8682, 210,
           shared=0.75),
    Anchor("Qwen3-8B W8A8 310P 512/512", _310p("Qwen3-8B-W8A8", 1), 512, 512, 1, "output_rate", 18, 4),
    Anchor("Qwen3-14B W8A8 310P 512/512", _310p("Qwen3-14B-W8A8", 1), 512, 512, 1, "output_rate", 10.7, 4),
    Anchor("Qwen3-32B W8A8 310P tp4 512/512", _310p("Qwen3-32B-W8A8", 4), 512, 512, 8, "output_rate", 105.26, 32),
)  # fmt: skip


def predicted(anchor: Anchor) -> float:
    """What the simulated engine gives in the anchor's unit, by a closed loop over equal requests."""
    requests = anchor.requests or max(2, round(anchor.concurrency * 2))
    settings = settings_from_flags(anchor.flags)
    spacing_ns = 1e9 / anchor.rate if anchor.rate else 0.0
    arrivals = [
        Arrival(round(number * spacing_ns), _prompt(anchor, number), anchor.tokens_out) for number in range(requests)
    ]
    result = simulate(settings, arrivals, concurrency=anchor.concurrency, cost=_cost(settings))
    return _measured(anchor, arrivals, result)


def _cost(settings: Settings) -> StepCost:
    terms = TERMS[settings.device.family]
    return StepCost(settings, terms if settings.async_scheduling else replace(terms, request_s=REQUEST_S_OF_2025))


@functools.lru_cache(maxsize=4096)
def _numbers(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, 90_000, count).tolist())


def _prompt(anchor: Anchor, number: int) -> tuple[int, ...]:
    shared = round(anchor.tokens_in * anchor.shared)
    return (*_numbers(10**6, shared), *_numbers(number, anchor.tokens_in - shared))


def _measured(anchor: Anchor, arrivals: list[Arrival], result: SimulatedRun) -> float:
    seconds = result.step_ns[-1] / 1e9
    if anchor.kind == "output_rate":
        return result.output_tokens / seconds
    if anchor.kind == "request_rate":
        return len(arrivals) / seconds
    if anchor.kind == "ttft_ms":
        return float(np.mean([times[0] for times in result.token_ns] - result.sent_ns)) / 1e6
    return float(np.mean([(times[-1] - times[0]) / (len(times) - 1) for times in result.token_ns])) / 1e6
