"""Does the installed engine know what a study would set? Asked once, before any start."""

import asyncio
import sys
from collections.abc import Iterator

from harness.engines.interpreter_query import Installed, installed, unknown_flags
from harness.engines.vllm import environment_of
from harness.errors import suggestion
from harness.scenario.error_messages import Fault
from harness.scenario.loader import LoadedStudy
from harness.tuning.study_loader import name_of
from harness.tuning.study_plan import Problem
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, LOAD


def refuse_unknown(problem: Problem, loaded: LoadedStudy) -> None:
    """Refuse targets of a space that the engine's interpreter does not know; where it cannot tell, all pass.

    Raises:
        ScenarioError: a line for each, with the nearest that it knows.
        EngineError: where there is no such interpreter.
    """
    env = environment_of(problem.engine, problem.kind)
    found = asyncio.run(installed(problem.engine.python or sys.executable, env))
    loaded.document.refuse([*_faults(loaded, found)])


def _faults(loaded: LoadedStudy, found: Installed) -> Iterator[Fault]:
    for target in loaded.study.space:
        place, _, key = (name := name_of(target)).partition(".")
        if place == ADDITIONAL and key:
            if found.additional_keys and key.partition(".")[0] not in found.additional_keys:
                yield Fault(
                    ("space", target), f"vllm-ascend reads no such key; {suggestion(key, found.additional_keys)}"
                )
        elif not (place in (ENVIRONMENT, LOAD) and key):
            for line in unknown_flags({name: 1}, found):
                yield Fault(("space", target), line.partition(": ")[2])
