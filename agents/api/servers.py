"""``/api/tool-servers``: servers that speak the Model Context Protocol, and which of their tools may be used."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import Field

from agents import servers
from agents.api.shared import ACTING, READING, caller
from agents.servers import MCPServer, MCPTool
from agents.tools import mcp
from llm_credentials import limits
from llm_credentials.api.auth import ApiRequest
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.values import Flag

router = Router()


class ToolOut(Schema):
    id: UUID
    name: str
    description: str = Field(description="The server's own words.")
    parameters: dict[str, Any] = Field(description="The JSON Schema of its arguments, as the server gives it.")
    fingerprint: str = Field(description="Of all that the server says of the tool; an approval names it.")
    state: str = Field(description="`approved`, `new`, `changed` (approved in other words) or `gone`.")
    asks: bool = Field(description="Whether you are asked before each call.")


class ServerOut(Schema):
    id: UUID
    name: str
    url: str
    program: str
    header_names: list[str]
    problem: str
    checked_at: datetime | None
    tools: list[ToolOut]


class ServerList(Schema):
    items: list[ServerOut]
    count: int


class ServerIn(StrictSchema):
    name: str = Field(max_length=20)
    url: str = Field("", max_length=2048)
    program: str = Field("", max_length=50, description="One that this site offers, instead of an address.")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with every request; never given back.")


class ApproveIn(StrictSchema):
    fingerprint: str = Field(max_length=64)
    asks: Flag = True


def tool_out(tool: MCPTool) -> ToolOut:
    state = "approved" if tool.is_usable else "gone" if not tool.is_listed else "changed" if tool.approved else "new"
    plain = {name: getattr(tool, name) for name in ("id", "name", "description", "fingerprint", "asks")}
    return ToolOut(**plain, parameters=tool.schema, state=state)


def server_out(server: MCPServer) -> ServerOut:
    names = ("id", "name", "url", "program", "header_names", "problem", "checked_at")
    return ServerOut(
        **{name: getattr(server, name) for name in names}, tools=[tool_out(tool) for tool in server.tools.all()]
    )


def _find(request: ApiRequest, server_id: UUID) -> MCPServer:
    return get_object_or_404(MCPServer.objects.for_user(caller(request)), pk=server_id)


@router.get("", response={200: ServerList, **REFUSALS}, url_name="server_list", auth=READING)
def server_list(request: ApiRequest) -> dict[str, Any]:
    rows = MCPServer.objects.for_user(caller(request)).order_by("name").prefetch_related("tools")
    items = [server_out(row) for row in rows]
    return {"items": items, "count": len(items)}


@router.post("", response={201: ServerOut, **REFUSALS}, url_name="server_create", auth=ACTING)
def server_create(request: ApiRequest, payload: ServerIn) -> Any:
    """Connect it and list its tools; none of them is used before it is approved. `problem` says what went wrong."""
    limits.admit("chat", request.user)
    server = servers.server_create(user=caller(request), **payload.dict())
    return Status(201, _refreshed(server))


@router.post("/{uuid:server_id}/refresh", response={200: ServerOut, **REFUSALS}, url_name="server_refresh", auth=ACTING)
def server_refresh(request: ApiRequest, server_id: UUID) -> ServerOut:
    limits.admit("chat", request.user)
    return _refreshed(_find(request, server_id))


def _refreshed(server: MCPServer) -> ServerOut:
    async_to_sync(mcp.refresh)(server)
    server.refresh_from_db()
    return server_out(server)


@router.delete("/{uuid:server_id}", response={204: None, **REFUSALS}, url_name="server_delete", auth=ACTING)
def server_delete(request: ApiRequest, server_id: UUID) -> Any:
    servers.server_delete(user=caller(request), server_id=_find(request, server_id).pk)
    return HttpResponse(status=204)


@router.post("/tools/{uuid:tool_id}/approve", response={200: ToolOut, **REFUSALS}, url_name="tool_approve", auth=ACTING)
def tool_approve(request: ApiRequest, tool_id: UUID, payload: ApproveIn) -> ToolOut:
    """Approve the very words that you have read, by their fingerprint."""
    tool = get_object_or_404(MCPTool.objects.for_user(caller(request)), pk=tool_id)
    return tool_out(servers.tool_approve(user=caller(request), tool_id=tool.pk, **payload.dict()))


@router.post(
    "/tools/{uuid:tool_id}/withdraw", response={200: ToolOut, **REFUSALS}, url_name="tool_withdraw", auth=ACTING
)
def tool_withdraw(request: ApiRequest, tool_id: UUID) -> ToolOut:
    tool = get_object_or_404(MCPTool.objects.for_user(caller(request)), pk=tool_id)
    servers.tool_withdraw(user=caller(request), tool_id=tool.pk)
    tool.refresh_from_db()
    return tool_out(tool)
