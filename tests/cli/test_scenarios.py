"""`harness validate` says every fault of a file in the language of the user."""

import re

import pytest

from harness.cli.app import main

FILES = {  # what a file holds, and the Chinese line behind its path
    "a key that stands twice": (b"name: a\nname: b\n", ":2：name：键重复，首次出现在第 1 行；只能出现一次"),
    "not YAML": (b"a: [1\n", ":1：[ ] 列表没有闭合；应为 , 或 ]"),
    "a tab": (b"a:\n\tb: 1\n", ":2：YAML 缩进中出现了制表符；应使用空格"),
    "a list": (b"- a\n", ":1：应为含 name、question、workload 和 load 的映射，实际为列表"),
    "an empty file": (b"", "：文件为空；应为含 name、question、workload 和 load 的场景"),
    "not UTF-8": (b"\xff\xfe\xfa", ":1：不是 UTF-8；应为以 UTF-8 保存的文本文件"),
    "a folder": (None, "：这是目录；应为 YAML 文件"),
}


def lines_of(capsys, *words):
    """What a command prints to stderr; it ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_fault_of_the_document_is_said_in_chinese(tmp_path, capsys, case, command):
    """By validate as by run: of the document as a whole, not only of its keys and values."""
    content, line = FILES[case]
    path = tmp_path / "case.yaml"
    path.mkdir() if content is None else path.write_bytes(content)

    assert lines_of(capsys, "--lang", "zh", command, str(path)) == [f"harness: {path}{line}"]


def test_the_locale_says_the_language_of_validate(tmp_path, capsys, monkeypatch):
    """As --lang does."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    path = tmp_path / "case.yaml"
    path.write_bytes(FILES["a tab"][0])

    assert lines_of(capsys, "validate", str(path)) == [f"harness: {path}{FILES['a tab'][1]}"]


FLAGS = """name: flags
question: Which?
engine:
  kind: simulator
  model: Qwen/Qwen2.5-7B-Instruct
  args:
    %s
workload: {kind: synthetic, input_tokens: 16, output_tokens: 4}
load: [{closed: {concurrency: 1, requests: 2}}]
"""


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("max_num_sequs: 4", "engine.args.max_num_sequs: not one of vLLM's; did you mean 'max_num_seqs'?"),
        ("block_size: many", "engine.args.block_size: "),
    ],
)
def test_validate_refuses_the_flags_that_run_refuses(tmp_path, capsys, flag, line):
    """With the same line, at the same place: those of the simulator need no engine to be known."""
    path = tmp_path / "flags.yaml"
    path.write_text(FLAGS % flag)
    (told,) = lines_of(capsys, "validate", str(path))

    assert told.startswith(f"harness: {path}:7: {line}")
    assert lines_of(capsys, "run", str(path), "--quiet", "--out", str(tmp_path / "out")) == [told]


def test_validate_lets_pass_what_only_an_engine_knows(tmp_path, capsys):
    """Flags of a vLLM that is not asked, and rules of a gate."""
    path, gate = tmp_path / "flags.yaml", tmp_path / "gate.yaml"
    path.write_text((FLAGS % "some_new_flag: 4").replace("simulator", "vllm"))
    gate.write_text("gate: {ttft_p99: 5%}\n")
    with pytest.raises(SystemExit) as end:
        main(["validate", str(path), str(gate)])

    assert end.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


PAIR = """name: pair
question: Which?
engine:
  kind: deployment
  model: Qwen/Qwen2.5-7B-Instruct
  preset: {prefill_decode: {prefill: 2, decode: 1, connector: %s}}
  process: {kind: %s}
  decode:
    args:
      %s
workload: {kind: synthetic, input_tokens: 16, output_tokens: 4}
load: [{closed: {concurrency: 1, requests: 2}}]
slo: {tpot_p95: %s}
"""


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("max-modle-len: 4096", "engine.args.max_modle_len: not one of vLLM's; did you mean 'max_model_len'?"),
        ("max_num_batched_tokens: lots", "engine.args.max_num_batched_tokens: "),
    ],
)
def test_validate_refuses_the_flags_of_processes_that_run_refuses(tmp_path, capsys, flag, reason):
    """With the same line, at the place where the process has the flag from."""
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR % ("MooncakeConnectorV1", "simulator", flag, "50ms"))
    (line,) = lines_of(capsys, "validate", str(path))

    assert line.startswith(f"harness: {path}:10: process decode-0: {reason}")
    assert lines_of(capsys, "run", str(path), "--quiet", "--out", str(tmp_path / "out")) == [line]


def test_a_flag_that_processes_share_is_refused_once(tmp_path, capsys):
    """By the name of the first process that has it."""
    path = tmp_path / "pair.yaml"
    text = PAIR % ("MooncakeConnectorV1", "simulator, args: {max_modle_len: 9}", "max_model_len: 4096", "50ms")
    path.write_text(text)
    (line,) = lines_of(capsys, "validate", str(path))

    assert line.startswith(f"harness: {path}:7: process prefill-0: engine.args.max_modle_len: ")


def test_validate_and_run_warn_of_what_is_hardly_meant(tmp_path, capsys):
    """A connector that nobody registers, and a limit in seconds; neither stops a run."""
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR % ("MoncakeConnectorV1", "simulator", "max_model_len: 4096", "50"))
    warnings = [
        (
            f"warning: {path}:6: engine.preset.prefill_decode.connector: MoncakeConnectorV1 is no KV connector that "
            "vLLM or vllm-ascend registers; did you mean 'MooncakeConnectorV1'?"
        ),
        (
            f"warning: {path}:13: slo.tpot_p95: 50.0 s between tokens is hardly a limit (a number without a unit is "
            "seconds); did you mean 50ms?"
        ),
    ]
    with pytest.raises(SystemExit) as end:
        main(["validate", str(path)])

    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[:3] == [f"{path}: ok", *warnings]

    with pytest.raises(SystemExit) as end:
        main(["run", str(path), "--quiet", "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    assert capsys.readouterr().err.splitlines() == [f"harness: {line}" for line in warnings]


def test_known_connectors_and_those_of_a_module_of_the_users_pass(tmp_path, capsys):
    """A connector of any name may be loaded by vLLM from kv_connector_module_path."""
    own = "kv_transfer_config: {kv_connector: MineV1, kv_role: kv_consumer, kv_connector_module_path: mine}"
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR % ("MooncakeHybridConnector", "simulator", own, "9s"))
    with pytest.raises(SystemExit):
        main(["validate", str(path)])

    assert "warning" not in capsys.readouterr().out


def test_a_list_of_devices_is_short_by_what_all_its_ranks_take(tmp_path, capsys):
    """A preset shares the devices of engine.process out: it is that list which has to grow."""
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR % ("MooncakeConnectorV1", "vllm-ascend, devices: [0, 1]", "max_model_len: 4096", "50ms"))

    assert lines_of(capsys, "validate", str(path)) == [
        (
            f"harness: {path}:7: engine.process.devices: holds 2 of the 3 devices that the ranks of prefill-0, "
            "prefill-1, decode-0 take; expected at least 3"
        )
    ]


STUDY = """name: s
question: Which?
scenario: small.yaml
objective: throughput
space: {block_size: [0, 128], max_num_seq: [8, 16]}
load: {closed: {concurrency: 0}}
"""


@pytest.mark.parametrize("gone", ["", "space", "load"])
def test_faults_of_a_study_are_said_in_chinese(tmp_path, capsys, gone):
    """Whoever finds them: the file's model, the space, or the embedded engine's reading of flags."""
    path = tmp_path / "study.yaml"
    kept = [line for line in STUDY.splitlines() if not gone or not line.startswith(gone)]
    path.write_text("\n".join(kept), encoding="utf-8")
    (tmp_path / "small.yaml").write_text(
        "name: small\nquestion: How?\nengine: {kind: simulator, model: Qwen2.5-7B}\n"
        "workload: {kind: synthetic, input_tokens: 64, output_tokens: 8}\n"
        "load: [{closed: {concurrency: 4, requests: 9}}]\n",
        encoding="utf-8",
    )
    lines = [line.removeprefix("harness: ") for line in lines_of(capsys, "--lang", "zh", "validate", str(path))]

    assert lines
    assert [line for line in lines if re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", line.partition("：")[2])] == []


def test_validate_shows_what_a_deployment_starts(tmp_path, capsys):
    """Each process with its command line, also one that is started elsewhere by hand."""
    path = tmp_path / "pair.yaml"
    path.write_text(
        "name: pair\nquestion: Which side is full?\nworkload: {kind: synthetic, input_tokens: 8, output_tokens: 2}\n"
        "load: [{poisson: {rate: 1, duration: 60s}}]\n"
        "engine:\n  kind: deployment\n  model: m\n  preset: {prefill_decode: {prefill: 1, decode: 1}}\n"
        "  process: {kind: vllm-ascend}\n  decode: {host: 192.0.2.1, port: 7100}\n",
        encoding="utf-8",
    )
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(path), "--lang", "en"])
    ok, prefill, decode, proxy = capsys.readouterr().out.splitlines()

    assert (ended.value.code, ok) == (0, f"{path}: ok")
    assert prefill.startswith(
        "  prefill-0 (prefill, vllm-ascend): VLLM_NO_USAGE_STATS=1 ASCEND_RT_VISIBLE_DEVICES=0 vllm"
    )
    assert decode.startswith("  decode-0 (decode, vllm-ascend), which you start on 192.0.2.1: ")
    assert proxy.startswith("  proxy (proxy, proxy): harness serve-proxy --host 127.0.0.1")
