"""Runs in Python: load a scenario, run it, and get its result; the command `harness run` is made of the same."""

import asyncio
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.api.result import RESULTS, Result, draw, preload
from harness.api.summary import summary_from
from harness.client.transport import target_of
from harness.errors import EXIT_INTERRUPTED, EngineError, HarnessError, InputError, RunInterruptedError
from harness.execution.reconcile import finish
from harness.execution.run import RunOutcome, RunSpec, drop_if_empty, execute, execute_async, has_begun
from harness.messages import Message, current_language, message, render
from harness.results import store
from harness.results.progress import REPORTING, Progress, read_progress, write_progress
from harness.safety import redaction
from harness.safety.interrupts import writing
from harness.scenario import loader
from harness.scenario.engine import OF_DEPLOYMENT
from harness.scenario.files import find_scenario
from harness.scenario.loader import LoadedScenario
from harness.scenario.yaml_document import Override

OnProgress = Callable[[str], None]
Line = str | Message


OnSnapshot = Callable[[Progress], None]


def ignore(_line: Line) -> None:
    """Drop a line of progress."""


def unwatched(_progress: Progress) -> None:
    """Drop a snapshot."""


def spoken(on_progress: OnProgress) -> Callable[[Line], None]:
    """What gets lines as text in the language that is current now, also those of other threads."""
    language = current_language()
    return lambda line: on_progress(render(line, language) if isinstance(line, Message) else line)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a run goes and which callbacks it has.

    `rerun` is the command that repeats it. `on_progress` gets a line now and then, `on_snapshot` twice a second what
    the run is doing, `on_problem` why a run ended early, before its page is drawn.
    """

    out: Path | None = None
    rerun: str = ""
    trace: bool = False
    on_progress: Callable[[Line], None] = ignore
    on_snapshot: OnSnapshot = unwatched
    on_problem: Callable[[Line], None] = ignore


def load_scenario(path: "str | Path", *, set: Mapping[str, Any] | None = None) -> LoadedScenario:  # noqa: A002 - what the command calls it
    """The checked scenario of a YAML file.

    Args:
        path: the file, or the name of a scenario, such as "smoke": your own before those that ship.
        set: keys and their values in place of the file's, such as {"load.0.poisson.rate": 4}.

    Raises:
        InputError: where there is none, or it has errors, with one line for each.
    """
    return loader.load_scenario(find_scenario(str(path)), override_words(set))


def run(
    scenario: "LoadedScenario | str | Path",
    *,
    url: str | None = None,
    out: "str | Path | None" = None,
    trace: bool = False,
    on_progress: OnProgress = ignore,
    on_snapshot: OnSnapshot = unwatched,
) -> Result:
    """Run a scenario: engine up, load, records, summary, page. Ctrl-C stops it and keeps what was measured.

    Args:
        scenario: what `load_scenario` gave, a file, or the name of a scenario.
        url: the address of a server to load, instead of starting an engine.
        out: the result folder; results/NAME-TIME by default.
        trace: whether trace.json is written as well.
        on_progress: gets a line now and then.
        on_snapshot: gets a `harness.Progress` twice a second, from the run's own thread; it has to be quick.

    Raises:
        HarnessError: where the input is wrong or the engine does not come up; see its `exit_code`. A run that ends
            early but measured something is a result with an `exit_code` and `reasons`.
    """
    refuse_running_loop("run")
    loaded = _loaded(scenario, url)
    options = _options(loaded, url, out, trace=trace, on_progress=on_progress)
    return run_loaded(loaded, replace(options, on_snapshot=on_snapshot))


async def run_async(
    scenario: "LoadedScenario | str | Path",
    *,
    url: str | None = None,
    out: "str | Path | None" = None,
    trace: bool = False,
    on_progress: OnProgress = ignore,
    on_snapshot: OnSnapshot = unwatched,
) -> Result:
    """The same on the event loop that is running, as in a notebook.

    Raises:
        HarnessError: as `run`.
    """
    loaded = _loaded(scenario, url)
    options = replace(_options(loaded, url, out, trace=trace, on_progress=on_progress), on_snapshot=on_snapshot)
    spec = _spec(loaded, options)
    outcome = await execute_async(spec)
    return await asyncio.to_thread(_closed, spec.folder, outcome, options)


def run_loaded(loaded: LoadedScenario, options: RunOptions) -> Result:
    """Run a checked scenario and draw its page.

    Raises:
        HarnessError: as `run`.
    """
    spec = _spec(loaded, options)
    return _closed(spec.folder, execute(spec), options)


def url_overrides(url: str, place: str) -> list[Override]:
    """What an address means for a scenario: that server, whatever it serves; faults in it stand at `place`."""
    target_of(url)
    whole = url if "://" in url else f"http://{url}"
    # The scenario's own model, clock and processes belong to its own engine: a server that runs says what it serves.
    own = ("model", "clock", "calibration", *OF_DEPLOYMENT)
    values = (("kind", "attach"), ("url", whole), *((key, None) for key in own))
    return [Override(("engine", key), value, place) for key, value in values]


def override_words(changes: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Changes as `KEY=VALUE`, each value as JSON, which is YAML."""
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in (changes or {}).items())


def refuse_running_loop(name: str) -> None:
    """Refuse to block an event loop.

    Raises:
        InputError: one runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(message("api.loop_is_running", function=name))


def _loaded(scenario: "LoadedScenario | str | Path", url: str | None) -> LoadedScenario:
    if isinstance(scenario, LoadedScenario):
        path, words = scenario.path, scenario.overrides
    else:
        path, words = find_scenario(str(scenario)), ()
    if url is None:
        return scenario if isinstance(scenario, LoadedScenario) else loader.load_scenario(path)
    return loader.load_scenario(path, words, url_overrides(url, f"url={url}"))


def _options(
    loaded: LoadedScenario, url: str | None, out: "str | Path | None", *, trace: bool, on_progress: OnProgress
) -> RunOptions:
    words = ["harness", "run", str(loaded.path), *(word for each in loaded.overrides for word in ("--set", each))]
    words += [] if url is None else ["--url", url]
    return RunOptions(None if out is None else Path(out), shlex.join(words), trace, spoken(on_progress))


def _spec(loaded: LoadedScenario, options: RunOptions) -> RunSpec:
    from harness.selfcheck.selfcheck import last_selfcheck  # noqa: PLC0415 - the self check runs scenarios itself

    redaction.register_environment()
    folder = options.out or store.new_folder(RESULTS, loaded.scenario.name)
    return RunSpec(loaded, folder, options.rerun, options.on_progress, last_selfcheck(), options.on_snapshot, preload)


def _closed(folder: Path, outcome: RunOutcome, options: RunOptions) -> Result:
    """The result of raw files, with its page; a run that ended before its first request leaves none.

    Raises:
        HarnessError: nothing was measured.
    """
    if not has_begun(folder):
        drop_if_empty(folder)
        raise (RunInterruptedError if outcome.exit_code == EXIT_INTERRUPTED else EngineError)(*outcome.lines)
    reasons = HarnessError(*outcome.lines)  # whose lines hold no secret and no control code
    for line in reasons.localized_lines():
        options.on_problem(line)
    last = read_progress(folder)
    progress = (last and last.progress) or Progress(folder.name, REPORTING)
    progress = replace(progress, phase=REPORTING, stage=None, eta_s=None)
    write_progress(folder, progress)
    options.on_snapshot(progress)
    try:
        with writing(options.on_problem):
            summary = finish(folder)
            page = draw(folder, trace=options.trace)
    except KeyboardInterrupt:
        options.on_problem(message("cli.measured_is_kept", command=f"harness report {shlex.quote(str(folder))}"))
        raise
    return Result(folder, summary_from(summary), page, outcome.exit_code, tuple(reasons.localized_lines()))
