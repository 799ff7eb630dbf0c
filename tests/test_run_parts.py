"""Do the small decisions of a run hold by themselves?"""

import asyncio
from types import SimpleNamespace

import pytest

from harness import run
from harness.engines import Serving


def _dying(*, healthy, endings, command=("vllm",)):
    """What is said of an engine of this health whose process ends so."""

    async def health():
        return healthy

    told = iter(endings)
    serving = Serving("vllm", "http://127.0.0.1:9", "m", simulated=False, command=command, ending=lambda: next(told))
    return asyncio.run(run._dying(SimpleNamespace(healthy=health), serving))


@pytest.mark.parametrize(
    ("healthy", "endings", "command", "expected"),
    [
        (True, [], ("vllm",), None),
        (False, [], (), None),
        (False, [None, "the engine died"], ("vllm",), "the engine died"),
    ],
)
def test_an_engine_that_is_no_longer_well_is_waited_for(healthy, endings, command, expected):
    """A server outlives its dead core by a moment: its end is waited for, where it is ours and says it is not well."""
    assert _dying(healthy=healthy, endings=endings, command=command) == expected
