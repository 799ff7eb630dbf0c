"""Kernel providers: one module each, found by name and loaded only when needed."""

import importlib
from collections.abc import Mapping

from kernels_bench.providers.base import Provider, Unavailable

PROVIDERS = ("torch_npu", "vllm_cpu", "torch_reference")  # in the order in which `auto` tries them


def open_named(name: str, options: Mapping[str, object]) -> Provider:
    """The provider of that name, or with `auto` the first of `PROVIDERS` that is available.

    Raises:
        Unavailable: in one line, with the reason of each that was tried.
    """
    reasons = []
    for one in PROVIDERS if name == "auto" else (name,):
        try:
            module = importlib.import_module(f"kernels_bench.providers.{one}")
            provider: Provider = module.open_provider(options)
        except Unavailable as fault:
            reasons.append(f"{one}: {fault}")
        except ModuleNotFoundError as fault:
            reasons.append(f"{one}: there is no {fault.name} here")
        else:
            return provider
    raise Unavailable("; ".join(reasons))
