"""A preset writes the flags that vLLM and vllm-ascend document; what cannot work is told before a start."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.scenario.deployment_checks import deployment_faults
from harness.scenario.engine import Engine
from harness.scenario.error_messages import dotted
from harness.scenario.processes import cards, engine_of, load_process, processes_of

ASCEND = {"kind": "vllm-ascend", "args": {"tensor_parallel_size": 4}}


def deployment(**keys):
    """An engine of kind deployment."""
    return Engine(**{"kind": "deployment", "model": "m", **keys})


def faults(**keys):
    """What is wrong with a deployment, as place and sentence."""
    return [f"{dotted(fault.path)}: {fault.reason}" for fault in deployment_faults(deployment(**keys))]


def test_external_data_parallel_is_a_process_a_rank():
    """The flags of examples/external_online_dp/run_dp_template.sh, and devices as launch_online_dp.py counts them."""
    preset = {"data_parallel": {"size": 2, "load_balancer": "external", "address": "10.0.0.1", "rpc_port": 12342}}
    first, second, proxy = processes_of(deployment(preset=preset, process={**ASCEND, "port": 7100}))

    assert (first.name, first.role, first.devices, first.port) == ("replica-0", "replica", (0, 1, 2, 3), 7100)
    assert (second.devices, second.port) == ((4, 5, 6, 7), 7101)
    assert second.args == {
        "tensor_parallel_size": 4, "data_parallel_size": 2, "data_parallel_rank": 1,
        "data_parallel_address": "10.0.0.1", "data_parallel_rpc_port": 12342,
    }  # fmt: skip
    assert (proxy.kind, proxy.role) == ("proxy", "proxy")


def test_internal_data_parallel_is_one_process_and_needs_no_proxy():
    """One server has all ranks and all their devices."""
    (only,) = processes_of(deployment(preset={"data_parallel": {"size": 4}}, process=ASCEND))

    assert (only.name, only.args["data_parallel_size"], only.devices) == ("replica", 4, tuple(range(16)))
    assert load_process([only]) is only


def test_hybrid_data_parallel_is_several_ranks_a_process():
    """Each begins where the one before ends."""
    preset = {"data_parallel": {"size": 4, "load_balancer": "hybrid", "local": 2}}
    first, second, _ = processes_of(deployment(preset=preset, process={"kind": "vllm"}))

    assert [first.args["data_parallel_start_rank"], second.args["data_parallel_start_rank"]] == [0, 2]
    assert second.args["data_parallel_hybrid_lb"] is True
    assert (second.args["data_parallel_size"], second.args["data_parallel_size_local"]) == (4, 2)
    assert second.devices == (2, 3)


def test_independent_replicas_and_simulators_know_of_no_group():
    """A dense model has none in vLLM: nor has a simulator in a process of its own."""
    for kind, balancer in (("vllm", "independent"), ("simulator", "external")):
        preset = {"data_parallel": {"size": 2, "load_balancer": balancer}}
        engines = processes_of(deployment(preset=preset, process={"kind": kind}))[:2]
        assert [process.args for process in engines] == [{}, {}]


def test_prefill_and_decode_know_of_each_other():
    """The KV transfer of pd_disaggregation_mooncake_multi_node.md: roles, ports apart, sizes of both sides."""
    prefill, decode, _, _ = processes_of(
        deployment(
            preset={"prefill_decode": {"prefill": 1, "decode": 2}, "interface": "eth0"},
            process={"kind": "vllm-ascend"},
            prefill={"args": {"tensor-parallel-size": 8, "data_parallel_size": 2}},
            decode={"args": {"data_parallel_size": 16}, "host": ["192.0.0.3", "192.0.0.4"], "port": 7100},
        )
    )
    sizes = {"prefill": {"dp_size": 2, "tp_size": 8}, "decode": {"dp_size": 16, "tp_size": 1}}

    assert prefill.args["kv_transfer_config"] == {
        "kv_connector": "MooncakeConnectorV1", "kv_role": "kv_producer", "kv_port": "36000", "engine_id": "0",
        "kv_connector_extra_config": sizes,
    }  # fmt: skip
    assert decode.args["kv_transfer_config"] == {
        "kv_connector": "MooncakeConnectorV1", "kv_role": "kv_consumer", "kv_port": "36100", "engine_id": "1",
        "kv_connector_extra_config": sizes,
    }  # fmt: skip
    assert (decode.host, decode.port, decode.env["HCCL_IF_IP"]) == ("192.0.0.3", 7100, "192.0.0.3")
    assert "HCCL_IF_IP" not in prefill.env
    assert prefill.env["GLOO_SOCKET_IFNAME"] == "eth0"
    assert prefill.devices == decode.devices == tuple(range(16))  # of two machines


def test_what_the_scenario_says_of_the_transfer_stays():
    """Its keys go over those that the preset writes."""
    own = {"kv_transfer_config": {"kv_buffer_device": "npu", "kv_port": "28000"}}
    prefill, _, _ = processes_of(
        deployment(
            preset={"prefill_decode": {"prefill": 1, "decode": 1}},
            process={"kind": "vllm-ascend"},
            prefill={"args": own},
        )
    )
    transfer = prefill.args["kv_transfer_config"]

    assert (transfer["kv_buffer_device"], transfer["kv_port"], transfer["kv_role"]) == ("npu", "28000", "kv_producer")


def test_a_listed_process_takes_the_rest_from_the_engine():
    """Flags and variables of its own go over those of all; a command has no flags."""
    engine, command = processes_of(
        deployment(
            args={"seed": 1, "block_size": 64},
            env={"A": "1", "B": "1"},
            processes=[
                {"name": "a", "args": {"block_size": 128}, "env": {"B": "2"}},
                {"name": "p", "role": "proxy", "kind": "command", "command": "bash 'my proxy.sh' {port}"},
            ],
        ),
        "vllm-ascend",
    )

    assert (engine.kind, engine.model) == ("vllm-ascend", "m")
    assert engine.args == {"seed": 1, "block_size": 128}
    assert engine.env == {"A": "1", "B": "2"}
    assert (command.command, command.args) == (("bash", "my proxy.sh", "{port}"), {})
    assert engine_of(engine, deployment(processes=[{"name": "a"}], api_key_env="KEY")).api_key_env == "KEY"


@given(
    tensor=st.integers(1, 8), ranks=st.integers(2, 8), balancer=st.sampled_from(["internal", "external", "independent"])
)
def test_ranks_of_a_preset_share_out_all_devices_and_none_twice(tensor, ranks, balancer):
    """Whatever its form, each process has a device for each of its ranks."""
    preset = {"data_parallel": {"size": ranks, "load_balancer": balancer}}
    engine = deployment(preset=preset, process={"kind": "vllm", "args": {"tensor_parallel_size": tensor}})
    engines = [process for process in processes_of(engine) if process.role != "proxy"]

    assert [number for process in engines for number in process.devices] == list(range(tensor * ranks))
    assert all(len(process.devices) == cards(process.args) for process in engines)
    assert list(deployment_faults(engine)) == []


FAULTS = """
[{name: a}, {name: b}]
    engine.processes: 2 processes and no proxy before them; expected one, such as {name: proxy, role: proxy}, or url
[{name: a}, {name: a}, {name: p, role: proxy}]
    engine.processes[1].name: a second process of the name a; expected another name
[{name: a, role: prefill}, {name: p, role: proxy}]
    engine.processes: there is a process of role prefill and none of role decode; expected at least one of each
[{name: p, role: proxy}]
    engine.processes: there are only proxies; expected an engine behind them
[{name: a}, {name: p, role: proxy}, {name: q, role: proxy}]
    engine.processes: p, q are all proxies; expected url, the address that requests go to
[{name: a, devices: [0, 1]}, {name: b, devices: [1, 2]}, {name: p, role: proxy}]
    engine.processes[1].devices: devices 1 are those of a too; expected each in one process
[{name: a, port: 8000}, {name: p, role: proxy, port: 8000}]
    engine.processes[1].port: port 8000 is taken by a too; expected another
[{name: a, host: "10.1.2.3"}]
    engine.processes[0].port: a process on 10.1.2.3 needs its port, so that it can be reached; expected port
[{name: a, devices: [0], args: {tensor_parallel_size: 2}}]
    engine.processes[0].devices: holds 1 of the 2 devices that the ranks of a take; expected at least 2
[{name: a, args: {kv_transfer_config: {kv_port: "65535"}, tensor_parallel_size: 2}}]
    engine.processes[0].port: port 65536 of a is above 65535; expected a lower first port
[{name: a, kind: command, command: "serve {prot}"}]
    engine.processes[0].command: {prot} is no placeholder; did you mean '{port}'?
[{name: a, kind: command, command: "serve {url:b}"}]
    engine.processes[0].command: {url:b} names no process; expected one of a
[{name: a, kind: command, command: "serve --at={urls:replica}"}]
    engine.processes[0].command: {urls:replica} stands for several words; expected it as a word of its own
[{name: a, kind: command, command: "serve {devices}"}]
    engine.processes[0].command: {devices} has no value here; expected devices
"""  # processes, and the line that is told about them


@pytest.mark.parametrize(("processes", "line"), list(zip(*[iter(FAULTS.strip().splitlines())] * 2, strict=True)))
def test_what_processes_cannot_share_is_told(processes, line):
    """Names, devices, ports, roles and placeholders, each in one line with its place."""
    assert faults(processes=yaml.safe_load(processes)) == [line.strip()]


def test_a_preset_whose_last_port_is_too_high_is_told():
    """Ports count up from the first one; the first that there is none of is named."""
    preset = {"data_parallel": {"size": 3, "load_balancer": "external"}}

    assert faults(preset=preset, process={"kind": "vllm", "port": 65534}) == [
        "engine.process.port: port 65536 of replica-2 is above 65535; expected a lower first port"
    ]


def test_what_a_shell_means_is_left_alone():
    """Variables of the shell and JSON are no placeholders."""
    command = ["bash", "-c", 'exec serve ${port} --config \'{"a": {"b": 1}}\' $1']

    assert faults(processes=[{"name": "a", "kind": "command", "command": command}]) == []


def test_ports_of_the_transfer_are_ports_too():
    """Each process takes one for each device from kv_port on."""
    config = {"kv_connector": "c", "kv_role": "kv_both", "kv_port": 30000}
    args = {"tensor_parallel_size": 8, "kv_transfer_config": config}
    other = {**args, "kv_transfer_config": {**config, "kv_port": "30004"}}
    processes = [
        {"name": "a", "role": "prefill", "args": args}, {"name": "b", "role": "decode", "args": other},
        {"name": "p", "role": "proxy"},
    ]  # fmt: skip

    assert faults(processes=processes) == ["engine.processes[1].port: port 30004 is taken by a too; expected another"]


def test_a_preset_is_not_contradicted():
    """Its flags are its own, a decode wider than prefill cannot fetch the cache, and its names are taken."""
    narrow = {"prefill_decode": {"prefill": 1, "decode": 1}}
    group = {"data_parallel": {"size": 2, "load_balancer": "external"}}

    assert faults(preset=group, args={"data_parallel_rank": 3}) == [
        "engine.args.data_parallel_rank: the flag is written by the preset data_parallel; expected it left to that"
    ]
    assert faults(preset=narrow, decode={"args": {"tensor_parallel_size": 2}}) == [
        (
            "engine.preset.prefill_decode: prefill has tensor_parallel_size 1 and decode 2; "
            "this connector needs at least as much for prefill"
        )
    ]
    assert faults(preset=group, processes=[{"name": "replica-0"}]) == [
        "engine.processes[0].name: a second process of the name replica-0; expected another name"
    ]
    assert faults(preset=group, process={"kind": "vllm"}, model=None)[0].startswith("engine.model: missing")


def test_a_deployment_with_all_its_keys_is_the_same_one():
    """A worker gets the scenario with every key, defaults too: none of them belongs to another kind of process."""
    rows = [{"name": name, "kind": "simulator"} for name in ("rank-0", "rank-1")]
    engine = deployment(processes=[*rows, {"name": "proxy", "role": "proxy", "kind": "proxy"}])

    assert Engine.model_validate(engine.model_dump(mode="json", exclude_none=True)) == engine
