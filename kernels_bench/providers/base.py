"""The protocol of a kernel provider, and the values that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kernels_bench.cases import Case
from kernels_bench.reasons import Why

if TYPE_CHECKING:  # what times and judges stays testable where torch is not installed
    from torch import Tensor

    from kernels_bench.providers.inputs import Inputs

Launch = Callable[[], None]
"""Runs the operator once on arguments made beforehand: nothing else happens in it, for it is what is timed."""
Number = str | int | float
HOLLOW = "hollow"  # a fact of a device that computes nothing: no number of it may be published


@dataclass(frozen=True, slots=True)
class Path:
    """One way to run cases: an operator of the provider, such as `fia` or `pa`."""

    name: str
    phases: tuple[str, ...]
    """Phases of `cases.PHASES` that the operator computes."""
    missing: Why | None = None
    """Why the installed version cannot run it; None where it can."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the launches run on."""

    kind: str
    """`cpu`, `cuda` or `npu`: torch's word."""
    name: str
    """As the device calls itself: `Ascend910B3`, `NVIDIA H200`, the CPU's model name."""
    memory_bytes: int
    """Free for tensors now."""
    cache_bytes: int
    """Last-level cache, which a cold measurement has to exceed; a stated default where the device does not tell."""
    facts: Mapping[str, Number] = field(default_factory=dict)
    """Anything else worth keeping: driver, versions, ISA."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case made ready on one path."""

    launches: tuple[Launch, ...]
    """One for each step of the inputs, in their order."""
    result: Callable[[int], Tensor]
    """What launch i has written, in the form of `reference.expected`: attention output
    [tokens, heads, head_size] (MLA: kv_lora_rank wide), or for `kv_write` the rows found in the cache at the step's
    slots, [2, tokens, kv_heads, head_size]. Called after `synchronize`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed batch of launches, whole batch, in nanoseconds."""

    launches: int
    launch_ns: int
    """Host time until the last launch had returned: what the CPU pays."""
    wall_ns: int
    """Host time until the device was done, synchronisation included."""
    device_ns: int | None = None
    """Between two device events around the batch; None where the device has no events."""


class Provider(Protocol):
    """Runs cases on one device through one library.

    A provider is made by `open_provider(options)` of its module, which raises `Unavailable` in one line where the
    library or the device is missing.
    """

    @property
    def name(self) -> str:
        """As scenarios call it: `torch_npu`, `vllm_cpu`, `torch_reference`."""

    @property
    def torch_device(self) -> str:
        """Where inputs are made: `cpu`, `cuda:0`, `npu:0`."""

    def device(self) -> Device:
        """The device, asked now."""

    def paths(self) -> Sequence[Path]:
        """Every path known, also those the installed version lacks."""

    def refuse(self, case: Case, path: str) -> Why | None:
        """Why this path cannot take this case (a documented limit of the operator), or None. Touches no device."""

    def prepare(self, case: Case, path: str, inputs: Inputs) -> Prepared:
        """Make everything a launch needs, layout changes and workspaces included.

        May raise torch.OutOfMemoryError, MemoryError or RuntimeError: the case is lost, the run goes on.
        """

    def synchronize(self) -> None:
        """Wait until the device is idle; nothing on a CPU."""

    def time(self, batch: Sequence[Launch]) -> Sample:
        """Run the launches one after another and time the batch: see `providers.clocks`."""

    def graph(self, launches: Sequence[Launch]) -> Sequence[Launch] | Why:
        """The same launches as replays of captured graphs, or why that cannot be."""

    def telemetry(self) -> Mapping[str, Number]:
        """Clock and temperature now, such as {"clock_mhz": 1800, "temperature_c": 51}; empty where not told."""


class Unavailable(Exception):  # noqa: N818 - a state of the machine, told in one line, not a fault of the code
    """The provider's library or device is not here."""
