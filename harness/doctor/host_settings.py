"""Is the machine set up for speed: variables, CPU clock, memory placement?

What is advised follows the optimisation and tuning guide in vllm-ascend's public documentation
(docs/source/developer_guide/performance_and_debug/optimization_and_tuning.md).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.doctor.findings import NOTE, OK, WRONG, Finding
from harness.doctor.hardware import Hardware
from harness.telemetry.environment import HostView


@dataclass(frozen=True, slots=True)
class AdvisedVariable:
    """A variable that makes serving faster; `several` where only for several chips."""

    name: str
    value: str
    several: bool = False


ADVISED_VARIABLES = (
    AdvisedVariable("TASK_QUEUE_ENABLE", "1"),
    AdvisedVariable("OMP_PROC_BIND", "false"),
    AdvisedVariable("OMP_NUM_THREADS", "1"),
    AdvisedVariable("HCCL_OP_EXPANSION_MODE", "AIV", several=True),
)
SLOW_VARIABLES: Mapping[str, str] = {
    "ASCEND_LAUNCH_BLOCKING": "every operator is waited for, and graphs cannot be used",
    "HCCL_DETERMINISTIC": "communication is deterministic and slower",
    "LCCL_DETERMINISTIC": "communication is deterministic and slower",
    "VLLM_BATCH_INVARIANT": "results do not depend on the batch, at the price of speed",
    "DISABLE_L2_CACHE": "the L2 cache is not used",
}
_OFF = ("", "0", "false", "no", "off")


def host_findings(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    """Variables where there is an NPU; clock and memory placement of the host everywhere."""
    if machine.ascend:
        yield from _advised(probe, machine)
        yield from _slow(probe)
        yield from _allocator(probe)
        yield from _visible(probe, machine)
    yield from _governor(probe)
    yield from _memory(probe, machine)


def _advised(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    wanted = [one for one in ADVISED_VARIABLES if not one.several or len(machine.chips) > 1]
    unset = [one for one in wanted if one.name not in probe.env]
    if unset:
        mend = "export " + " ".join(f"{one.name}={one.value}" for one in unset)
        names = ", ".join(one.name for one in unset)
        yield Finding("variables", NOTE, f"{names}: advised for speed, not set", mend)
    else:
        yield Finding("variables", OK, "those advised for speed are set")
    if not any(name in probe.env.get("LD_PRELOAD", "") for name in ("jemalloc", "tcmalloc")):
        text = "neither jemalloc nor tcmalloc is loaded; either makes the engine's CPU part faster"
        libraries = probe.paths("/usr/lib/*-linux-gnu/libjemalloc.so.2") or probe.paths("/usr/lib64/libjemalloc.so.2")
        mend = f"export LD_PRELOAD={libraries[0]}" if libraries else "apt install libjemalloc2"
        yield Finding("allocator", NOTE, text, mend)


def _slow(probe: HostView) -> Iterator[Finding]:
    for name, effect in SLOW_VARIABLES.items():
        if probe.env.get(name, "").lower() not in _OFF:
            yield Finding("variables", WRONG, f"{name}={probe.env[name]}: {effect}", f"unset {name}")


def _allocator(probe: HostView) -> Iterator[Finding]:
    told = probe.env.get("PYTORCH_NPU_ALLOC_CONF", "")
    if "expandable_segments:true" in told.lower() and "max_split_size_mb" in told:
        text = f"PYTORCH_NPU_ALLOC_CONF={told}: expandable_segments and max_split_size_mb exclude each other"
        yield Finding("variables", WRONG, text, "export PYTORCH_NPU_ALLOC_CONF=expandable_segments:True")


def _visible(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    told = probe.env.get("ASCEND_RT_VISIBLE_DEVICES", "")
    numbers = [int(word) for word in told.split(",") if word.strip().isdigit()]
    absent = [number for number in numbers if machine.numbers and number >= len(machine.numbers)]
    if absent:
        text = (
            f"ASCEND_RT_VISIBLE_DEVICES={told} names {absent[0]}; there are {len(machine.numbers)} devices, from 0 on"
        )
        yield Finding("variables", WRONG, text, "unset ASCEND_RT_VISIBLE_DEVICES")


def _governor(probe: HostView) -> Iterator[Finding]:
    paths = probe.paths("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    told = sorted({word for path in paths if (word := probe.first_line(path))})
    if not told:
        yield Finding("CPU clock", NOTE, "its governor cannot be seen from here, as in most virtual machines")
    elif told == ["performance"]:
        yield Finding("CPU clock", OK, "governor performance")
    else:
        text = f"governor {', '.join(told)}: cores slow down between requests, and times with them"
        yield Finding("CPU clock", WRONG, text, "sudo cpupower frequency-set -g performance")


def _memory(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    nodes = len(probe.paths("/sys/devices/system/node/node[0-9]*"))
    if probe.first_line("/proc/sys/kernel/numa_balancing") == "1" and nodes > 1:
        text = f"the kernel moves memory between {nodes} NUMA nodes while the engine runs"
        yield Finding("NUMA", WRONG, text, "sudo sysctl -w kernel.numa_balancing=0")
    else:
        yield Finding("NUMA", OK, f"{nodes} nodes, no automatic balancing" if nodes > 1 else "one node")
    swappiness = probe.first_line("/proc/sys/vm/swappiness")
    if machine.ascend and swappiness not in (None, "0"):
        text = f"vm.swappiness is {swappiness}; 0 keeps the engine in memory"
        yield Finding("swapping", NOTE, text, "sudo sysctl -w vm.swappiness=0")
