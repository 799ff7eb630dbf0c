"""The minimal winner of studies on the simulated engine, with interruptions, failures and several objectives."""

from dataclasses import replace

import pytest

from harness.results.study import read_study
from harness.tuning.confirmation import confirm
from harness.tuning.elimination import FAILED
from harness.tuning.simplification import EQUAL, ONLY, SAME, FlagOutcome, simplify
from harness.tuning.simplification_result import simplification_lines
from harness.tuning.study import run_study
from harness.tuning.study_result import StudyFindings, write_result
from harness.tuning.virtual_evaluation import SimulatedNoise, VirtualEvaluator
from tests.tuning.studies import problem_in, work_in
from tests.tuning.test_study import Interrupted

SPACE = {
    "max_num_seqs": [2, 24, 32],
    "max_num_batched_tokens": [1024, 1536],
    "gpu_memory_utilization": [0.8, 0.85],
    "block_size": [128, 256],
    "async_scheduling": [True, False],
}
STUDY = {
    "engine": {"args": {"max_num_seqs": 2}}, "space": SPACE, "budget": {"trials": 4}, "stop_early": None,
    "confirm": {"best": 1, "repeats": 4}, "simplify": {"repeats": 4},
}  # fmt: skip


@pytest.fixture
def searched(tmp_path):
    """A study whose trials are done: its context, and what confirmed its winner."""

    def carry_out(**changes):
        evaluator = VirtualEvaluator(noise=SimulatedNoise(0.002, 0.002))
        work = work_in(tmp_path, problem_in(tmp_path, **{**STUDY, **changes}), evaluator=evaluator)
        run_study(work)
        return work, confirm(work, work.store.trials())

    return carry_out


def test_only_the_flag_that_matters_is_left(searched):
    """The default serves two at once; block_size, and what is as it was by default, change nothing."""
    work, confirmed = searched()
    minimal = simplify(work, work.store.trials(), confirmed)
    flags = {flag.name: flag for flag in minimal.flags}

    assert confirmed.winner.number is not None
    assert [flag.name for flag in minimal.flags if flag.kept] == ["max_num_seqs"]
    assert set(minimal.finalist.candidate.point) == {"max_num_seqs"}
    assert minimal.finalist.candidate.engine.args["max_num_seqs"] in (24, 32)
    by_value = {
        flag.name: EQUAL if flag.value == flag.default else SAME
        for flag in minimal.flags
        if flag.verdict in (SAME, EQUAL)
    }
    assert {name: flags[name].verdict for name in by_value} == by_value
    assert flags["max_num_seqs"].default == 2
    assert flags["max_num_seqs"].effect.high < 1
    assert minimal.gain.low > 1


def test_a_flag_with_the_default_s_value_is_equal_to_it(searched):
    """It was never set: nothing was removed of which a gain could be said; study.json and the page say the same."""
    work, confirmed = searched()
    minimal = simplify(work, work.store.trials(), confirmed)
    own = FlagOutcome("async_scheduling", True, True, kept=False, verdict=EQUAL)
    other = FlagOutcome("block_size", 256, 128, kept=False, verdict=SAME)
    both = [str(line) for line in simplification_lines(replace(minimal, flags=(*minimal.flags[:1], own, other)))]
    alone = [str(line) for line in simplification_lines(replace(minimal, flags=(*minimal.flags[:1], own)))]

    assert both[0].endswith("(no loss beyond 2.00 %): block_size")
    assert both[1] == "equal to the default, so left out: async_scheduling"
    assert alone[:2] == ["nothing was removed: the winner's 1 flag is needed", both[1]]


def test_files_hold_the_minimal_winner(searched):
    """The command, the script and study.json name the flags that are needed, and no other; old keys stay."""
    work, confirmed = searched()
    minimal = simplify(work, work.store.trials(), confirmed)
    lines = write_result(work, StudyFindings(confirmed, minimal), simulated=True)
    study = read_study(work.folder)
    script = (work.folder / "winner.sh").read_text(encoding="utf-8")

    assert list(study.content["winner"]["changed"]) == ["max_num_seqs"]
    assert "--block-size" not in script
    assert "--max-num-seqs" in script
    assert study.content["winner"]["trial"] == confirmed.winner.number
    assert study.simplification["gain"]["unit"] == "tokens/s"
    assert str(minimal.gain.message) in str(lines[0])
    assert " tokens/s (×" in str(lines[0])
    assert any("to find out which flags are needed" in str(line) for line in lines)
    assert study.minutes > sum(trial.minutes.total for trial in work.store.trials()) + confirmed.minutes


def test_an_interrupted_simplification_is_gone_on_with(searched):
    """What was measured is not measured again, and what comes out is what it would have been without a break."""
    work, confirmed = searched()
    trials = work.store.trials()
    noisy, work.evaluator = work.evaluator, Interrupted(7)
    work.evaluator.inner = noisy
    with pytest.raises(KeyboardInterrupt):
        simplify(work, trials, confirmed)
    again = work_in(work.folder, work.plan, evaluator=Interrupted(None))  # another process: nothing is remembered
    again.evaluator.inner = noisy
    resumed = simplify(again, trials, confirm(again, trials))
    whole = simplify(again, trials, confirm(again, trials))

    assert again.evaluator.loads == resumed.elimination.measurements - 6
    assert [flag.verdict for flag in resumed.flags] == [flag.verdict for flag in whole.flags]
    assert resumed.gain.ratio == pytest.approx(whole.gain.ratio)
    assert resumed.minutes == pytest.approx(whole.minutes)
    assert resumed.starts == whole.starts


def test_a_failure_keeps_the_flag_and_is_told(searched):
    """Without more memory nothing starts: a trial of the elimination that fails is data."""
    work, confirmed = searched()

    class Failing(Interrupted):
        """No engine comes up with the default's max_num_batched_tokens."""

        def open(self, engine, folder):
            """Take the memory away from all but the winner."""
            if len(engine.args) < len(confirmed.winner.candidate.engine.args):
                engine = engine.model_copy(update={"args": {**engine.args, "gpu_memory_utilization": 0.001}})
            return super().open(engine, folder)

    work.evaluator = Failing(None)
    minimal = simplify(work, work.store.trials(), confirmed)
    failed = [test for test in minimal.elimination.tests if test.verdict == FAILED]

    assert failed
    assert all(test.failure is not None for test in failed)
    assert all(flag.kept for flag in minimal.flags if flag.name in {name for test in failed for name in test.removed})


def test_a_single_flag_says_that_there_is_nothing_to_remove(searched):
    """No load is run for it, and its effect is the gain, turned round."""
    work, confirmed = searched(space={"max_num_seqs": [2, 24, 32]})
    minimal = simplify(work, work.store.trials(), confirmed)

    assert (minimal.elimination.measurements, minimal.minutes) == (0, 0.0)
    assert [flag.verdict for flag in minimal.flags] == [ONLY]
    assert str(next(iter(simplification_lines(minimal)))) == "nothing to remove: the winner has one flag"
    assert minimal.gain == confirmed.gains[1]


@pytest.mark.parametrize(
    "changes", [{"simplify": None}, {"engine": {"args": {"max_num_seqs": 24}}, "space": {"max_num_seqs": [24, 2]}}]
)
def test_nothing_is_removed_where_nobody_asks_or_the_default_stays(searched, changes):
    """Turned off, or without a gain."""
    work, confirmed = searched(**changes)

    assert simplify(work, work.store.trials(), confirmed) is None


def test_a_capacity_is_simplified_too(searched):
    """Each of its measurements is a search over rates."""
    work, confirmed = searched(
        objective="capacity", load={"poisson": {"rate": 20, "requests": 60}},
        space={"max_num_seqs": [2, 32], "block_size": [128, 256]},
        budget={"trials": 2}, confirm={"best": 1, "repeats": 3},
    )  # fmt: skip
    minimal = simplify(work, work.store.trials(), confirmed)

    assert " req/s (×" in str(minimal.gain.message)
    assert [flag.name for flag in minimal.flags if flag.kept] == ["max_num_seqs"]
