"""The accelerators the simulator knows: memory, bandwidth, peak operations and links of each, as published or measured.

Peaks are those of the cube (matrix) unit alone: cores × 4096 multiply-adds × 2 × clock; the
sums of cube and vector units that product names carry are not reached by a matrix product.
`efficiency` figures are fitted to published serving results, see tests/simulator/test_anchors.py.

A result of `kernels` becomes two shares of the chip's figures, of its bandwidth, from decodes, which read the cache;
and of its arithmetic, from cases that are bound by it. They take the place of `cost.TERMS.cache` and `.attention`.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, suggestion
from harness.messages import message
from harness.results import store

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ChipSpec:
    """One device as the engine sees it: a die for A3, a chip for 310P.

    `memory_bytes` is what the engine finds as total, `idle_bytes` what driver and runtime hold
    of it, `bandwidth` bytes/s, `peak` operations/s in 16 bits (8 bits: twice that),
    `link_bandwidth` bytes/s of a card to all others of its node, `mesh` whether each other card has
    a seventh of that for itself, `family` the plug-in's name for the device.
    """

    name: str
    family: str
    memory_bytes: int
    idle_bytes: int
    bandwidth: float
    peak: float
    link_bandwidth: float
    mesh: bool = False

    def link_of(self, cards: int) -> float:
        """Bytes/s that one card exchanges with `cards` - 1 others."""
        return self.link_bandwidth * min(1.0, (cards - 1) / 7) if self.mesh else self.link_bandwidth

    @property
    def is_ascend(self) -> bool:
        """Whether vllm-ascend's rules hold, rather than vLLM's CPU platform."""
        return self.family != "CPU"

    @property
    def device(self) -> str:
        """The word that vLLM's log lines use for it."""
        return "NPU" if self.is_ascend else "CPU"


CHIPS: Mapping[str, ChipSpec] = {
    chip.name: chip
    for chip in (
        ChipSpec("910B1", "A2", int(60.96 * GIB), int(0.36 * GIB), 1.6e12, 378.9e12, 196e9, mesh=True),
        ChipSpec("910B2", "A2", int(60.96 * GIB), int(0.36 * GIB), 1.6e12, 353.9e12, 196e9, mesh=True),
        ChipSpec("910B3", "A2", int(60.96 * GIB), int(0.36 * GIB), 1.6e12, 294.9e12, 196e9, mesh=True),
        ChipSpec("910B4", "A2", int(29.5 * GIB), int(0.36 * GIB), 0.8e12, 245.8e12, 32e9),
        ChipSpec("A3", "A3", int(61.27 * GIB), int(0.38 * GIB), 1.6e12, 353.9e12, 196e9),
        ChipSpec("310P", "310P", int(42.5 * GIB), int(0.36 * GIB), 204e9, 70e12, 8e9),
        ChipSpec("cpu-2core", "CPU", 20 * GIB, 0, 12e9, 0.8e12, 8e9),
    )
}
DEFAULT_CHIP = "910B3"
_ALIASES = {"910b": "910B3", "910c": "A3", "a2": "910B3", "ascend910b": "910B3", "cpu": "cpu-2core"}


def chip_named(name: str) -> ChipSpec:
    """The chip of that name, whatever its case, with or without "ascend" before it.

    Raises:
        InputError: there is no such chip; with the nearest name.
    """
    folded = name.lower().removeprefix("ascend")
    folded = _ALIASES.get(folded, folded)
    for known, chip in CHIPS.items():
        if known.lower() == folded.lower():
            return chip
    raise InputError(message("simulator.unknown_chip", chip=name, suggestion=suggestion(name, CHIPS)))


_DECODES = ("decode", "mla_decode")


@dataclass(frozen=True, slots=True)
class KernelCalibration:
    """Shares of a chip's bandwidth and peak that attention reached; None where no case tells."""

    cache: float | None
    attention: float | None

    @property
    def flags(self) -> dict[str, float]:
        """As flags of the simulated engine."""
        shares = {"cache_efficiency": self.cache, "attention_efficiency": self.attention}
        return {name: float(f"{share:.4g}") for name, share in shares.items() if share is not None}


def read_calibration(folder: Path, chip: ChipSpec) -> KernelCalibration:
    """The calibration of a result folder for a chip.

    Raises:
        InputError: it is no result of kernels, was measured on another kind of device, or holds no case of use.
        ResultError: it is no result at all.
    """
    store.read_run(folder)
    summary = store.read_json(folder, store.SUMMARY)
    if "kernels" not in summary:
        raise InputError(message("simulator.calibration_no_kernels", folder=str(folder)))
    if not summary["verdict"]["valid"]:
        raise InputError(message("simulator.calibration_invalid", folder=str(folder)))
    device = summary["kernels"]["device"]
    if chip.is_ascend != (device["kind"] == "npu"):
        wanted = message("simulator.device_npu" if chip.is_ascend else "simulator.device_cpu")
        place = {"folder": str(folder), "device": device["name"], "chip": chip.name}
        raise InputError(message("simulator.calibration_device", **place, expected=wanted))
    calibration = calibration_from(summary["kernels"]["rows"], chip)
    if not calibration.flags:
        raise InputError(message("simulator.calibration_no_case", folder=str(folder)))
    return calibration


def calibration_from(rows: list[Mapping[str, Any]], chip: ChipSpec) -> KernelCalibration:
    """The median share over the cases that tell it, cold where that was measured; at most 1."""
    moved, computed = [], []
    for row in rows:
        figures = row["modes"].get("cold") or next(iter(row["modes"].values()), None)
        if figures is None:
            continue
        bound = figures["limits"].get("measured", {}).get("bound")
        if row["labels"]["phase"] in _DECODES and bound == "memory":
            moved.append(figures["bytes_per_s"] / chip.bandwidth)
        elif bound == "compute":
            computed.append(figures["flops_per_s"] / chip.peak)
    return KernelCalibration(_share(moved), _share(computed))


def _share(values: list[float]) -> float | None:
    return min(1.0, statistics.median(values)) if values else None
