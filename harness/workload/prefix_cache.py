"""A prefix cache without bounds, by vLLM's rules: how much of each prompt it would have found when that was sent.

Blocks are full blocks of tokens, known by all tokens before them and by a salt (a LoRA adapter's name, a cache salt):
prompts of different salts share nothing. A prompt's blocks are there from when it is sent, those of its answer from
when that has ended; the last token of an answer is sampled and never computed. A prompt's last token is always
computed, so that a prompt that is wholly there still lacks its last block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream

Hashes = NDArray[np.uint64]

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrompt:
    """One request that was sent: its prompt's length, when it was sent and over (ns), and its blocks.

    `hashes` are those of all full blocks of the prompt and, where its tokens are known, of the computed answer.
    """

    tokens: int
    hashes: Hashes
    sent_ns: int
    done_ns: int


def block_hashes(ids: NDArray[np.int32], block_size: int, salt: int = 0) -> Hashes:
    """A hash for each full block of some tokens: equal where the blocks and all before them are, and the salt.

    Each block's tokens are a sum of products with random odd numbers; the sums are mixed with the block's place and
    added up. Two different prefixes have one hash with a probability of about 2**-64.
    """
    full = len(ids) // block_size
    rows = ids[: full * block_size].astype(np.uint64).reshape(full, block_size) + np.uint64(1)
    factors, places = _factors(block_size), np.arange(1, full + 1, dtype=np.uint64)
    own = _mixed(rows @ factors + places * _FIRST)
    return np.asarray(np.cumsum(own, dtype=np.uint64) ^ np.uint64(salt))


@lru_cache(maxsize=8)
def _factors(block_size: int) -> Hashes:
    """Random odd 64-bit numbers, one for each place of a block."""
    numbers = stream(0, "block hashes").integers(0, 2**64, size=block_size, dtype=np.uint64)
    return np.asarray(numbers | np.uint64(1))


def _mixed(values: Hashes) -> Hashes:
    """The output function of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return np.asarray(values ^ (values >> np.uint64(31)))


def reusable_tokens(prompts: Sequence[CachedPrompt], block_size: int) -> NDArray[np.int64]:
    """The tokens of each prompt that earlier ones, in the order of sending, have left in an unbounded cache.

    Of prompts that were sent at the same time those that come first in the sequence are the earlier ones.
    """
    if not prompts:
        return np.zeros(0, dtype=np.int64)
    sent, done = _orders(prompts)
    counts = np.asarray([len(prompt.hashes) for prompt in prompts], dtype=np.int64)
    owner = np.repeat(np.arange(len(prompts)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.asarray([prompt.tokens for prompt in prompts], dtype=np.int64)
    kept = np.where(place < (tokens // block_size)[owner], sent[owner], done[owner])
    _, block = np.unique(np.concatenate([prompt.hashes for prompt in prompts]), return_inverse=True)
    first = np.full(int(block.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, block, kept)
    hit = (first[block] < sent[owner]) & (place < ((tokens - 1) // block_size)[owner])
    return np.bincount(owner[hit], minlength=len(prompts)) * block_size


def _orders(prompts: Sequence[CachedPrompt]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each sending and of each end among all of them; at one time ends come first, then as they stand."""
    times = np.asarray([*(prompt.sent_ns for prompt in prompts), *(prompt.done_ns for prompt in prompts)])
    is_sent = np.repeat([1, 0], len(prompts))
    order = np.empty(len(times), dtype=np.int64)
    order[np.lexsort((np.arange(len(times)), is_sent, times))] = np.arange(len(times))
    return order[: len(prompts)], order[len(prompts) :]
