"""Which driver, firmware and CANN has this machine?"""

import re

from harness.telemetry.host_view import Probe
from harness.telemetry.npu_smi import parse_fields

HOME = "/usr/local/Ascend"
DRIVER = f"{HOME}/driver"
_NPU_SMI = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi")


def find_npu_smi(probe: Probe) -> str | None:
    """Where npu-smi is; None where it is not."""
    return probe.program("npu-smi", *_NPU_SMI)


def driver_version(probe: Probe) -> str | None:
    """The driver's version, from its file."""
    return value_in(probe, f"{DRIVER}/version.info", "Version")


def firmware_version(probe: Probe, npu_smi: str | None, npu: int | None) -> str | None:
    """The firmware's version, as the card numbered `npu` tells it, or from its file."""
    if npu_smi is not None and npu is not None:
        answer = probe.run([npu_smi, "info", "-t", "board", "-i", str(npu)])
        told = (block.get("Firmware Version") for block in parse_fields(answer.text) if answer.good)
        found = next((version for version in told if version), None)
        if found:
            return found
    return value_in(probe, f"{HOME}/firmware/version.info", "Version")


def cann_version(probe: Probe) -> str | None:
    """CANN's version: from its install record, its version.cfg, or the name of its folder."""
    homes = [probe.env.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    known = [f"{HOME}/ascend-toolkit/latest", f"{HOME}/cann", *reversed(probe.paths(f"{HOME}/cann-*"))]
    for home in (home for home in (*homes, *known) if home):
        records = [*probe.paths(f"{home}/*-linux/ascend_toolkit_install.info"), f"{home}/ascend_toolkit_install.info"]
        told = next((version for path in records if (version := value_in(probe, path, "version"))), None)
        config = re.search(r"running_version=\[[^:\]]*:([^\]]+)\]", probe.read(f"{home}/version.cfg") or "")
        named = re.search(r"/cann-([^/]+)/?$", home) if probe.paths(home) else None
        if found := told or (config.group(1) if config else None) or (named.group(1) if named else None):
            return found
    return None


def value_in(probe: Probe, path: str, key: str) -> str | None:
    """The value of a `key=value` line of a file; None where there is none."""
    pairs = (line.partition("=") for line in (probe.read(path) or "").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip().lower() == key.lower()), None)
