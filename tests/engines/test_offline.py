"""Every request of an offline run is accounted for, whatever its program managed to write."""

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import offline
from harness.execution.reconcile import reconcile
from harness.results import store, table_files
from harness.results.request_table import CANCELLED, COMPLETED, FAILED, MEASURED, MISSING, NEVER_SENT
from harness.scenario.models import Scenario
from harness.workload import build, plan

BEGIN_NS = 5_000_000_000


def scenario(sizes, warm, repeats):
    """An offline scenario of these stages."""
    told = {
        "name": "batch",
        "question": "Is nothing lost?",
        "workload": {"kind": "synthetic", "input_tokens": 9, "output_tokens": 4},
        "load": [{"offline": {"requests": size}} for size in sizes],
        "repeats": repeats,
    }
    return Scenario.model_validate(told | ({"warmup": {"requests": warm}} if warm else {}))


def written(folder, made):
    """A raw folder with the job of a scenario; its plans."""
    raw = folder / store.RAW
    raw.mkdir()
    workload = build(made.workload, endpoint="completions", seed=1, vocabulary=None, folder=folder)
    plans = plan.plan(made, workload)
    plan.save(raw / "plan.npz", plans, None)
    offline.write_job(raw, plans, workload, words=["--model", "m"])
    return plans


def noted(folder, plans, begun, done, ended):
    """Note that the first `begun` calls began, and the answers of the places in `done`; the last line is cut."""
    raw = folder / store.RAW
    lines, stages = [], []
    for number, call in enumerate(list(offline.calls_of(plans))[:begun]):
        at_ns = BEGIN_NS + number * 1000
        stages += [{"number": call.number, "begin_ns": at_ns}] if call.opens else []
        lines.append({"call": number, "begin_ns": at_ns})
        lines += [
            {"call": number, "place": place, "done": [at_ns + 500, at_ns + 100, at_ns + 400, 9, 0, 4, ""]}
            for place in range(call.requests)
            if (number, place) in done
        ]
    (raw / store.BEGUN).write_text("".join(json.dumps(line) + "\n" for line in stages), encoding="utf-8")
    (raw / offline.NOTES).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut', encoding="utf-8")
    if ended:
        offline.append_note(raw, ended=ended, at_ns=BEGIN_NS + 10_000_000, message="why")


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    warm=st.integers(0, 3),
    repeats=st.integers(1, 2),
    ended=st.sampled_from(["", CANCELLED, "engine_died"]),
    data=st.data(),
)
def test_no_request_is_lost(sizes, warm, repeats, ended, data):
    """What was scheduled completed, failed, was cancelled or never sent, for any calls begun and any answers noted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans = written(folder, scenario(sizes, warm, repeats))
        made = list(offline.calls_of(plans))
        begun = data.draw(st.integers(1, len(made)))
        places = [(number, place) for number, call in enumerate(made[:begun]) for place in range(call.requests)]
        done = data.draw(st.sets(st.sampled_from(places)))
        noted(folder, plans, begun, done, ended)
        reconcile(folder)
        requests = table_files.read_requests(folder)
    left = {"": CANCELLED, CANCELLED: CANCELLED, "engine_died": FAILED}[ended]

    assert len(requests) == repeats * (sum(sizes) + warm)
    assert (requests.phase == MEASURED).sum() == repeats * sum(sizes)
    assert (requests.status == COMPLETED).sum() == len(done)
    assert (requests.status == left).sum() == len(places) - len(done)
    assert (requests.status == NEVER_SENT).sum() == len(requests) - len(places)
    assert set(requests.output_tokens[requests.status == COMPLETED]) <= {4}


def test_a_job_holds_every_prompt_once(tmp_path):
    """In the order of the calls, warm-up first, each of the length that was asked for, and no session twice."""
    plans = written(tmp_path, scenario([2, 3], 1, 1))
    raw = tmp_path / store.RAW
    prompts = [json.loads(line) for line in (raw / offline.PROMPTS).read_text().splitlines()]
    job = json.loads((raw / offline.JOB).read_text())

    assert [(call["number"], call["measured"], call["requests"], call["opens"]) for call in job["calls"]] == [
        (0, False, 1, True),
        (0, True, 2, False),
        (1, True, 3, True),
    ]
    assert [(len(one["prompt"]), one["max_tokens"]) for one in prompts] == [(9, 4)] * 6
    assert len({tuple(one["prompt"]) for one in prompts}) == 6
    assert len(plans) == 2


def test_times_that_are_not_known_are_missing(tmp_path):
    """An answer without token times has its tokens at its end and no first token; one with them, all of them."""
    plans = written(tmp_path, scenario([3], 0, 1))
    raw = tmp_path / store.RAW
    noted(tmp_path, plans, 1, set(), "")
    at_ns = [BEGIN_NS + 10, BEGIN_NS + 20]
    for place, done in enumerate(
        (
            [BEGIN_NS + 50, MISSING, MISSING, 9, MISSING, 4, ""],
            [at_ns[1], *at_ns, 9, 8, 2, "", at_ns],
            [BEGIN_NS + 60, MISSING, MISSING, 9, MISSING, 0, "abort"],
        )
    ):
        offline.append_note(raw, call=0, place=place, done=done)
    reconcile(tmp_path)
    requests, events = table_files.read_requests(tmp_path), table_files.read_events(tmp_path)

    assert requests.first_ns.tolist() == [MISSING, 10, MISSING]
    assert requests.last_ns.tolist() == [50, 20, MISSING]
    assert requests.first_tokens.tolist() == [0, 1, 0]
    assert requests.cached_tokens.tolist() == [MISSING, 8, MISSING]
    assert requests.status.tolist() == [COMPLETED, COMPLETED, FAILED]
    assert np.split(events.at_ns, events.offsets[1:-1])[1].tolist() == [10, 20]
    assert events.tokens.tolist() == [4, 1, 1]


def test_a_run_with_a_server_has_no_job(tmp_path):
    """Nothing is read where there was no program."""
    (tmp_path / store.RAW).mkdir()

    assert offline.read_answers(tmp_path / store.RAW) is None
