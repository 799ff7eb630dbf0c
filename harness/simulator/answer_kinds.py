"""Answers of the simulated engine that are more than plain tokens, in vLLM's formats.

Reasoning before the answer, answers with a form, calls of tools and the events of the Responses API: each token an
event with a text of its own. Embeddings and scores: one JSON object when the last document is through.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.scenario.request_kinds import EMBEDDINGS, RERANK, RESPONSES
from harness.simulator.request_parsing import ParsedRequest
from harness.simulator.response_stream import FINGERPRINT, ResponseStream, chunk, data_of
from harness.simulator.scheduler_types import Request

THINKING = 0.5  # of the tokens that an answer may have, where the model reasons first
_VECTOR_STEP = 0.0078125


def answer_tokens_of(ask: ParsedRequest, most: int) -> tuple[int, int]:
    """How many tokens an answer of at most `most` has, and how many of them are reasoning."""
    thinking = int(most * THINKING) if ask.thinks else 0
    return (min(most, thinking + len(ask.pieces)) if ask.pieces else most), thinking


def is_plain(ask: ParsedRequest) -> bool:
    """Whether an answer is made of tokens that are all alike, which a template writes."""
    return not (ask.pieces or ask.thinks or ask.endpoint == RESPONSES)


@dataclass(slots=True)
class TextChoice:
    """One choice of an answer whose tokens have texts of their own, fed step by step."""

    answer: ResponseStream
    index: int
    request: Request
    thinking: int = 0
    count: int = 0
    texts: list[str] = field(default_factory=list)
    events: "ResponseEvents | None" = None

    def prepare(self) -> None:
        """Write what stands before the first token of a stream of the Responses API."""
        if self.answer.ask.endpoint == RESPONSES and self.answer.write is not None:
            self.events = ResponseEvents(self)
            self.answer.last = self.events.last
            self.answer.write(self.events.first())

    def feed(self) -> None:
        """The tokens of one step; written at once where the answer is streamed."""
        before, self.count = self.count, self.request.num_tokens - len(self.request.prompt)
        for place in range(before, self.count):
            self.texts.append(self._text(place))
            if self.answer.write is not None:
                self.answer.write(self._event(place))
        if self.request.finished:
            self.answer.close()

    def _text(self, place: int) -> str:
        pieces, own = self.answer.ask.pieces, place - self.thinking
        if pieces and 0 <= own < len(pieces):
            return pieces[own]
        position = len(self.request.prompt) + place
        return f" t{self.request.draw(position, position + 1)[0]}"

    @property
    def reason(self) -> str:
        """Why the answer ends: its form does, it calls a tool, or its length is reached."""
        ask = self.answer.ask
        if not ask.pieces or self.count < self.thinking + len(ask.pieces):
            return "length"
        return "tool_calls" if ask.call else "stop"

    @property
    def text(self) -> str:
        """The answer so far, without its reasoning."""
        return "".join(self.texts[self.thinking :])

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self.texts[: self.thinking])

    def _event(self, place: int) -> bytes:
        if self.events is not None:
            return self.events.token(place)
        ask, finished = self.answer.ask, self.request.finished and place == self.count - 1
        if not ask.chat:
            choice: dict[str, Any] = {"index": self.index, "text": self.texts[place]}
        else:
            choice = {"index": self.index, "delta": self._delta(place)}
        choice |= {"logprobs": None, "finish_reason": self.reason if finished else None}
        if ask.return_token_ids:
            position = len(self.request.prompt) + place
            choice["token_ids"] = list(self.request.draw(position, position + 1))
        more = {"usage": self.usage(place + 1)} if ask.continuous_usage else {}
        first = self._opening() if place == 0 and ask.chat else b""
        return first + chunk(data_of(self.answer.envelope([choice], **more)))

    def _opening(self) -> bytes:
        """The event with the role, before the first token."""
        choice = {"index": self.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                  "finish_reason": None}  # fmt: skip
        more = {"usage": self.usage(0)} if self.answer.ask.continuous_usage else {}
        return chunk(data_of(self.answer.envelope([choice], **more)))

    def _delta(self, place: int) -> dict[str, Any]:
        text, ask = self.texts[place], self.answer.ask
        if place < self.thinking:
            return {"reasoning": text}
        if not ask.call:
            return {"content": text}
        function: dict[str, Any] = {"arguments": text}
        opens = {"id": f"call_{self.request.id}", "type": "function"} if place == self.thinking else {}
        if place == self.thinking:
            function = {"name": ask.call, **function}
        return {"tool_calls": [{"index": 0, **opens, "function": function}]}

    def usage(self, count: int) -> dict[str, Any]:
        """Tokens up to here, as vLLM counts them where a parser of reasoning is there."""
        prompt = len(self.request.prompt)
        counts = {"prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count}
        if not self.answer.ask.thinks:
            return counts
        return {**counts, "completion_tokens_details": {"reasoning_tokens": min(count, self.thinking)}}

    def whole(self) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        ask = self.answer.ask
        end = {"logprobs": None, "finish_reason": self.reason, "stop_reason": None, "token_ids": None}
        if not ask.chat:
            return {"index": self.index, "text": self.text, **end}
        called = {"id": f"call_{self.request.id}", "type": "function",
                  "function": {"name": ask.call, "arguments": self.text}}  # fmt: skip
        message = {
            "role": "assistant",
            "content": None if ask.call else self.text,
            "refusal": None,
            "reasoning": self.reasoning or None,
            "tool_calls": [called] if ask.call else [],
        }
        return {"index": self.index, "message": message, **end}


@dataclass(slots=True)
class ResponseEvents:
    """The events of one streamed answer of the Responses API, numbered in order."""

    choice: TextChoice
    number: int = 0
    item: int = -1  # the output item under way, by its place
    kind: str = ""

    def first(self) -> bytes:
        """What stands before any token."""
        begun = response_body(self.choice, "in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def token(self, place: int) -> bytes:
        """The event of a token, behind those that open its item."""
        choice, ask = self.choice, self.choice.answer.ask
        kind = "reasoning" if place < choice.thinking else "function_call" if ask.call else "message"
        opened = b"" if kind == self.kind else self._close() + self._open(kind)
        place_of = {"item_id": f"item_{self.item}", "output_index": self.item}
        if kind == "function_call":
            named = "response.function_call_arguments.delta"
        else:
            named = f"response.{'reasoning_text' if kind == 'reasoning' else 'output_text'}.delta"
        return opened + self._event(named, content_index=0, **place_of, delta=choice.texts[place])

    def _open(self, kind: str) -> bytes:
        self.item, self.kind = self.item + 1, kind
        item = _item(self.choice, kind, self.item, whole=False)
        opened = self._event("response.output_item.added", output_index=self.item, item=item)
        if kind == "function_call":
            return opened
        part = {"type": "reasoning_text" if kind == "reasoning" else "output_text", "text": ""}
        places = {"item_id": f"item_{self.item}", "output_index": self.item, "content_index": 0}
        return opened + self._event("response.content_part.added", **places, part=part)

    def _close(self) -> bytes:
        if not self.kind:
            return b""
        item = _item(self.choice, self.kind, self.item, whole=True)
        return self._event("response.output_item.done", output_index=self.item, item=item)

    def last(self) -> bytes:
        """What stands after the last token: the whole response, with its usage."""
        closed = self._close()
        complete = self.choice.reason != "length"
        status = "completed" if complete else "incomplete"
        return closed + self._event(f"response.{status}", response=response_body(self.choice, status))

    def _event(self, type_: str, **more: Any) -> bytes:
        event = {**more, "sequence_number": self.number, "type": type_}
        self.number += 1
        return chunk(f"event: {type_}\n".encode() + data_of(event))


def response_body(choice: TextChoice, status: str = "") -> dict[str, Any]:
    """The whole object of the Responses API, as far as the answer has come."""
    ask, answer = choice.answer.ask, choice.answer
    status = status or ("completed" if choice.reason != "length" else "incomplete")
    over = status != "in_progress"
    kinds = [*(["reasoning"] if choice.thinking else []), "function_call" if ask.call else "message"]
    usage = {
        "input_tokens": len(choice.request.prompt),
        "input_tokens_details": {"cached_tokens": choice.request.first_hit, "cache_write_tokens": 0},
        "output_tokens": choice.count,
        "output_tokens_details": {"reasoning_tokens": min(choice.count, choice.thinking), "tool_output_tokens": 0},
        "total_tokens": len(choice.request.prompt) + choice.count,
    }
    return {
        "id": answer.id,
        "created_at": answer.created,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": ask.model,
        "object": "response",
        "output": [_item(choice, kind, place, whole=True) for place, kind in enumerate(kinds)] if over else [],
        "status": status,
        "usage": usage if over else None,
        "system_fingerprint": FINGERPRINT,
    }


def _item(choice: TextChoice, kind: str, place: int, *, whole: bool) -> dict[str, Any]:
    """An item of a response's output."""
    status = "completed" if whole else "in_progress"
    named = {"id": f"item_{place}", "type": kind, "status": status}
    if kind == "function_call":
        return {**named, "name": choice.answer.ask.call, "arguments": choice.text if whole else "", "call_id": "call_0"}
    content: list[dict[str, Any]]
    if kind == "reasoning":
        content = [{"type": "reasoning_text", "text": choice.reasoning}]
    else:
        content = [{"type": "output_text", "text": choice.text, "annotations": []}]
    return {**named, "role": "assistant", "content": content if whole else [], "summary": []}


@dataclass(slots=True)
class DocumentChoice:
    """One document of an answer without tokens: it is over when its prompt is through."""

    answer: ResponseStream
    index: int
    request: Request
    count: int = 0

    def prepare(self) -> None:
        """Nothing is written before the end."""

    def feed(self) -> None:
        """The document is through."""
        self.answer.close()

    def whole(self) -> dict[str, Any]:
        """What the body is made of."""
        return {"index": self.index}


def pooled_body(answer: ResponseStream, vector: msgspec.Raw) -> dict[str, Any]:
    """The whole answer of embeddings, rerank or score; every embedding is the same vector."""
    ask = answer.ask
    tokens = sum(len(prompt) for prompt in ask.prompts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    if ask.endpoint == EMBEDDINGS:
        data = [{"index": place, "object": "embedding", "embedding": vector} for place in range(len(ask.prompts))]
        return {"id": answer.id, "object": "list", "created": answer.created, "model": ask.model, "data": data,
                "usage": usage}  # fmt: skip
    scores = [_score(prompt) for prompt in ask.prompts]
    if ask.endpoint == RERANK:
        return {"id": answer.id, "model": ask.model, "results": _ranked(ask.documents, scores),
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}  # fmt: skip
    data = [{"index": place, "object": "score", "score": score} for place, score in enumerate(scores)]
    return {"id": answer.id, "object": "list", "created": answer.created, "model": ask.model, "data": data,
            "usage": usage}  # fmt: skip


def _score(prompt: Sequence[int]) -> float:
    """A number of [0, 1) that belongs to a pair."""
    return zlib.crc32(repr(list(prompt[:64])).encode()) / (1 << 32)


def _ranked(documents: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    results = [
        {"index": place, "document": {"text": text, "multi_modal": None}, "relevance_score": score}
        for place, (text, score) in enumerate(zip(documents, scores, strict=True))
    ]
    return sorted(results, key=lambda result: -float(result["relevance_score"]))


def vector_of(size: int) -> msgspec.Raw:
    """A vector of so many numbers, as JSON."""
    return msgspec.Raw(msgspec.json.encode([(place % 128) * _VECTOR_STEP - 0.5 for place in range(size)]))
