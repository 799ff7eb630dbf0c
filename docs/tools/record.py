"""`python -m docs.tools.record [NAME...]`: run the commands that the manual shows and keep what they print.

Each block of docs/outputs is one command with its output, included by the English and by the Chinese page. Commands
that need a real engine, or another machine, are not run again here: their blocks were recorded once (KEPT).
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from docs.tools.terminal import on_terminal
from harness.doctor import examine
from harness.doctor.findings import FAULTS, finding_lines
from tests.machines import A2, BARE_CONTAINER, PYTHON

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "docs" / "outputs"
KEPT = ("curl", "generate", "kernels", "vllm_cpu")
DURATION_S = 900
FIRST_RUN = "first_run"


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of the manual; of its output only lines that match `keep` stand, others become one `...`."""

    command: str
    keep: str = ""
    until: str = ""
    screen: str = ""  # shown is a terminal of 80 columns, once a line of it matches


COMMANDS = {
    "first_run": Shown("harness run long_context"),
    "doctor_laptop": Shown("harness doctor"),
    "serve_sim": Shown(
        "harness serve-sim Qwen/Qwen2.5-7B-Instruct --max-model-len 32768", until="Starting vLLM server"
    ),
    "out_of_memory": Shown(
        "harness serve-sim Qwen/Qwen2.5-72B-Instruct\n"
        "harness serve-sim Qwen/Qwen2.5-14B-Instruct --max-model-len 32768 --gpu-memory-utilization 0.5"
    ),
    "block_size": Shown(
        "harness run smoke --engine simulator --set engine.args.block_size=16",
        keep=r"harness: (engine|scenario|block_size)",
    ),
    "validate": Shown("harness validate mistyped.yaml"),
    "offline": Shown("harness run offline_batch"),
    "against": Shown(
        "harness run offline_batch --set load.0.offline.requests=256 --repeats 3 "
        "--against engine.args.max_num_seqs=64 --quiet"
    ),
    "live": Shown(
        "harness run chat --set engine.clock=real --set load.0.poisson.rate=[2,6]",
        screen=r"^requests .* 1\d\d answered",
    ),
    "live_tune": Shown("harness tune", screen=r"   trial [4-9] \("),
    "tune": Shown(
        "harness tune",
        keep=r"^(?!harness: (trial|confirmation|which flags))|trial (0|1|9) |round 5: |measurement (10|19|20) ",
    ),
    "selfcheck": Shown("harness selfcheck"),
}


def main(names: list[str]) -> None:
    """Record the blocks of these names, or all."""
    for name in names or [*COMMANDS, "doctor_host", "doctor_container"]:
        text = {"doctor_host": doctor_host, "doctor_container": doctor_container}.get(name)
        block = text() if text else recorded(COMMANDS[name])
        (OUTPUTS / f"{name}.txt").write_text(block, encoding="utf-8")
        if name == FIRST_RUN:
            show_in_readmes(block)
        print(f"docs/outputs/{name}.txt: {len(block.splitlines())} lines", file=sys.stderr)


def show_in_readmes(block: str) -> None:
    """Put the first run's output into both READMEs, which cannot include files."""
    fence = re.compile(rf"(```console\n)\$ {re.escape(COMMANDS[FIRST_RUN].command)}\n.*?(```)", re.DOTALL)
    for readme in ROOT.glob("README*.md"):
        text = readme.read_text(encoding="utf-8")
        readme.write_text(fence.sub(lambda mark: mark[1] + block + mark[2], text), encoding="utf-8")


def doctor_host() -> str:
    """What the doctor says of a host on which all is well, from its recorded files and commands."""
    return "\n".join(["$ harness doctor", *finding_lines(examine(A2.view(), PYTHON)), ""])


def doctor_container() -> str:
    """What the doctor says of a container that was started without the NPUs."""
    found = examine(BARE_CONTAINER.view(), PYTHON)
    return "\n".join([*finding_lines([row for row in found if row.severity in FAULTS and row.topic != "mounts"]), ""])


def recorded(shown: Shown) -> str:
    """The commands, each after a `$`, with what they print to either stream, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scenarios").symlink_to(ROOT / "scenarios")
        (Path(folder) / "mistyped.yaml").write_text((OUTPUTS / "mistyped.yaml").read_text(encoding="utf-8"))
        return "".join(f"$ {line}\n{_printed(line, shown, folder)}" for line in shown.command.splitlines())


def _printed(line: str, shown: Shown, folder: str) -> str:
    if shown.screen:
        return on_terminal(line, re.compile(shown.screen), Path(folder))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    lines: list[str] = []
    with subprocess.Popen(
        shlex.split(line), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            lines.append(printed.rstrip("\n").replace(str(ROOT), "/npu-harness"))
            if shown.until and shown.until in printed:
                process.terminate()
                break
        process.wait(DURATION_S)
    assert not any(text.startswith("Traceback") for text in lines), "\n".join(lines)
    return "\n".join([*_kept(lines, shown.keep), ""])


def _kept(lines: list[str], keep: str) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if not keep or re.search(keep, line):
            kept.append(line)
        elif kept[-1:] != ["..."]:
            kept.append("...")
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
