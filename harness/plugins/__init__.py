"""Kinds that other packages bring: arrival processes, workloads, engines, kernel providers, exporters, by entry points.

A package names them in its pyproject.toml, and each entry point leads to a `Plugin`:

    [project.entry-points."npu_harness.arrivals"]
    bursts = "my_package:BURSTS"

Built-in kinds stand in tables of the same `Plugin`s in the rooms that use them, and win over an installed one of the
same name. A package is loaded when one of its kinds is used.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import InputError
from harness.messages import message

ARRIVALS = "npu_harness.arrivals"
WORKLOADS = "npu_harness.workloads"
ENGINES = "npu_harness.engines"
KERNEL_PROVIDERS = "npu_harness.kernel_providers"
EXPORTERS = "npu_harness.exporters"
_NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A kind: the class that its keys in a scenario are checked with, and what makes it of them.

    `options` is a pydantic model; derive it from `harness.Options`, and unknown keys are errors with the nearest right
    one. `factory` takes, by kind:

    - arrivals: (options, generator), and gives arrival times in seconds from the stage's start, ascending float64. A
      field `rate`, `requests`, `duration` (seconds) or `max_concurrency` of the options means what it does elsewhere.
    - workloads: (options, setting: harness.workload.WorkloadSetting), and gives a harness.workload.Workload. The
      options have a field `kind` of the literal name.
    - engines: (engine, log), and gives an async context manager of a harness.engines.RunningEngine; what
      `engine.options` holds was checked with `options`.
    - kernel providers: (options as a mapping), and gives a kernels_bench Provider. This happens in the engine's
      interpreter, where harness need not be: any object with a `factory` will do there.
    - exporters: (address or None, as it stands behind `--export NAME=`), and gives a harness.export.delivery.Exporter.
      Its options have no keys: `harness.Options`.
    """

    options: Any
    factory: Callable[..., Any]


def installed(group: str) -> Mapping[str, EntryPoint]:
    """The kinds of a group that packages bring, by name; none of them is loaded for it."""
    return _installed(group)


@functools.cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = points.get(point.name)
        if other is not None and other.value != point.value:
            packages = [_package(other), _package(point)]
            raise InputError(message("plugins.twice", name=point.name, group=group, packages=packages))
        points[point.name] = point
    return points


@functools.cache
def load_plugin(group: str, name: str) -> Plugin:
    """The kind of this name, which is among the `installed` ones.

    Raises:
        InputError: where its package cannot be loaded or brings something else, in one line with the package's name.
    """
    point = installed(group)[name]
    place = {"name": name, "group": group, "package": _package(point)}
    if _NAME.fullmatch(name) is None:
        raise InputError(message("plugins.name", **place))
    try:
        plugin = point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise InputError(message("plugins.broken", reason=reason, **place)) from error
    if not isinstance(plugin, Plugin) or not hasattr(plugin.options, "model_validate"):
        raise InputError(message("plugins.no_plugin", type=type(plugin).__name__, **place))
    return plugin


def plugin_of(group: str, built_in: Mapping[str, Plugin], name: str) -> Plugin:
    """The built-in kind of this name, else the installed one.

    Raises:
        InputError: as `load_plugin`.
        KeyError: there is neither.
    """
    return built_in[name] if name in built_in else load_plugin(group, name)


def _package(point: EntryPoint) -> str:
    return point.value.partition(":")[0] if point.dist is None else point.dist.name
