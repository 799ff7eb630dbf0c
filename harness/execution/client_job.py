"""The job of a worker that sends requests: the server, its model, and what its tokenizer makes of words and text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines import RunningEngine
from harness.execution.prefix_reuse import cache_block_size, priming_reach
from harness.execution.run_folder import RunSpec, worker_count
from harness.messages import Message, message
from harness.scenario.engine import Engine
from harness.scenario.models import Scenario
from harness.scenario.request_kinds import MESSAGES
from harness.scenario.workload import (
    RANDOM,
    REAL,
    ConversationWorkload,
    DocumentsWorkload,
    SyntheticWorkload,
    TextFile,
    TraceWorkload,
    WorkloadSpec,
    at_most,
)
from harness.workload import Workload, build
from harness.workload.prompts import Tokenize, Vocabulary, calibrate
from harness.workload.real_text import TextMaterial, chat_text, text_of, token_text

_SPECULATION = ("speculative_", "spec_")  # begin the flags of `vllm serve` that turn it on
_SHORT = "sc"
_DRAFTS = "vllm:spec_decode_num_drafts"  # on /metrics of an engine that speculates


@dataclass(frozen=True, slots=True)
class PromptMaterial:
    """What prompts are made of: words of a chat, a text, and remarks for the report on what could not be had."""

    vocabulary: Vocabulary | None = None
    text: TextMaterial | None = None
    notes: tuple[Message, ...] = ()


def speculates(engine: Engine, counters: str = "") -> bool:
    """Whether an engine drafts tokens: its flags, or those of one of its processes, or its /metrics say so."""
    flags = [engine.args, *(getattr(process, "args", {}) for process in getattr(engine, "processes", None) or ())]
    on = [value for own in flags for name, value in own.items() if _turns_on(name)]
    return _DRAFTS in counters or any(value not in (None, False, "") for value in on)


def _turns_on(flag: str) -> bool:
    """Whether a flag turns speculation on, by any of its names."""
    return flag == _SHORT or flag.startswith(_SPECULATION)


def wanted_text(scenario: Scenario, counters: str = "") -> str | TextFile | None:
    """What prompts are to be: real, random, or of a file; None for a workload that brings its own."""
    workload = scenario.workload
    if isinstance(workload, DocumentsWorkload):
        return workload.text or RANDOM
    if not isinstance(workload, SyntheticWorkload | ConversationWorkload | TraceWorkload):
        return None
    return workload.text or (REAL if speculates(scenario.engine, counters) else RANDOM)


def with_one_text(scenario: Scenario, flags: Iterable[str]) -> Scenario:
    """A scenario that engines with and without these flags serve: real text for all of them where any may draft."""
    workload = scenario.workload
    may_draft = speculates(scenario.engine) or any(_turns_on(flag) for flag in flags)
    if wanted_text(scenario) is None or getattr(workload, "text", None) is not None or not may_draft:
        return scenario
    assert workload is not None
    return scenario.model_copy(update={"workload": workload.model_copy(update={"text": REAL})})


async def prompt_material(
    scenario: Scenario, folder: Path, model: str, tokenize: Tokenize, counters: str
) -> PromptMaterial:
    """The words and the text of a scenario's prompts, aligned to the model's own tokenizer where the server has one.

    Args:
        scenario: what is sent.
        folder: where the scenario's files are looked up.
        model: the name of the served model.
        tokenize: the server's /tokenize.
        counters: the text of its /metrics.

    Raises:
        InputError: where a file with the text cannot be read, or is empty.
    """
    assert scenario.workload is not None
    is_chat = scenario.endpoint in MESSAGES
    vocabulary = await calibrate(tokenize, model) if is_chat and scenario.workload.kind != "dataset" else None
    wanted = wanted_text(scenario, counters)
    if wanted is None or wanted == RANDOM:
        return PromptMaterial(vocabulary)
    text = text_of(wanted, folder)
    if vocabulary is not None:
        material: TextMaterial | None = await chat_text(text, tokenize, model, vocabulary)
    else:
        material = await token_text(text, tokenize, model)
    return PromptMaterial(vocabulary, material, tuple(_notes(scenario, material)))


def without_tokenizer(scenario: Scenario) -> PromptMaterial:
    """The material of an engine that cannot be asked for tokens: none, with what that means for a real text."""
    return PromptMaterial(notes=() if wanted_text(scenario) in (None, RANDOM) else tuple(_notes(scenario, None)))


def _notes(scenario: Scenario, material: TextMaterial | None) -> list[Message]:
    """What is to be said of a text: why it is there, why it is not, and that it is short."""
    if material is None:
        return [message("workload.text_without_tokenizer")]
    workload = scenario.workload
    notes = [] if getattr(workload, "text", None) else [message("workload.text_by_default")]
    if isinstance(workload, SyntheticWorkload | ConversationWorkload):
        longest = at_most(workload.input_tokens)
        if longest > material.tokens:
            notes.append(message("workload.text_repeats", tokens=material.tokens, longest=longest))
    return notes


def build_workload(spec: RunSpec, material: PromptMaterial, block_size: int | None = None) -> Workload:
    """The workload of the spec's scenario, made of this material, for an engine with a cache of such blocks."""
    scenario = spec.loaded.scenario
    assert scenario.workload is not None
    workload = build(
        with_block_size(scenario.workload, block_size),
        endpoint=scenario.endpoint,
        seed=scenario.seed,
        vocabulary=material.vocabulary,
        folder=spec.loaded.path.parent,
        text=material.text,
    )
    return replace(workload, notes=(*workload.notes, *material.notes))


def with_block_size(workload: WorkloadSpec, block_size: int | None) -> WorkloadSpec:
    """The workload with the size of the engine's blocks, where its share of prefix hits needs one and has none."""
    prefix = workload.prefix if isinstance(workload, SyntheticWorkload) else None
    if prefix is None or prefix.hit_rate is None or prefix.block_size is not None:
        return workload
    return workload.model_copy(update={"prefix": prefix.model_copy(update={"block_size": block_size})})


def client_job(spec: RunSpec, serving: RunningEngine, material: PromptMaterial) -> dict[str, Any]:
    """All of it as JSON."""
    scenario = spec.loaded.scenario
    assert scenario.workload is not None
    workload = with_block_size(scenario.workload, cache_block_size(serving))
    scenario = scenario.model_copy(update={"workload": workload})
    return {
        "scenario": scenario.model_dump(mode="json", by_alias=True, exclude_none=True),
        "scenario_folder": str(spec.loaded.path.parent.resolve()),
        "url": serving.url,
        "reach": serving.reach.model_dump(mode="json", exclude_defaults=True),
        "model": serving.model,
        "lexicon": _values(material.vocabulary),
        "text": _values(material.text),
        "priming": priming_reach(serving).as_dict(),
        "token_counts": _token_counts(scenario),
        "workers": worker_count(scenario),
    }


def _values(part: Vocabulary | TextMaterial | None) -> Mapping[str, Any] | None:
    return None if part is None else {name: getattr(part, name) for name in part.__slots__}


def _token_counts(scenario: Scenario) -> str:
    """How tokens are counted: a conversation by token ids needs the ids of its answers, to send them back."""
    assert scenario.workload is not None
    if scenario.workload.kind == "conversation" and scenario.endpoint == "completions":
        return "token_ids"
    return scenario.token_counts
