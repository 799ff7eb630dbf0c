"""A trial is read back as it was written, and a study is resumed only where it is the same."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.tuning.sampler import optuna_constraints
from harness.tuning.trial_store import open_trial_store, storage_url, trial_as_json, trial_from_json
from harness.tuning.types import COMPLETE, FAILED, Measurement, Trial, TrialFailure, TrialMinutes
from tests.tuning.studies import constraints_of, problem_in

NUMBER = st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.6g}")) | st.just(math.inf)
WORD = st.text("abcdef", min_size=1, max_size=6)
MEASURED = st.builds(
    Measurement,
    metrics=st.dictionaries(WORD, NUMBER, max_size=3),
    series=st.dictionaries(WORD, st.lists(NUMBER, max_size=4).map(tuple), max_size=2),
    load_s=NUMBER,
    seed=st.integers(0, 9),
)
TRIAL = st.builds(
    Trial,
    number=st.integers(0, 99),
    point=st.dictionaries(WORD, st.booleans() | st.integers(0, 9) | WORD, max_size=3),
    effective=st.dictionaries(WORD, st.integers(0, 9), max_size=3),
    status=st.just(COMPLETE),
    values=st.dictionaries(WORD, NUMBER, max_size=2),
    violations=st.dictionaries(WORD, NUMBER, max_size=2),
    failure=st.none() | st.builds(TrialFailure, kind=WORD, retryable=st.booleans(), line=WORD),
    minutes=st.builds(TrialMinutes, start=NUMBER, load=NUMBER),
    measurement=st.none() | MEASURED,
)


@given(TRIAL)
def test_a_trial_is_read_back_as_it_was(trial):
    """Through plain values of JSON, infinite ones among them."""
    assert trial_from_json(trial.number, trial_as_json(trial)) == trial


@pytest.fixture
def problem(tmp_path):
    """A small study's problem."""
    return problem_in(tmp_path)


def book_of(problem, folder, *, resume=False, fingerprint="same"):
    """The record in a folder."""
    return open_trial_store(problem, storage_url(None, folder), "worker", fingerprint, resume=resume)


def test_what_ended_is_there_when_the_book_is_opened_again(problem, tmp_path):
    """With its parameters where Optuna's own tools look for them, and a failure as a broken constraint."""
    book = book_of(problem, tmp_path)
    point = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "block_size": 128}
    number, handle = book.begin(point, "key 1", "screened")
    book.end(handle, Trial(number, point, {}, COMPLETE, values={"throughput": 5.0}))
    other, handle = book.begin({**point, "max_num_seqs": 9}, "key 2", "model")
    failure = TrialFailure("crash", retryable=True, line="it died")
    book.end(handle, Trial(other, point, {}, FAILED, failure=failure))
    again = book_of(problem, tmp_path, resume=True)

    assert [trial.values for trial in again.trials()] == [{"throughput": 5.0}, {}]
    frozen = again.study.get_trials()
    assert frozen[0].params == point
    assert frozen[0].state == frozen[1].state == optuna.trial.TrialState.COMPLETE
    assert constraints_of(frozen[1]) == [1.0]
    assert again.study.metric_names == ["throughput"]
    assert (frozen[0].user_attrs["status"], frozen[1].user_attrs["cause"]) == ("complete", "crash: it died")
    assert again.study.best_trial.number == 0


def test_a_trial_that_never_ended_is_seen_as_running(problem, tmp_path):
    """Until somebody gives it up."""
    number, _ = book_of(problem, tmp_path).begin({"max_num_seqs": 8}, "key", "model")
    again = book_of(problem, tmp_path, resume=True)
    assert again.running() == {number: ("worker", "key")}

    again.abandon(number)

    assert again.running() == {}
    assert again.trials() == []


def test_another_study_is_not_gone_on_with(problem, tmp_path):
    """Trials under other ranges would be told to the sampler as its own."""
    book_of(problem, tmp_path)

    with pytest.raises(InputError, match="another study file"):
        book_of(problem, tmp_path, resume=True, fingerprint="other")
    with pytest.raises(InputError, match="expected --resume"):
        book_of(problem, tmp_path)


def test_an_address_without_a_database_is_refused(tmp_path):
    """It says what was expected."""
    with pytest.raises(InputError, match="invalid URL"):
        storage_url("study.db", tmp_path)


def test_a_trial_with_values_breaks_no_constraint_of_its_own():
    """Violations are told by limit beside it."""
    trial = Trial(0, {}, {}, COMPLETE, values={"throughput": 1.0}, violations={"ttft_p99": 0.5})

    assert optuna_constraints(trial) == {"starts": 0.0, "ttft_p99": 0.5}
