"""The steps that the real vLLM scheduler takes for a trace.

Runs in the interpreter of an installed vLLM: `python vllm_scheduler.py TRACE.json...` prints what
`python -m harness.simulator.replay TRACE.json...` prints, from `vllm.v1.core.sched.scheduler.Scheduler` driven
without a model.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    LoRAConfig,
    ModelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

FIRST_OUTPUT = 1_000_000
TINY = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 1024,
    "max_position_embeddings": 1048576, "torch_dtype": "float32",
}  # fmt: skip


def scheduler_of(config: dict[str, Any], folder: str) -> Scheduler:
    """The real scheduler with a trace's config."""
    block_size, blocks = config.get("block_size", 16), config["num_blocks"]
    length = config.get("max_model_len", 8192)
    model = ModelConfig(model=folder, skip_tokenizer_init=True, max_model_len=length, dtype="float32")
    known = ("long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "max_num_active_seqs",
             "scheduler_reserve_full_isl", "watermark", "prefill_schedule_interval")  # fmt: skip
    scheduling = SchedulerConfig(
        max_num_seqs=config.get("max_num_seqs", 256),
        max_num_batched_tokens=config.get("max_num_batched_tokens", 2048),
        max_model_len=length,
        enable_chunked_prefill=config.get("enable_chunked_prefill", True),
        is_encoder_decoder=False,
        async_scheduling=False,
        policy=config.get("scheduling_policy", "fcfs"),
        **{name: config[name] for name in known if name in config},
    )
    cache = CacheConfig(
        block_size=block_size,
        gpu_memory_utilization=0.9,
        enable_prefix_caching=config.get("enable_prefix_caching", True),
    )
    cache.num_gpu_blocks = blocks
    loras = config.get("max_loras", 0)
    adapters = LoRAConfig(max_loras=loras, max_cpu_loras=8, max_lora_rank=8) if loras else None
    whole = VllmConfig(
        scheduler_config=scheduling,
        model_config=model,
        cache_config=cache,
        lora_config=adapters,
        speculative_config=speculation_of(config),
        device_config=DeviceConfig(device="cpu"),
    )
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    scheduler = Scheduler(
        vllm_config=whole,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(whole),
        block_size=block_size,
        log_stats=True,
    )
    if "num_prefill_lookahead" in config:  # else only of drafting layers
        scheduler.num_prefill_lookahead = config["num_prefill_lookahead"]
    return scheduler


def speculation_of(config: dict[str, Any]) -> SpeculativeConfig | None:
    """Speculation as a trace's config sets it.

    A drafting layer needs weights to be found, the scheduler only to know that it is one: to vLLM it is n-grams that
    say they are EAGLE.
    """
    tokens = config.get("num_speculative_tokens")
    if tokens is None:
        return None
    with_layer = config["speculative_method"] != "ngram"
    SpeculativeConfig.use_eagle = lambda _: with_layer
    return SpeculativeConfig(method="ngram", num_speculative_tokens=tokens, prompt_lookup_max=2)


def request_of(entry: dict[str, Any], hasher: Callable[[Request], Any], order: int) -> Request:
    """One request of a trace, the so-maniest to arrive."""
    adapter = entry.get("adapter", 0)
    sampling = SamplingParams(max_tokens=entry["output_tokens"], ignore_eos=True)
    return Request(
        request_id=str(entry["id"]),
        prompt_token_ids=list(entry["prompt"]),
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=float(order),
        priority=entry.get("priority", 0),
        lora_request=LoRARequest(f"adapter {adapter}", adapter, "/nowhere") if adapter else None,
        block_hasher=hasher,
    )


class Remote:
    """A KV connector as the scheduler sees it: prompts whose caches are fetched, each for so many steps."""

    requires_kv_delivery = False
    supports_divergent_local_hybrid_hits = False

    def __init__(self, steps: dict[str, int]) -> None:
        self.steps, self.step, self.begun = steps, 0, []
        self.due: dict[str, int] = {}
        self.done: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a cache is on its way, or came in this step."""
        return any(due >= self.step for due in self.due.values())

    def arrived(self) -> set[str]:
        """The requests whose caches are here at the end of this step."""
        return {name for name, due in self.due.items() if due == self.step}

    def get_num_new_matched_tokens(self, request: Request, computed: int) -> tuple[int, bool]:
        """All of the prompt that is not in the local cache, once."""
        if request.request_id not in self.steps or request.request_id in self.due:
            return 0, False
        return request.num_prompt_tokens - computed, True

    def update_state_after_alloc(self, request: Request, _blocks: Any, external: int) -> None:
        """A request has its blocks: the cache is on its way."""
        if external:
            self.begun.append(request.request_id)
            self.due[request.request_id] = self.step + self.steps[request.request_id]

    def __getattr__(self, name: str) -> Any:
        """Whatever else the scheduler asks is of no account here."""
        answers = {"request_finished": (False, None), "has_pending_block_frees": False, "take_events": ()}
        return lambda *_, **__: answers.get(name, () if name == "get_loaded_kv_cache_group_ids" else None)


def cached_tokens(output: Any) -> dict[str, int]:
    """Tokens found in the cache of the requests that this step admits or admits again."""
    found = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    again = output.scheduled_cached_reqs
    resumed = zip(again.req_ids, again.num_computed_tokens, strict=True)
    return {**found, **{name: computed for name, computed in resumed if name in again.resumed_req_ids}}


def sampled(scheduler: Scheduler, output: Any, accepted: dict[str, list[int]]) -> ModelRunnerOutput:
    """What a model would return: a token for every request whose tokens are all computed, and the accepted ones."""
    names = list(output.num_scheduled_tokens)
    tokens: list[list[int]] = []
    for name in names:
        request = scheduler.requests[name]
        length = request.num_tokens
        done = request.num_computed_tokens >= length
        drafts = [draft for draft in output.scheduled_spec_decode_tokens.get(name, []) if draft >= 0]
        more = min(accepted[name][length % len(accepted[name])], len(drafts)) if drafts else 0
        tokens.append([FIRST_OUTPUT + length + place for place in range(1 + more)] if done else [])
    return ModelRunnerOutput(
        req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)}, sampled_token_ids=tokens
    )


def steps(trace: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    """The steps of a trace, as the simulated scheduler's lines."""
    scheduler = scheduler_of(trace["config"], folder)
    ahead = getattr(scheduler, "num_hash_lookahead_tokens", 0)  # 0.33: of drafting layers
    hasher = get_request_block_hasher(trace["config"].get("block_size", 16), sha256, *([ahead] if ahead else []))
    coming = sorted(trace["requests"], key=lambda request: request["arrival_step"])
    accepted = {str(entry["id"]): entry.get("accepted") or [0] for entry in coming}
    drafts = trace["config"].get("num_speculative_tokens", 0)
    remote = scheduler.connector = Remote({str(e["id"]): e["fetch_steps"] for e in coming if "fetch_steps" in e})
    number = added = 0
    while coming or scheduler.running or scheduler.waiting or scheduler.kv_holding_waiting:
        while coming and coming[0]["arrival_step"] <= number:
            added += 1
            scheduler.add_request(request_of(coming.pop(0), hasher, added))
        remote.step, remote.begun = number, []
        output = scheduler.schedule()
        answer = sampled(scheduler, output, accepted)
        answer.kv_connector_output = KVConnectorOutput(finished_recving=remote.arrived())
        answers = scheduler.update_from_output(output, answer)
        if drafts:
            drafted = [name for name, tokens in zip(answer.req_ids, answer.sampled_token_ids, strict=True) if tokens]
            scheduler.update_draft_token_ids(DraftTokenIds(drafted, [[FIRST_OUTPUT] * drafts for _ in drafted]))
        finished = [
            answer.request_id
            for outputs in answers.values()
            for answer in outputs.outputs
            if answer.finish_reason is not None
        ]
        if output.num_scheduled_tokens or output.preempted_req_ids or remote.begun:
            line = {
                "step": number,
                "scheduled": dict(output.num_scheduled_tokens),
                "preempted": sorted(output.preempted_req_ids or ()),
                "cached": cached_tokens(output),
                "finished": sorted(finished),
            }
            if remote.begun:
                line["fetch"] = sorted(remote.begun)
            if drafts:
                spec = output.scheduled_spec_decode_tokens
                line["drafts"] = {name: len(tokens) for name, tokens in spec.items() if tokens}
            yield line
        elif not coming and not remote.is_busy:
            return
        number += 1


def main(paths: list[str]) -> None:
    """Print the steps of each trace, and `--` after each of several."""
    init_none_hash(sha256)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
        for path in paths:
            trace = json.loads(Path(path).read_text(encoding="utf-8"))
            for line in steps(trace, folder):
                sys.stdout.write(json.dumps(line) + "\n")
            if len(paths) > 1:
                sys.stdout.write("--\n")


if __name__ == "__main__":
    main(sys.argv[1:])
