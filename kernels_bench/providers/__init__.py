"""Kernel providers: one module each, found by name and loaded only when needed."""

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from kernels_bench.providers.base import Provider, Unavailable

GROUP = "npu_harness.kernel_providers"
PROVIDERS = ("torch_npu", "vllm_cpu", "torch_reference")  # in the order in which `auto` tries them


def _opener(name: str) -> Callable[[Mapping[str, object]], Provider]:
    """What opens a provider: a module here, else the factory of one that a package brings to this interpreter."""
    if name in PROVIDERS:
        opener: Callable[[Mapping[str, object]], Provider]
        opener = importlib.import_module(f"kernels_bench.providers.{name}").open_provider
        return opener
    for point in entry_points(group=GROUP, name=name):
        opener = point.load().factory
        return opener
    raise Unavailable(f"no package of this interpreter brings it by an entry point of {GROUP}")


def open_named(name: str, options: Mapping[str, object]) -> Provider:
    """The provider of that name, or with `auto` the first of `PROVIDERS` that is available.

    Raises:
        Unavailable: in one line, with the reason of each that was tried.
    """
    reasons = []
    for candidate in PROVIDERS if name == "auto" else (name,):
        try:
            provider: Provider = _opener(candidate)(options)
        except Unavailable as fault:
            reasons.append(f"{candidate}: {fault}")
        except ModuleNotFoundError as fault:
            reasons.append(f"{candidate}: there is no {fault.name} here")
        else:
            return provider
    raise Unavailable("; ".join(reasons))
