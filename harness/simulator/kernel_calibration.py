"""Attention shares of a chip's peaks, taken from measured kernels.

A result of `kernels` becomes two shares of the chip's figures: of its bandwidth, from decodes, which read the cache;
and of its arithmetic, from cases that are bound by it. They take the place of `cost.TERMS.cache` and `.attention`.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.messages import message
from harness.results import store
from harness.simulator.chips import ChipSpec

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
