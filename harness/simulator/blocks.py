"""The blocks of the KV cache: free, held or kept for prefix hits, by vLLM's rules.

Blocks are ints, 0 being the null block that is never given out. Free blocks stand in a
doubly linked queue: taken from its head; a freed block that is remembered (its content may
serve a later prefix) goes to the tail, any other to the head.
"""

from collections.abc import Iterable, Sequence

NO_HASH = 0


class BlockPool:
    """Blocks 1 … count-1 with reference counts, a free queue and a map from content hash to block."""

    __slots__ = ("_cached", "_hashes", "_next", "_previous", "_refs", "caching", "count", "free")

    def __init__(self, count: int, *, caching: bool) -> None:
        self.count = count
        self.caching = caching
        self.free = count - 1
        self._refs = [0] * count
        self._hashes = [NO_HASH] * count
        # One ring through all free blocks; index 0, the null block, is its head and its tail.
        self._next = [*range(1, count), 0]
        self._previous = [count - 1, *range(count - 1)]
        self._cached: dict[int, int | dict[int, None]] = {}

    @property
    def usage(self) -> float:
        """Share of the usable blocks that requests hold, 0 to 1."""
        usable = self.count - 1
        return 1.0 - self.free / usable if usable else 0.0

    def find(self, content: int) -> int | None:
        """A block with that content hash, the first remembered where there are several."""
        cached = self._cached.get(content)
        return next(iter(cached)) if isinstance(cached, dict) else cached

    def evictable(self, blocks: Iterable[int]) -> int:
        """How many of these remembered blocks nobody holds, so that holding them uses up free ones."""
        refs = self._refs
        return sum(refs[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder of each; a block that was free leaves the queue."""
        for block in blocks:
            if self._refs[block] == 0:
                self._unlink(block)
            self._refs[block] += 1

    def take(self, count: int) -> list[int]:
        """The first `count` blocks of the free queue, forgotten and held once."""
        following, refs = self._next, self._refs
        taken = []
        block = following[0]
        for _ in range(count):
            taken.append(block)
            refs[block] = 1
            if self._hashes[block]:
                self._forget(block)
            block = following[block]
        following[0] = block
        self._previous[block] = 0
        self.free -= count
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one holder of each, last block first, so that tails are reused before heads."""
        refs, hashes = self._refs, self._hashes
        first: list[int] = []
        last: list[int] = []
        for block in reversed(blocks):
            refs[block] -= 1
            if refs[block] == 0:
                (last if hashes[block] else first).append(block)
        self._insert(first, after=0)
        self._insert(last, after=self._previous[0])

    def remember(self, block: int, content: int) -> None:
        """Let later requests find this full block by its content hash."""
        self._hashes[block] = content
        cached = self._cached.get(content)
        if cached is None:
            self._cached[content] = block
        elif isinstance(cached, dict):
            cached[block] = None
        else:
            self._cached[content] = {cached: None, block: None}

    def _forget(self, block: int) -> None:
        content = self._hashes[block]
        self._hashes[block] = NO_HASH
        cached = self._cached[content]
        if isinstance(cached, dict):
            del cached[block]
            if cached:
                return
        del self._cached[content]

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self.free -= 1

    def _insert(self, blocks: Sequence[int], *, after: int) -> None:
        following, previous = self._next, self._previous
        end = following[after]
        for block in blocks:
            following[after] = block
            previous[block] = after
            after = block
        following[after] = end
        previous[end] = after
        self.free += len(blocks)
