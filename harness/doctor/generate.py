"""Can this interpreter's vLLM generate at all, and on which platform?"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.doctor.compatibility import NEWEST
from harness.doctor.findings import MISSING, OK, WRONG, Finding
from harness.doctor.machine import Machine
from harness.doctor.software import INSIDE, Interpreter
from harness.units import format_count, format_duration

TOKENS = 8
PATIENCE_S = 1200.0  # a large model from a slow disk
SMALLEST: Mapping[str, Any] = {"max_model_len": 512, "max_num_seqs": 1, "enforce_eager": True}
_LONGEST = 400
_PROMPT = "The sea is"
_ERROR = re.compile(r"(?:.*\s)?([A-Za-z_.]*(?:Error|Exception|Exit)\b: .+)")


def generation(machine: Machine, interpreter: Interpreter, model: str, args: Mapping[str, Any]) -> Iterator[Finding]:
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
        how = f"not done within {format_duration(PATIENCE_S)}" if status is None else f"ended with status {status}"
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
            return process.wait(PATIENCE_S)
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


def _told(machine: Machine, told: Mapping[str, Any]) -> Iterator[Finding]:
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
