"""One call to the gateway: runs the user's fallback chain and answers in the caller's wire format.

A provider with the same wire format gets the request unchanged except for the model name and the limits, and its answer
is passed through byte by byte. For any other provider the request is translated into our types and the answer back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, Protocol

import orjson

from llm_credentials.gateway import thoughts
from llm_credentials.gateway.callers import Caller, client_of
from llm_credentials.gateway.errors import Problem, Refused, problem
from llm_credentials.gateway.http import EVENTS, Answer, Request, told
from llm_credentials.gateway.naming import Named, read_model
from llm_credentials.gateway.thoughts import Maker, Streamed
from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.gateway.wires.asked import Asked, InvalidRequest
from llm_credentials.gateway.wires.thoughts import marks_in, only_own
from llm_credentials.ledger import estimate
from llm_credentials.providers import LLMClient, LLMResponse, LLMStreamChunk, RequestRejected
from llm_credentials.providers.calls import make_call
from llm_credentials.providers.passing import Passed, PassedAnswer, passed_answer, passed_stream
from llm_credentials.routing.receipt import Receipt, RoutedResponse
from llm_credentials.routing.trials import Size
from llm_credentials.routing.values import Candidate

MAX_TOKENS_UNKNOWN = 8192
"""The answer size to reserve for when the caller, the user and the catalogue set no limit."""
TIMEOUT_S = 600.0
"""For a whole call; as long as clients of these APIs wait."""
_NOTHING: frozenset[str] = frozenset()
_TOOLS, _JSON = frozenset({"tools"}), frozenset({"json"})
TOO_DEEP = "The body is nested too deep."
IMAGES_FROM_BYTES = 100_000
"""Bodies of at least this size are parsed to find images, which cost fewer tokens than their bytes would as text."""


class Wire(Protocol):
    """The interface of the modules in ``wires``."""

    NAME: str
    PATH: str
    SIGNS: bool
    """Whether reasoning in this format carries its provider's signature."""
    MOST_ANSWERS: int
    """The most answers that one request may ask for, as ``n``."""

    def read_request(self, data: object) -> Asked: ...
    def write_answer(self, response: LLMResponse) -> bytes: ...
    def answer_events(self, data: Mapping[str, Any]) -> AnswerEvents: ...
    def passed_events(self, events: bytes, data: Mapping[str, Any]) -> bytes: ...
    def write_error(self, status: int, code: str, message: str, param: str | None) -> bytes: ...
    def write_error_event(self, status: int, code: str, message: str) -> bytes: ...


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A piece of a translated answer: chunks, and their encoding. See ``routing.trials.Piece``."""

    chunks: Sequence[LLMStreamChunk]
    """Chunks that arrived together. ``done`` comes alone."""
    data: bytes
    response: LLMResponse | None = None

    is_only_counted: ClassVar[bool] = True

    @property
    def type(self) -> str:
        return self.chunks[-1].type

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def has_content(self) -> bool:
        return any(chunk.has_content for chunk in self.chunks)


@dataclass(eq=False)
class Relay:
    caller: Caller
    wire: Wire
    request: Request
    named: Named = field(init=False)
    candidate: Candidate | None = field(default=None, init=False)
    """The last one tried."""
    tries: int = field(default=0, init=False)
    makers: Mapping[str, Maker] = field(default_factory=dict, init=False)
    """The authors of the reasoning in the conversation, as far as they are known."""
    first: Maker | None = field(default=None, init=False)
    """The first one tried."""
    passing: Streamed = field(default_factory=thoughts.Unsigned, init=False)
    """Collects the reasoning in a passed-through stream."""

    data: Mapping[str, Any] = field(init=False)
    """The request."""
    marks: tuple[str, ...] = field(init=False)
    """Marks of the reasoning in the conversation."""

    def __post_init__(self) -> None:
        """Raises Refused."""
        self.data = self.request.data
        self.named = read_model(self.data.get("model"))
        messages = self.data.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused(400, "invalid_request", "messages: Send at least one message.", param="messages")
        if not isinstance(self.data.get("stream"), bool | None):
            raise Refused(400, "invalid_request", "stream: Say true or false.", param="stream")
        most, wanted = self.wire.MOST_ANSWERS, self.data.get("n")
        if wanted is not None and (type(wanted) is not int or not 1 <= wanted <= most):
            words = "This wire gives one answer: leave it out." if most == 1 else f"A whole number from 1 to {most}."
            raise Refused(400, "invalid_request", f"n: {words}", param="n")

    async def answer(self) -> Answer:
        """Raises LLMError before anything is sent to the client."""
        self.marks = tuple(marks_in(self.data["messages"]))
        if self.marks:
            self.makers = await thoughts.makers(self.marks)
        return await self._streamed() if self.data.get("stream") is True else await self._whole()

    @cached_property
    def asked(self) -> Asked:
        """Raises InvalidRequest, UnsupportedContent."""
        return self.wire.read_request(self.data)

    # Whole answers

    async def _whole(self) -> Answer:
        client = client_of(self.caller, self.named)
        response, receipt = await client.relay(
            self._ask, needs=self._needs(), size=self._size(), leaving=self._leaving(), timeout_s=TIMEOUT_S
        )
        await self._remember(response)
        data = response.data if isinstance(response, PassedAnswer) else self.wire.write_answer(response)
        return Answer(data, headers=self._headers(receipt))

    async def _ask(self, client: LLMClient, candidate: Candidate, limit_s: float) -> LLMResponse:
        self._begin(candidate)
        if client.wire == self.wire.NAME:
            return await passed_answer(client, self._body(candidate), **self._sending(client, candidate))
        return await client.complete(self.asked.messages, **self._arguments(candidate), timeout_s=limit_s)

    # Streams

    async def _streamed(self) -> Answer:
        client = client_of(self.caller, self.named)
        pieces = await client.relay_stream(
            self._follow, needs=self._needs(), size=self._size(), leaving=self._leaving(), timeout_s=TIMEOUT_S
        )
        first = await anext(pieces)
        return Answer(self._events(first, pieces), content_type=EVENTS, headers=self._headers(None))

    def _follow(
        self, client: LLMClient, candidate: Candidate, limit_s: float
    ) -> AsyncGenerator[Passed | Written, None]:
        self._begin(candidate)
        if client.wire == self.wire.NAME:
            return passed_stream(client, self._body(candidate), **self._sending(client, candidate))
        return self._translated(client, candidate, limit_s)

    async def _translated(
        self, client: LLMClient, candidate: Candidate, limit_s: float
    ) -> AsyncGenerator[Written, None]:
        events = self.wire.answer_events(self.data)
        events.begin(candidate.model)
        call = make_call(client, self.asked.messages, **self._arguments(candidate))
        async with aclosing(client.stream_by_reads(call, limit_s, joined=True)) as reads:
            async for chunks in reads:
                data = b"".join(map(events.feed, _joined(chunks)))
                yield Written(chunks, data, chunks[-1].response)

    async def _events(
        self, first: Passed | Written, pieces: AsyncGenerator[Passed | Written, None]
    ) -> AsyncGenerator[bytes, None]:
        """The client's events; an error after first content becomes the last event."""
        held = b""
        async with aclosing(pieces):
            piece: Passed | Written | None = first
            try:
                while piece is not None:
                    data = piece.data
                    if isinstance(piece, Passed):
                        data, held = _whole_events(held + data)
                        data = self.wire.passed_events(data, self.data)
                        self.passing.see(data)
                    if piece.response is not None:
                        data += held
                        await self._remember(piece.response)
                    if isinstance(piece.response, RoutedResponse):
                        data += _comment(piece.response.receipt)
                    if data:
                        yield data
                    piece = await anext(pieces, None)
            except Exception as error:
                said: Problem = problem(error)
                yield self.wire.write_error_event(said.status, said.code, said.message)

    # The call

    def _begin(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.tries += 1
        self.first = self.first or self._maker
        self.passing = thoughts.Signed() if self.wire.SIGNS else thoughts.Unsigned()

    # Reasoning

    @property
    def _maker(self) -> Maker:
        """The candidate being tried."""
        assert self.candidate is not None
        return self.candidate.key.provider, self.candidate.model

    def _is_own(self, mark: str) -> bool:
        return self.makers.get(mark, self.first) == self._maker

    async def _remember(self, response: LLMResponse) -> None:
        """Store who wrote the answer's reasoning."""
        found = self.passing.fingerprints or thoughts.fingerprints_of(response, signed=self.wire.SIGNS)
        if found:
            await thoughts.remember(found, self._maker)

    def _needs(self) -> frozenset[str]:
        needs = _TOOLS if self.data.get("tools") else _NOTHING
        return needs | _JSON if self._wants_schema() else needs

    def _wants_schema(self) -> bool:
        wanted = self.data.get("response_format")
        return isinstance(wanted, Mapping) and wanted.get("type") == "json_schema"

    def _limit(self) -> int | None:
        for name in ("max_completion_tokens", "max_tokens"):
            limit = self.data.get(name)
            if type(limit) is int and limit > 0:
                return limit
        return None

    def _leaving(self) -> tuple[bytes]:
        try:
            return (orjson.dumps(self.data),)
        except orjson.JSONEncodeError:
            raise Refused(400, "invalid_json", TOO_DEEP) from None

    def _size(self) -> Size:
        answers = self.data.get("n") or 1
        return Size(self._prompt_tokens, lambda candidate: self._answer_tokens(candidate) * answers)

    def _prompt_tokens(self) -> int:
        if self.request.size_bytes < IMAGES_FROM_BYTES:
            return self.request.size_bytes // estimate.BYTES_A_TOKEN
        return counted(lambda: self.asked, self.data)

    def _answer_tokens(self, candidate: Candidate) -> int:
        most = candidate.facts.max_output_tokens if candidate.facts else None
        return self._limit() or candidate.max_tokens or most or MAX_TOKENS_UNKNOWN

    def _body(self, candidate: Candidate) -> dict[str, Any]:
        """The caller's request, completed by the user's settings."""
        body = only_own(self.data, self._is_own) if self.marks else dict(self.data)
        if body.get("temperature") is None and candidate.temperature is not None:
            body["temperature"] = candidate.temperature
        if self._limit() is None and candidate.max_tokens is not None:
            body["max_tokens"] = candidate.max_tokens
        return body

    def _sending(self, client: LLMClient, candidate: Candidate) -> dict[str, Any]:
        given = ((name, self.request.header(name.encode())) for name in client.takes_headers)
        headers = {name: value for name, value in given if value} if client.takes_headers else None
        return {"path": self.wire.PATH, "model": candidate.model, "headers": headers}

    def _arguments(self, candidate: Candidate) -> dict[str, Any]:
        arguments = self.asked.arguments()
        if arguments["temperature"] is None:
            arguments["temperature"] = candidate.temperature
        if arguments["max_tokens"] is None:
            arguments["max_tokens"] = self._answer_tokens(candidate)
        elif (most := candidate.facts.max_output_tokens if candidate.facts else None) is not None:
            # Programs written for one model request as many tokens as that model allows.
            arguments["max_tokens"] = min(arguments["max_tokens"], most)
        return {**arguments, "model": candidate.model}

    def _headers(self, receipt: Receipt | None) -> dict[str, str]:
        """Who answered and who pays; for a stream, what is known at its start."""
        if self.candidate is None:
            return {}
        return told(
            provider=self.candidate.key.provider,
            model=self.candidate.model,
            key_owner=self.candidate.key.owner,
            attempts=len(receipt.attempts) if receipt else self.tries,
            cost_usd=receipt.cost_usd if receipt else None,
        )


def counted(read: Callable[[], Asked], data: Mapping[str, Any]) -> int:
    """Estimated prompt tokens; also for requests that only their own format can express, or that we cannot parse.

    Raises InvalidRequest.
    """
    try:
        asked = read()
    except RequestRejected:
        if not data.get("messages"):
            raise
        try:
            return estimate.body_tokens(data)
        except orjson.JSONEncodeError:
            raise InvalidRequest(TOO_DEEP) from None
    return estimate.prompt_tokens(asked.messages, asked.tools or ())


def _whole_events(data: bytes) -> tuple[bytes, bytes]:
    """The complete events, and the beginning of the next one."""
    end = data.rfind(b"\n\n")
    if b"\r" in data:
        end = max(end, data.rfind(b"\r\n\r\n"))
    if end < 0:
        return b"", data
    end += 4 if data[end : end + 1] == b"\r" else 2
    return data[:end], data[end:]


def _joined(chunks: Sequence[LLMStreamChunk]) -> Iterator[LLMStreamChunk]:
    """Joins text that arrived together: nobody could see the pieces one by one."""
    for kind, alike in groupby(chunks, key=lambda chunk: chunk.type):
        if kind in ("delta", "reasoning"):
            yield LLMStreamChunk(type=kind, text="".join(chunk.text for chunk in alike))
        else:
            yield from alike


def _comment(receipt: Receipt) -> bytes:
    """The receipt as a comment after the last event; clients of event streams ignore comments."""
    return b": keyswitch %b\n\n" % orjson.dumps(receipt.as_json())
