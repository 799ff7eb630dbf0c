"""npu-harness: benchmarking and performance tuning of vLLM on Ascend NPUs.

    scenario = harness.load_scenario("scenarios/chat.yaml", set={"load.0.poisson.rate": 4})
    result = harness.run(scenario, url="http://127.0.0.1:8000", out="results/x")   # or `await harness.run_async(...)`
    result.valid, result.warnings, result.summary.stages[0].ttft.p99, result.requests()

Names load what they need when they are first used, so that `harness --help` answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.analysis.warnings import Warning
    from harness.api.comparing import compare
    from harness.api.result import Result, read_result, report
    from harness.api.running import load_scenario, run, run_async
    from harness.api.summary import (
        Acceptance,
        EngineResult,
        Latency,
        PrefixCache,
        ServerTimes,
        StageResult,
        Summary,
    )
    from harness.api.tuning import StudyResult, tune, tune_async
    from harness.comparison.comparison import Comparison
    from harness.errors import HarnessError
    from harness.messages import language
    from harness.plugins import Plugin
    from harness.results.progress import Progress
    from harness.scenario.base import FileModel as Options

__version__ = "0.1.0"
__all__ = [
    "Acceptance",
    "Comparison",
    "EngineResult",
    "HarnessError",
    "Latency",
    "Options",
    "Plugin",
    "PrefixCache",
    "Progress",
    "Result",
    "ServerTimes",
    "StageResult",
    "StudyResult",
    "Summary",
    "Warning",
    "__version__",
    "compare",
    "language",
    "load_scenario",
    "read_result",
    "report",
    "run",
    "run_async",
    "tune",
    "tune_async",
]
_MODULES = {
    "harness.analysis.warnings": ("Warning",),
    "harness.api.comparing": ("compare",),
    "harness.api.result": ("Result", "read_result", "report"),
    "harness.api.running": ("load_scenario", "run", "run_async"),
    "harness.api.summary": (
        "Acceptance",
        "EngineResult",
        "Latency",
        "PrefixCache",
        "ServerTimes",
        "StageResult",
        "Summary",
    ),
    "harness.api.tuning": ("StudyResult", "tune", "tune_async"),
    "harness.comparison.comparison": ("Comparison",),
    "harness.errors": ("HarnessError",),
    "harness.messages": ("language",),
    "harness.plugins": ("Plugin",),
    "harness.results.progress": ("Progress",),
    "harness.scenario.base": ("Options",),
}
_NAMED = {"Options": "FileModel"}  # what a name is called where it is defined
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), _NAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
