"""The number of tokens in each event of an answer, and how it is known.

Token ids are counted where every event has them and they add up to the server's total. Else the
server's running usage is trusted, as long as it is cumulative and in step with the content. Else
events with content share the server's total; and where there is none, each counts as one token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import sub

from harness.client.events import (
    SOMETHING,
    EventChoice,
    StreamEvent,
    Usage,
    answers,
    call_parts,
    content_of,
    image_tokens,
    parts_of_calls,
    server_columns,
    token_count,
)
from harness.results.request_table import ASSUMED, FROM_EVENTS, FROM_TOKEN_IDS, FROM_USAGE, MISSING

_ENDED_UNSEEN = 1  # token that ends an answer, which many servers count though no event carries it


@dataclass(slots=True)
class AnswerContents:
    """What the choices of an answer's events have said so far.

    Row by row: the number of the event (`rows`), its text, and the server's running count with it
    (`marks`). Only events with content or with a risen count are kept; `bare` are the numbers of
    the others that are neither the first, with the role, nor the last, with the reason to finish.
    `reasoning_rows` gained reasoning only, `silent_rows` a token without text; `calls` are name and arguments of calls
    of tools so far, by their place.
    """

    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    marks: list[int | None] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    id_rows: list[int] = field(default_factory=list)
    id_counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    total: int | None = None
    input_tokens: int = MISSING
    cached_tokens: int = MISSING
    finished: bool = False
    mark: int = 0
    reasoning_rows: list[int] = field(default_factory=list)
    silent_rows: list[int] = field(default_factory=list)
    reasoning_tokens: int = MISSING
    image_tokens: int = MISSING
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)
    by_server: tuple[int, ...] | None = None

    def take(self, events: Sequence[StreamEvent], first: int) -> list[StreamEvent]:
        """Keep what some events say, of which the first is number `first` of its answer.

        Returns those that may say more than what their one choice gains, such as a failure or the end.
        """
        mark, others = self.mark, []
        keep_row, keep_text, keep_mark = self.rows.append, self.texts.append, self.marks.append
        keep_id_row, keep_id_count = self.id_rows.append, self.id_counts.append
        for row, event in enumerate(events, first):
            choices, usage = event.choices, event.usage
            now = None if usage is None else usage.completion_tokens
            if not choices:
                others.append(event)
                continue
            choice = choices[0]
            finish, ids, delta = choice.finish_reason, choice.token_ids, choice.delta
            text = choice.text or (delta.content if delta is not None else None)
            plain = not finish and event.error is None and choice.error is None and len(choices) == 1
            if plain and text and ids is None:  # nearly all
                keep_row(row)
                keep_text(text)
                keep_mark(now)
                mark = mark if now is None else now
                continue
            if not plain:
                others.append(event)
                self.finished = self.finished or bool(finish)
            if not text or len(choices) > 1:
                text, ids = self._look_closer(row, choices)
            if ids is not None:
                keep_id_row(row)
                keep_id_count(len(ids))
                self.token_ids += ids
            if text or (now is not None and now != mark and not _opens(choice)):
                keep_row(row)
                keep_text(text)
                keep_mark(now)
                mark = mark if now is None else now
            elif not finish and not _opens(choice):
                self.bare.append(row)
        self.mark = mark
        if others:
            self._take_more(others)
        self._take_usages([event.usage for event in events if event.usage is not None])
        return others

    def _look_closer(self, row: int, choices: Sequence[EventChoice]) -> tuple[str, list[int] | None]:
        text, ids = content_of(choices)
        self.finished = self.finished or any(choice.finish_reason for choice in choices)
        if not answers(choices):
            (self.reasoning_rows if text else self.silent_rows).append(row)
        elif SOMETHING in text or any(choice.message is not None for choice in choices):
            self._add_calls(call_parts(choices))
        return text or (SOMETHING if ids else ""), ids

    def _add_calls(self, parts: Iterable[tuple[int, str, str]]) -> None:
        for place, name, arguments in parts:
            before = self.calls.get(place, ("", ""))
            self.calls[place] = (before[0] + name, before[1] + arguments)

    def _take_more(self, others: Sequence[StreamEvent]) -> None:
        """What the server measured of the request: with vLLM's last event, which has the usage; calls told in full."""
        metrics = next((event.metrics for event in reversed(others) if event.metrics is not None), None)
        if metrics is not None:
            self.by_server = server_columns(metrics)
        calls = next((event.calls for event in reversed(others) if event.calls is not None), None)
        if calls is not None:
            self.calls.clear()
            self._add_calls(parts_of_calls(calls))

    def _take_usages(self, usages: Sequence[Usage]) -> None:
        """The last counts that can be such, each on its own."""
        self.total = next((n for u in reversed(usages) if (n := token_count(u.completion_tokens))), self.total)
        prompt_tokens = next((n for u in reversed(usages) if (n := token_count(u.prompt_tokens))), None)
        self.input_tokens = self.input_tokens if prompt_tokens is None else prompt_tokens
        details = usages[-1].prompt_tokens_details if usages else None
        cached = token_count(details.cached_tokens) if details else None
        self.cached_tokens = self.cached_tokens if cached is None else cached
        if usages:
            self._take_details(usages[-1])

    def _take_details(self, usage: Usage) -> None:
        """Tokens of reasoning and of images, where the last usage tells them."""
        written = usage.completion_tokens_details
        reasoning = None if written is None else token_count(written.reasoning_tokens)
        self.reasoning_tokens = self.reasoning_tokens if reasoning is None else reasoning
        images = image_tokens(usage)
        self.image_tokens = self.image_tokens if images is None else images


def _opens(choice: EventChoice) -> bool:
    """Whether an event's choice tells the role: before any token, however early it comes."""
    return choice.delta is not None and choice.delta.role is not None


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Events that carried tokens (`rows`, in order), how many each, their sum, and how that is known."""

    rows: Sequence[int]
    counts: Sequence[int]
    total: int
    counted_by: str


def count(contents: AnswerContents) -> TokenCounts:
    """The tokens of an answer's events, by the best evidence there is."""
    return _by_ids(contents) or _by_usage(contents) or _by_events(contents)


def _by_ids(contents: AnswerContents) -> TokenCounts | None:
    counted = sum(contents.id_counts)
    if not counted or (contents.total is not None and contents.total != counted):
        return None
    known = set(contents.id_rows)
    if any(text and row not in known for row, text in zip(contents.rows, contents.texts, strict=True)):
        return None
    return _kept(contents.id_rows, contents.id_counts, FROM_TOKEN_IDS)


def _by_usage(contents: AnswerContents) -> TokenCounts | None:
    """By the running usage: it never falls, rises with the content, and ends at the total."""
    marks, total = contents.marks, contents.total
    if not marks or total is None or None in marks:
        return None
    counts = list(map(sub, marks, [0, *marks[:-1]]))
    missing = total - (marks[-1] or 0)
    if min(counts) > 0 and 0 <= missing <= _ENDED_UNSEEN:
        counts[-1] += missing
        return TokenCounts(contents.rows, counts, total, FROM_USAGE)
    silent = counts.count(0)  # events with a part of a token, or with what the one before was counted for
    if min(counts) < 0 or counts[0] == 0 or missing or 2 * silent > len(counts):
        return None
    return _kept(contents.rows, counts, FROM_USAGE)


def _by_events(contents: AnswerContents) -> TokenCounts:
    """Events with content share the total; without any content, those that came between role and end."""
    rows, total = contents.rows, contents.total
    if not all(contents.texts):
        rows = [row for row, text in zip(rows, contents.texts, strict=True) if text]
    if total is None or total == len(rows):
        return TokenCounts(rows, [1] * len(rows), len(rows), FROM_EVENTS if total is None else ASSUMED)
    rows = rows or sorted({*contents.rows, *contents.bare})
    if not rows:
        return TokenCounts((), (), 0, ASSUMED)
    marks = [-(-total * number // len(rows)) for number in range(len(rows) + 1)]  # the first has at least one
    return _kept(rows, list(map(sub, marks[1:], marks[:-1])), ASSUMED)


def _kept(rows: Sequence[int], counts: Sequence[int], counted_by: str) -> TokenCounts:
    """Only the events that carried a token."""
    pairs = [(row, tokens) for row, tokens in zip(rows, counts, strict=True) if tokens > 0]
    return TokenCounts([row for row, _ in pairs], [tokens for _, tokens in pairs], sum(counts), counted_by)
