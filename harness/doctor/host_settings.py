"""Checks of the host's settings for speed: environment variables, CPU clock, memory placement.

What is advised follows the optimisation and tuning guide in vllm-ascend's public documentation
(docs/source/developer_guide/performance_and_debug/optimization_and_tuning.md).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.doctor.findings import NOTE, OK, WRONG, Finding
from harness.doctor.hardware import Hardware
from harness.messages import message, plain
from harness.telemetry.environment import HostView


@dataclass(frozen=True, slots=True)
class AdvisedVariable:
    """A variable that makes serving faster; `several_chips` where only for several chips."""

    name: str
    value: str
    several_chips: bool = False


ADVISED_VARIABLES = (
    AdvisedVariable("TASK_QUEUE_ENABLE", "1"),
    AdvisedVariable("OMP_PROC_BIND", "false"),
    AdvisedVariable("OMP_NUM_THREADS", "1"),
    AdvisedVariable("HCCL_OP_EXPANSION_MODE", "AIV", several_chips=True),
)
SLOW_VARIABLES: Mapping[str, str] = {  # what each costs, by the code of its message
    "ASCEND_LAUNCH_BLOCKING": "doctor.slow_launch_blocking",
    "HCCL_DETERMINISTIC": "doctor.slow_deterministic",
    "LCCL_DETERMINISTIC": "doctor.slow_deterministic",
    "VLLM_BATCH_INVARIANT": "doctor.slow_batch_invariant",
    "DISABLE_L2_CACHE": "doctor.slow_no_l2",
}
_OFF = ("", "0", "false", "no", "off")
_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
_ALLOCATOR = "PYTORCH_NPU_ALLOC_CONF"


def host_findings(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    """Variables where there is an NPU; clock and memory placement of the host everywhere."""
    if hardware.has_npu:
        yield from _advised_variables(host, hardware)
        yield from _slow_variables(host)
        yield from _npu_allocator(host)
        yield from _visible_devices(host, hardware)
    yield from _governor(host)
    yield from _memory(host, hardware)


def _advised_variables(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    advised = [variable for variable in ADVISED_VARIABLES if not variable.several_chips or len(hardware.chips) > 1]
    unset = [variable for variable in advised if variable.name not in host.env]
    if unset:
        remedy = plain("export " + " ".join(f"{variable.name}={variable.value}" for variable in unset))
        text = message("doctor.variables_unset", names=[variable.name for variable in unset])
        yield Finding("variables", NOTE, text, remedy)
    else:
        yield Finding("variables", OK, message("doctor.variables_set"))
    if not any(name in host.env.get("LD_PRELOAD", "") for name in ("jemalloc", "tcmalloc")):
        libraries = host.paths("/usr/lib/*-linux-gnu/libjemalloc.so.2") or host.paths("/usr/lib64/libjemalloc.so.2")
        remedy = plain(f"export LD_PRELOAD={libraries[0]}") if libraries else message("doctor.install_jemalloc")
        yield Finding("allocator", NOTE, message("doctor.no_fast_allocator"), remedy)


def _slow_variables(host: HostView) -> Iterator[Finding]:
    for name, effect in SLOW_VARIABLES.items():
        value = host.env.get(name, "")
        if value.lower() not in _OFF:
            text = message("doctor.variable_slows", name=name, value=value, effect=message(effect))
            yield Finding("variables", WRONG, text, plain(f"unset {name}"))


def _npu_allocator(host: HostView) -> Iterator[Finding]:
    value = host.env.get(_ALLOCATOR, "")
    if "expandable_segments:true" in value.lower() and "max_split_size_mb" in value:
        text = message("doctor.allocator_conflict", name=_ALLOCATOR, value=value)
        yield Finding("variables", WRONG, text, plain(f"export {_ALLOCATOR}=expandable_segments:True"))


def _visible_devices(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    value = host.env.get(_VISIBLE, "")
    numbers = [int(word) for word in value.split(",") if word.strip().isdigit()]
    devices = len(hardware.device_numbers)
    absent = [number for number in numbers if devices and number >= devices]
    if absent:
        text = message("doctor.device_not_there", name=_VISIBLE, value=value, absent=absent[0], devices=devices)
        yield Finding("variables", WRONG, text, plain(f"unset {_VISIBLE}"))


def _governor(host: HostView) -> Iterator[Finding]:
    paths = host.paths("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    governors = sorted({governor for path in paths if (governor := host.first_line(path))})
    if not governors:
        yield Finding("CPU clock", NOTE, message("doctor.governor_unknown"))
    elif governors == ["performance"]:
        yield Finding("CPU clock", OK, message("doctor.governor_fast"))
    else:
        text = message("doctor.governor_slow", governors=governors)
        yield Finding("CPU clock", WRONG, text, message("doctor.set_governor"))


def _memory(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    nodes = len(host.paths("/sys/devices/system/node/node[0-9]*"))
    if host.first_line("/proc/sys/kernel/numa_balancing") == "1" and nodes > 1:
        remedy = plain("sudo sysctl -w kernel.numa_balancing=0")
        yield Finding("NUMA", WRONG, message("doctor.numa_balancing", nodes=nodes), remedy)
    else:
        node = message("doctor.numa_one")
        yield Finding("NUMA", OK, message("doctor.numa_nodes", nodes=nodes) if nodes > 1 else node)
    swappiness = host.first_line("/proc/sys/vm/swappiness")
    if hardware.has_npu and swappiness not in (None, "0"):
        remedy = plain("sudo sysctl -w vm.swappiness=0")
        yield Finding("swapping", NOTE, message("doctor.swappiness", swappiness=swappiness), remedy)
