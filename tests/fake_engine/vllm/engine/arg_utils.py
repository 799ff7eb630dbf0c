"""What the stand-in makes of its flags; FAKE_VLLM says how its configuration code ends."""

import logging
import os
from types import SimpleNamespace

CHANGED = []  # the real one keeps state between configurations as well


class AsyncEngineArgs:
    """The flags, as parsed."""

    def __init__(self, flags):
        self.flags = flags

    @classmethod
    def from_cli_args(cls, flags):
        """All of them."""
        return cls(flags)

    def create_engine_config(self, usage_context):
        """The configuration of these flags."""
        return configuration(self.flags, usage_context)


def configuration(flags, usage_context):
    """Blocks of 128 tokens, unless it ends otherwise; its graphs show what the engine is for."""
    mode = os.environ.get("FAKE_VLLM", "")
    if mode == "nodevice":
        raise RuntimeError("Failed to infer device type")
    if mode == "crash":
        os._exit(7)
    if mode == "exit":
        raise SystemExit(3)
    if flags.max_num_seqs > flags.max_num_batched_tokens:
        raise ValueError(f"max_num_batched_tokens ({flags.max_num_batched_tokens}) must be\n at least max_num_seqs")
    CHANGED.append(flags.block_size)
    logging.getLogger("vllm").setLevel(logging.INFO)
    logging.getLogger("vllm").info("Block size is set to %d here.", 128)
    return SimpleNamespace(
        cache_config=SimpleNamespace(block_size=128, cache_dtype="auto"),
        scheduler_config=SimpleNamespace(max_num_seqs=flags.max_num_seqs, scheduler_cls=SimpleNamespace),
        model_config=SimpleNamespace(max_model_len=flags.max_model_len, dtype="torch.bfloat16", seed=len(CHANGED)),
        compilation_config=SimpleNamespace(cudagraph_mode=usage_context, cudagraph_capture_sizes=(1, 2)),
        additional_config=None,
    )


class EngineArgs:
    """The flags of the engine alone, as `LLM` takes them."""

    @classmethod
    def from_cli_args(cls, flags):
        """All but those of a server."""
        made = cls()
        made.__dict__.update({name: value for name, value in vars(flags).items() if name not in ("host", "port")})
        return made

    def create_engine_config(self, usage_context):
        """The configuration of these flags."""
        return configuration(self, usage_context)
