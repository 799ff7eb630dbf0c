"""What a GPU tells of itself, and its events and graphs, for `torch_reference` on a GPU."""

import subprocess
from collections.abc import Mapping, Sequence

import torch

from kernels_bench.providers.base import Device, Launch, Number
from kernels_bench.providers.clocks import Event

_ASKED = ("clocks.sm", "temperature.gpu", "power.draw")
_NAMES = ("clock_mhz", "temperature_c", "power_w")


def device(name: str) -> Device:
    """The GPU of a torch device name."""
    properties = torch.cuda.get_device_properties(name)
    free, _total = torch.cuda.mem_get_info(name)
    facts: dict[str, Number] = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    return Device("cuda", properties.name, free, properties.L2_cache_size, facts)


def event() -> Event:
    """An event that can be timed."""
    event: Event = torch.cuda.Event(enable_timing=True)
    return event


def graphs(launches: Sequence[Launch]) -> Sequence[Launch] | str:
    """A CUDA graph of each launch, as its replay; the first error's text where one cannot be captured."""
    replays: list[Launch] = []
    try:
        for launch in launches:
            launch()  # on its own stream first: allocations and handles are not captured
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch()
            replays.append(graph.replay)
    except RuntimeError as fault:
        return str(fault).splitlines()[0]
    return replays


def telemetry(name: str) -> Mapping[str, Number]:
    """Clock, temperature and power now, from nvidia-smi; empty where that is not there."""
    index = str(torch.device(name).index or 0)
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits", "-i", index]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return {key: float(value) for key, value in zip(_NAMES, output.strip().split(","), strict=True)}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
