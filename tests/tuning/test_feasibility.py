"""Do failed starts speak against points that would fail for the same reason, and against no others?"""

import pytest

from harness.engines.boot_log import BootFacts
from harness.tuning import failures
from harness.tuning.candidates import Ground, resolver
from harness.tuning.feasibility import Lesson, Lessons, is_named
from harness.tuning.types import Failure
from tests.tune_problems import problem_in

SPACE = {
    "gpu_memory_utilization": {"float": [0.3, 0.95]},
    "max_num_seqs": {"int": [2, 64]},
    "block_size": [128, 256],
}
CAPTURE = Failure(failures.MEMORY_AT_CAPTURE, retryable=False, line="NPU out of memory while capturing graphs")
SMALL = Failure(
    failures.MEMORY_AT_START, retryable=False, line="To serve at least one request with the model's max seq"
)


@pytest.fixture
def at(tmp_path):
    """Candidates by share of memory and number of requests."""
    problem = problem_in(tmp_path, space=SPACE)
    ground = Ground(problem, resolver(problem))

    def candidate(share, requests, block=128):
        return ground.one({"gpu_memory_utilization": share, "max_num_seqs": requests, "block_size": block})

    return candidate


def taught(candidate, failure, **facts):
    """What one start has taught."""
    return Lessons([Lesson(candidate, BootFacts(**facts), failure)])


def test_what_ran_out_of_memory_does_so_with_more(at):
    """A larger share and more requests fail, too; less of either may live."""
    lessons = taught(at(0.8, 16), CAPTURE)

    assert lessons.refuses(at(0.9, 32)).kind == failures.MEMORY_AT_CAPTURE
    assert lessons.refuses(at(0.7, 32)) is None
    assert lessons.refuses(at(0.9, 8)) is None


def test_a_cache_that_was_too_small_is_so_with_a_smaller_share(at):
    """Here it is the lower share that fails."""
    lessons = taught(at(0.5, 16), SMALL)

    assert lessons.refuses(at(0.4, 16)).kind == failures.MEMORY_AT_START
    assert lessons.refuses(at(0.6, 16)) is None


def test_the_arithmetic_is_corrected_by_the_logs(at):
    """A start that found 3 GiB less than expected makes all others expect about as much less."""
    plain = Lessons()
    expected = plain.cache_gib(at(0.5, 16))
    lessons = taught(at(0.6, 16), None, available_kv_gib=plain.cache_gib(at(0.6, 16)) - 3, kv_cache_tokens=100_000)

    assert lessons.cache_gib(at(0.5, 16)) == pytest.approx(expected - 3, abs=0.2)


def test_a_refused_value_is_refused_again(at):
    """Where the engine named it; other values of the same parameter are not to blame."""
    refused = Failure(failures.CONFIGURATION, retryable=False, line="ValueError: No common block size for 256.")
    lessons = taught(at(0.5, 16, block=256), refused)
    assert lessons.taught[0].candidate.point["block_size"] == 256

    assert is_named("block_size", 256, refused.line)
    assert not is_named("block_size", 25, refused.line)
    assert not is_named("max_num_seqs", 256, refused.line)


def test_what_the_flags_alone_forbid_is_refused_before_any_start(tmp_path):
    """More requests than tokens in a step never start."""
    problem = problem_in(tmp_path, space={"max_num_seqs": [8, 64], "max_num_batched_tokens": [32, 2048]})
    ground = Ground(problem, resolver(problem))

    assert Lessons().refuses(ground.one({"max_num_seqs": 64, "max_num_batched_tokens": 32})) is not None
    assert Lessons().refuses(ground.one({"max_num_seqs": 8, "max_num_batched_tokens": 32})) is None


def test_a_start_reaches_beyond_those_that_served_by_its_share_and_its_graphs(at):
    """What asks for no more than one that came up reaches nowhere; failures teach nothing of it."""
    lessons = taught(at(0.8, 16), None)
    lessons.add(Lesson(at(0.95, 64), BootFacts(), CAPTURE))

    assert lessons.beyond(at(0.8, 16)) == 0
    assert lessons.beyond(at(0.7, 8)) == 0
    assert lessons.beyond(at(0.9, 16)) == pytest.approx(0.1)
    assert lessons.beyond(at(0.8, 64)) == pytest.approx(0.02)
    assert Lessons().beyond(at(0.9, 16)) == 0
