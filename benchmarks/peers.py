"""Other load generators under the same load, beside the reference server's own log.

Each runs where its interpreter is given in the environment; none is installed by this project.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.numbers import Number
from harness.selfcheck.reference_server.ground_truth import TokenSchedule, read
from harness.selfcheck.selfcheck import started
from harness.units import NS_PER_S, format_duration
from tests.real_engines.tiny_model import write_tiny_model

_LIMIT_S = 180
# The command `vllm` asks for a package of that name, which the build for CPUs has not; this is what it calls.
_VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def peers(schedule: TokenSchedule, folder: Path, tokens: int, streams: int, requests: int) -> Iterator[Number]:
    """Mean TTFT of each tool that is given, in a closed loop of `streams` streams, beside what was sent."""
    folder.mkdir(parents=True)
    model = write_tiny_model(folder / "model")
    for name, variable, run in _TOOLS:
        python = os.environ.get(variable)
        if not python:
            continue
        log = folder / f"{name.split()[0]}.npz"
        with started(schedule, log, life_s=_LIMIT_S) as server:
            said_s = run(Path(python), server.url, model, (streams, requests, tokens), folder)
        sent_s = float(read(log).ttft_ns.mean()) / NS_PER_S
        error = f"{'' if said_s < sent_s else '+'}{format_duration(said_s - sent_s)}"
        yield Number(
            f"{streams} closed streams",
            f"mean TTFT, {name}",
            f"(sent: {format_duration(sent_s)})",
            f"{format_duration(said_s)} ({error})",
            met=True,
        )


Load = tuple[int, int, int]
"""Streams, requests, and tokens of each answer."""


def _vllm(python: Path, url: str, model: Path, load: Load, folder: Path) -> float:
    streams, requests, tokens = load
    flags = {
        "backend": "openai", "base-url": url, "model": "reference-server", "tokenizer": model, "dataset-name": "random",
        "random-input-len": 128, "random-output-len": tokens, "num-prompts": requests, "request-rate": "inf",
        "max-concurrency": streams, "result-dir": folder, "result-filename": "vllm.json",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    _run([str(python), "-c", _VLLM, *words, "--ignore-eos", "--save-result"])
    return float(json.loads((folder / "vllm.json").read_text())["mean_ttft_ms"]) / 1000


def _guidellm(python: Path, url: str, model: Path, load: Load, folder: Path) -> float:
    streams, requests, tokens = load
    words = {
        "--backend": f"kind=openai_http,target={url},model=reference-server",
        "--profile": f"kind=concurrent,streams={streams}",
        "--constraint": f"kind=max_requests,count={requests}",
        "--tokenizer": f"kind=huggingface_auto,model={model}",
        "--data": f"kind=synthetic_text,prompt_tokens=128,output_tokens={tokens}",
        "--output": f"kind=json,path={folder / 'guidellm.json'}",
    }
    options = [word for pair in words.items() for word in pair]
    _run([str(python.with_name("guidellm")), "run", *options, "--disable-console"])
    found = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    return float(found["time_to_first_token_ms"]["successful"]["mean"]) / 1000


def _aiperf(python: Path, url: str, model: Path, load: Load, folder: Path) -> float:
    """Its tokenizers come from a hub at run time: it needs a network, or a cache that has them."""
    streams, requests, tokens = load
    words = ("profile", "--model", "reference-server", "--url", url, "--endpoint-type", "completions", "--streaming")
    sizes = {"concurrency": streams, "request-count": requests, "isl": 128, "osl": tokens, "tokenizer": model}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    place = folder / "aiperf"
    _run([str(python.with_name("aiperf")), *words, *options, "--output-artifact-dir", str(place), "--ui", "none"])
    found = json.loads(next(place.rglob("profile_export_aiperf.json")).read_text())
    return float(found["time_to_first_token"]["avg"]) / 1000


def _run(words: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT_S, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


_TOOLS: tuple[tuple[str, str, Callable[[Path, str, Path, Load, Path], float]], ...] = (
    ("vllm bench serve", "HARNESS_VLLM_PYTHON", _vllm),
    ("guidellm", "HARNESS_GUIDELLM_PYTHON", _guidellm),
    ("aiperf", "HARNESS_AIPERF_PYTHON", _aiperf),
)
