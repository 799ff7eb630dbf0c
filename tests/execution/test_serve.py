"""The small decisions of a run, each by itself."""

import asyncio
from types import SimpleNamespace

import pytest

from harness.engines import RunningEngine
from harness.engines.api_client import HEALTHY, SLOW, UNHEALTHY, UNREACHABLE
from harness.execution import serve


def _dying(before, now, endings, command):
    """What is said of an engine that was and is in these states of health, and whose process ends so."""

    async def state():
        return now

    told = iter(endings)
    serving = RunningEngine(
        "vllm", "http://127.0.0.1:9", "m", simulated=False, command=command, ending=lambda: next(told)
    )
    return asyncio.run(serve._dying(SimpleNamespace(state=state), serving, before))


@pytest.mark.parametrize(
    ("before", "now", "endings", "command", "expected"),
    [
        (HEALTHY, HEALTHY, [], ("vllm",), None),
        (UNHEALTHY, UNHEALTHY, [], (), None),
        (HEALTHY, SLOW, [], (), None),
        (HEALTHY, UNREACHABLE, [None, "the engine died"], ("vllm",), "the engine died"),
        (HEALTHY, UNREACHABLE, [], (), "the engine at http://127.0.0.1:9 died: nothing answers there any more"),
        (UNHEALTHY, UNREACHABLE, [], (), "the engine at http://127.0.0.1:9 died: nothing answers there any more"),
        (
            HEALTHY,
            UNHEALTHY,
            [],
            (),
            "the engine at http://127.0.0.1:9 died: its /health says that it is no longer well",
        ),
    ],
)
def test_an_engine_that_is_no_longer_well_has_died(before, now, endings, command, expected):
    """A server outlives its dead core by a moment: its end is waited for where it is ours; a stranger's is told.

    A server that never had a /health is not taken for dead, nor one whose /health takes too long.
    """
    ending = _dying(before, now, endings, command)

    assert (ending and str(ending)) == expected
