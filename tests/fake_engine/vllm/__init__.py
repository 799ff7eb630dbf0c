"""A stand-in for vLLM that starts at once: its log, its endpoints, its `LLM`, and its ways to die."""

from vllm.llm import LLM, SamplingParams

__version__ = "0.23.0"
__all__ = ["LLM", "SamplingParams"]
