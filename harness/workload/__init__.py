"""Workloads: the sessions that a scenario sends, and what they say.

A workload is a pure function of the scenario, the seed and the session's number: any process
makes any prompt, in any order, and gets the same one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.messages import Message, message
from harness.plugins import WORKLOADS, Plugin, plugin_of
from harness.results.request_table import MISSING
from harness.scenario import workload as written
from harness.scenario.files import find_data_file
from harness.scenario.request_kinds import MESSAGES, PAIRED, POOLED
from harness.seeds import stream
from harness.workload import data_files
from harness.workload.classes import PLAIN_MIX, RequestMix, request_mix
from harness.workload.dataset import SHAREGPT, DatasetContents, RowRequirements, read_dataset
from harness.workload.draws import random_source, shared_prefix
from harness.workload.images import ImageSource, image_source
from harness.workload.lengths import NO_TOKENS, think_times_ns, token_lengths
from harness.workload.prompts import (
    APPROXIMATE,
    ChatMessage,
    ChatPrompt,
    ImagePrompt,
    PooledPrompt,
    Prompt,
    Reply,
    Session,
    TextPrompt,
    TokenPrompt,
    Turn,
    Vocabulary,
)
from harness.workload.real_text import PassageIds, PassageWriter, TextMaterial
from harness.workload.synthetic import (
    ConversationContents,
    DocumentContents,
    PrimingContents,
    PromptMedium,
    RandomIds,
    SyntheticContents,
    TokenMedium,
    WordMedium,
)
from harness.workload.trace import TraceContents, read_trace

__all__ = [
    "ChatMessage", "ChatPrompt", "ImagePrompt", "PooledPrompt",
    "Prompt", "Reply", "Session", "TextPrompt", "TokenPrompt", "Turn", "Workload",
    "WorkloadSetting", "build",
]  # fmt: skip

_LATER_KEYS = ("text", *written.REQUEST_KEYS)  # where it has none, a workload is as before there was such a key
_HASHED_LENGTHS = 4096
_HASHED_PROMPTS = 16


class Contents(Protocol):
    """Sessions and their prompts; `size` is how many there are before they repeat, None for endless."""

    @property
    def size(self) -> int | None:
        """Sessions before the contents repeat."""

    def session(self, index: int) -> Session:
        """The requests of a session."""

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:
        """The prompt of one of them, after the replies to earlier turns."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a scenario sends.

    `exact`: prompts have exactly the tokens that their turns say. `notes` are remarks for the
    report. `due_ns` are the arrivals of a trace, in ns from the first. `text` says what prompts are: random, real,
    file (see `text` of a workload), or None, where they are those of a data set. `mix` says of which class a session's
    requests are. `priming` are requests that fill the engine's prefix cache before a stage, for a share of hits that
    the scenario asks for.
    """

    contents: Contents
    exact: bool
    identity: str  # all that the contents follow from, as canonical JSON
    notes: tuple[Message, ...] = ()
    single_turn: bool = True
    due_ns: NDArray[np.int64] | None = None
    text: str | None = None
    mix: RequestMix = PLAIN_MIX
    priming: Contents | None = None

    @property
    def size(self) -> int | None:
        """Sessions before the contents repeat; None for endless."""
        return self.contents.size

    def session(self, index: int) -> Session:
        """The requests of session `index`, any whole number from 0 on."""
        return self.contents.session(index)

    def prompt(self, index: int, turn: int, replies: Sequence[Reply] = ()) -> Prompt:
        """The prompt of one of its turns; replies to earlier turns are scripted where not given."""
        return self.contents.prompt(index, turn, replies)

    def fingerprint(self) -> str:
        """SHA-256 of what defines the contents, the lengths of 4096 sessions and the prompts of 16."""
        digest = hashlib.sha256(self.identity.encode())
        for index in range(min(_HASHED_LENGTHS, self.size or _HASHED_LENGTHS)):
            turns = self.session(index).turns
            digest.update(repr([(t.input_tokens, t.output_tokens, t.think_ns) for t in turns]).encode())
            if any(t.parents for t in turns):
                digest.update(repr([t.parents for t in turns]).encode())
            if index < _HASHED_PROMPTS:
                digest.update(_prompt_bytes(self.prompt(index, len(turns) - 1)))
        return digest.hexdigest()


def _prompt_bytes(prompt: Prompt) -> bytes:
    if isinstance(prompt, TokenPrompt):
        return prompt.ids.astype("<i4").tobytes()
    if isinstance(prompt, PooledPrompt):
        return b"\0".join([prompt.query.encode(), *map(_document_bytes, prompt.documents)])
    return msgspec.json.encode(prompt)


def _document_bytes(document: NDArray[np.int32] | str) -> bytes:
    return document.encode() if isinstance(document, str) else document.astype("<i4").tobytes()


@dataclass(frozen=True, slots=True)
class WorkloadSetting:
    """Where and for whom contents are made; `endpoint` is the API, `chat` whether its prompts are messages."""

    chat: bool
    seed: int
    vocabulary: Vocabulary
    folder: Path
    text: TextMaterial | None = None
    endpoint: str = ""

    def medium(self, vocabulary: tuple[int, int]) -> PromptMedium:
        """What prompts are made of: passages of a text, else random words of a chat, or token ids of [first, end)."""
        text, (low, end) = self.text, vocabulary
        if not self.chat:
            return TokenMedium(RandomIds(low, end - low) if text is None else PassageIds(text))
        if text is None:
            return WordMedium(self.vocabulary)
        return WordMedium(self.vocabulary, PassageWriter(text, self.vocabulary), exact=text.exact)

    def text_kind(self, text: written.Text | None) -> str:
        """What prompts of a scenario's `text` are, with what this setting has to make them of."""
        if self.text is None:
            return written.RANDOM
        return written.REAL if text is None or isinstance(text, str) else written.OF_FILE

    def identity(self, spec: written.WorkloadSpec, file: Path | None = None) -> str:
        """Canonical JSON of what contents follow from: a file counts by its bytes, not by its name."""
        facts: dict[str, Any] = {
            "chat": self.chat,
            "seed": self.seed,
            "workload": spec.model_dump(mode="json"),
        }
        for key in _LATER_KEYS:
            if facts["workload"].get(key) is None:
                facts["workload"].pop(key, None)
        if prefix := facts["workload"].get("prefix"):
            facts["workload"]["prefix"] = {key: value for key, value in prefix.items() if value is not None}
        if file is not None:
            facts["workload"]["path"] = data_files.sha256_of(file)
        if self.text is not None:
            facts["text"] = self.text.sha256()
        return json.dumps(facts, sort_keys=True)

    def notes(self) -> tuple[Message, ...]:
        """Remarks for the report: whether the lengths of chat prompts are exact."""
        if not self.chat or (self.vocabulary.exact and (self.text is None or self.text.exact)):
            return ()
        return (message("workload.inexact_prompts"),)


def build(
    spec: written.WorkloadSpec,
    *,
    endpoint: str,
    seed: int,
    vocabulary: Vocabulary | None,
    folder: Path,
    text: TextMaterial | None = None,
) -> Workload:
    """The workload of a scenario.

    Args:
        spec: the scenario's `workload`.
        endpoint: completions (prompts are token ids, or texts of a data set), chat or responses (messages),
            embeddings (token ids), rerank or score (texts).
        seed: the scenario's seed.
        vocabulary: words for chat prompts, None where the server has no /tokenize.
        folder: where relative paths are looked up: the scenario file's folder.
        text: what prompts are made of, None for random ones.

    Raises:
        InputError: where a data file is missing or faulty, or a share of hits is asked for without a block size.
    """
    setting = WorkloadSetting(endpoint in MESSAGES, seed, vocabulary or APPROXIMATE, folder, text, endpoint)
    workload: Workload = plugin_of(WORKLOADS, BUILDERS, spec.kind).factory(spec, setting)
    images = getattr(spec, "images", None)
    if images is not None:
        contents = _WithImages(workload.contents, image_source(images, seed))
        workload = replace(workload, contents=contents, exact=False)
    return replace(workload, mix=request_mix(spec, seed))


@dataclass(frozen=True, slots=True)
class _WithImages:
    """Contents of a chat whose sessions begin with images; later turns repeat them, as an API without memory asks."""

    contents: Contents
    images: ImageSource

    @property
    def size(self) -> int | None:
        return self.contents.size

    def session(self, index: int) -> Session:
        session = self.contents.session(index)
        return replace(session, turns=tuple(replace(turn, input_tokens=MISSING) for turn in session.turns))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:
        prompt = self.contents.prompt(index, turn, replies)
        assert isinstance(prompt, ChatPrompt)
        return ImagePrompt(prompt.messages, self.images.urls(index))


def _synthetic(spec: written.SyntheticWorkload, setting: WorkloadSetting) -> Workload:
    medium = setting.medium(spec.vocabulary)
    prefix = shared_prefix(spec.prefix, random_source(setting.seed, "prefix"))
    contents = SyntheticContents(
        medium=medium,
        prefix=prefix,
        own=random_source(setting.seed, "prompt"),
        inputs=token_lengths(spec.input_tokens, setting.seed, "input_tokens"),
        outputs=token_lengths(spec.output_tokens, setting.seed, "output_tokens"),
    )
    kind = setting.text_kind(spec.text)
    priming = PrimingContents(medium, prefix, contents.inputs) if prefix.hit_rate else None
    return Workload(contents, medium.exact, setting.identity(spec), setting.notes(), text=kind, priming=priming)


def _documents(spec: written.DocumentsWorkload, setting: WorkloadSetting) -> Workload:
    """Requests whose answers have no tokens; those with a query are texts, which only the server counts."""
    seed, paired = setting.seed, setting.endpoint in PAIRED
    contents = DocumentContents(
        medium=WordMedium(APPROXIMATE) if paired else setting.medium(spec.vocabulary),
        prefix=shared_prefix(spec.prefix, random_source(seed, "prefix")),
        own=random_source(seed, "prompt"),
        counts=token_lengths(spec.count, seed, "documents"),
        lengths=token_lengths(spec.tokens, seed, "document_tokens"),
        queries=None if spec.query_tokens is None else token_lengths(spec.query_tokens, seed, "query_tokens"),
    )
    notes = (message("workload.inexact_documents"),) if paired else ()
    return Workload(contents, not paired, setting.identity(spec), notes)


def _conversation(spec: written.ConversationWorkload, setting: WorkloadSetting) -> Workload:
    seed = setting.seed
    contents = ConversationContents(
        medium=setting.medium(spec.vocabulary),
        prefix=shared_prefix(spec.prefix, random_source(seed, "prefix")),
        own=random_source(seed, "prompt"),
        scripted=random_source(seed, "reply"),
        turns=token_lengths(spec.turns, seed, "turns"),
        inputs=token_lengths(spec.input_tokens, seed, "input_tokens"),
        outputs=token_lengths(spec.output_tokens, seed, "output_tokens"),
        thinks_ns=think_times_ns(spec.think_time, seed, "think_time"),
    )
    notes = setting.notes()
    if setting.chat:  # the server counts an answer's text again, inside the template: seldom the same
        notes += (message("workload.inexact_later_turns"),)
    kind = setting.text_kind(spec.text)
    return Workload(contents, not setting.chat, setting.identity(spec), notes, single_turn=False, text=kind)


def _dataset(spec: written.DatasetWorkload, setting: WorkloadSetting) -> Workload:
    file = find_data_file(spec.path, setting.folder)
    dataset = read_dataset(
        file,
        RowRequirements(
            plain_text=not setting.chat,
            output_tokens=spec.output_tokens is None and setting.endpoint not in POOLED,
        ),
        format=spec.format,
        limit=spec.limit,
        shuffle=stream(setting.seed, "dataset") if spec.shuffle else None,
    )
    notes = dataset.skipped
    outputs = None
    if setting.endpoint in POOLED:
        outputs = NO_TOKENS
    elif spec.output_tokens is not None:
        outputs = token_lengths(spec.output_tokens, setting.seed, "output_tokens")
    elif dataset.format == SHAREGPT:
        notes += (message("workload.estimated_answers"),)
    return Workload(DatasetContents(dataset.entries, setting.chat, outputs), False, setting.identity(spec, file), notes)


def _trace(spec: written.TraceWorkload, setting: WorkloadSetting) -> Workload:
    file = find_data_file(spec.path, setting.folder)
    trace = read_trace(file, spec.format, spec.limit)
    medium = setting.medium(spec.vocabulary)
    contents = TraceContents(trace, medium, random_source(setting.seed, "block"), random_source(setting.seed, "prompt"))
    notes, kind = setting.notes() + trace.skipped, setting.text_kind(spec.text)
    single = trace.sessions is None
    identity = setting.identity(spec, file)
    return Workload(contents, medium.exact, identity, notes, single_turn=single, due_ns=trace.due_ns, text=kind)


BUILDERS: Mapping[str, Plugin] = {
    "synthetic": Plugin(written.SyntheticWorkload, _synthetic),
    "conversation": Plugin(written.ConversationWorkload, _conversation),
    "dataset": Plugin(written.DatasetWorkload, _dataset),
    "trace": Plugin(written.TraceWorkload, _trace),
    "documents": Plugin(written.DocumentsWorkload, _documents),
}
