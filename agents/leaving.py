"""A user's conversations and runs, for the export of their data."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth.models import User

from agents.attachments import Attachment
from agents.expenses.models import Expense
from agents.models import AgentRun, Conversation, StoredMessage
from agents.parts import dump_parts
from agents.schedules import ScheduledRun
from agents.servers import MCPServer
from llm_credentials.leaving import exports, rows_of


def conversations(user: User) -> list[dict[str, Any]]:
    return rows_of(Conversation.objects.for_user(user).order_by("created_at"))


def messages(user: User) -> list[dict[str, Any]]:
    rows = StoredMessage.objects.for_user(user).order_by("created_at", "position")
    left_out = frozenset({"parts", "search_text", "begun", "paused"})
    return [
        said | {"parts": json.loads(dump_parts(row.parts))}
        for row, said in zip(rows, rows_of(rows, without=left_out), strict=True)
    ]


def runs(user: User) -> list[dict[str, Any]]:
    return rows_of(AgentRun.objects.for_user(user).order_by("created_at"), without=frozenset({"paused"}))


def schedules(user: User) -> list[dict[str, Any]]:
    return rows_of(ScheduledRun.objects.for_user(user).order_by("created_at"))


def files(user: User) -> list[dict[str, Any]]:
    """Metadata and where to fetch each file; their contents are too large for one document."""
    rows = Attachment.objects.for_user(user).without_content().order_by("created_at")
    return [
        said | {"content_url": row.get_absolute_url()}
        for row, said in zip(rows, rows_of(rows, without=frozenset({"content"})), strict=True)
    ]


def tool_servers(user: User) -> list[dict[str, Any]]:
    """With the names of their headers and their tools."""
    servers = MCPServer.objects.for_user(user).order_by("created_at").prefetch_related("tools")
    return [
        said | {"tools": [{"name": tool.name, "asks": tool.asks, "usable": tool.is_usable} for tool in row.tools.all()]}
        for row, said in zip(servers, rows_of(servers, without=frozenset({"headers"})), strict=True)
    ]


def expenses(user: User) -> list[dict[str, Any]]:
    """With their lines."""
    rows = Expense.objects.for_user(user).order_by("date").prefetch_related("lines")
    return [
        said | {"lines": rows_of(row.lines.all(), without=frozenset({"id", "expense"}))}
        for row, said in zip(rows, rows_of(rows, without=frozenset({"search_text"})), strict=True)
    ]


def register() -> None:
    exports("conversations", conversations)
    exports("messages", messages)
    exports("runs", runs)
    exports("files", files)
    exports("schedules", schedules)
    exports("tool_servers", tool_servers)
    exports("expenses", expenses)
