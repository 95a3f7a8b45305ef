"""A user's tool servers: connect one, read its tools' descriptions, approve them one by one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from agents import servers
from agents.servers import MCPServer, MCPTool
from agents.tools import mcp
from agents.views.answers import UserRequest, texts_of
from llm_credentials import limits

LIST = "agents/server_list.html"


@require_GET
@never_cache
@login_required
def server_list(request: UserRequest) -> HttpResponse:
    return _list(request)


@sensitive_post_parameters("headers")
@require_POST
@login_required
def server_create(request: UserRequest) -> HttpResponse:
    """Connect it and list its tools; none is used before it is approved."""
    typed = {name: request.POST.get(name, "").strip() for name in ("name", "url", "program")}
    try:
        limits.admit("chat", request.user)
        headers = servers.header_lines(request.POST.get("headers", ""))
        server = servers.server_create(user=request.user, headers=headers, **typed)
    except ValidationError as error:
        return _list(request, typed=typed, errors=texts_of(error), status=422)
    return _refreshed(request, server)


@require_POST
@login_required
def server_refresh(request: UserRequest, server_id: UUID) -> HttpResponse:
    limits.admit("chat", request.user)
    return _refreshed(request, get_object_or_404(MCPServer.objects.for_user(request.user), pk=server_id))


def _refreshed(request: UserRequest, server: MCPServer) -> HttpResponse:
    problem = async_to_sync(mcp.refresh)(server)
    if problem:
        messages.warning(request, _(problem))
    return redirect("agents:server-list")


@require_POST
@login_required
def server_delete(request: UserRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(MCPServer.objects.for_user(request.user), pk=server_id)
    servers.server_delete(user=request.user, server_id=server.pk)
    messages.success(request, _("The server was removed, with its headers."))
    return redirect("agents:server-list")


@require_POST
@login_required
def tool_approve(request: UserRequest, tool_id: UUID) -> HttpResponse:
    tool = get_object_or_404(MCPTool.objects.for_user(request.user), pk=tool_id)
    try:
        servers.tool_approve(
            user=request.user,
            tool_id=tool.pk,
            fingerprint=request.POST.get("fingerprint", ""),
            asks=request.POST.get("asks") == "on",
        )
    except ValidationError as error:
        messages.error(request, " ".join(texts_of(error)))
    return redirect("agents:server-list")


@require_POST
@login_required
def tool_withdraw(request: UserRequest, tool_id: UUID) -> HttpResponse:
    tool = get_object_or_404(MCPTool.objects.for_user(request.user), pk=tool_id)
    servers.tool_withdraw(user=request.user, tool_id=tool.pk)
    return redirect("agents:server-list")


def _list(
    request: UserRequest, *, typed: dict[str, str] | None = None, errors: list[str] | None = None, status: int = 200
) -> HttpResponse:
    context: dict[str, Any] = {
        "servers": MCPServer.objects.for_user(request.user).order_by("name").prefetch_related("tools"),
        "programs": sorted(settings.MCP_STDIO_SERVERS),
        "typed": typed or {},
        "errors": errors or [],
    }
    return render(request, LIST, context, status=status)
