"""Are the NPUs there, open to this user, healthy, free and driven?"""

from collections import Counter
from collections.abc import Iterator

from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.doctor.machine import Machine
from harness.telemetry.ascend import DRIVER, firmware_version
from harness.telemetry.host_view import Probe
from harness.telemetry.npu_smi import Chip
from harness.units import format_bytes, format_share

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


def npu_findings(probe: Probe, machine: Machine) -> Iterator[Finding]:
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


def _files(probe: Probe, machine: Machine) -> Iterator[Finding]:
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


def _no_files(machine: Machine) -> Finding:
    if machine.contained:
        flags = " ".join(f"--device {path}" for path in ("/dev/davinci0", *_COMPANIONS))
        text = "this container was given no NPU: there is no /dev/davinci0"
        return Finding("devices", MISSING, text, f"docker run {flags} ... (one --device /dev/davinciN for each NPU)")
    return Finding("devices", MISSING, "there is no /dev/davinci0: the driver is not loaded", "reboot, or " + _INSTALL)


def _range(paths: tuple[str, ...]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} device files from {paths[0]} on"


def _driver(probe: Probe, machine: Machine) -> Iterator[Finding]:
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


def _mounts(probe: Probe) -> Iterator[Finding]:
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


def _chips(machine: Machine) -> Iterator[Finding]:
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


def _held(machine: Machine, chip: Chip) -> Finding:
    holders = machine.table.held_by(chip)
    share = format_share(chip.memory_bytes / chip.memory_total_bytes)
    by = ", ".join(f"{one.name} ({one.pid})" for one in holders) or "a process that cannot be seen from here"
    pids = ",".join(str(one.pid) for one in holders)
    mend = f"ps -fp {pids}; stop it if it was left over" if pids else "npu-smi info, on the host"
    return Finding(f"NPU {place_of(chip)}", WRONG, f"{share} of its memory is held by {by}", mend)


def place_of(chip: Chip) -> str:
    """A chip in few words: its card, and the chip on it where that is not the first."""
    return f"{chip.npu}.{chip.chip}" if chip.chip else f"{chip.npu}"
