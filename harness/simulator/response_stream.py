"""The bytes of an answer: one event a step, or one JSON object when it is whole.

Everything of an event that does not change is put together before the first token, so that
a token costs one formatting and one write. Events carry the fields of vLLM 0.32.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.simulator.request_parsing import ParsedRequest
from harness.simulator.scheduler_types import Request
from harness.units import NS_PER_MS, NS_PER_S

Write = Callable[[bytes], None]
FINGERPRINT = "npu-harness-simulator"
DONE = b"data: [DONE]\n\n"
_TEXT, _IDS, _REASON, _COUNT = "\x01text", "\x01ids", "\x01reason", 987654321


def chunk(payload: bytes) -> bytes:
    """One chunk of an HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class EngineClock(Protocol):
    """What an engine knows of the times of a request."""

    def now_ns(self) -> int:
        """The present."""

    def queued_ns(self, request: Request) -> tuple[int, int]:
        """When a request arrived, and when its first step began."""


@dataclass(slots=True)
class ResponseStream:
    """One HTTP answer: its choices, what it has counted, and whom to tell when it is whole.

    `write` takes bytes for the transport; it is None for an answer that is not streamed. `last` gives what ends a
    stream, and `object` the whole answer, where they are not those of completions and chat.
    """

    ask: ParsedRequest
    id: str
    created: int
    write: Write | None
    whole: Callable[[], None]
    show_cached: bool = False  # with --enable-prompt-tokens-details usage tells tokens found in the cache
    clock: EngineClock | None = None  # with --enable-per-request-metrics an answer tells its own times
    tells_drafts: bool = False  # with --per-request-spec-decode-metrics, what was accepted of its drafts
    choices: list[Any] = field(default_factory=list)  # ResponseChoice, or one of answer_kinds
    open: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    kv_transfer_params: dict[str, Any] | None = None  # where the KV cache of the prompt is kept
    last: Callable[[], bytes] | None = None
    object: Callable[[], dict[str, Any]] | None = None

    def envelope(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The object around some choices."""
        kind = (
            ("chat.completion.chunk" if self.ask.stream else "chat.completion") if self.ask.chat else "text_completion"
        )
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.ask.model,
            "choices": choices,
            **more,
        }

    def usage(self) -> dict[str, Any]:
        """Tokens of all prompts and choices."""
        prompt = sum(len(prompt) for prompt in self.ask.prompts)
        output = sum(choice.count for choice in self.choices)
        counts: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + output,
            "completion_tokens": output,
        }
        if self.show_cached:
            cached = sum(choice.request.first_hit for choice in self.choices)
            images = {"multimodal_tokens": {"image": self.ask.image_tokens}} if self.ask.image_tokens else {}
            counts["prompt_tokens_details"] = {"cached_tokens": cached, **images}
        if self.ask.thinks:
            reasoning = sum(min(choice.count, choice.thinking) for choice in self.choices)
            counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        return counts

    def body(self) -> dict[str, Any]:
        """The whole answer as one object."""
        if self.object is not None:
            return self.object()
        details = {"prompt_tokens_details": None, "completion_tokens_details": None}
        return self.envelope(
            [choice.whole() for choice in self.choices],
            service_tier=None,
            system_fingerprint=FINGERPRINT,
            usage={**details, **self.usage()},
            kv_transfer_params=self.kv_transfer_params,
            **self.metrics,
        )

    def close(self) -> None:
        """One choice less is open; after the last, the end of the stream."""
        self.open -= 1
        if self.open:
            return
        self.metrics = self._metrics()  # while the engine still knows the request
        if self.write is not None:
            self.write(self._usage_event() + chunk(DONE) if self.last is None else self.last())
        self.whole()

    def _usage_event(self) -> bytes:
        if not self.ask.include_usage:
            return b""
        end = {"usage": self.usage(), "system_fingerprint": FINGERPRINT, **self.metrics}
        return chunk(data_of(self.envelope([], **end)))

    def _metrics(self) -> dict[str, Any]:
        """The `PerRequestMetrics` of vLLM for an answer of one choice; what is not known is left out."""
        if len(self.choices) != 1:
            return {}
        choice = self.choices[0]
        times = {} if self.clock is None else self._times(choice, self.clock)
        drafts = _speculative_decoding(choice.request) if self.tells_drafts else {}
        return {"metrics": {**times, **drafts}} if times or drafts else {}

    def _times(self, choice: Any, clock: EngineClock) -> dict[str, Any]:
        """When it waited, began and ended, by the engine's clock (ms)."""
        last_ns = clock.now_ns()
        arrived_ns, started_ns = clock.queued_ns(choice.request)
        known = {
            "time_to_first_token_ms": (choice.first_ns - started_ns) / NS_PER_MS,
            "generation_time_ms": (last_ns - choice.first_ns) / NS_PER_MS,
            "queue_time_ms": (started_ns - arrived_ns) / NS_PER_MS,
        }
        if choice.count > 1:
            known["mean_itl_ms"] = (last_ns - choice.first_ns) / (choice.count - 1) / NS_PER_MS
        if last_ns > started_ns:
            known["tokens_per_second"] = choice.count / ((last_ns - started_ns) / NS_PER_S)
        return known


def _speculative_decoding(request: Request) -> dict[str, Any]:
    """The `SpeculativeDecodingMetrics` of vLLM; none where nothing was drafted."""
    steps, accepted = sum(request.accepted), sum(count * steps for count, steps in enumerate(request.accepted))
    if not steps or not request.drafted:
        return {}
    values = {
        "mean_acceptance_length": 1 + accepted / steps,
        "draft_acceptance_rate": accepted / request.drafted,
        "acceptance_histogram": request.accepted,
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": request.drafted,
        "num_spec_tokens": len(request.accepted) - 1,
    }
    return {"speculative_decoding": values}


@dataclass(slots=True)
class ResponseChoice:
    """One choice of an answer, fed step by step."""

    answer: ResponseStream
    index: int
    request: Request
    count: int = 0
    first_ns: int = 0  # by the engine's clock, where the answer tells its times
    _opening: bytes = b""
    _token: bytes = b""
    _last: bytes = b""

    def prepare(self) -> None:
        """Build the bytes of its events."""
        if self.answer.write is None:
            return
        self._token = self._template(None)
        self._last = self._template("length")
        if self.answer.ask.chat:
            self._opening = self._role_event()

    def feed(self) -> None:
        """The tokens of one step of the request; written at once where the answer is streamed."""
        if self.count == 0 and self.answer.clock is not None:
            self.first_ns = self.answer.clock.now_ns()
        gained = self.request.gained
        self.count += gained
        finished = self.request.finished
        if self.answer.write is not None:
            payload = self._event(self._last if finished else self._token)
            framed = chunk(payload) if self.count > gained else self._first(payload)
            self.answer.write(framed)
        if finished:
            self.answer.close()

    def _event(self, template: bytes) -> bytes:
        ask, end, gained = self.answer.ask, self.request.num_tokens, self.request.gained
        tokens = tuple(self.request.draw(end - gained, end))
        numbers = (*tokens, *tokens) if ask.return_token_ids else tokens
        if ask.continuous_usage:
            numbers = (*numbers, end, self.count)
        return (_widened(template, gained) if gained > 1 else template) % numbers

    def _first(self, payload: bytes) -> bytes:
        """The first token's event with the prompt's ids where they are asked for, after the role's."""
        if not self.answer.ask.chat and self.answer.ask.return_token_ids:
            ids = json.dumps(list(self.request.prompt)).encode()
            payload = payload.replace(b'"prompt_token_ids":null', b'"prompt_token_ids":' + ids, 1)
        return self._opening + chunk(payload)

    def _template(self, reason: str | None) -> bytes:
        """An event with %d where token, ids and counts go."""
        ids = [_IDS] if self.answer.ask.return_token_ids else None
        if self.answer.ask.chat:
            choice = {
                "index": self.index,
                "delta": {"content": _TEXT},
                "logprobs": None,
                "finish_reason": reason,
                "token_ids": ids,
            }
            if reason is not None:
                choice["stop_reason"] = None
        else:
            choice = {
                "index": self.index, "text": _TEXT, "logprobs": None, "finish_reason": reason, "stop_reason": None,
                "prompt_token_ids": None, "token_ids": ids,
            }  # fmt: skip
        more = self._usage(_COUNT)
        if reason is not None and not self.answer.ask.include_usage:
            more["system_fingerprint"] = FINGERPRINT
        event = data_of(self.answer.envelope([choice], **more)).replace(b"%", b"%%")
        event = event.replace(_quoted(_TEXT), b'" t%d"').replace(_quoted(_IDS), b"%d")
        return event.replace(b"%d" % _COUNT, b"%d")

    def _role_event(self) -> bytes:
        choice = {
            "index": self.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        ids = list(self.request.prompt) if self.answer.ask.return_token_ids else None
        prompt = len(self.request.prompt)
        usage = {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0}
        more = {"usage": usage} if self.answer.ask.continuous_usage else {}
        return chunk(data_of(self.answer.envelope([choice], prompt_token_ids=ids, prompt_text=None, **more)))

    def _usage(self, count: int) -> dict[str, Any]:
        if not self.answer.ask.continuous_usage:
            return {}
        return {"usage": {"prompt_tokens": len(self.request.prompt), "total_tokens": count, "completion_tokens": count}}

    def whole(self) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        start = len(self.request.prompt)
        ids = self.request.draw(start, start + self.count)
        text = "".join(f" t{token}" for token in ids)
        returned = self.answer.ask.return_token_ids
        end = {
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": list(ids) if returned else None,
        }
        if self.answer.ask.chat:
            message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
            return {"index": self.index, "message": message, **end}
        prompt = list(self.request.prompt) if returned else None
        return {"index": self.index, "text": text, **end, "prompt_logprobs": None, "prompt_token_ids": prompt}


def _widened(template: bytes, tokens: int) -> bytes:
    """A template of one token as one of several."""
    text, ids = b'"' + b" t%d" * tokens + b'"', b"[" + b",".join([b"%d"] * tokens) + b"]"
    return template.replace(b'" t%d"', text, 1).replace(b"[%d]", ids, 1)


def data_of(payload: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _quoted(mark: str) -> bytes:
    return json.dumps(mark).encode()
