"""How is a machine seen: which files, devices, commands and variables?

All reading goes through a `Probe`, so that a machine can also be one that was recorded.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import psutil

from harness.telemetry.npu_smi import parse_fields, parse_info

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command printed (output and errors), and its exit status; None where it could not be run to its end."""

    status: int | None
    text: str

    @property
    def good(self) -> bool:
        """Whether it ran and succeeded."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class HostView:
    """Eyes on a machine: run a command, read a file, list paths, find a program, try to open a device, variables."""

    run: Callable[[Sequence[str]], CommandOutput]
    read: Callable[[str], str | None]
    paths: Callable[[str], list[str]]
    which: Callable[[str], str | None]
    may_open: Callable[[str], bool]
    env: Mapping[str, str]

    def program(self, name: str, *places: str) -> str | None:
        """A program on the search path or in one of the places it is known to be put."""
        return self.which(name) or next((place for place in places if self.paths(place)), None)

    def first_line(self, path: str) -> str | None:
        """The first line of a file; None where there is none."""
        lines = (self.read(path) or "").strip().splitlines()
        return lines[0].strip() if lines else None


def this_host(more: Mapping[str, str] | None = None) -> HostView:
    """The machine that this runs on; its commands get the variables `more` beside those they inherit."""
    env = {**os.environ, **(more or {})}
    return HostView(
        run=partial(_run, env),
        read=_read,
        paths=lambda pattern: sorted(glob(pattern)),  # noqa: PTH207 - absolute patterns are not for Path.glob
        which=shutil.which,
        may_open=lambda path: os.access(path, os.R_OK | os.W_OK),
        env=env,
    )


def _run(env: Mapping[str, str], command: Sequence[str]) -> CommandOutput:
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return CommandOutput(None, str(fault))
    return CommandOutput(done.returncode, done.stdout.decode("utf-8", "replace"))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


HOME = "/usr/local/Ascend"
DRIVER = f"{HOME}/driver"
_NPU_SMI = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi")


def find_npu_smi(probe: HostView) -> str | None:
    """Where npu-smi is; None where it is not."""
    return probe.program("npu-smi", *_NPU_SMI)


def driver_version(probe: HostView) -> str | None:
    """The driver's version, from its file."""
    return key_value(probe, f"{DRIVER}/version.info", "Version")


def firmware_version(probe: HostView, npu_smi: str | None, npu: int | None) -> str | None:
    """The firmware's version, as the card numbered `npu` tells it, or from its file."""
    if npu_smi is not None and npu is not None:
        answer = probe.run([npu_smi, "info", "-t", "board", "-i", str(npu)])
        told = (block.get("Firmware Version") for block in parse_fields(answer.text) if answer.good)
        found = next((version for version in told if version), None)
        if found:
            return found
    return key_value(probe, f"{HOME}/firmware/version.info", "Version")


def cann_version(probe: HostView) -> str | None:
    """CANN's version: from its install record, its version.cfg, or the name of its folder."""
    homes = [probe.env.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    known = [f"{HOME}/ascend-toolkit/latest", f"{HOME}/cann", *reversed(probe.paths(f"{HOME}/cann-*"))]
    for home in (home for home in (*homes, *known) if home):
        records = [*probe.paths(f"{home}/*-linux/ascend_toolkit_install.info"), f"{home}/ascend_toolkit_install.info"]
        told = next((version for path in records if (version := key_value(probe, path, "version"))), None)
        config = re.search(r"running_version=\[[^:\]]*:([^\]]+)\]", probe.read(f"{home}/version.cfg") or "")
        named = re.search(r"/cann-([^/]+)/?$", home) if probe.paths(home) else None
        if found := told or (config.group(1) if config else None) or (named.group(1) if named else None):
            return found
    return None


def key_value(probe: HostView, path: str, key: str) -> str | None:
    """The value of a `key=value` line of a file; None where there is none."""
    pairs = (line.partition("=") for line in (probe.read(path) or "").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip().lower() == key.lower()), None)


_PACKAGES = ("vllm", "vllm-ascend", "torch", "torch-npu", "aiohttp", "uvloop", "numpy", "pyarrow", "msgspec")


def environment() -> dict[str, Any]:
    """Host, processor, memory, system, Python and package versions of this process's machine."""
    return {
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "npu": npu_devices(),
        **ascend_versions(this_host()),
    }


def ascend_versions(probe: HostView) -> dict[str, str | None]:
    """Versions of the NPU's driver and firmware, and of CANN; None where there is none."""
    npu_smi = find_npu_smi(probe)
    chips = parse_info(probe.run([npu_smi, "info"]).text).chips if npu_smi is not None else ()
    return {
        "driver": driver_version(probe),
        "firmware": firmware_version(probe, npu_smi, chips[0].npu if chips else None),
        "cann": cann_version(probe),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def npu_devices() -> list[str]:
    """Ascend NPU device files, such as /dev/davinci0; empty where there are none."""
    return sorted(str(path) for path in Path("/dev").glob("davinci[0-9]*"))


def has_package(name: str) -> bool:
    """Whether a package is installed in this interpreter."""
    return _version(name) is not None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip().splitlines()[0]
    except (OSError, IndexError):
        return None
