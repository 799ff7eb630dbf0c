"""The doctor finds what is missing or wrong, and names what mends it."""

import os
import re
import subprocess
import sys
import tempfile

import pytest

from harness.doctor import examine
from harness.doctor.findings import FAULTS, Finding, closing_line, finding_lines
from harness.doctor.hardware import inspect_hardware
from harness.doctor.software import (
    INSIDE,
    NEWEST,
    RELEASES,
    Interpreter,
    cause_in,
    generation_findings,
    last_json,
    mismatches,
    query_packages,
    release_of,
    same_version,
)
from harness.messages import Message, language, plain, render
from harness.scenario.files import shipped_scenarios
from harness.telemetry.environment import cann_version, this_host
from tests.machines import A2, A3, BARE_CONTAINER, GOOD, HCCN, NO_DRIVER, PC, PYTHON, TOOLKIT, Machine, packages

NPU_SMI = "/usr/local/bin/npu-smi"


def faults(machine):
    """Topics and states of what is missing or wrong on a machine."""
    return {(row.topic, row.severity) for row in examine(machine.view(), PYTHON) if row.severity in FAULTS}


def finding(machine, topic, state=None):
    """The first finding of a topic."""
    return next(row for row in examine(machine.view(), PYTHON) if row.topic == topic and state in (None, row.severity))


def with_packages(machine, **versions):
    """A machine whose interpreter has these packages instead."""
    return machine.having(commands={f"{PYTHON} -c packages": packages(**versions)})


@pytest.mark.parametrize(
    ("machine", "shown"),
    [(A2, "2 x 910B3 with 64.0 GiB, health OK"), (A3, "4 x Ascend910 with 64.0 GiB, health OK")],
    ids=["A2", "A3"],
)
def test_a_healthy_host_has_no_fault(machine, shown):
    """Everything installed, in the environment, of versions that belong together: all lines are ok."""
    found = examine(machine.view(), PYTHON)

    assert {row.severity for row in found} == {"ok"}
    assert str(finding(machine, "NPU").message) == shown
    assert str(finding(machine, "firmware").message) == "7.5.0.1.129"
    assert {"driver", "CANN", "ATB", "vllm-ascend", "versions", "links", "ports", "NUMA"} <= {
        row.topic for row in found
    }


def test_a_machine_without_npu_hears_what_it_can_do():
    """One thing is missing, and the next step is a scenario on the embedded engine."""
    assert faults(PC) == {("NPU", "missing")}
    assert "harness run" in str(finding(PC, "NPU").remedy)


def test_cards_without_a_driver_are_seen_on_the_bus():
    """A Huawei accelerator without device files means that the driver is missing; its network card does not count."""
    assert faults(NO_DRIVER) >= {("driver", "missing"), ("CANN", "missing"), ("vllm-ascend", "missing")}
    assert str(finding(NO_DRIVER, "driver").message).startswith("cards on the PCI bus: 1, ")
    assert "npu-driver" in str(finding(NO_DRIVER, "driver").remedy)


def test_a_container_without_devices_hears_what_docker_was_not_told():
    """Devices, mounts and shared memory are mended by flags of docker run."""
    mends = " ".join(str(row.remedy) for row in examine(BARE_CONTAINER.view(), PYTHON) if "docker" in str(row.remedy))

    assert {("devices", "missing"), ("mounts", "missing"), ("shared memory", "wrong")} <= faults(BARE_CONTAINER)
    assert {"--device", "/dev/davinci0", "/dev/hisi_hdc", "--shm-size=1g"} <= set(mends.split())
    assert "-v /usr/local/dcmi:/usr/local/dcmi" in mends


@pytest.mark.parametrize(
    ("machine", "topic", "state", "words"),
    [
        (Machine(A2.files, A2.commands, A2.env, frozenset({"/dev/davinci1"})), "devices", "wrong", "/dev/davinci1"),
        (A2.lacking("/dev/hisi_hdc"), "devices", "missing", "/dev/hisi_hdc"),
        (A2.having(commands={f"{NPU_SMI} info": "DCMI model initialized failed\n"}), "npu-smi", "wrong", "DCMI model"),
        (A2.lacking("ASCEND_HOME_PATH"), "CANN", "wrong", "not in this shell"),
        (A2.lacking("ATB_HOME_PATH"), "ATB", "wrong", "libatb.so"),
        (A2.lacking("/usr/local/Ascend/nnal/*"), "ATB", "missing", "attention kernels"),
        (A2.lacking(HCCN), "hccn_tool", "missing", "network ports"),
        (A2.having(commands={f"{HCCN} -i 1 -link": "link status: DOWN\n"}), "ports", "wrong", "device 1 is down"),
        (
            A2.having(commands={f"{HCCN} -i 0 -net_health": "net health status: Timeout\n"}),
            "ports",
            "wrong",
            "device 0",
        ),
        (A2.having(commands={f"{HCCN} -i 0 -tls": "dev_id:0, tls switch[1](0:disable)\n"}), "TLS", "wrong", "disabled"),
        (A2.having(env={"ASCEND_LAUNCH_BLOCKING": "1"}), "variables", "wrong", "synchronous"),
        (A2.having(env={"ASCEND_RT_VISIBLE_DEVICES": "0,5"}), "variables", "wrong", "names 5"),
        (
            A2.having(env={"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:250"}),
            "variables",
            "wrong",
            "exclude each other",
        ),
        (
            A2.having({"/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n"}),
            "CPU clock",
            "wrong",
            "powersave",
        ),
        (A2.having({"/proc/sys/kernel/numa_balancing": "1\n"}), "NUMA", "wrong", "4 NUMA nodes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_has_a_line_of_its_own_and_what_mends_it(machine, topic, state, words):
    """One thing is broken on a healthy host: exactly that is told, with a command."""
    told = finding(machine, topic, state)

    assert {one for one, _ in faults(machine)} == {topic}
    assert words in str(told.message)
    assert str(told.remedy)


def test_an_unhealthy_and_a_held_chip_are_told():
    """The busy card of the recorded table, and a chip with a warning, each with its own place."""
    busy = A2.having(commands={f"{NPU_SMI} info": A2.commands[f"{NPU_SMI} info"].replace("3391 /", "57784/")})
    ill = A3.having(commands={f"{NPU_SMI} info": A3.commands[f"{NPU_SMI} info"].replace("| OK ", "| Alarm ", 2)})

    assert faults(busy) == {("NPU 1", "wrong")}
    assert re.search(r"88\.2 % of its memory is in use by python3\.10 \(3428811\)", str(finding(busy, "NPU 1").message))
    assert faults(ill) == {("NPU 0", "wrong"), ("NPU 0.1", "wrong")}


def test_ports_that_are_all_down_are_a_host_on_its_own():
    """Without any network between hosts nothing is wrong as long as one host serves alone."""
    down = A2.having(commands={f"{HCCN} -i {number} -link": "link status: DOWN\n" for number in (0, 1)})

    assert faults(down) == set()
    assert finding(down, "ports").severity == "note"


def test_unset_variables_are_one_line_with_one_command():
    """What is advised and not set can be set by pasting one line."""
    bare = A2.lacking("TASK_QUEUE_ENABLE", "HCCL_OP_EXPANSION_MODE")

    assert str(finding(bare, "variables").remedy) == "export TASK_QUEUE_ENABLE=1 HCCL_OP_EXPANSION_MODE=AIV"
    assert finding(bare, "variables").severity == "note"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vllm": "0.19.1"}, "vllm is 0.19.1; vllm-ascend 0.18.0 was tested with 0.18.0"),
        ({"torch": "2.10.0"}, "torch is 2.10.0"),
        ({"torch_npu": "2.9.0"}, "torch-npu is 2.9.0; vllm-ascend 0.18.0 was tested with 2.9.0.post1"),
        ({"python": "3.13.1"}, "Python is 3.13.1"),
        ({"vllm_ascend": "0.13.0"}, "CANN is 8.5.1; vllm-ascend 0.13.0 was tested with 8.5.0"),
    ],
)
def test_versions_that_do_not_belong_together_are_told(changed, words):
    """Each version that the table does not give is a line, with what installs the right one."""
    told = [row for row in examine(with_packages(A2, **{**GOOD, **changed}).view(), PYTHON) if row.topic == "versions"]

    assert any(words in str(row.message) for row in told)
    assert all(row.severity == "wrong" and str(row.remedy) for row in told)


def test_a_release_that_is_not_in_the_table_is_no_fault():
    """A newer vllm-ascend than this table knows is said to be unknown."""
    told = finding(with_packages(A2, **GOOD | {"vllm_ascend": "0.99.0"}), "versions")

    assert told.severity == "note"
    assert NEWEST.vllm_ascend in str(told.remedy)


def test_packages_that_are_missing_are_installed_by_what_is_told():
    """On a host with NPUs each missing package has its pip command, in the interpreter that was asked."""
    machine = with_packages(A2, platforms=())

    assert {("vllm", "missing"), ("torch-npu", "missing"), ("vllm-ascend", "missing")} == faults(machine)
    assert str(finding(machine, "vllm").remedy) == f"{PYTHON} -m pip install vllm=={NEWEST.vllm}"


def test_a_plug_in_that_is_not_registered_is_wrong():
    """The package alone is not enough: vLLM finds it by its entry point."""
    assert faults(with_packages(A2, platforms=(), **GOOD)) == {("vllm-ascend", "wrong")}


def test_an_interpreter_that_cannot_be_asked_is_one_line():
    """A wrong --python says so, and the rest is still looked at."""
    found = examine(PC.lacking(f"{PYTHON}*").view(), PYTHON)

    assert [row.severity for row in found if row.topic == "Python"] == ["wrong"]
    assert any(row.topic == "NUMA" for row in found)


@pytest.mark.parametrize(
    ("files", "env", "version"),
    [
        ({f"{TOOLKIT}/latest/x86_64-linux/ascend_toolkit_install.info": "version=8.3.RC2\n"}, {}, "8.3.RC2"),
        ({"/me/version.cfg": "runtime_running_version=[7.6.0.1.220:8.0.0]\n"}, {"ASCEND_HOME_PATH": "/me"}, "8.0.0"),
        ({"/usr/local/Ascend/cann-9.0.0": ""}, {}, "9.0.0"),
        ({}, {}, None),
    ],
)  # fmt: skip
def test_canns_version_is_found_wherever_it_stands(files, env, version):
    """In the install record, in version.cfg, or in the name of its folder."""
    assert cann_version(Machine(files, env=env).view()) == version


def test_builds_of_one_version_are_the_same():
    """What follows a plus sign, the case, and a leading v do not make another version."""
    assert same_version("v0.18.0", "0.18.0+empty")
    assert same_version("8.3.RC1", "8.3.rc1")
    assert not same_version("2.9.0", "2.9.0.post1")


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.vllm_ascend)
def test_each_release_of_the_table_is_found_and_belongs_to_itself(release):
    """A machine with exactly a row's versions has no mismatch, and rows are told apart."""
    found = {"vllm": release.vllm, "torch": release.torch, "CANN": release.cann, "Python": "3.10.14"}

    assert release_of(release.vllm_ascend) is release
    assert release_of(release.vllm_ascend + ".post1") is release
    assert list(mismatches(release, found | {"torch-npu": release.torch_npu or "2.0"})) == []


def test_lines_are_aligned_and_the_arrow_is_below():
    """State, topic and text in columns; nothing below a line that needs no mending."""
    told = [Finding("NPU", "ok", plain("one")), Finding("CPU clock", "wrong", plain("slow"), plain("mend it"))]

    assert finding_lines(told) == [
        "ok       NPU        one",
        "wrong    CPU clock  slow",
        "                    -> mend it",
    ]
    assert closing_line(told) == "1 wrong: see the arrows."
    assert closing_line(told[:1]) == "All checks passed."


def test_every_finding_can_be_read_in_chinese():
    """Topics, severities and texts are of the current language, and columns are those of a terminal."""
    machine = A2.lacking("ASCEND_HOME_PATH", "TASK_QUEUE_ENABLE")
    with language("zh"):
        lines = finding_lines(examine(machine.view(), PYTHON))
        closing = closing_line(examine(machine.view(), PYTHON))

    assert any(line.startswith("异常     CANN") and "当前 shell 未加载其环境变量" in line for line in lines)
    assert any(line.startswith("提示     环境变量") for line in lines)
    assert closing == "1 项异常，请按箭头后的提示处理。"


def test_this_interpreter_can_be_asked():
    """The text that runs inside an interpreter needs nothing but the standard library."""
    told = query_packages(this_host(), sys.executable)

    assert isinstance(told, Interpreter)
    assert told.python == ".".join(map(str, sys.version_info[:3]))
    assert isinstance(query_packages(this_host(), "/no/such/python"), Message)


def test_generation_without_vllm_is_one_line_with_the_install_command():
    """Nothing is started where there is no vllm; on an NPU the plug-in is named as well."""
    (told,) = generation_findings(inspect_hardware(A2.view()), Interpreter(PYTHON, "3.11.0"), "some/model", {})

    assert (told.topic, told.severity) == ("generate", "missing")
    assert f"{PYTHON} -m pip install vllm=={NEWEST.vllm} && " in str(told.remedy)
    assert "vllm-ascend" in str(told.remedy)


FAKE_VLLM = """
import sys
__version__ = "0.18.0"
class Params:
    def __init__(self, **words): self.count = words["max_tokens"]
SamplingParams = Params
class LLM:
    def __init__(self, model, **words):
        if model == "bad": raise ValueError("max_model_len is too long")
        if model == "hang": import time; time.sleep(300)
    def generate(self, prompts, sampling):
        class One: token_ids = list(range(sampling.count))
        class Answer: outputs = [One]
        return [Answer]
"""
FAKE_PLATFORMS = """
class CpuPlatform:
    device_type = "cpu"
current_platform = CpuPlatform()
"""


@pytest.fixture
def with_fake_vllm(tmp_path, monkeypatch):
    """This interpreter, with a vllm that pretends."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(FAKE_VLLM, encoding="utf-8")
    (tmp_path / "vllm" / "platforms.py").write_text(FAKE_PLATFORMS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Interpreter(sys.executable, "3.11.0", {"vllm": "0.18.0"})


def test_a_generation_says_which_platform_was_chosen(with_fake_vllm, tmp_path):
    """Platform, tokens and seconds in one line, and no log left; with an NPU here, another platform is wrong."""
    (told,) = generation_findings(inspect_hardware(PC.view()), with_fake_vllm, "good", {})
    (unused,) = generation_findings(inspect_hardware(A2.view()), with_fake_vllm, "good", {})

    assert told.severity == "ok"
    assert re.match(r"vLLM 0\.18\.0 chose platform cpu \(CpuPlatform\) and generated 8 tokens in ", str(told.message))
    assert (unused.severity, "the NPU was not used" in str(unused.message)) == ("wrong", True)
    assert list(tmp_path.glob("harness-doctor-*")) == []


def test_a_generation_that_fails_tells_the_cause_and_keeps_the_log(with_fake_vllm, tmp_path):
    """The error's own line, the exit status, and where the rest can be read."""
    (told,) = generation_findings(inspect_hardware(PC.view()), with_fake_vllm, "bad", {})
    (log,) = tmp_path.glob("harness-doctor-*.log")

    assert str(told.message) == "ended with status 1: ValueError: max_model_len is too long"
    assert str(told.remedy) == f"less {log}"
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_what_generates_ends_with_whoever_started_it(with_fake_vllm):
    """When its standard input closes, as on a SIGKILL of the harness, the generating process ends."""
    asked = '{"model": "hang", "args": {}, "tokens": 1, "prompt": ""}'
    command = [sys.executable, "-c", INSIDE.read_text(encoding="utf-8"), "generate", asked]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=os.environ) as process:
        process.stdin.close()

        assert process.wait(30) == -9


INVALID = """pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
max_model_len
  Value error, User-specified max_model_len (99) is greater than 8. [type=value_error, input_value=99]
    For further information visit https://errors.pydantic.dev/
"""


def test_the_cause_is_the_error_that_others_follow_from():
    """An engine core's own error stands before that of its parent."""
    text = (
        "(EngineCore pid=7) ERROR 11-22 [core.py:1] ValueError: No available memory for the cache blocks.\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )

    assert cause_in(text) == "ValueError: No available memory for the cache blocks."
    assert cause_in(INVALID) == "Value error, User-specified max_model_len (99) is greater than 8."
    assert cause_in("Killed\n") == "Killed"
    assert cause_in("") == ""
    assert last_json('{"a": 1}\nfarewell\n') == {"a": 1}
    assert last_json("[1]\nnothing\n") is None


def doctor(*words):
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness", "doctor", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_interpreter_may_be_given_by_a_relative_path(tmp_path):
    """Another folder does not change which interpreter is meant, and links to it stay links."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    told = doctor("--python", os.path.relpath(link))

    assert f"at {link}" in told.stdout


def test_the_command_prints_lines_and_exits_by_what_was_asked():
    """0 whatever is found; with --strict 1 where something is missing, as the closing line says; 2 on a wrong flag."""
    told, strict, wrong = doctor(), doctor("--strict"), doctor("--set", "a=1")
    healthy = told.stdout.splitlines()[-1] == "All checks passed."

    assert (told.returncode, told.stderr) == (0, "")
    assert all(re.match(r"(ok|note|missing|wrong) |\s+-> ", line) for line in told.stdout.splitlines()[:-1])
    assert strict.returncode == (0 if healthy else 1)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["en", "zh"])
def test_without_a_device_the_doctor_names_a_scenario_that_ships(name):
    """By its name, which works in every folder: an empty one holds no scenarios/smoke.yaml."""
    remedy = render(finding(PC, "NPU").remedy, name)
    command = re.match(r"harness run (\S+?)(?= |（)", remedy)

    assert command is not None
    assert command[1] in shipped_scenarios()
