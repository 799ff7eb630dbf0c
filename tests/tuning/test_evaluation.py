"""A load that was ended early is reported as no better than it was, and ended by the rules of its own study."""

from contextlib import contextmanager

import pytest

from harness.engines.engine_log import BootFacts
from harness.tuning.evaluation import EvaluationContext, StartedEngine, measure_loads
from harness.tuning.trial_series import partial_measurement
from harness.tuning.types import COMPLETE, Trial
from tests.tuning.measurements import measured
from tests.tuning.studies import problem_in, work_in

BEST = measured([0.1 * (n + 1) for n in range(100)], seed=0)


class Recorded:
    """An engine that shows what it is told to, and keeps who watched."""

    simulated = True

    def __init__(self, shows):
        self.shows, self.started, self.watch = shows, StartedEngine(1.0, BootFacts(), {}), None

    @contextmanager
    def open(self, _engine, _folder):
        """Itself."""
        yield self

    def measure(self, _task, _stage, _seed, watch=None):
        """What it is told to show."""
        self.watch = watch
        return self.shows


def found(folder, shows, **study):
    """What a load shows beside the best trial so far, and the engine that it ran on."""
    problem = problem_in(folder, **study)
    best = Trial(0, {}, {}, COMPLETE, values={"throughput": BEST.metrics["throughput"]}, measurement=BEST)
    work, engine = work_in(folder, problem), Recorded(shows)
    given = EvaluationContext(problem, engine, [best], problem.study.seed, folder)
    return next(measure_loads(given, work.proposer.default(), [{}])), engine


def slower(by):
    """A load like the best one whose requests all end later by this factor, as it is halfway through the best."""
    return partial_measurement(measured([by * 0.1 * (n + 1) for n in range(100)], seed=0), 9.5)


def test_an_estimate_is_by_how_the_best_did_up_to_then(tmp_path):
    """Half as fast for as long as it ran: half of what the best came to."""
    one, _ = found(tmp_path, slower(2.0))

    assert one.stopped
    assert one.verdict.values["throughput"] == pytest.approx(BEST.metrics["throughput"] / 2, rel=0.03)


def test_what_was_stopped_for_being_worse_is_told_for_no_better(tmp_path):
    """Where it was ahead for a while, its estimate is the best's own value and not above it."""
    one, _ = found(tmp_path, slower(0.5))

    assert one.verdict.values["throughput"] == BEST.metrics["throughput"]


def test_a_whole_load_is_told_as_it_is(tmp_path):
    """Nothing is estimated, however much better it is."""
    whole = measured([0.05 * (n + 1) for n in range(100)], seed=0)
    one, _ = found(tmp_path, whole)

    assert not one.stopped
    assert one.verdict.values["throughput"] == whole.metrics["throughput"]


@pytest.mark.parametrize(("stop_early", "stops"), [({}, True), ({"margin": 0.5}, False), ({"error": 1e-30}, False)])
def test_the_studys_margin_and_error_rule_the_race(tmp_path, stop_early, stops):
    """A load a fifth slower is stopped, unless the study allows half, or wants to be surer than this can show."""
    _, engine = found(tmp_path, slower(1.25), stop_early=stop_early)

    assert engine.watch(slower(1.25)).stop == stops
    assert engine.watch.every_s == pytest.approx(0.5)


def test_without_the_rule_nobody_watches(tmp_path):
    """Nor where there is nothing yet to compare with, as no trial had the same arrivals."""
    _, engine = found(tmp_path, slower(1.25), stop_early=None)
    _, other = found(tmp_path, slower(1.25), seed=3)

    assert engine.watch is None
    assert other.watch is None


@pytest.mark.parametrize(("least_tau", "trusted"), [(-0.5, True), (0.95, False)])
def test_the_studys_least_agreement_rules_the_twin(tmp_path, least_tau, trusted):
    """Whether it is listened to, when its order agrees somewhat, hangs on what the study asks for."""
    problem = problem_in(tmp_path, screening={"points": 4, "least_tau": least_tau})
    proposer = work_in(tmp_path, problem).proposer
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]
    candidates = proposer.resolver.candidates([{"max_num_seqs": 4 + n} for n in range(6)])
    said = sorted((proposer.screener.predict(one).values["throughput"], place) for place, one in enumerate(candidates))
    rank = {place: number for number, (_, place) in enumerate(said)}
    trials = [
        Trial(place, one.point, one.resolved.effective, COMPLETE, values={"throughput": values[rank[place]]})
        for place, one in enumerate(candidates)
    ]
    agreement = proposer.agreement(trials)

    assert 0 < agreement.tau < 0.95
    assert agreement.trusted == trusted
