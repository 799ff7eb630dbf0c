"""Independent random streams from one seed and a name.

A stream is known by the scenario's seed, a name ("arrivals", "lengths") and whole numbers such
as a stage or a block. Every worker that asks for the same stream gets the same one, and a new
name does not shift another.
"""

import hashlib

import numpy as np


def entropy(seed: int, name: str, *keys: int) -> int:
    """128 bits that belong to this seed, name and keys alone."""
    text = repr((int(seed), name, *map(int, keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, name: str, *keys: int) -> np.random.Generator:
    """A generator that belongs to this seed, name and keys alone."""
    return np.random.Generator(np.random.PCG64(entropy(seed, name, *keys)))
