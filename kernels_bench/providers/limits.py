"""What this device can do, measured now: a copy for its bandwidth, a matrix product for its arithmetic.

The best of some samples counts, not the middle: a limit is what the device can do, undisturbed.
"""

from collections.abc import Iterable

import torch

from kernels_bench.providers.base import Launch, Provider
from kernels_bench.roofline import Limits
from kernels_bench.stopping import Rule
from kernels_bench.timing import sample

COPY_CACHES = 8  # source and target together, in last-level caches: mostly memory even where a cache keeps some
LEAST_COPY_BYTES = 64 << 20
MOST_COPY_SHARE = 8  # of the free memory, its eighth
SIDES = {"cpu": 512}
DEFAULT_SIDE = 8192  # 2 × 8192³ operations: a millisecond or more on anything built so far
RULE = Rule(noise=0.02, min_samples=5, max_samples=60, min_time_s=0.1, max_time_s=3.0)


def measure(provider: Provider, dtypes: Iterable[str]) -> Limits:
    """Bandwidth and rate of square matrix products by dtype.

    The bandwidth is the better of a copy (bytes read and bytes written, both counted) and a sum over the same numbers:
    attention mostly reads, and on CPUs a written line is read before, which a copy does not count.

    A kernel may widen 16-bit numbers and compute in float32, so that no dtype's rate is below float32's: CPUs without
    16-bit arithmetic multiply 16-bit matrices a hundred times slower than widened ones.
    """
    plain = _product_rate(provider, "float32")
    products = {dtype: max(plain, _product_rate(provider, dtype)) for dtype in dict.fromkeys(dtypes)}
    return Limits("measured", _copy_rate(provider), products)


def _copy_rate(provider: Provider) -> float:
    device = provider.device()
    wanted = max(LEAST_COPY_BYTES, COPY_CACHES * device.cache_bytes // 2)
    size = min(wanted, device.memory_bytes // MOST_COPY_SHARE) // 4 * 4
    source = torch.ones(size // 4, dtype=torch.float32, device=provider.torch_device)
    target = torch.zeros_like(source)
    copied = 2 * size / _seconds(provider, lambda: _ignore(target.copy_(source)))
    return max(copied, size / _seconds(provider, lambda: _ignore(source.sum())))


def _product_rate(provider: Provider, dtype: str) -> float:
    side = SIDES.get(provider.device().kind, DEFAULT_SIDE)
    left = torch.randn(side, side).to(getattr(torch, dtype)).to(provider.torch_device)
    right = torch.randn(side, side).to(getattr(torch, dtype)).to(provider.torch_device)
    out = torch.empty_like(left)
    return 2 * side**3 / _seconds(provider, lambda: _ignore(torch.mm(left, right, out=out)))


def _seconds(provider: Provider, launch: Launch) -> float:
    return min(sample(provider, (launch,), RULE).times_ns) / 1e9


def _ignore(_result: object) -> None:
    """A launch returns nothing."""
