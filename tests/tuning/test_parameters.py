"""Points that make the same engine are known for the same, and inert parameters are found."""

from harness.tuning.candidates import CandidateResolver, engine_of, flag_resolver, load_changes
from harness.tuning.parameters import find_inert_parameters, without_inert
from tests.tuning.studies import problem_in

ASCEND = {"block_size": [128, 256], "max_num_seqs": {"int": [2, 64], "log": True}}


def grounded(problem):
    """The ground of a problem."""
    return CandidateResolver(problem, flag_resolver(problem))


def test_block_size_is_dead_while_either_feature_is_on(tmp_path):
    """On Ascend every value becomes 128, and the reason is told; max_num_seqs is alive."""
    problem = problem_in(tmp_path, space=ASCEND)
    found = find_inert_parameters(problem, grounded(problem))

    assert [(one.name, one.becomes) for one in found] == [("block_size", 128)]
    assert "prefix caching or chunked prefill" in str(found[0].why)


def test_a_dead_parameter_is_dropped_by_default(tmp_path):
    """It is named, and the way to unlock it too."""
    problem = problem_in(tmp_path, space=ASCEND)
    left, lines = without_inert(problem, find_inert_parameters(problem, grounded(problem)))

    assert [one.name for one in left.space.parameters] == ["max_num_seqs"]
    assert "dropped from the search: block_size" in str(lines[0])
    assert "`unlock` in the study" in str(lines[0])


def test_unlocking_turns_both_features_off(tmp_path):
    """Then the parameter has an effect again."""
    problem = problem_in(
        tmp_path,
        space={**ASCEND, "max_num_batched_tokens": [2048, 4096]},
        dead="unlock",
    )
    left, lines = without_inert(problem, find_inert_parameters(problem, grounded(problem)))

    assert left.space.fixed == {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert str(lines[0]).startswith("unlocked: block_size")
    assert find_inert_parameters(left, grounded(left)) == ()


def test_a_flag_that_the_engine_ignores_is_dead(tmp_path):
    """The embedded engine knows stream_interval and does nothing with it."""
    problem = problem_in(tmp_path, space={"stream_interval": [1, 2, 4], "max_num_seqs": [4, 8]})

    assert [one.name for one in find_inert_parameters(problem, grounded(problem))] == ["stream_interval"]


def test_the_same_engine_has_the_same_key(tmp_path):
    """Two block sizes that both become 128 are one candidate; two batch sizes are two."""
    problem = problem_in(tmp_path, space=ASCEND)
    ground = grounded(problem)
    one, same, other = ground.candidates(
        [
            {"block_size": 128, "max_num_seqs": 8},
            {"block_size": 256, "max_num_seqs": 8},
            {"block_size": 128, "max_num_seqs": 16},
        ]
    )

    assert one.key == same.key != other.key


def test_values_go_where_their_names_say(tmp_path):
    """Flags, keys of additional_config, variables and the load are set each in its place."""
    problem = problem_in(
        tmp_path,
        space={
            "max_num_seqs": [4, 8], "additional_config.weight_nz_mode": [0, 1], "env.TASK_QUEUE_ENABLE": [1, 2],
            "load.concurrency": [4, 8], "max_num_batched_tokens": {"derive": "max_num_seqs * 256"},
        },
    )  # fmt: skip
    point = {
        "max_num_seqs": 8, "additional_config.weight_nz_mode": 1, "env.TASK_QUEUE_ENABLE": 2, "load.concurrency": 4,
    }  # fmt: skip
    engine = engine_of(problem, point)

    assert engine.args["max_num_seqs"] == 8
    assert engine.args["max_num_batched_tokens"] == 2048
    assert engine.args["additional_config"] == {"weight_nz_mode": 1}
    assert engine.env == {"TASK_QUEUE_ENABLE": "2"}
    assert load_changes(problem, point) == {"concurrency": 4}
