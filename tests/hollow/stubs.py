"""How the real torch_npu is loaded where there is no CANN.

Every symbol that its libraries leave undefined and nobody provides, and every CANN function that
they look up by name, becomes a stub in `libcann_stub.so` that logs its call and answers 0. What must
do something (memory, copies, streams, events, the objects of operators) is written in the C
files beside this one. Every library that they ask for by name is an empty one that needs `libcann_stub.so`.
No operator computes, and no limit of CANN itself is kept. Needs gcc and binutils; x86-64 only.
"""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("device.c", "queue.c", "operators.c", "atb.c", "entry.s")
MARK = "libcann_stub.so"  # in /proc/PID/maps of a process whose device is hollow
# Opened by name while running, and so in no list of needed libraries.
OPENED = ("libopapi.so", "libnnopbase.so", "libacl_rt.so")
SYSTEM = re.compile(r"ld-|lib(dl|rt|pthread|m|c)\.")
LOOKED_UP = re.compile(rb"(?<!\w)((?:acl(?:nn|rt|mdl|op|prof|sys|tdt)?|Hccl|Atb)[A-Z]\w{2,})\0")
# Left out, so that torch_npu takes its older and simpler path instead of trusting an answer of 0.
ABSENT = re.compile(
    r"aclrt(PointerGetAttributes|MemcpyBatch|GetResInCurrentThread|LaunchHostFunc|HostRegister|Ipc|GetHardwareSyncAddr)"
    r"|aclmdlRI(Cond|AddCond|CaptureTo|GetId|Debug)|aclprof|aclnnSilentCheck|aclsk|aclshmem|aclStressDetect"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a torch_npu asks CANN for: functions, and files of libraries."""

    functions: frozenset[str]
    libraries: frozenset[str]


def output(*command: str | Path) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"hollow CANN: {command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def defined(library: Path) -> set[str]:
    """The symbols that a library provides."""
    return {line.split()[-1].split("@")[0] for line in output("nm", "-D", "--defined-only", library).splitlines()}


def undefined(library: Path) -> set[str]:
    """The symbols that a library needs, less those with a version: they are the system's."""
    rows = (line.split() for line in output("nm", "-D", "--undefined-only", library).splitlines())
    return {name for kind, name in rows if kind == "U" and "@" not in name and not name.startswith(("Py", "_Py"))}


def looked_up(library: Path) -> set[str]:
    """The CANN functions that a library asks for by name, operators each with their size query."""
    names = {name.decode() for name in LOOKED_UP.findall(library.read_bytes())}
    names = {name for name in names if not ABSENT.match(name)}
    operators = {name.removesuffix("GetWorkspaceSize") for name in names if name.startswith(("aclnn", "Atb"))}
    return names | {name + "GetWorkspaceSize" for name in operators}


def needed(library: Path) -> set[str]:
    """The files that a library asks the loader for."""
    return set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", library)))


def linked(library: Path) -> list[Path]:
    """The files of the system that the loader finds for a library."""
    lines = output("ldd", library).splitlines()
    return [Path(line.split()[2]) for line in lines if "=> /" in line]


def packages_of(python: str) -> tuple[Path, Path]:
    """The folders of torch_npu and torch in an interpreter; neither is imported."""
    asks = "import importlib.util as u; [print(u.find_spec(n).submodule_search_locations[0]) for n in %r]"
    npu, torch = output(python, "-c", asks % (["torch_npu", "torch"],)).split()
    return Path(npu), Path(torch)


def wanted_by(npu: Path, torch: Path) -> Wanted:
    """What the libraries of a torch_npu ask for and neither they, nor torch, nor the system have."""
    libraries = sorted(npu.rglob("*.so"))
    of_torch = sorted((torch / "lib").glob("*.so*"))
    of_system = linked(torch / "lib" / "libtorch_cpu.so")
    present = {path.name for path in (*libraries, *of_torch, *of_system)}
    provided = set().union(*map(defined, (*libraries, *of_torch, *of_system)))
    functions = set().union(*map(undefined, libraries), *map(looked_up, libraries)) - provided
    files = set().union(*map(needed, libraries), OPENED) - present
    return Wanted(frozenset(functions), frozenset(name for name in files if not SYSTEM.match(name)))


def assembly(names: Iterable[str]) -> str:
    """Stubs of these names: each leaves its name in a register and goes on to stub_entry."""
    lines = ["    .text"]
    for number, name in enumerate(names):
        lines += [f"    .globl {name}", f"    .type {name}, @function", f"{name}:"]
        lines += [f"    lea .Lname{number}(%rip), %rax", "    jmp stub_entry"]
    lines.append("    .section .rodata")
    lines += [f'.Lname{number}: .asciz "{name}"' for number, name in enumerate(names)]
    return "\n".join([*lines, '    .section .note.GNU-stack, "", %progbits', ""])


def build(python: str, folder: Path) -> Wanted:
    """Make the libraries for the torch_npu of an interpreter.

    Raises:
        RuntimeError: this machine is not an x86-64, or gcc or binutils failed.
    """
    if platform.machine() != "x86_64":
        raise RuntimeError(f"hollow CANN: its entry is written for x86_64; this machine is {platform.machine()}")
    npu, torch = packages_of(python)
    folder.mkdir(parents=True, exist_ok=True)
    headers = npu / "include" / "third_party" / "acl" / "inc"
    objects = []
    for source in SOURCES:
        objects.append(folder / f"{source}.o")
        output(
            "gcc",
            "-O1",
            "-g",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            f"-I{headers}",
            "-c",
            HERE / source,
            "-o",
            objects[-1],
        )
    written = set().union(*map(_functions, objects))
    wanted = wanted_by(npu, torch)
    (folder / "stubs.s").write_text(assembly(sorted(wanted.functions - written)), encoding="utf-8")
    shared = ("gcc", "-shared")
    output(*shared, f"-Wl,-soname,{MARK}", folder / "stubs.s", *objects, "-lpthread", "-o", folder / MARK)
    for name in wanted.libraries:
        empty = ("-x", "c", os.devnull, f"-L{folder}", "-lcann_stub")
        own = (f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN")
        output(*shared, *own, *empty, "-o", folder / name)
    return wanted


def _functions(compiled: Path) -> set[str]:
    rows = (line.split() for line in output("nm", "--defined-only", compiled).splitlines())
    return {name for _, kind, name in rows if kind == "T"}


def environment(folder: Path, **settings: str | float) -> Mapping[str, str]:
    """What a process needs beside its own environment to run on these libraries.

    `settings` are those that the C files name, as mem_gib=8 for FAKE_CANN_MEM_GIB.
    """
    return {
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": str(HERE / "shims"),
        "OMP_NUM_THREADS": "1",
        **{f"FAKE_CANN_{name.upper()}": str(value) for name, value in settings.items()},
    }
