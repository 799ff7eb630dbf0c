"""Launches on an Ascend NPU captured in a graph and replayed, with and without new lengths.

The lengths of attention are lists on the host and part of the captured task. A plain replay computes the captured
lengths again, which is what a kernel's own time needs. An engine, whose lengths grow with every step, has each
task updated before its replay: with `updated`, so has a replay here, and its host time carries that cost.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kernels_bench.providers.base import Launch
from kernels_bench.reasons import Why, reason


def graphs(npu: Any, launches: Sequence[Launch], *, updated: bool) -> Sequence[Launch] | Why:
    """A graph of each launch, as its replay; the first line of the error where one cannot be captured.

    `npu` is `torch.npu`. Launches without lengths on the host have nothing to update, and are captured plainly.
    """
    if updated and any(has_host_lengths(launch) and _given(launch).get("workspace") is None for launch in launches):
        sentence = "cannot be updated: without a workspace made beforehand the new task would keep one that is freed"
        return reason("bench.graph_not_updated", sentence)
    replays: list[Launch] = []
    pool = npu.graph_pool_handle()
    try:
        for launch in launches:
            launch()  # before any capture: what the first call sets up is not to be captured
            npu.synchronize()
            capture = _captured_for_update if updated and has_host_lengths(launch) else _captured
            replays.append(capture(npu, launch, pool))
    except RuntimeError as fault:
        return reason("bench.graph_not_captured", "cannot be captured: {words}", words=str(fault).splitlines()[0])
    return replays


def has_host_lengths(launch: Launch) -> bool:
    """Whether a launch passes lengths that lie on the host: a list, or a tensor of the CPU."""
    return any(_is_lengths(value) for name, value in _given(launch).items() if name != "out")


def _given(launch: Launch) -> Mapping[str, Any]:
    """The arguments of a launch that is a `functools.partial`; none are known of another."""
    given: Mapping[str, Any] = getattr(launch, "keywords", {})
    return given


def _is_lengths(value: object) -> bool:
    return isinstance(value, list) or getattr(getattr(value, "device", None), "type", "") == "cpu"


def _captured(npu: Any, launch: Launch, pool: Any) -> Launch:
    graph = npu.NPUGraph()
    with npu.graph(graph, pool=pool):
        launch()
    replay: Launch = graph.replay
    return replay


def _captured_for_update(npu: Any, launch: Launch, pool: Any) -> Launch:
    """Captured as a task group behind an event that only the update of its lengths records."""
    graph, event = npu.NPUGraph(), npu.ExternalEvent()
    with npu.graph(graph, pool=pool):
        stream = npu.current_stream()
        event.wait(stream)
        event.reset(stream)
        npu.graph_task_group_begin(stream)
        launch()
        handle = npu.graph_task_group_end(stream)
    return partial(_updated_replay, npu, graph, partial(_update, npu, launch, handle, event))


def _updated_replay(npu: Any, graph: Any, update: Launch) -> None:
    # The task of a replay that still runs must not change: the engine waits here, too.
    npu.current_stream().synchronize()
    graph.replay()
    update()


def _update(npu: Any, launch: Launch, handle: Any, event: Any) -> None:
    stream = _side_stream(npu)
    with npu.stream(stream):
        npu.graph_task_update_begin(stream, handle)
        launch()
        npu.graph_task_update_end(stream)
        event.record(stream)


_SIDE_STREAMS: dict[int, Any] = {}


def _side_stream(npu: Any) -> Any:
    """The one stream of updates of a device."""
    device = npu.current_device()
    if device not in _SIDE_STREAMS:
        _SIDE_STREAMS[device] = npu.Stream()
    return _SIDE_STREAMS[device]
