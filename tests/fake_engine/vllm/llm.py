"""An `LLM` of which nothing is real but its answers' lengths: FAKE_VLLM says how it behaves."""

import os
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

MODE = os.environ.get("FAKE_VLLM", "serve")
LAST = 5  # the last number of a request that is answered where it does not go on


@dataclass
class SamplingParams:
    """The few that are asked for."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    ignore_eos: bool = False


class LLM:
    """Answers a request a step, the last first."""

    def __init__(self, **flags):
        if MODE == "config":
            raise ValueError("No common block size for 16 (ASCEND: [128]).")
        sys.stderr.write("INFO 08-22 10:00:00 [core.py:133] GPU KV cache size: 1,234,567 tokens\n")
        sys.stderr.write(
            "INFO 08-22 10:00:00 [core.py:133] init engine (profile, create kv_cache, warmup model) took 1 s\n"
        )
        sys.stderr.write(f"flags {sorted(name for name, value in flags.items() if value is not None)}\n")
        self.request_counter = SimpleNamespace(counter=0)
        self.llm_engine = SimpleNamespace(step=self.step)
        self.waiting = []

    def generate(self, prompts, params, *, use_tqdm):
        """The answers, in the order of the prompts."""
        assert not use_tqdm
        self.sampled = params[0]
        for prompt, asked in zip(prompts, params, strict=True):
            self.waiting.append((self.request_counter.counter, prompt, asked.max_tokens))
            self.request_counter.counter += 1
        answers = []
        while self.waiting:
            answers += self.llm_engine.step()
        return sorted(answers, key=lambda answer: int(answer.request_id))

    def step(self):
        """One answer whole."""
        number, prompt, tokens = self.waiting.pop()
        if MODE in ("dies", "hangs") and number <= LAST:
            time.sleep(60 if MODE == "hangs" else 0)
            sys.stderr.write("ERROR 08-22 10:00:00 [core.py:133] torch.OutOfMemoryError: NPU out of memory.\n")
            os._exit(3)
        ids = prompt.get("prompt_token_ids", [1, 2, 3])
        now_s = time.monotonic() + (3600 if MODE == "elsewhere" else 0)
        stats = SimpleNamespace(first_token_ts=now_s, last_token_ts=now_s)
        return [
            SimpleNamespace(
                request_id=str(number),
                finished=True,
                prompt_token_ids=ids,
                num_cached_tokens=0,
                outputs=[SimpleNamespace(token_ids=[7] * tokens, finish_reason="length")],
                metrics=None if MODE == "quiet" else stats,
            )
        ]
