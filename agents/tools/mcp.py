"""The tools of a user's servers, over the Model Context Protocol: lists and calls them.

Every call opens its own session and first checks that the tool's description still matches the approved one.
Connections go through the outbound door under the policy for tools, which follows no redirects to other hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from agents import servers, without_servers
from agents.database import in_database
from agents.servers import MAX_DESCRIPTION_CHARS, MAX_SCHEMA_CHARS, MAX_TOOLS, Listed, MCPServer, MCPTool
from agents.texts import storable
from agents.tools import Tool, ToolError
from llm_credentials import egress
from llm_credentials.audit import AuditUnavailable
from llm_credentials.fields import Unreadable
from llm_credentials.providers import EgressBlocked, ToolDefinition, transport

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from mcp import Client

log = structlog.get_logger(__name__)

LIST_TIMEOUT_S: Final = 15.0
CALL_TIMEOUT_S: Final = 60.0
MAX_PAGES: Final = 10
MAX_RESULT_CHARS: Final = 16_000
REDACTED: Final = "[redacted]"


class ServerFailed(Exception):
    """The server failed; the text is our own and says what to do."""


async def tools_of(user: User) -> list[Tool]:
    """The tools that the user has approved, in their current form."""
    return [] if without_servers.is_known(user) else await in_database(_tools_of, user)


def _tools_of(user: User) -> list[Tool]:
    if without_servers.look(user):
        return []
    rows = MCPTool.objects.for_user(user).usable().select_related("server").order_by("server__name", "name")
    return [_tool(row) for row in rows]


def _tool(row: MCPTool) -> Tool:
    async def call(**arguments: Any) -> str:
        return await _call(row.pk, row.fingerprint, arguments)

    definition = ToolDefinition(name=row.full_name, description=row.description or row.name, parameters=row.schema)
    return Tool(definition=definition, function=call, access="network", approve=row.asks)


@sensitive_variables("headers")
async def refresh(server: MCPServer) -> str:
    """List the server's tools again; returns an error message, or an empty text."""
    try:
        headers = await in_database(_opened, server)
        async with _session(server, headers, LIST_TIMEOUT_S) as session:
            listed = await _list(session)
    except ServerFailed as failure:
        await in_database(servers.tools_not_listed, server, str(failure))
        return str(failure)
    await in_database(servers.tools_listed, server, listed)
    return ""


@sensitive_variables("headers")
async def _call(tool_id: UUID, fingerprint: str, arguments: dict[str, Any]) -> str:
    """Raises ToolError."""
    row = await in_database(MCPTool.objects.usable().select_related("server").filter(pk=tool_id).first)
    if row is None or row.fingerprint != fingerprint:
        raise ToolError("This tool was withdrawn by its user. Go on without it.")
    try:
        headers = await in_database(_opened, row.server)
        async with _session(row.server, headers, CALL_TIMEOUT_S) as session:
            listed = await _list(session)
            if fingerprint not in {each.fingerprint for each in listed}:
                await in_database(servers.tools_listed, row.server, listed)
                raise ToolError("The server has changed this tool. Its user has to approve it again; go on without it.")
            answer = await session.call_tool(row.name, arguments, CALL_TIMEOUT_S)
    except ServerFailed as failure:
        raise ToolError(str(failure)) from None
    text = _without_headers(_text(answer), headers)
    if answer.is_error:
        raise ToolError(text or "The tool failed and did not say why.")
    return text


@asynccontextmanager
async def _session(server: MCPServer, headers: Mapping[str, str], limit_s: float) -> AsyncIterator[Client]:
    """Raises ServerFailed for every failure of the server; passes on a ToolError raised within."""
    from mcp import Client  # takes a second to import, and most processes never need it

    try:
        async with asyncio.timeout(limit_s), AsyncExitStack() as stack:
            place = await _transport(server, headers)
            yield await stack.enter_async_context(Client(place, read_timeout_seconds=limit_s, cache=None))
    except (ToolError, ServerFailed):
        raise
    except Exception as error:
        inner = list(_leaves(error))
        for each in inner:
            if isinstance(each, ToolError):
                raise each from None
        log.info("tool_server_failed", server=str(server.pk), errors=[type(each).__name__ for each in inner][:5])
        raise ServerFailed(_words(inner)) from None


@sensitive_variables()
def _opened(server: MCPServer) -> dict[str, str]:
    """The headers to send. Raises ServerFailed."""
    try:
        return server.reveal()
    except Unreadable:
        words = "The headers of this server can no longer be opened. Remove it and connect it anew."
    except AuditUnavailable as error:
        words = error.user_message
    raise ServerFailed(words)


@sensitive_variables("headers")
async def _transport(server: MCPServer, headers: Mapping[str, str]) -> Any:
    from mcp import StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    if server.program:
        command = settings.MCP_STDIO_SERVERS.get(server.program)
        if not command:
            raise ServerFailed("This site no longer offers this program. Remove the server.")
        return StdioServerParameters(command=command[0], args=list(command[1:]))
    policy = await egress.apolicy("tools")
    return streamable_http_client(server.url, http_client=transport.http_client(policy, headers))


async def _list(session: Client) -> list[Listed]:
    found: list[Listed] = []
    cursor: str | None = None
    for _page in range(MAX_PAGES):
        page = await session.list_tools(cursor=cursor)
        found += [each for tool in page.tools if (each := _listed(tool)) is not None]
        cursor = page.next_cursor
        if not cursor or len(found) >= MAX_TOOLS:
            break
    return found[:MAX_TOOLS]


def _listed(tool: Any) -> Listed | None:
    """None for a tool that cannot be shown in full or described to a model."""
    description, schema = storable(tool.description or ""), tool.input_schema
    size = len(repr(schema))
    if len(description) > MAX_DESCRIPTION_CHARS or size > MAX_SCHEMA_CHARS or not 0 < len(tool.name) <= 128:
        return None
    if not isinstance(schema, dict) or schema.get("type") != "object" or storable(repr(schema)) != repr(schema):
        return None
    return Listed(name=storable(tool.name), description=description, schema=schema)


def _text(answer: Any) -> str:
    """The parts that a model can read; other parts are only named."""
    parts: list[str] = []
    for part in answer.content:
        if part.type == "text":
            parts.append(part.text)
        elif part.type == "resource" and hasattr(part.resource, "text"):
            parts.append(part.resource.text)
        else:
            parts.append(f"[{part.type} left out]")
    text = "\n".join(parts) or str(answer.structured_content or "")
    if len(text) > MAX_RESULT_CHARS:
        return f"{text[:MAX_RESULT_CHARS]}\n[{len(text) - MAX_RESULT_CHARS} more characters were left out]"
    return text


def _without_headers(text: str, headers: Mapping[str, str]) -> str:
    """Redacts the user's headers, in case a server echoes them to the model."""
    for value in headers.values():
        for secret in (value, value.rpartition(" ")[2]):
            if len(secret) >= 8:
                text = text.replace(secret, REDACTED)
    return text


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _words(errors: Sequence[BaseException]) -> str:
    for error in errors:
        if isinstance(error, EgressBlocked) or (refused := transport.refusal(error)):
            return str(error if isinstance(error, EgressBlocked) else refused)
    if any(isinstance(error, TimeoutError) for error in errors):
        return "The server did not answer in time."
    if any(transport.network_error(error) for error in errors):
        return "The server could not be reached at this address, or it sends calls elsewhere."
    return "The server did not answer as a tool server does. Look at its address and headers."
