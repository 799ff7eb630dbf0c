"""What Ascend hardware is there to be seen, and is this a container?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.telemetry.environment import DRIVER, HostView, driver_version, find_npu_smi, firmware_version
from harness.telemetry.npu_smi import NpuChip, NpuTable, parse_info
from harness.units import format_bytes, format_share

_HUAWEI = "0x19e5"
_ACCELERATOR = "0x1200"  # PCI class of processing accelerators
_CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What was seen first: device files, cards on the bus, the driver's file, npu-smi and its table."""

    files: tuple[str, ...]
    cards: int
    driver: str | None
    npu_smi: str | None
    said: str
    table: NpuTable
    contained: bool

    @property
    def ascend(self) -> bool:
        """Whether anything of an NPU is here."""
        return bool(self.files or self.cards or self.driver or self.npu_smi)

    @property
    def chips(self) -> tuple[NpuChip, ...]:
        """The chips that npu-smi shows."""
        return self.table.chips

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the device files: 0 for /dev/davinci0."""
        return tuple(sorted(int(path.rpartition("davinci")[2]) for path in self.files))


def inspect_hardware(probe: HostView) -> Hardware:
    """See what is there."""
    npu_smi = find_npu_smi(probe)
    answer = probe.run([npu_smi, "info"]) if npu_smi else None
    said = answer.text if answer else ""
    return Hardware(
        files=tuple(probe.paths("/dev/davinci[0-9]*")),
        cards=_cards(probe),
        driver=driver_version(probe),
        npu_smi=npu_smi,
        said=said,
        table=parse_info(said),
        contained=_contained(probe),
    )


def _cards(probe: HostView) -> int:
    """Accelerators by Huawei on the PCI bus, seen even without a driver."""
    vendors = (path for path in probe.paths("/sys/bus/pci/devices/*/vendor") if probe.first_line(path) == _HUAWEI)
    kinds = (probe.first_line(path.removesuffix("vendor") + "class") or "" for path in vendors)
    return sum(kind.startswith(_ACCELERATOR) for kind in kinds)


def _contained(probe: HostView) -> bool:
    if probe.read("/.dockerenv") is not None or probe.read("/run/.containerenv") is not None:
        return True
    return any(word in (probe.read("/proc/1/cgroup") or "") for word in _CONTAINERS)


HELD = 0.1  # of a chip's memory; an idle one shows 3 to 5 % for the driver's own use
_COMPANIONS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_INSTALL = "install driver and firmware for this card from hiascend.com: sh Ascend-hdk-*-npu-driver_*.run --full"
_MOUNTS = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    f"{DRIVER}/lib64",
    f"{DRIVER}/version.info",
    "/etc/ascend_install.info",
    f"{DRIVER}/tools/hccn_tool",
    "/etc/hccn.conf",
)


def npu_findings(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    """Device files, npu-smi, driver, firmware, and each chip; one line where there is no driver at all."""
    if not machine.files and machine.driver is None and not machine.contained:
        seen = f"cards on the PCI bus: {machine.cards}, but " if machine.cards else ""
        yield Finding("driver", MISSING, f"{seen}neither /dev/davinci0 nor {DRIVER} is there", _INSTALL)
        return
    yield from _files(probe, machine)
    yield from _driver(probe, machine)
    if machine.contained:
        yield from _mounts(probe)
    if machine.npu_smi is None and not machine.contained:
        yield Finding("npu-smi", MISSING, "not on the search path, nor in /usr/local/bin or sbin", _INSTALL)
    elif machine.npu_smi is not None and not machine.chips:
        said = next((line.strip() for line in machine.said.splitlines() if line.strip()), "nothing")
        mend = f"export LD_LIBRARY_PATH={DRIVER}/lib64/common:{DRIVER}/lib64/driver:$LD_LIBRARY_PATH; npu-smi info"
        yield Finding("npu-smi", WRONG, f"shows no chip; it said: {said[:120]}", mend)
    elif machine.npu_smi is not None:
        yield from _chips(machine)


def _files(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    if not machine.files:
        yield _no_files(machine)
        return
    closed = [path for path in (*machine.files, *_COMPANIONS) if probe.paths(path) and not probe.may_open(path)]
    absent = [path for path in _COMPANIONS if not probe.paths(path)]
    if closed:
        mend = 'sudo usermod -aG HwHiAiUser "$USER", and log in again'
        yield Finding("devices", WRONG, f"this user may not open {', '.join(closed)}", mend)
    if absent:
        flags = " ".join(f"--device {path}" for path in absent)
        mend = f"docker run {flags} ..." if machine.contained else "reboot, or " + _INSTALL
        yield Finding("devices", MISSING, ", ".join(absent), mend)
    if not closed and not absent:
        yield Finding("devices", OK, f"{_range(machine.files)}, with manager, memory and host channel")


def _no_files(machine: Hardware) -> Finding:
    if machine.contained:
        flags = " ".join(f"--device {path}" for path in ("/dev/davinci0", *_COMPANIONS))
        text = "this container was given no NPU: there is no /dev/davinci0"
        return Finding("devices", MISSING, text, f"docker run {flags} ... (one --device /dev/davinciN for each NPU)")
    return Finding("devices", MISSING, "there is no /dev/davinci0: the driver is not loaded", "reboot, or " + _INSTALL)


def _range(paths: tuple[str, ...]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} device files from {paths[0]} on"


def _driver(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    if machine.driver is None:
        if not machine.contained:
            yield Finding("driver", MISSING, f"{DRIVER}/version.info is not there", _INSTALL)
    elif machine.table.version and machine.table.version.lower() != machine.driver.lower():
        text = f"{machine.driver}, but npu-smi is of {machine.table.version}: they are installed together as a rule"
        yield Finding("driver", NOTE, text)
    else:
        yield Finding("driver", OK, machine.driver)
    firmware = firmware_version(probe, machine.npu_smi, machine.chips[0].npu if machine.chips else None)
    if firmware is not None:
        yield Finding("firmware", OK, firmware)
    elif machine.chips:
        yield Finding("firmware", NOTE, "its version is not told", "npu-smi info -t board -i 0")


def _mounts(probe: HostView) -> Iterator[Finding]:
    absent = [path for path in _MOUNTS if not probe.paths(path)]
    if absent:
        mend = f"docker run {' '.join(_mount(path) for path in absent)} ..."
        yield Finding("mounts", MISSING, ", ".join(absent), mend)
    else:
        yield Finding("mounts", OK, "what the container needs of the host's driver is mounted")
    shm = probe.run(["df", "-kP", "/dev/shm"])  # noqa: S108 - its size is asked, nothing is put there
    cells = shm.text.split()[-5:] if shm.good else []
    if cells and cells[0].isdigit() and int(cells[0]) < 1 << 20:
        text = f"only {format_bytes(int(cells[0]) * 1024)}; workers of one engine talk through it"
        yield Finding("shared memory", WRONG, text, "docker run --shm-size=1g ...")


def _mount(path: str) -> str:
    return f"-v {path}:{path}"


def _chips(machine: Hardware) -> Iterator[Finding]:
    kinds = Counter((chip.name, chip.memory_total_bytes) for chip in machine.chips)
    shown = ", ".join(f"{count} x {name} with {format_bytes(total)}" for (name, total), count in kinds.items())
    ill = [chip for chip in machine.chips if chip.health.upper() != "OK"]
    yield Finding("NPU", OK, f"{shown}" + ("" if ill else ", health OK"))
    for chip in ill:
        mend = f"npu-smi info -t health -i {chip.npu} -c {chip.chip}"
        yield Finding(f"NPU {place_of(chip)}", WRONG, f"health is {chip.health}", mend)
    held = [chip for chip in machine.chips if chip.memory_bytes > HELD * chip.memory_total_bytes]
    for chip in held:
        yield _held(machine, chip)
    if not held:
        yield Finding("NPU memory", OK, "nobody holds any")


def _held(machine: Hardware, chip: NpuChip) -> Finding:
    holders = machine.table.held_by(chip)
    share = format_share(chip.memory_bytes / chip.memory_total_bytes)
    by = ", ".join(f"{one.name} ({one.pid})" for one in holders) or "a process that cannot be seen from here"
    pids = ",".join(str(one.pid) for one in holders)
    mend = f"ps -fp {pids}; stop it if it was left over" if pids else "npu-smi info, on the host"
    return Finding(f"NPU {place_of(chip)}", WRONG, f"{share} of its memory is held by {by}", mend)


def place_of(chip: NpuChip) -> str:
    """A chip in few words: its card, and the chip on it where that is not the first."""
    return f"{chip.npu}.{chip.chip}" if chip.chip else f"{chip.npu}"


def link_findings(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    """The paths between the cards of this host, and each card's own network port; nothing for a single chip."""
    if len(machine.chips) < 2:
        return
    yield from _inside(probe, machine)
    place = f"{DRIVER}/tools/hccn_tool"
    tool = probe.program("hccn_tool", place)
    if tool is None:
        mend = f"docker run -v {place}:{place} -v /etc/hccn.conf:/etc/hccn.conf ..." if machine.contained else ""
        text = "not found, so that the cards' network ports cannot be seen"
        yield Finding("hccn_tool", MISSING, text, mend or "reinstall the driver with --full")
        return
    yield from _ports(probe, tool, machine.numbers or tuple(range(len(machine.chips))))


def _inside(probe: HostView, machine: Hardware) -> Iterator[Finding]:
    """`npu-smi info -t topo`: a row a card, how it reaches each of the others."""
    assert machine.npu_smi is not None
    answer = probe.run([machine.npu_smi, "info", "-t", "topo"])
    rows = [line.split() for line in answer.text.splitlines() if line.split()[:1] and line.split()[0].startswith("NPU")]
    cards = [row[1:] for row in rows if not row[1:2] or not row[1].startswith("NPU")]  # the heading names NPUs only
    paths = {word for row in cards for word in row if word.replace("_", "").isalpha() and word != "X"}
    if not paths:
        return
    if paths <= {"HCCS", "SIO", "HCCS_SW"}:
        yield Finding("links", OK, f"all chips of this host reach each other by {' and '.join(sorted(paths))}")
    else:
        text = (
            f"chips of this host reach each other by {', '.join(sorted(paths))}: tensor parallel is slow without HCCS"
        )
        yield Finding("links", NOTE, text, "npu-smi info -t topo")


def _ports(probe: HostView, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    """Network ports matter between hosts only: all down is a host on its own, one down is a broken one."""
    states = {number: probe.run([tool, "-i", str(number), "-link", "-g"]).text.upper() for number in numbers}
    down = [number for number, said in states.items() if "UP" not in said.replace("DOWN", "")]
    if len(down) == len(numbers):
        yield Finding("ports", NOTE, "no card's network port is up: this host serves on its own")
    elif down:
        text = f"the port of device {', '.join(map(str, down))} is down, those of the others are up"
        yield Finding("ports", WRONG, text, f"{tool} -i {down[0]} -link -g; check its cable, optics and switch")
    else:
        yield Finding("ports", OK, f"the network ports of all {len(numbers)} devices are up")
        yield from _network(probe, tool, numbers)


def _network(probe: HostView, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    ill = [n for n in numbers if "SUCCESS" not in probe.run([tool, "-i", str(n), "-net_health", "-g"]).text.upper()]
    if ill:
        text = f"device {', '.join(map(str, ill))} does not reach its detection address"
        yield Finding("ports", WRONG, text, f"{tool} -i {ill[0]} -net_health -g; {tool} -i {ill[0]} -gateway -g")
    switches = {_switch(probe.run([tool, "-i", str(number), "-tls", "-g"]).text) for number in numbers} - {""}
    if len(switches) > 1:
        mend = f'for i in {" ".join(map(str, numbers))}; do {tool} -i "$i" -tls -s enable 0; done'
        yield Finding("TLS", WRONG, "switched on at some devices and off at others: they will not connect", mend)


def _switch(text: str) -> str:
    """The value of the line that tells of the TLS switch."""
    told = (line for line in text.lower().splitlines() if "switch" in line)
    return next((line.rpartition("switch")[2].strip(" []:=") for line in told), "")
