"""The ASGI application for ``/v1``, beside Django's: no middleware, no sessions, tokens only."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

import structlog
from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections

from llm_credentials.audit import begin_call
from llm_credentials.gateway import addresses, calls, rates
from llm_credentials.gateway.callers import Caller, authenticate
from llm_credentials.gateway.errors import Refused, problem
from llm_credentials.gateway.http import Answer, Left, Receive, Request, Scope, Send, send_answer, until_left
from llm_credentials.gateway.relay import Wire
from llm_credentials.gateway.wires import chat, messages
from llm_credentials.ids import new_id
from llm_credentials.routing import snapshot_cache

log = structlog.get_logger(__name__)

Handler: TypeAlias = Callable[[Caller, Request], Awaitable[Answer]]
ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/v1/chat/completions": {"POST": calls.chat_completions},
    "/v1/messages": {"POST": calls.anthropic_messages},
    "/v1/messages/count_tokens": {"POST": calls.count_tokens},
    "/v1/embeddings": {"POST": calls.embeddings},
    "/v1/models": {"GET": calls.models},
    "/v1/models/*": {"GET": calls.model},
}
"""Every path of the gateway, by method; the test of access rules reads it too."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request.of(scope, receive)
    request_id = new_id().hex
    structlog.contextvars.bind_contextvars(request_id=request_id)
    if scope["path"] not in ROUTES:
        scope["path"] = addresses.mended(scope["path"])
    speaks_messages = scope["path"].startswith("/v1/messages") or b"anthropic-version" in request.headers
    wire: Wire = messages if speaks_messages else chat
    # Each vendor's SDK looks for the request id under its own header name.
    written = request_id.encode()
    headers = [(b"x-request-id", written), (b"request-id", written), (b"x-content-type-options", b"nosniff")]
    try:
        work = await _prepared(request, request_id)
    except Left:
        return
    except Exception as error:
        await send_answer(send, _refusal(error, wire), headers + _counted(request))
        return
    await until_left(receive, _serve(work, wire, send, headers + _counted(request)))


def _counted(request: Request) -> list[tuple[bytes, bytes]]:
    """The rate-limit headers, if this request was counted."""
    if request.usage is None:
        return []
    return [(name.lower().encode(), b"%d" % value) for name, value in request.usage.values]


async def _prepared(request: Request, request_id: str) -> Awaitable[Answer]:
    """The handler to await, after the caller is authenticated and the body is read. Raises Refused, Left."""
    path, method = request.scope["path"], request.scope["method"]
    methods = ROUTES.get(path) or (ROUTES["/v1/models/*"] if path.startswith(addresses.ONE_MODEL) else None)
    if methods is None:
        raise Refused(404, "not_found", addresses.unknown(path, ROUTES))
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        return _allowed(methods, method)
    caller = await authenticate(request)
    user_id, token_id = caller.token.user_id, caller.token.id
    begin_call(actor=str(user_id), token_id=token_id, request_id=request_id)
    loaded = snapshot_cache.find(caller.user) or await sync_to_async(snapshot_cache.load)(caller.user)
    policy_rates = loaded.snapshot.policy.rates.get(rates.KIND, ())
    request.usage = rates.admit(user_id, token_id, policy_rates)
    if method == "POST":
        await request.read()
    return handler(caller, request)


async def _allowed(methods: Collection[str], method: str) -> Answer:
    """The methods of this path: for OPTIONS, or as an error for another method."""
    allow = {"allow": ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])}
    if method == "OPTIONS":
        return Answer(b"", 204, headers=allow)
    raise Refused(405, "method_not_allowed", f"This address takes {', '.join(methods)} only.", headers=allow)


async def _serve(work: Awaitable[Answer], wire: Wire, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    try:
        answer = await work
    except Exception as error:
        if isinstance(error, DatabaseError):
            await sync_to_async(close_old_connections)()
        answer = _refusal(error, wire)
    await send_answer(send, answer, headers)


def _refusal(error: Exception, wire: Wire) -> Answer:
    said = problem(error)
    if said.status == 500:
        log.error("gateway_failed", error=type(error).__name__)
    headers = dict(said.headers or {})
    if said.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(said.retry_after_s)))
    if said.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Answer(wire.write_error(said.status, said.code, said.message, said.param), said.status, headers=headers)
