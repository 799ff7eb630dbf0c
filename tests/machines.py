"""Machines as the doctor may find them, recorded: files, devices, commands and variables."""

import fnmatch
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.telemetry.environment import CommandOutput, HostView

DATA = Path(__file__).parent / "data" / "npu_smi"
DRIVER = "/usr/local/Ascend/driver"
TOOLKIT = "/usr/local/Ascend/ascend-toolkit"
ATB = "/usr/local/Ascend/nnal/atb"
HCCN = f"{DRIVER}/tools/hccn_tool"
PYTHON = "/opt/python"


def recorded(name):
    """Text that npu-smi printed."""
    return (DATA / f"{name}.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Machine:
    """A machine: text by path, output by command, variables, and the paths that this user may not open."""

    files: dict = field(default_factory=dict)
    commands: dict = field(default_factory=dict)
    env: dict = field(default_factory=dict)
    closed: frozenset = frozenset()

    def view(self):
        """What the doctor sees of this machine."""
        return HostView(
            run=self._run,
            read=self.files.get,
            paths=lambda pattern: sorted(path for path in self.files if fnmatch.fnmatchcase(path, pattern)),
            which=lambda name: next(
                (p for p in self.files if p in (f"/usr/bin/{name}", f"/usr/local/bin/{name}")), None
            ),
            may_open=lambda path: path not in self.closed,
            env=self.env,
        )

    def _run(self, command):
        words = " ".join(word for word in command if "\n" not in word)
        for start, text in self.commands.items():
            if words.startswith(start):
                return CommandOutput(0, text)
        return CommandOutput(None, f"{command[0]}: no such file")

    def having(self, files=None, commands=None, env=None):
        """With more files, commands and variables."""
        return replace(
            self,
            files=self.files | (files or {}),
            commands=dict(sorted({**self.commands, **(commands or {})}.items(), key=lambda one: -len(one[0]))),
            env=self.env | (env or {}),
        )

    def lacking(self, *patterns):
        """Without the files, commands and variables that match."""

        def keep(table):
            return {name: v for name, v in table.items() if not any(fnmatch.fnmatchcase(name, p) for p in patterns)}

        return replace(self, files=keep(self.files), commands=keep(self.commands), env=keep(self.env))


def packages(python="3.11.13", platforms=("ascend",), **versions):
    """What an interpreter says of itself."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return "\n" + json.dumps({"python": python, "packages": named, "platforms": list(platforms)}) + "\n"


GOOD = {"vllm": "0.18.0+empty", "vllm_ascend": "0.18.0", "torch": "2.9.0+cpu", "torch_npu": "2.9.0.post1+git4c901a4"}
PC = Machine(
    files={
        "/proc/sys/kernel/numa_balancing": "0\n",
        "/proc/sys/vm/swappiness": "60\n",
        "/sys/devices/system/node/node0": "",
    },
    commands={f"{PYTHON} -c packages": packages(platforms=())},
)


def ascend(info, devices, topo=""):
    """A healthy Atlas host with these NPUs, everything installed and set up for speed."""
    files = dict.fromkeys((f"/dev/davinci{number}" for number in range(devices)), "")
    files |= dict.fromkeys(("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"), "")
    files |= {f"/sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor": "performance\n" for number in range(4)}
    files |= {f"/sys/devices/system/node/node{number}": "" for number in range(4)}
    version = recorded(info).split("Version: ")[1].split()[0]
    files |= {
        "/usr/local/bin/npu-smi": "",
        f"{DRIVER}/version.info": f"Version={version}\nascendhal_version=7.35.23\n",
        HCCN: "",
        f"{TOOLKIT}/set_env.sh": "",
        f"{TOOLKIT}/latest/aarch64-linux/ascend_toolkit_install.info": "package=toolkit\nversion=8.5.1\n",
        f"{ATB}/set_env.sh": "",
        "/proc/sys/kernel/numa_balancing": "0\n",
        "/proc/sys/vm/swappiness": "0\n",
        "/proc/1/cgroup": "0::/init.scope\n",
    }
    env = {
        "ASCEND_HOME_PATH": f"{TOOLKIT}/latest",
        "ATB_HOME_PATH": f"{ATB}/latest/atb/cxx_abi_1",
        "TASK_QUEUE_ENABLE": "1",
        "OMP_PROC_BIND": "false",
        "OMP_NUM_THREADS": "1",
        "HCCL_OP_EXPANSION_MODE": "AIV",
        "LD_PRELOAD": "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",
    }
    commands = {  # the longest first: the first that fits answers
        "/usr/local/bin/npu-smi info -t board": "\tNPU ID : 0\n\tFirmware Version               : 7.5.0.1.129\n",
        "/usr/local/bin/npu-smi info -t topo": topo,
        "/usr/local/bin/npu-smi info": recorded(info),
        f"{PYTHON} -c packages": packages(**GOOD),
    }
    for number in range(devices):
        commands |= {
            f"{HCCN} -i {number} -link": "link status: UP\n",
            f"{HCCN} -i {number} -net_health": "net health status: Success\n",
            f"{HCCN} -i {number} -tls": "dev_id:0, tls switch[0](0:disable, 1:enable)\n",
        }
    return Machine(files, commands, env)


HCCS = "\tNPU0\tNPU1\tCPU Affinity\nNPU0\tX\tHCCS\t0-23\nNPU1\tHCCS\tX\t24-47\n"
IDLE = recorded("info_910b3").replace("57784/ 65536", "3391 / 65536").replace("54412", "9")
A2 = ascend("info_910b3", 2, HCCS).having(commands={"/usr/local/bin/npu-smi info": IDLE})
A3 = ascend("info_a3", 4, HCCS.replace("HCCS\t0", "SIO\t0"))
NO_DRIVER = Machine(
    files=PC.files
    | {
        "/sys/bus/pci/devices/0000:c1:00.0/vendor": "0x19e5\n",
        "/sys/bus/pci/devices/0000:c1:00.0/class": "0x120000\n",
        "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x19e5\n",
        "/sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n",
        "/sys/bus/pci/devices/0000:02:00.0/vendor": "0x8086\n",
        "/sys/bus/pci/devices/0000:02:00.0/class": "0x120000\n",
    },
    commands=PC.commands,
)
BARE_CONTAINER = A2.lacking("/dev/*", "/usr/local/bin/npu-smi", f"{DRIVER}/*").having(
    files={
        "/.dockerenv": "",
        "/sys/bus/pci/devices/0000:c1:00.0/vendor": "0x19e5\n",
        "/sys/bus/pci/devices/0000:c1:00.0/class": "0x120000\n",
    },
    commands={
        "df -kP /dev/shm": "Filesystem 1024-blocks Used Available Capacity Mounted on\nshm 65536 0 65536 0% /dev/shm\n"
    },
)
