"""A study finds the best topology with fewer trials than there are, and its flags after."""

import json
import subprocess

import pytest
import yaml

from harness.results.study import read_study
from harness.tuning import export
from harness.tuning.study import run_study
from harness.tuning.study_loader import load_study_plan
from harness.tuning.study_result import StudyFindings, write_result
from harness.tuning.topology import Layout, laid_out
from harness.tuning.topology_search import MEASURED, OVER_BUDGET, SKIPPED, UNFILLED, topology_lines
from harness.tuning.virtual_evaluation import SimulatedNoise, VirtualEvaluator
from reports.tuning import render
from tests.tuning.studies import SCENARIO, work_in, written

GRID = {"cards": 4, "tensor_parallel": [1, 2, 4], "prefill_decode": ["none", "1:1", "1:3"]}
ENGINE = {"kind": "simulator", "model": "Qwen/Qwen3-8B", "args": {"max_model_len": 4096}}
SHORT_ANSWERS = {"kind": "synthetic", "input_tokens": {"uniform": [256, 2048]}, "output_tokens": {"uniform": [4, 12]}}
LONG_ANSWERS = {"kind": "synthetic", "input_tokens": {"uniform": [32, 256]}, "output_tokens": {"uniform": [24, 48]}}
FEW = [{"closed": {"concurrency": 4, "requests": 16}}]
MANY = [{"closed": {"concurrency": 32, "requests": 48}}]


def evaluator():
    """The simulated engine in virtual time, with the noise of a study."""
    return VirtualEvaluator(noise=SimulatedNoise(0.01, 0.02, 0), in_layouts=True)


def plan_in(folder, workload, load, **study):
    """The plan of a study over the grid."""
    given = {"topology": GRID, "objective": "throughput_per_card", "space": {}, "budget": {"trials": 20}, **study}
    path = written(folder, **given)
    scenario = {**SCENARIO, "engine": ENGINE, "workload": workload, "load": load}
    (folder / "small.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
    return load_study_plan(path)


def true_value(plan, layout):
    """The rate of a card of one layout under its share of the load, without noise."""
    engine = laid_out(plan.engine, plan.kind, layout, "MooncakeConnectorV1")
    with VirtualEvaluator(in_layouts=True).open(engine, plan.path.parent) as session:
        stage = plan.tasks[0].stage
        assert layout.cards == plan.study.cards
        return session.measure(plan.tasks[0], stage, plan.study.seed).metrics["throughput"] / layout.cards


@pytest.mark.parametrize(
    ("workload", "load", "best"),
    [(SHORT_ANSWERS, FEW, "TP1 2P2D"), (SHORT_ANSWERS, MANY, "TP1 DP4"), (LONG_ANSWERS, FEW, "TP4")],
    ids=["short answers, few users", "short answers, many users", "long answers, few users"],
)
def test_the_taken_topology_is_the_best_or_nearly(tmp_path, workload, load, best):
    """Beside the truth of every layout of the grid: at most 3 % below the best, with fewer trials than layouts."""
    plan = plan_in(tmp_path, workload, load)
    work = work_in(tmp_path, plan, evaluator=evaluator())
    with work.coordinator.heartbeat():
        run_study(work)
    rows = work.proposer.standings(work.store.trials())
    truth = {layout: true_value(plan, layout) for layout in plan.layouts}

    assert len(truth) == 6
    assert max(truth, key=truth.__getitem__).name == best
    assert truth[rows[0].layout] >= 0.97 * max(truth.values())
    assert 3 <= sum(row.verdict == MEASURED for row in rows) == len(work.store.trials()) < len(truth)


def test_flags_are_searched_on_the_best_topology(tmp_path):
    """First layouts with the default's flags, then flags on one of them; page, study.json and lines say which."""
    space = {"max_num_batched_tokens": [256, 512, 1024, 2048]}
    plan = plan_in(tmp_path, LONG_ANSWERS, MANY, space=space, budget={"trials": 9})
    work = work_in(tmp_path, plan, evaluator=evaluator())
    with work.coordinator.heartbeat():
        run_study(work)
    trials = work.store.trials()
    lines = write_result(work, StudyFindings(), simulated=True)
    kept = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    origins = [trial.origin for trial in trials]
    layouts = origins.count("topology") + 1
    best = kept["topologies"][0]

    assert origins[0] == "default"
    assert set(origins[1:layouts]) == {"topology"}
    assert "topology" not in origins[layouts:]
    assert {trial.effective["topology"] for trial in trials[layouts:]} == {best["name"]}
    assert {len(trial.point) for trial in trials[1:layouts]} == {1}
    assert best["verdict"] == "measured"
    assert any(line.code == "tuning.topology_best" for line in lines)
    page = render(read_study(tmp_path))
    assert all(f">{row['name']}<" in page for row in kept["topologies"])


def test_a_study_of_topologies_goes_on_where_it_was(tmp_path):
    """What was chosen is chosen again from the stored trials."""
    space = {"max_num_batched_tokens": [256, 512, 1024, 2048]}
    first = work_in(
        tmp_path, plan_in(tmp_path, LONG_ANSWERS, MANY, space=space, budget={"trials": 4}), evaluator=evaluator()
    )
    with first.coordinator.heartbeat():
        run_study(first)
    plan = plan_in(tmp_path, LONG_ANSWERS, MANY, space=space, budget={"trials": 5})
    again = work_in(tmp_path, plan, evaluator=evaluator())
    with again.coordinator.heartbeat():
        run_study(again)
    names = [trial.effective["topology"] for trial in again.store.trials()]

    assert len(names) == 5
    assert names[2:] == [again.proposer.layouts.layout.name] * 3


LITTLE_ROOM = {**ENGINE, "args": {"max_model_len": 4096, "max_num_seqs": 8}}


@pytest.mark.parametrize(
    ("engine", "slo", "is_full"),
    [(ENGINE, {"e2e_p95": "60s"}, False), (LITTLE_ROOM, {"e2e_p95": "60s"}, True), (ENGINE, {"e2e_p95": "1ms"}, True)],
    ids=["empty places", "no places left", "responses beyond the SLO"],
)
def test_a_load_that_leaves_the_cards_empty_is_told(tmp_path, engine, slo, is_full):
    """Lines, page and winner.sh say once that the layout is the best for this load only; not of one that fills them."""
    topology = {"cards": 2, "tensor_parallel": [1, 2]}
    given = {"topology": topology, "objective": "goodput_per_card", "space": {}, "budget": {"trials": 2}}
    path = written(tmp_path, **given)
    scenario = {**SCENARIO, "engine": engine, "workload": LONG_ANSWERS, "load": MANY, "slo": slo}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
    work = work_in(tmp_path, load_study_plan(path), evaluator=evaluator())
    with work.coordinator.heartbeat():
        run_study(work)
    lines = write_result(work, StudyFindings(), simulated=True)
    script = next(tmp_path.glob("**/winner.sh"), None)
    rows = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))["topologies"]

    assert sum(line.code == UNFILLED for line in lines) == (not is_full)
    assert [place for place, row in enumerate(rows) if "note" in row] == ([] if is_full else [0])
    assert ("does not fill the cards" in render(read_study(tmp_path))) == (not is_full)
    assert script is None or ("does not fill the cards" in script.read_text(encoding="utf-8")) == (not is_full)


def test_half_of_the_trials_are_for_flags(tmp_path):
    """A budget that does not reach to all layouts leaves some untried, and says so."""
    space = {"max_num_batched_tokens": [256, 512, 1024, 2048]}
    plan = plan_in(tmp_path, LONG_ANSWERS, MANY, space=space, budget={"trials": 4}, screening={"points": 0})
    work = work_in(tmp_path, plan, evaluator=evaluator())
    with work.coordinator.heartbeat():
        run_study(work)
    rows = work.proposer.standings(work.store.trials())

    assert [row.verdict for row in rows].count(MEASURED) == 2
    assert [row.verdict for row in rows].count(OVER_BUDGET) == 4
    assert not [row for row in rows if row.verdict == SKIPPED]


def test_a_topology_of_fewer_cards_gets_its_share_of_the_load(tmp_path):
    """One engine of four has a quarter of the users and requests, and the rate of a card is that of the one it has."""
    topology = {"cards": 4, "tensor_parallel": [1], "data_parallel": [1, 4]}
    plan = plan_in(tmp_path, LONG_ANSWERS, MANY, topology=topology)
    work = work_in(tmp_path, plan, evaluator=evaluator())
    with work.coordinator.heartbeat():
        run_study(work)
    four, one = work.store.trials()
    rows = {row.layout.name: row for row in work.proposer.standings([four, one])}
    lines = topology_lines(plan, [rows["TP1"], rows["TP1 DP4"]])

    assert (four.effective["topology"], one.effective["topology"]) == ("TP1 DP4", "TP1")
    assert four.values["throughput_per_card"] == pytest.approx(four.measurement.metrics["throughput"] / 4)
    assert one.values["throughput_per_card"] == pytest.approx(one.measurement.metrics["throughput"])
    assert one.values["throughput_per_card"] == pytest.approx(four.values["throughput_per_card"], rel=0.25)
    assert str(lines[1]) == "it takes 1 of the 4 cards, with that share of the load: 4 such deployments fit"


def test_a_capacity_of_a_card_is_searched_for_each_topology(tmp_path):
    """The highest rate within the SLO, divided by the cards; the search begins at a topology's share of the rate."""
    topology = {"cards": 2, "tensor_parallel": [1, 2]}
    load = [{"poisson": {"rate": 8, "requests": 40}}]
    plan = plan_in(tmp_path, SHORT_ANSWERS, load, topology=topology, objective="capacity_per_card")
    work = work_in(tmp_path, plan, evaluator=VirtualEvaluator(in_layouts=True))
    with work.coordinator.heartbeat():
        run_study(work)

    assert len(work.store.trials()) == 2
    for trial in work.store.trials():
        assert trial.values["capacity_per_card"] == pytest.approx(trial.measurement.metrics["capacity"] / 2)


def test_the_winner_is_written_as_the_command_of_each_process(tmp_path):
    """Engines with their ports, cards and KV transfer, and the proxy before them, in an order in which they start."""
    plan = plan_in(tmp_path, SHORT_ANSWERS, FEW)
    layout = Layout(2, 3, 1)
    engine = laid_out(plan.engine, "vllm-ascend", layout, "MooncakeConnectorV1")
    files = export.write_winner_files(tmp_path, "vllm-ascend", engine, 8, ["why"])
    commands = export.process_commands(engine, "vllm-ascend")
    words = {command.name: command.words for command in commands}
    simulated = laid_out(plan.engine, "simulator", layout, "MooncakeConnectorV1")
    text, script = ((tmp_path / name).read_text(encoding="utf-8") for name in ("winner.txt", "winner.sh"))

    assert export.process_commands(simulated, "simulator") == commands
    assert sorted(files) == ["winner.sh", "winner.txt"]
    assert list(words) == ["prefill-0", "decode-0", "decode-1", "proxy"]
    assert words["prefill-0"][:3] == ("vllm", "serve", "Qwen/Qwen3-8B")
    assert '"kv_role": "kv_producer"' in " ".join(words["prefill-0"])
    assert words["proxy"][:4] == ("harness", "serve-proxy", "--prefill", "http://127.0.0.1:8100")
    assert words["proxy"][5] == "http://127.0.0.1:8101,http://127.0.0.1:8102"
    assert text.startswith("# why\n# prefill-0\nASCEND_RT_VISIBLE_DEVICES=0,1 vllm serve")
    assert "ASCEND_RT_VISIBLE_DEVICES=4,5 vllm serve" in script
    assert script.endswith("--port 9000 &\n\nwait\n")
    subprocess.run(["sh", "-n", str(tmp_path / "winner.sh")], check=True)


def test_the_winner_of_a_simulated_study_starts_on_real_cards(tmp_path):
    """Run with a stand-in for vllm, each engine of a pair gets cards, a port and a whole KV transfer of its own."""
    plan = plan_in(tmp_path, SHORT_ANSWERS, FEW)
    engine = laid_out(plan.engine, "simulator", Layout(4, 2, 1), "MooncakeConnectorV1")
    export.write_winner_files(tmp_path, "simulator", engine, 8, [])
    for name in ("vllm", "harness"):
        (tmp_path / name).write_text(
            '#!/bin/sh\nprintf "%s|" "$ASCEND_RT_VISIBLE_DEVICES" "$@" > "$(mktemp started.XXXX)"\n'
        )
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "winner.sh"], cwd=tmp_path, env=env, check=False, start_new_session=True)
    started = [path.read_text(encoding="utf-8").split("|")[:-1] for path in tmp_path.glob("started.*")]
    servers = sorted(words for words in started if words[1] == "serve")
    transfers = [json.loads(words[words.index("--kv-transfer-config") + 1]) for words in servers]

    assert len(started) == 3
    assert [words[0] for words in servers] == ["0,1,2,3", "4,5,6,7"]
    assert [words[words.index("--port") + 1] for words in servers] == ["8100", "8101"]
    assert [transfer["kv_role"] for transfer in transfers] == ["kv_producer", "kv_consumer"]
    assert {transfer["kv_connector"] for transfer in transfers} == {"MooncakeConnectorV1"}
    for key in ("kv_port", "engine_id"):
        assert len({transfer[key] for transfer in transfers}) == 2
    assert all(transfer["kv_connector_extra_config"]["decode"]["tp_size"] == 4 for transfer in transfers)
