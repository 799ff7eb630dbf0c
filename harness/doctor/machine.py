"""What Ascend hardware is there to be seen, and is this a container?"""

from dataclasses import dataclass

from harness.telemetry.ascend import driver_version, find_npu_smi
from harness.telemetry.host_view import Probe
from harness.telemetry.npu_smi import Chip, Table, parse_info

_HUAWEI = "0x19e5"
_ACCELERATOR = "0x1200"  # PCI class of processing accelerators
_CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc")


@dataclass(frozen=True, slots=True)
class Machine:
    """What was seen first: device files, cards on the bus, the driver's file, npu-smi and its table."""

    files: tuple[str, ...]
    cards: int
    driver: str | None
    npu_smi: str | None
    said: str
    table: Table
    contained: bool

    @property
    def ascend(self) -> bool:
        """Whether anything of an NPU is here."""
        return bool(self.files or self.cards or self.driver or self.npu_smi)

    @property
    def chips(self) -> tuple[Chip, ...]:
        """The chips that npu-smi shows."""
        return self.table.chips

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the device files: 0 for /dev/davinci0."""
        return tuple(sorted(int(path.rpartition("davinci")[2]) for path in self.files))


def look(probe: Probe) -> Machine:
    """See what is there."""
    npu_smi = find_npu_smi(probe)
    answer = probe.run([npu_smi, "info"]) if npu_smi else None
    said = answer.text if answer else ""
    return Machine(
        files=tuple(probe.paths("/dev/davinci[0-9]*")),
        cards=_cards(probe),
        driver=driver_version(probe),
        npu_smi=npu_smi,
        said=said,
        table=parse_info(said),
        contained=_contained(probe),
    )


def _cards(probe: Probe) -> int:
    """Accelerators by Huawei on the PCI bus, seen even without a driver."""
    vendors = (path for path in probe.paths("/sys/bus/pci/devices/*/vendor") if probe.first_line(path) == _HUAWEI)
    kinds = (probe.first_line(path.removesuffix("vendor") + "class") or "" for path in vendors)
    return sum(kind.startswith(_ACCELERATOR) for kind in kinds)


def _contained(probe: Probe) -> bool:
    if probe.read("/.dockerenv") is not None or probe.read("/run/.containerenv") is not None:
        return True
    return any(word in (probe.read("/proc/1/cgroup") or "") for word in _CONTAINERS)
