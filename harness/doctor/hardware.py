"""Checks of the NPUs: device files, driver, firmware, health, memory in use, and the links between the cards."""

from collections import Counter
from collections.abc import Iterator
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
