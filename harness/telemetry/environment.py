"""The machine that a run is made on: its files and commands, its versions, and whether an address is its own.

Files, devices, commands and variables are read through a `HostView`, so that a machine can also be a recorded one.
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

HOME = "/usr/local/Ascend"
DRIVER = f"{HOME}/driver"
_NPU_SMI = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi")
_COMMAND_TIMEOUT_S = 30.0
_PACKAGES = ("vllm", "vllm-ascend", "torch", "torch-npu", "aiohttp", "uvloop", "numpy", "pyarrow", "msgspec")


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command printed (output and errors), and its exit status; None where it could not be run to its end."""

    status: int | None
    text: str

    @property
    def succeeded(self) -> bool:
        """Whether it ran and its exit status is 0."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class HostView:
    """Access to a machine: run a command, read a file, list paths, find a program, try to open a device, variables."""

    run: Callable[[Sequence[str]], CommandOutput]
    read: Callable[[str], str | None]
    paths: Callable[[str], list[str]]
    which: Callable[[str], str | None]
    may_open: Callable[[str], bool]
    env: Mapping[str, str]

    def program(self, name: str, *usual_paths: str) -> str | None:
        """A program on the search path, or at one of the paths where it usually is."""
        return self.which(name) or next((path for path in usual_paths if self.paths(path)), None)

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
        process = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return CommandOutput(None, str(fault))
    return CommandOutput(process.returncode, process.stdout.decode("utf-8", "replace"))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def find_npu_smi(host: HostView) -> str | None:
    """Where npu-smi is; None where it is not."""
    return host.program("npu-smi", *_NPU_SMI)


def driver_version(host: HostView) -> str | None:
    """The driver's version, from its file."""
    return key_value(host, f"{DRIVER}/version.info", "Version")


def firmware_version(host: HostView, npu_smi: str | None, npu: int | None) -> str | None:
    """The firmware's version, as npu-smi shows it for the card numbered `npu`, or from its file."""
    if npu_smi is not None and npu is not None:
        output = host.run([npu_smi, "info", "-t", "board", "-i", str(npu)])
        versions = (block.get("Firmware Version") for block in parse_fields(output.text) if output.succeeded)
        version = next(filter(None, versions), None)
        if version:
            return version
    return key_value(host, f"{HOME}/firmware/version.info", "Version")


def cann_version(host: HostView) -> str | None:
    """CANN's version: from its install record, its version.cfg, or the name of its folder."""
    homes = [host.env.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    usual = [f"{HOME}/ascend-toolkit/latest", f"{HOME}/cann", *reversed(host.paths(f"{HOME}/cann-*"))]
    for home in (home for home in (*homes, *usual) if home):
        records = [*host.paths(f"{home}/*-linux/ascend_toolkit_install.info"), f"{home}/ascend_toolkit_install.info"]
        recorded = next((version for path in records if (version := key_value(host, path, "version"))), None)
        config = re.search(r"running_version=\[[^:\]]*:([^\]]+)\]", host.read(f"{home}/version.cfg") or "")
        named = re.search(r"/cann-([^/]+)/?$", home) if host.paths(home) else None
        if version := recorded or (config.group(1) if config else None) or (named.group(1) if named else None):
            return version
    return None


def key_value(host: HostView, path: str, key: str) -> str | None:
    """The value of a `key=value` line of a file; None where there is none."""
    pairs = (line.partition("=") for line in (host.read(path) or "").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip().lower() == key.lower()), None)


def environment() -> dict[str, Any]:
    """Host, processor, memory, system, Python and package versions of this process's machine."""
    host = this_host()
    return {
        "host": socket.gethostname(),
        "cpu": _cpu_model(host),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "governor": host.first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "npu": npu_devices(),
        **ascend_versions(host),
    }


def ascend_versions(host: HostView) -> dict[str, str | None]:
    """Versions of the NPU's driver and firmware, and of CANN; None where there is none."""
    npu_smi = find_npu_smi(host)
    chips = parse_info(host.run([npu_smi, "info"]).text).chips if npu_smi is not None else ()
    return {
        "driver": driver_version(host),
        "firmware": firmware_version(host, npu_smi, chips[0].npu if chips else None),
        "cann": cann_version(host),
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


def _cpu_model(host: HostView) -> str:
    lines = (host.read("/proc/cpuinfo") or "").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
