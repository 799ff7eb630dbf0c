"""Checks of the machine: its NPUs and the settings of its host.

Of the NPUs: device files, driver, firmware, health, memory in use, and the links between the cards. The settings are
environment variables, CPU clock and memory placement. What is advised follows the optimisation and tuning guide in
vllm-ascend's public documentation
(docs/source/developer_guide/performance_and_debug/optimization_and_tuning.md).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.messages import Message, message, plain
from harness.telemetry.environment import DRIVER, HostView, driver_version, find_npu_smi, firmware_version
from harness.telemetry.npu_smi import NpuChip, NpuTable, parse_info

IN_USE_SHARE = 0.1  # of a chip's memory; an idle one shows 3 to 5 % for the driver's own use
_HUAWEI = "0x19e5"
_ACCELERATOR = "0x1200"  # PCI class of processing accelerators
_CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc")
_COMPANIONS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_INSTALL = message("doctor.install_driver")
_REBOOT = message("doctor.reboot_or_install", install=_INSTALL)
_MOUNTS = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    f"{DRIVER}/lib64",
    f"{DRIVER}/version.info",
    "/etc/ascend_install.info",
    f"{DRIVER}/tools/hccn_tool",
    "/etc/hccn.conf",
)
_FAST_LINKS = {"HCCS", "SIO", "HCCS_SW"}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What was seen first: device files, cards on the PCI bus, the driver's version, npu-smi and what it printed."""

    device_files: tuple[str, ...]
    pci_cards: int
    driver: str | None
    npu_smi: str | None
    npu_smi_output: str
    table: NpuTable
    in_container: bool

    @property
    def has_npu(self) -> bool:
        """Whether anything of an NPU is here."""
        return bool(self.device_files or self.pci_cards or self.driver or self.npu_smi)

    @property
    def chips(self) -> tuple[NpuChip, ...]:
        """The chips that npu-smi shows."""
        return self.table.chips

    @property
    def device_numbers(self) -> tuple[int, ...]:
        """Numbers of the device files: 0 for /dev/davinci0."""
        return tuple(sorted(int(path.rpartition("davinci")[2]) for path in self.device_files))


def inspect_hardware(host: HostView) -> Hardware:
    """What Ascend hardware a host has, and whether it is a container."""
    npu_smi = find_npu_smi(host)
    output = host.run([npu_smi, "info"]).text if npu_smi else ""
    return Hardware(
        device_files=tuple(host.paths("/dev/davinci[0-9]*")),
        pci_cards=_pci_cards(host),
        driver=driver_version(host),
        npu_smi=npu_smi,
        npu_smi_output=output,
        table=parse_info(output),
        in_container=_in_container(host),
    )


def _pci_cards(host: HostView) -> int:
    """Accelerators by Huawei on the PCI bus, seen even without a driver."""
    vendors = (path for path in host.paths("/sys/bus/pci/devices/*/vendor") if host.first_line(path) == _HUAWEI)
    classes = (host.first_line(path.removesuffix("vendor") + "class") or "" for path in vendors)
    return sum(pci_class.startswith(_ACCELERATOR) for pci_class in classes)


def _in_container(host: HostView) -> bool:
    if host.read("/.dockerenv") is not None or host.read("/run/.containerenv") is not None:
        return True
    return any(word in (host.read("/proc/1/cgroup") or "") for word in _CONTAINERS)


def npu_findings(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    """Device files, npu-smi, driver, firmware, and each chip; one line where there is no driver at all."""
    if not hardware.device_files and hardware.driver is None and not hardware.in_container:
        absent = message("doctor.no_driver", driver=DRIVER)
        if hardware.pci_cards:
            absent = message("doctor.cards_without_driver", cards=hardware.pci_cards, driver=DRIVER)
        yield Finding("driver", MISSING, absent, _INSTALL)
        return
    yield from _device_files(host, hardware)
    yield from _driver(host, hardware)
    if hardware.in_container:
        yield from _mounts(host)
    if hardware.npu_smi is None and not hardware.in_container:
        yield Finding("npu-smi", MISSING, message("doctor.no_npu_smi"), _INSTALL)
    elif hardware.npu_smi is not None and not hardware.chips:
        lines = [line.strip() for line in hardware.npu_smi_output.splitlines() if line.strip()]
        printed = plain(lines[0][:120]) if lines else message("doctor.no_output")
        library_path = f"export LD_LIBRARY_PATH={DRIVER}/lib64/common:{DRIVER}/lib64/driver:$LD_LIBRARY_PATH"
        yield Finding(
            "npu-smi", WRONG, message("doctor.no_chip", printed=printed), plain(f"{library_path}; npu-smi info")
        )
    elif hardware.npu_smi is not None:
        yield from _chips(hardware)


def _device_files(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    files = hardware.device_files
    if not files:
        yield _no_device_files(hardware)
        return
    closed = [path for path in (*files, *_COMPANIONS) if host.paths(path) and not host.may_open(path)]
    absent = [path for path in _COMPANIONS if not host.paths(path)]
    if closed:
        yield Finding("devices", WRONG, message("doctor.devices_closed", paths=closed), message("doctor.join_group"))
    if absent:
        remedy = _docker_devices(absent) if hardware.in_container else _REBOOT
        yield Finding("devices", MISSING, message("doctor.devices_absent", paths=absent), remedy)
    if not closed and not absent:
        shown = message("doctor.device_file", path=files[0])
        if len(files) > 1:
            shown = message("doctor.device_files", files=len(files), path=files[0])
        yield Finding("devices", OK, shown)


def _no_device_files(hardware: Hardware) -> Finding:
    if hardware.in_container:
        remedy = message("doctor.give_devices", command=_docker_devices(["/dev/davinci0", *_COMPANIONS]))
        return Finding("devices", MISSING, message("doctor.container_without_npu"), remedy)
    return Finding("devices", MISSING, message("doctor.driver_not_loaded"), _REBOOT)


def _docker_devices(paths: list[str]) -> Message:
    return plain(f"docker run {' '.join(f'--device {path}' for path in paths)} ...")


def _driver(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    driver, tool_version = hardware.driver, hardware.table.version
    if driver is None:
        if not hardware.in_container:
            yield Finding("driver", MISSING, message("doctor.no_driver_file", path=f"{DRIVER}/version.info"), _INSTALL)
    elif tool_version and tool_version.lower() != driver.lower():
        yield Finding("driver", NOTE, message("doctor.driver_and_tool", driver=driver, tool=tool_version))
    else:
        yield Finding("driver", OK, plain(driver))
    firmware = firmware_version(host, hardware.npu_smi, hardware.chips[0].npu if hardware.chips else None)
    if firmware is not None:
        yield Finding("firmware", OK, plain(firmware))
    elif hardware.chips:
        yield Finding("firmware", NOTE, message("doctor.firmware_unknown"), plain("npu-smi info -t board -i 0"))


def _mounts(host: HostView) -> Iterator[Finding]:
    absent = [path for path in _MOUNTS if not host.paths(path)]
    if absent:
        remedy = plain(f"docker run {' '.join(f'-v {path}:{path}' for path in absent)} ...")
        yield Finding("mounts", MISSING, message("doctor.mounts_absent", paths=absent), remedy)
    else:
        yield Finding("mounts", OK, message("doctor.mounts_complete"))
    shm = host.run(["df", "-kP", "/dev/shm"])  # noqa: S108 - its size is read, nothing is put there
    cells = shm.text.split()[-5:] if shm.succeeded else []
    if cells and cells[0].isdigit() and int(cells[0]) < 1 << 20:
        small = message("doctor.shm_small", shm_bytes=int(cells[0]) * 1024)
        yield Finding("shared memory", WRONG, small, plain("docker run --shm-size=1g ..."))


def _chips(hardware: Hardware) -> Iterator[Finding]:
    kinds = Counter((chip.name, chip.memory_total_bytes) for chip in hardware.chips)
    shown = [
        message("doctor.chips_of_a_kind", chips=count, name=name, total_bytes=total)
        for (name, total), count in kinds.items()
    ]
    ill = [chip for chip in hardware.chips if chip.health.upper() != "OK"]
    yield Finding("NPU", OK, message("doctor.chips_some_ill" if ill else "doctor.chips_healthy", kinds=shown))
    for chip in ill:
        remedy = plain(f"npu-smi info -t health -i {chip.npu} -c {chip.chip}")
        yield Finding(f"NPU {chip_label(chip)}", WRONG, message("doctor.chip_health", health=chip.health), remedy)
    occupied = [chip for chip in hardware.chips if chip.memory_bytes > IN_USE_SHARE * chip.memory_total_bytes]
    for chip in occupied:
        yield _memory_in_use(hardware, chip)
    if not occupied:
        yield Finding("NPU memory", OK, message("doctor.memory_free"))


def _memory_in_use(hardware: Hardware, chip: NpuChip) -> Finding:
    processes = hardware.table.processes_on(chip)
    share = chip.memory_bytes / chip.memory_total_bytes
    if not processes:
        in_use = message("doctor.memory_in_use_unseen", share=share)
        return Finding(f"NPU {chip_label(chip)}", WRONG, in_use, message("doctor.look_on_host"))
    in_use = message("doctor.memory_in_use", share=share, processes=[f"{row.name} ({row.pid})" for row in processes])
    remedy = message("doctor.stop_left_over", pids=",".join(str(row.pid) for row in processes))
    return Finding(f"NPU {chip_label(chip)}", WRONG, in_use, remedy)


def chip_label(chip: NpuChip) -> str:
    """The number of a chip's card, and the chip on it where that is not the first: `2` or `2.1`."""
    return f"{chip.npu}.{chip.chip}" if chip.chip else f"{chip.npu}"


def link_findings(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    """The paths between the cards of this host, and each card's own network port; nothing for a single chip."""
    if len(hardware.chips) < 2:
        return
    yield from _links(host, hardware)
    path = f"{DRIVER}/tools/hccn_tool"
    tool = host.program("hccn_tool", path)
    if tool is None:
        mount = plain(f"docker run -v {path}:{path} -v /etc/hccn.conf:/etc/hccn.conf ...")
        remedy = mount if hardware.in_container else message("doctor.reinstall_driver")
        yield Finding("hccn_tool", MISSING, message("doctor.no_hccn_tool"), remedy)
        return
    yield from _ports(host, tool, hardware.device_numbers or tuple(range(len(hardware.chips))))


def _links(host: HostView, hardware: Hardware) -> Iterator[Finding]:
    """`npu-smi info -t topo`: a row a card, how it reaches each of the others."""
    assert hardware.npu_smi is not None
    output = host.run([hardware.npu_smi, "info", "-t", "topo"]).text
    rows = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0].startswith("NPU")]
    cards = [row[1:] for row in rows if not row[1:2] or not row[1].startswith("NPU")]  # the heading names NPUs only
    links = {word for row in cards for word in row if word.replace("_", "").isalpha() and word != "X"}
    if links and links <= _FAST_LINKS:
        yield Finding("links", OK, message("doctor.links_fast", links=sorted(links)))
    elif links:
        yield Finding("links", NOTE, message("doctor.links_slow", links=sorted(links)), plain("npu-smi info -t topo"))


def _ports(host: HostView, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    """Network ports matter between hosts only: all down is a host on its own, one down is a broken one."""
    outputs = {number: host.run([tool, "-i", str(number), "-link", "-g"]).text.upper() for number in numbers}
    down = [number for number, output in outputs.items() if "UP" not in output.replace("DOWN", "")]
    if len(down) == len(numbers):
        yield Finding("ports", NOTE, message("doctor.all_ports_down"))
    elif down:
        remedy = message("doctor.check_port", command=f"{tool} -i {down[0]} -link -g")
        yield Finding("ports", WRONG, message("doctor.ports_down", devices=down), remedy)
    else:
        yield Finding("ports", OK, message("doctor.ports_up", devices=len(numbers)))
        yield from _network(host, tool, numbers)


def _network(host: HostView, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    ill = [n for n in numbers if "SUCCESS" not in host.run([tool, "-i", str(n), "-net_health", "-g"]).text.upper()]
    if ill:
        remedy = plain(f"{tool} -i {ill[0]} -net_health -g; {tool} -i {ill[0]} -gateway -g")
        yield Finding("ports", WRONG, message("doctor.network_unhealthy", devices=ill), remedy)
    switches = {_tls_switch(host.run([tool, "-i", str(number), "-tls", "-g"]).text) for number in numbers} - {""}
    if len(switches) > 1:
        remedy = plain(f'for i in {" ".join(map(str, numbers))}; do {tool} -i "$i" -tls -s enable 0; done')
        yield Finding("TLS", WRONG, message("doctor.tls_differs"), remedy)


def _tls_switch(text: str) -> str:
    """The value of the line that shows the TLS switch."""
    lines = (line for line in text.lower().splitlines() if "switch" in line)
    return next((line.rpartition("switch")[2].strip(" []:=") for line in lines), "")


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
