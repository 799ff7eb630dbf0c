"""Requests as whole HTTP requests to one target: the workload's prompts, and what primes a prefix cache for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.client import payload
from harness.client.load import PreparedRequest
from harness.client.target import post_bytes, target_for
from harness.scenario.engine import Engine
from harness.scenario.models import Scenario
from harness.scenario.stages import Stage
from harness.workload import Reply, build
from harness.workload.plan import StagePlan
from harness.workload.prompts import Vocabulary
from harness.workload.real_text import TextMaterial

_RANK_HEADER = "X-data-parallel-rank"  # by which vLLM gives a request to one rank


class RequestBuilder:
    """Writes requests: the workload's prompts as whole HTTP requests to one target."""

    def __init__(self, job: dict[str, Any], scenario: Scenario) -> None:
        assert scenario.workload is not None
        vocabulary = Vocabulary(**job["lexicon"]) if job["lexicon"] else None
        self.workload = build(
            scenario.workload,
            endpoint=scenario.endpoint,
            seed=scenario.seed,
            vocabulary=vocabulary,
            folder=Path(job["scenario_folder"]),
            text=TextMaterial(**job["text"]) if job.get("text") else None,
        )
        self.target = target_for(job["url"], Engine.model_validate(job["reach"]))
        self._options = payload.Options(
            model=job["model"],
            endpoint=scenario.endpoint,
            stream=scenario.streams,
            token_counts=job["token_counts"],
            extra_body=scenario.extra_body,
        )
        classes = self.workload.mix.classes
        self._extras = [payload.class_fields(each, scenario.workload, scenario.endpoint) for each in classes]
        self._path = payload.path(scenario.endpoint)
        self._copies, self._by_rank = job["priming"]["copies"], job["priming"]["by_rank"]

    def priming(self, plan: StagePlan) -> StagePlan | None:
        """The plan of what primes a stage: every beginning for every class to every engine, engines at once."""
        contents = self.workload.priming
        if contents is None or contents.size is None:
            return None
        total = contents.size * len(self._extras) * self._copies
        closed = Stage("closed", concurrency=self._copies, requests=total)
        place = plan.number, plan.stage_index, plan.repeat
        return StagePlan(*place, closed, 0, 0, total, measured_ns=0, warm_ns=0, due_ns=None)

    def prime(self, number: int) -> PreparedRequest:
        """One of those requests; `number` counts beginnings, classes and, fastest, the engines."""
        contents, (place, rank) = self.workload.priming, divmod(number, self._copies)
        assert contents is not None
        group, request_class = divmod(place, len(self._extras))
        session, prompt = contents.session(group), contents.prompt(group, 0, ())
        headers = ((_RANK_HEADER, str(rank)),) if self._by_rank else ()
        target = replace(self.target, headers=(*self.target.headers, *headers))
        body = payload.body(prompt, 1, self._options, self._extras[request_class])
        whole = post_bytes(target, self._path, body)
        return PreparedRequest(session, 0, whole, prompt.input_tokens, 1, measured=False, request_class=request_class)

    def first(self, plan: StagePlan, ordinal: int) -> PreparedRequest:
        """The request of the first turn of the session taken as `ordinal`."""
        session = self.workload.session(plan.session(ordinal))
        request_class = self.workload.mix.of(session.index, plan.stage.adapters)
        return self._draft(PreparedRequest(session, 0, b"", 0, 0, ordinal >= plan.warm, request_class), 0, ())

    def later(self, like: PreparedRequest, number: int, replies: tuple[Reply, ...]) -> PreparedRequest:
        """The request of a later turn of a session that `like` is of, whose history holds these replies."""
        return self._draft(like, number, replies)

    def _draft(self, like: PreparedRequest, number: int, replies: tuple[Reply, ...]) -> PreparedRequest:
        session = like.session
        turn = session.turns[number]
        prompt = self.workload.prompt(session.index, number, replies)
        body = payload.body(prompt, turn.output_tokens, self._options, self._extras[like.request_class])
        payload_bytes = post_bytes(self.target, self._path, body)
        sizes = (prompt.input_tokens, turn.output_tokens)
        return PreparedRequest(session, number, payload_bytes, *sizes, like.measured, like.request_class)
