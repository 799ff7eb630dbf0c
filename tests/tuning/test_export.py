"""What the user takes away is the winner's own command, whole and without a secret."""

import shlex
import subprocess

import pytest

from harness.scenario.engine import Engine
from harness.tuning import export

ENGINE = Engine(
    kind="vllm-ascend",
    model="Qwen/Qwen2.5-7B-Instruct",
    args={"max_num_seqs": 64, "enable_prefix_caching": False, "additional_config": {"weight_nz_mode": 1}, "chip": "A3"},
    env={"TASK_QUEUE_ENABLE": "1", "NOTE": "two words", "HF_TOKEN": "hf_secret"},
)


def test_the_text_is_the_command_with_its_environment():
    """Read by a shell it gives the words of `vllm serve`; flags of the simulated engine alone are left out."""
    words = shlex.split(export.command_text(ENGINE))

    assert words[:2] == ["TASK_QUEUE_ENABLE=1", "NOTE=two words"]
    assert words[2:5] == ["vllm", "serve", "Qwen/Qwen2.5-7B-Instruct"]
    assert words[5:] == [
        "--max-num-seqs", "64", "--no-enable-prefix-caching", "--additional-config", '{"weight_nz_mode": 1}',
    ]  # fmt: skip


def test_the_script_runs_the_same_command(tmp_path):
    """With a stand-in for vllm, the shell hands over the same words and variables; more may be added."""
    stand_in = tmp_path / "vllm"
    stand_in.write_text('#!/bin/sh\nprintf "%s|" "$NOTE" "$@"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    script = tmp_path / "winner.sh"
    script.write_text(export.shell_script(ENGINE, ["SIMULATED"]), encoding="utf-8")
    ran = subprocess.run(
        ["/bin/sh", str(script), "--port", "9"],
        capture_output=True, text=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip

    assert ran.stdout.split("|")[:-1] == ["two words", *export.serve_command(ENGINE)[1:], "--port", "9"]


def test_the_docker_line_has_the_devices_that_the_image_needs():
    """The card, the three managers, and the driver's files."""
    line = export.docker_command(ENGINE, 2)

    for part in (
        "--device=/dev/davinci0", "--device=/dev/davinci1", "--device=/dev/davinci_manager", "--device=/dev/devmm_svm",
        "--device=/dev/hisi_hdc", "/usr/local/Ascend/driver/lib64", "/usr/local/bin/npu-smi", "TASK_QUEUE_ENABLE=1",
    ):  # fmt: skip
        assert part in line
    assert "/dev/davinci2" not in line


@pytest.mark.parametrize(
    "made", [export.command_text(ENGINE), export.shell_script(ENGINE), export.docker_command(ENGINE, 1)]
)
def test_no_secret_is_written(made):
    """A variable that holds one is left out."""
    assert "hf_secret" not in made


def test_what_changed_is_told_by_flag():
    """Against the base configuration; a mapping with the same keys is the same."""
    assert export.flags_changed({"a": 1, "b": {"c": 1}}, {"a": 2, "b": {"c": 1}, "d": None}) == {"a": 2}


def test_the_winner_names_its_interpreter_or_says_what_it_needs():
    """The engine's own python runs the command; without one the script says that vllm has to be on PATH."""
    own = ENGINE.model_copy(update={"python": "/opt/engine/bin/python"})

    assert export.serve_command(own)[:4] == ["/opt/engine/bin/python", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert "needs vllm on PATH" not in export.shell_script(own)
    assert "needs vllm on PATH" in export.shell_script(ENGINE)
    assert "/opt/engine" not in export.docker_command(own, 1)


@pytest.mark.parametrize("kind", ["vllm", "simulator", "vllm-ascend"])
def test_a_docker_line_is_for_vllm_ascend_only(kind, tmp_path):
    """The image holds vllm-ascend and nothing else."""
    found = export.write_winner_files(tmp_path, kind, ENGINE, 1, [])

    assert ("winner.docker.sh" in found) == (tmp_path / "winner.docker.sh").exists() == (kind == "vllm-ascend")
