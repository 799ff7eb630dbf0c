"""The attention and cache operators of an Ascend NPU, called as vllm-ascend calls them."""

from __future__ import annotations

import importlib
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels_bench.cases import Case
from kernels_bench.providers import ascend_device, ascend_graph
from kernels_bench.providers.ascend_limits import LIMITS, broken_limit
from kernels_bench.providers.base import Device, Launch, Number, Path, Prepared, Sample, Unavailable
from kernels_bench.providers.clocks import evented
from kernels_bench.reasons import Reason, Why, reason

if TYPE_CHECKING:  # limits, probing and graphs stay testable where torch is not installed
    from torch import Tensor

    from kernels_bench.providers.inputs import Inputs

_FUSED = ("npu_fused_infer_attention_score.out", "_npu_fused_infer_attention_score_get_max_workspace")
_FUSED_V2 = ("npu_fused_infer_attention_score_v2.out", "_npu_fused_infer_attention_score_v2_get_max_workspace")
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "fia": _FUSED,
    "fia_dense": _FUSED,
    "fia_v2": _FUSED_V2,
    "pa": ("_npu_paged_attention",),
    "pa_workspace": ("_npu_paged_attention", "_npu_paged_attention_get_workspace"),
    "mla_fia_v2": _FUSED_V2,
    "mla_atb": ("atb.npu_multi_head_latent_attention",),
    "scatter_pa": ("npu_scatter_pa_kv_cache",),
    "reshape_and_cache": ("_npu_reshape_and_cache",),
}
"""Of each path: what torch_npu must have for it."""
FAMILIES = {"Ascend910B": "A2", "Ascend910_93": "A3", "Ascend950": "A5"}
NOT_ON_A5 = ("pa", "pa_workspace", "mla_atb", "reshape_and_cache")  # the plug-in calls no operator of ATB there
BUSY_LAUNCHES = 8  # without a gap between them: a clock is read while the NPU works


class TorchNpu:
    """The operators of one NPU; `torch_npu` and `npu` are the packages torch_npu and torch.npu."""

    name = "torch_npu"

    def __init__(self, torch_npu: Any, npu: Any, index: int, *, graph_updates: bool) -> None:
        self.torch_device = f"npu:{index}"
        self._torch_npu = torch_npu
        self._npu = npu
        self._index = index
        self._graph_updates = graph_updates
        self._called = str(npu.get_device_name(index))
        self._made_mask: Tensor | None = None
        self._at_hand: weakref.ref[Launch] | None = None

    def device(self) -> Device:
        """The NPU, marked `hollow` in its facts where a stand-in for CANN answers."""
        versions = {name: str(importlib.import_module(name).__version__) for name in ("torch", "torch_npu")}
        return ascend_device.device(self._npu, self._index, versions)

    def paths(self) -> Sequence[Path]:
        """All paths; one is missing where this torch_npu or this chip has no such operator."""
        return [Path(name, LIMITS[name][0], missing(self._torch_npu, self._called, name)) for name in OPERATORS]

    def refuse(self, case: Case, path: str) -> Reason | None:
        """The operator's documented limits."""
        return broken_limit(case, path)

    def prepare(self, case: Case, path: str, inputs: Inputs) -> Prepared:
        """Views, lists, masks and workspaces, so that a launch is one call."""
        from kernels_bench.providers import ascend_atb, ascend_fused  # noqa: PLC0415 - they need torch

        makers: Mapping[str, Callable[[Any, Case, Inputs], Prepared]] = {
            "fia": partial(ascend_fused.prepare, mask=self._mask()),
            "fia_dense": partial(ascend_fused.prepare_dense, mask=self._mask()),
            "fia_v2": partial(ascend_fused.prepare_v2, mask=self._mask()),
            "pa": partial(ascend_atb.prepare_paged, own_workspace=False),
            "pa_workspace": partial(ascend_atb.prepare_paged, own_workspace=True),
            "mla_fia_v2": ascend_fused.prepare_mla,
            "mla_atb": ascend_atb.prepare_mla,
            "scatter_pa": ascend_atb.prepare_scatter,
            "reshape_and_cache": ascend_atb.prepare_reshape,
        }
        prepared = makers[path](self._torch_npu, case, inputs)
        # Not held: what a launch refers to is the memory of its case.
        self._at_hand = weakref.ref(prepared.launches[0])
        return prepared

    def synchronize(self) -> None:
        """Wait for the NPU: the host queues twice, in a thread of its own and on the device."""
        self._npu.synchronize()

    def time(self, batch: Sequence[Launch]) -> Sample:
        """By a pair of device events, with the host's times beside them."""
        return evented(batch, partial(self._npu.Event, enable_timing=True), self.synchronize)

    def graph(self, launches: Sequence[Launch]) -> Sequence[Launch] | Why:
        """NPU graphs, one a launch; with the option `graph_updates` each replay is given its lengths anew."""
        if os.environ.get("ASCEND_LAUNCH_BLOCKING") == "1":
            return reason(
                "bench.launch_blocking", "ASCEND_LAUNCH_BLOCKING=1 waits in every launch, which a capture cannot"
            )
        return ascend_graph.graphs(self._npu, launches, updated=self._graph_updates)

    def telemetry(self) -> Mapping[str, Number]:
        """Clock, temperature and power from npu-smi, while the last case that was prepared keeps the NPU busy."""
        launch = self._at_hand() if self._at_hand else None
        return ascend_device.telemetry(self._called, self._index, partial(self._busy, launch) if launch else None)

    def _busy(self, launch: Launch) -> None:
        for _ in range(BUSY_LAUNCHES):
            launch()
        self.synchronize()

    def _mask(self) -> Tensor:
        from kernels_bench.providers import ascend_fused  # noqa: PLC0415 - it needs torch

        if self._made_mask is None:
            self._made_mask = ascend_fused.causal_mask(self.torch_device)
        return self._made_mask


def missing(torch_npu: Any, chip: str, path: str) -> Reason | None:
    """Why this torch_npu or this chip cannot run a path; None where both can."""
    family = next((family for start, family in FAMILIES.items() if chip.startswith(start)), None)
    if family is None:
        sentence = "{chip}: its cache has another layout, or its operators other names, than on A2, A3 and A5"
        return reason("bench.chip_unknown", sentence, chip=chip)
    if family == "A5" and path in NOT_ON_A5:
        return reason("bench.atb_chips", "{chip}: ATB's operators are for A2 and A3", chip=chip)
    absent = [name for name in OPERATORS[path] if not _has(torch_npu, name)]
    return (
        reason(
            "bench.torch_npu_without",
            "torch_npu {version} has no {name}",
            version=str(torch_npu.__version__),
            name=absent[0],
        )
        if absent
        else None
    )


def _has(package: Any, dotted: str) -> bool:
    for part in dotted.split("."):
        package = getattr(package, part, None)
        if package is None:
            return False
    return True


def open_provider(options: Mapping[str, object]) -> TorchNpu:
    """On `options["device"]`, such as `npu:1`; `npu:0` where nothing is asked for.

    Raises:
        Unavailable: torch_npu is not installed or does not load, or there is no such NPU.
    """
    device = str(options.get("device") or "npu:0")
    kind, _, number = device.partition(":")
    if kind != "npu" or not (number or "0").isdigit():
        raise Unavailable(f"{device} is no NPU: expected npu:0, npu:1 ..")
    torch_npu = _loaded()
    npu: Any = torch_npu.npu
    index, count = int(number or 0), int(npu.device_count())
    if index >= count:
        raise Unavailable(f"there are {count} NPUs; {device} is none of them")
    npu.set_device(index)
    return TorchNpu(torch_npu, npu, index, graph_updates=bool(options.get("graph_updates")))


def _loaded() -> Any:
    try:
        return importlib.import_module("torch_npu")
    except (ImportError, RuntimeError) as fault:  # RuntimeError: a package that is there, and a CANN that is not
        raise Unavailable(f"torch_npu does not load: {str(fault).splitlines()[0]}") from None
