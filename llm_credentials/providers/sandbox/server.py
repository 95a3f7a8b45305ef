"""The sandbox's HTTP server: finds the wire format, key and fault of a request, then parses, answers and sends."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from aiohttp import web

from llm_credentials.providers.sandbox import faults, mind, operations, twists
from llm_credentials.providers.sandbox.asks import JSON, Ask, Refused, Reply, Usage
from llm_credentials.providers.sandbox.delivery import EVENTS_TYPE, JSON_TYPE, REDIRECTED_PATH, Answer, Delivery
from llm_credentials.providers.sandbox.failures import RETRY_HEADERS, Failure, failure_of
from llm_credentials.providers.sandbox.journal import Entry, Journal
from llm_credentials.providers.sandbox.keys import Key, admit, read_key
from llm_credentials.providers.sandbox.models import BY_ID, PACE_MS
from llm_credentials.providers.sandbox.modifiers import Fault, Named, parse
from llm_credentials.providers.sandbox.prompt_cache import PromptCache
from llm_credentials.providers.sandbox.wires.base import Stamp, Wire, sse
from llm_credentials.providers.sandbox.wires.chat import ChatWire
from llm_credentials.providers.sandbox.wires.generate import GenerateWire
from llm_credentials.providers.sandbox.wires.messages import MessagesWire, read_prompt

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_PIECES = 1_000_000
SANDBOX_HEADER = "x-keyswitch-sandbox"

GENERATE = GenerateWire()
WIRES: dict[str, Wire] = {
    "chat": ChatWire(),
    "azure": ChatWire("azure", azure=True),
    "messages": MessagesWire(),
    "generate": GENERATE,
}
_GENERATE = re.compile(r"^/v1(?:beta|alpha)?/(?:tunedM|m)odels/(.+):(\w+)$")
_GENERATE_OPERATIONS = {
    "generateContent": ("chat", False),
    "streamGenerateContent": ("chat", True),
    "countTokens": ("count_tokens", False),
    "embedContent": ("embed_one", False),
    "batchEmbedContents": ("embeddings", False),
}
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")
_MODELS = re.compile(r"^(?:/\w+)*?/models(?:/(.+))?$")
_HELP = (
    "This is the Keyswitch sandbox: it speaks like a provider and is none. Keys that begin with sbx-good work; "
    "GET /_sandbox/requests and /_sandbox/counts say what was asked.\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxOptions:
    """A sandbox's defaults, which a request may override."""

    delay_ms: float = 10.0
    """Pause between two pieces of a stream."""
    slow_s: float = 2.0
    """The delay of `sbx-slow…` keys and `sandbox-slow`."""
    stall_s: float = 600.0
    """How long a stalled answer stalls."""
    journal_limit: int = 10_000
    """How many requests are kept; the totals cover all of them."""


@dataclass(frozen=True, slots=True)
class Route:
    """The meaning of a path."""

    wire: str
    operation: str
    method: str = "POST"
    model: str = ""
    stream: bool | None = None


@lru_cache(maxsize=4096)
def find_route(path: str, azure_key: bool, messages_version: bool, google_key: bool) -> Route | None:
    """The meaning of a path; paths shared by several formats are told apart by the request's headers."""
    if match := _GENERATE.match(path):
        operation, stream = _GENERATE_OPERATIONS.get(match[2], ("", False))
        return Route("generate", operation, model=match[1], stream=stream) if operation else None
    if path.endswith("/messages"):
        return Route("messages", "chat")
    if path.endswith("/messages/count_tokens"):
        return Route("messages", "count_tokens")
    deployment = _DEPLOYMENT.search(path)
    chat_wire = "azure" if deployment or (azure_key and path.startswith("/openai/")) else "chat"
    model = deployment[1] if deployment else ""
    if path.endswith("/chat/completions"):
        return Route(chat_wire, "chat", model=model)
    if path.endswith("/embeddings"):
        return Route(chat_wire, "embeddings", model=model)
    if match := _MODELS.match(path):
        google = google_key or path.startswith("/v1beta/")
        wire = "generate" if google else "messages" if messages_version else chat_wire
        return Route(wire, "model" if match[1] else "models", "GET", match[1] or "")
    return None


class Sandbox:
    """One sandbox: its options, its journal and its request handler."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.stopping = False
        self.journal = Journal(options.journal_limit)
        self.fault_counter = faults.FaultCounter()
        self.prompt_cache = PromptCache()
        self.run = os.urandom(3).hex()
        self.call_number = 0

    def http_server(self) -> web.Server:
        """The handler for aiohttp; a client that disconnects cancels the handler."""
        loop = asyncio.get_running_loop()

        def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

        return web.Server(self.handle, request_factory=make_request, handler_cancellation=True, access_log=None)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and record it in the journal."""
        path = request.path
        if path in ("/", "/healthz") or (path.startswith("/_sandbox") and path != REDIRECTED_PATH):
            return self.own_page(request, path)
        entry = self.journal.begin(request.method, path)
        try:
            return await Exchange(self, request, entry).answer()
        except (asyncio.CancelledError, ConnectionError):
            # A client that has the whole answer may disconnect; the journal records those that leave earlier.
            entry.client_gone = entry.open and not self.stopping
            raise
        finally:
            self.journal.end(entry)

    def own_page(self, request: web.BaseRequest, path: str) -> web.Response:
        """Pages outside the wire formats: the journal, and a note for browsers."""
        headers = {SANDBOX_HEADER: "1"}
        if path == "/_sandbox/requests" and request.method == "DELETE":
            self.journal.reset()
            self.fault_counter.clear()
            self.prompt_cache.clear()
            return web.Response(status=204, headers=headers)
        if path == "/_sandbox/requests":
            wanted = {name: value for name, value in request.query.items() if name in Entry.__slots__}
            rows = [entry.as_dict() for entry in self.journal.entries()]
            items = [row for row in rows if all(str(row[name]).lower() == wanted[name].lower() for name in wanted)]
            return _json({"items": items, "count": len(items)}, headers)
        if path == "/_sandbox/counts":
            return _json(self.journal.counts(), headers)
        found = path in ("/", "/healthz", "/_sandbox")
        return web.Response(text=_HELP if found else "Not found.\n", status=200 if found else 404, headers=headers)

    def next_call_id(self) -> str:
        self.call_number += 1
        return f"call_sbx{self.run}{self.call_number:06d}"


def _json(value: JSON, headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(value), headers={**headers, "content-type": JSON_TYPE})


class Exchange:
    """One request being handled."""

    def __init__(self, sandbox: Sandbox, request: web.BaseRequest, entry: Entry) -> None:
        self.sandbox = sandbox
        self.request = request
        self.entry = entry
        self.stamp = Stamp(entry.id, sandbox.run, int(entry.started))
        self.wire: Wire = WIRES["chat"]
        self.fault: Fault | None = None
        self.headers = {"content-type": JSON_TYPE, SANDBOX_HEADER: "1"}

    async def answer(self) -> web.StreamResponse:
        try:
            answer = await self.prepare()
        except Refused as refused:
            self.fault = None
            answer = self.refusal(failure_of(refused))
        fault = self.fault
        delivery = Delivery(self.request, answer, self.entry, self.sandbox.options.stall_s)
        if fault is not None and fault.name in faults.DELIVERIES:
            if fault.name == "error-200":
                self.error_200(answer)
            return await delivery.send(fault)
        return await delivery.send()

    async def prepare(self) -> Answer:
        """Everything before sending."""
        route = self.route()
        body = await self.read_body(route)
        model = route.model or str(body.get("model") or "")
        if route.operation not in ("model", "models"):
            self.entry.model = model[:200]
        key, named = self.admit(), parse(model)
        self.fault = self.sandbox.fault_counter.next(key.text, model, (key.named, named))
        if self.fault is not None:
            self.entry.fault = self.fault.name
        wait_s = key.wait_s + named.settings.get("wait", 0.0) + key.named.settings.get("wait", 0.0)
        if named.base == "sandbox-slow":
            wait_s += self.sandbox.options.slow_s
        if wait_s:
            await asyncio.sleep(wait_s)
        self.strike()
        return self.perform(route, body, key, named)

    def route(self) -> Route:
        request, headers = self.request, self.request.headers
        google_key = "x-goog-api-key" in headers or "key" in request.query
        path = request.path.rstrip("/")
        route = find_route(path, "api-key" in headers, "anthropic-version" in headers, google_key)
        if route is None:
            raise Refused("path")
        self.wire = WIRES[route.wire]
        self.entry.wire, self.entry.operation = route.wire, route.operation
        if name_and_value := self.wire.request_id(self.stamp):
            self.headers[name_and_value[0]] = name_and_value[1]
        if request.method != route.method and not (route.method == "GET" and request.method == "HEAD"):
            raise Refused("405")
        if route.wire == "azure" and "/deployments/" in path and "api-version" not in request.query:
            raise Refused("path", "Resource not found: api-version is missing.")
        if route.wire == "messages" and "anthropic-version" not in headers:
            raise Refused("400", "anthropic-version: header is required")
        return route

    async def read_body(self, route: Route) -> JSON:
        if route.method == "GET":
            return {}
        try:
            raw = await self.request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Refused("413") from None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise Refused("400", "The body is not JSON.") from None
        if not isinstance(body, dict):
            raise Refused("400", "The body must be a JSON object.")
        return body

    def admit(self) -> Key:
        """The key of this request. Raises Refused unless it is good."""
        headers, text = self.request.headers, ""
        if self.wire.name == "generate":
            text = headers.get("x-goog-api-key") or self.request.query.get("key", "")
        elif self.wire.name == "messages":
            text = headers.get("x-api-key", "")
        elif self.wire.name == "azure":
            text = headers.get("api-key", "")
        if not text and self.wire.name != "generate":
            scheme, _, token = headers.get("authorization", "").partition(" ")
            text = token.strip() if scheme.lower() == "bearer" else ""
        key = read_key(text)
        if text:
            self.entry.key, self.entry.key_last4 = key.fingerprint, key.last4
        admit(key, self.sandbox.options.slow_s)
        return key

    def strike(self) -> None:
        """Raises Refused if the fault is a refusal."""
        fault = self.fault
        if fault is None or fault.name not in faults.REFUSALS or self.prompt_is_answered():
            return
        if fault.name in RETRY_HEADERS:
            name, value = RETRY_HEADERS[fault.name]()
            self.headers[name] = value
            raise Refused("429")
        retry_after = fault.params.get("retry-after", "1" if fault.name == "429" else None)
        raise Refused(fault.name, retry_after=retry_after)

    def prompt_is_answered(self) -> bool:
        """Whether a refused prompt gets an answer that says so instead of an error."""
        return self.fault is not None and self.fault.name == "prompt-refused" and self.wire.name == "generate"

    def perform(self, route: Route, body: JSON, key: Key, named: Named) -> Answer:
        if route.operation == "models":
            return self.plain(operations.model_list(route.wire, self.request.query))
        if route.operation == "model":
            return self.plain(operations.one_model(route.wire, route.model))
        facts = BY_ID.get(named.base)
        needed = "embeddings" if route.operation in ("embeddings", "embed_one") else "chat"
        if facts is None:
            raise Refused("404", f"The model `{named.base[:100]}` does not exist or is not yours.", param="model")
        if needed not in facts.capabilities:
            raise Refused("400", f"The model `{named.base}` is not for {needed}.", param="model")
        if route.operation == "chat":
            return self.chat(route, body, key, named)
        if route.operation == "count_tokens":
            return self.count_tokens(route, body)
        embeddings: dict[str, Callable[[JSON, str], tuple[JSON, Usage]]] = {
            "embed_one": operations.generate_embedding,
            "embeddings": operations.generate_embeddings if route.wire == "generate" else operations.chat_embeddings,
        }
        return self.plain(*embeddings[route.operation](body, named.base))

    def plain(self, value: JSON, usage: Usage | None = None) -> Answer:
        fault = self.fault
        twisted = fault is not None and fault.name in ("badjson", "badjson-chunk", "bom", "usage-missing")
        body = twists.twist_body(fault, value) if twisted and fault is not None else orjson.dumps(value)
        return Answer(self.headers, body=body, usage=usage or Usage())

    def count_tokens(self, route: Route, body: JSON) -> Answer:
        if route.wire == "generate":
            return self.plain({"totalTokens": self.wire.read(body, "sandbox-chat", False).prompt_tokens})
        return self.plain({"input_tokens": read_prompt(body).prompt_tokens})

    def chat(self, route: Route, body: JSON, key: Key, named: Named) -> Answer:
        ask = self.wire.read(body, named.base, route.stream)
        ask.model = named.base
        self.check(ask, named)
        self.entry.stream, self.entry.images = ask.stream, ask.total_images
        self.sandbox.prompt_cache.bill(ask, self.entry.key)
        if cached := int(named.settings.get("cached", 0)):
            ask.cached_tokens = min(cached, ask.prompt_tokens)
        fault = self.fault
        if self.prompt_is_answered():
            return self.prompt_refused(ask)
        if fault is not None:
            twists.twist_ask(fault, ask)
        reply = mind.answer(ask, self.sandbox.next_call_id)
        if number := int(named.settings.get("chunks", 0)):
            reply.pieces = [" sandbox"] * min(number, MAX_PIECES)
            mind.count(ask, reply)
        if fault is not None and fault.name in faults.REPLY_TWISTS:
            twists.twist_reply(fault, reply)
        self.entry.tool_calls = len(reply.calls)
        return self.streamed(ask, reply, named) if ask.stream else self.whole(ask, reply)

    def prompt_refused(self, ask: Ask) -> Answer:
        value = GENERATE.prompt_refused(ask, self.stamp)
        if not ask.stream:
            return self.plain(value, Usage(prompt_tokens=ask.prompt_tokens))
        self.headers["content-type"] = EVENTS_TYPE
        return Answer(self.headers, body=sse(value), usage=Usage(prompt_tokens=ask.prompt_tokens))

    def check(self, ask: Ask, named: Named) -> None:
        """Check the request against the model's capabilities."""
        facts = BY_ID[named.base]
        if ask.total_images and "vision" not in facts.capabilities:
            raise Refused("400", f"The model `{named.base}` takes no images.", param="messages")
        if ask.prompt_tokens > (facts.context_window or 0):
            raise Refused("context", f"prompt is too long: {ask.prompt_tokens} tokens > {facts.context_window} maximum")
        most = facts.max_output_tokens or 0
        if ask.max_tokens is not None and ask.max_tokens > most:
            raise Refused("400", f"max_tokens: this model gives at most {most}.", param="max_tokens")
        ask.max_tokens = ask.max_tokens or most
        if "reasoning" not in facts.capabilities:
            ask.thinking = False
        elif named.base == "sandbox-reasoner" and self.wire.name != "messages":
            ask.thinking = True

    def whole(self, ask: Ask, reply: Reply) -> Answer:
        value = self.wire.whole(ask, reply, self.stamp)
        fault = self.fault
        if fault is not None and fault.name == "error-event":
            value = self.wire.failure(failure_of(Refused("500")), self.stamp)[1]
        if fault is not None and fault.name in (faults.BODY_TWISTS | faults.REPLY_TWISTS):
            return Answer(self.headers, body=twists.twist_body(fault, value), usage=reply.usage)
        return Answer(self.headers, body=orjson.dumps(value), usage=reply.usage)

    def streamed(self, ask: Ask, reply: Reply, named: Named) -> Answer:
        frames = self.wire.frames(ask, reply, self.stamp)
        if self.fault is not None:
            twists.twist_frames(self.fault, frames, self.wire, reply, self.stamp)
        if self.wire.name == "generate" and self.request.query.get("alt") != "sse":
            chunks = [frame[6:].strip() for frame in (*frames.head, *frames.content, *frames.tail)]
            return Answer(self.headers, body=b"[" + b",\n".join(chunks) + b"]", usage=reply.usage)
        self.headers["content-type"] = EVENTS_TYPE
        self.headers["cache-control"] = "no-cache"
        pace_ms = named.settings.get("delay", PACE_MS.get(named.base, self.sandbox.options.delay_ms))
        return Answer(self.headers, frames=frames, usage=reply.usage, pace_s=pace_ms / 1000)

    def refusal(self, failure: Failure) -> Answer:
        status, value = self.wire.failure(failure, self.stamp)
        if failure.retry_after:
            self.headers["retry-after"] = failure.retry_after
        return Answer(self.headers, status=status, body=orjson.dumps(value))

    def error_200(self, answer: Answer) -> None:
        """An error with status 200; in a stream it is the only event."""
        failure = failure_of(Refused("500"))
        if answer.frames is not None:
            answer.body = self.wire.failure_frame(failure, self.stamp)
        else:
            answer.body = orjson.dumps(self.wire.failure(failure, self.stamp)[1])
        answer.frames = None
