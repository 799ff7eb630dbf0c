"""The block pool keeps vLLM's order of reuse."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.blocks import BlockPool


class PlainPool:
    """The same rules on plain lists: the oracle."""

    def __init__(self, count):
        self.queue = list(range(1, count))
        self.refs = [0] * count
        self.content = {}

    def take(self, count):
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.content.pop(block, None)
            self.refs[block] = 1
        return taken

    def hold(self, blocks):
        for block in blocks:
            if self.refs[block] == 0:
                self.queue.remove(block)
            self.refs[block] += 1

    def release(self, blocks):
        for block in blocks:
            self.refs[block] -= 1
        gone = [block for block in reversed(blocks) if self.refs[block] == 0]
        plain = [block for block in gone if block not in self.content]
        self.queue = plain + self.queue + [block for block in gone if block in self.content]


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12))
def test_the_pool_does_what_plain_lists_do(seed, count):
    """Any order of taking, remembering, sharing and freeing leaves the queue as the oracle's."""
    rng = np.random.default_rng(seed)
    pool, plain, held = BlockPool(count, caching=True), PlainPool(count), []
    for turn in range(40):
        act = rng.integers(4)
        if act == 0:
            wanted = int(rng.integers(0, len(plain.queue) + 1))
            taken = pool.take(wanted)
            assert taken == plain.take(wanted)
            held += [taken] if taken else []
        elif act == 1 and held:
            blocks = held.pop(int(rng.integers(len(held))))
            pool.release(blocks)
            plain.release(blocks)
        elif act == 2 and held:
            block = held[-1][-1]
            if block not in plain.content:
                pool.remember(block, 1000 + turn)
                plain.content[block] = 1000 + turn
        elif act == 3 and plain.content:
            content = next(iter(plain.content.values()))
            found = pool.find(content)
            pool.hold([found])
            plain.hold([found])
            held.append([found])

    assert pool.free == len(plain.queue)
    assert pool.take(pool.free) == plain.queue


def test_of_equal_contents_the_first_is_found():
    """Two blocks with one content are both remembered; when the first is reused the other serves."""
    pool = BlockPool(4, caching=True)
    first, second = pool.take(2)
    pool.remember(first, 7)
    pool.remember(second, 7)

    assert pool.find(7) == first
    pool.release([first])
    pool.take(2)
    assert pool.find(7) == second


def test_a_remembered_block_outlives_a_plain_one():
    """Freed blocks without content are reused at once, remembered ones last."""
    pool = BlockPool(4, caching=True)
    blocks = pool.take(3)
    pool.remember(blocks[0], 9)
    pool.release(blocks)

    assert pool.take(3) == [blocks[2], blocks[1], blocks[0]]


def test_usage_counts_held_blocks():
    """The null block counts neither as used nor as usable."""
    pool = BlockPool(5, caching=True)
    pool.take(1)

    assert pool.usage == 0.25
    assert BlockPool(1, caching=True).usage == 0.0
