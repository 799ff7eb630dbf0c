"""Random streams are independent by seed, name and keys, and the same everywhere."""

import itertools

from harness.seeds import entropy, stream


def test_a_stream_belongs_to_its_seed_name_and_keys():
    """Any change of seed, name or keys gives other numbers; keys do not run together."""
    places = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 0), (0, "a", 0, 0), (0, "a", 11), (0, "a", 1, 1)]
    drawn = [tuple(stream(*place).integers(1 << 30, size=4)) for place in places]

    assert all(one != other for one, other in itertools.combinations(drawn, 2))


def test_a_stream_is_the_same_each_time():
    """Asked for twice, a stream begins again."""
    first, second = stream(3, "arrivals", 1, 2), stream(3, "arrivals", 1, 2)

    assert first.random(5).tolist() == second.random(5).tolist()


def test_entropy_never_changes_between_versions():
    """A recorded run can be repeated years later: the derivation is fixed."""
    assert entropy(7, "arrivals", 0, 1) == 128891733897774753279678419551120205938


def test_entropy_has_128_bits():
    """Enough that streams do not collide."""
    assert max(entropy(seed, "x").bit_length() for seed in range(50)) in range(125, 129)
