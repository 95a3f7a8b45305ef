"""Admin of conversations and runs: staff see that they exist, never their content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from agents.models import AgentRun, Conversation

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="id", ordering="id")
    def begin_of_id(self, row: Any) -> str:
        """The first part of the id, enough to tell rows apart."""
        return str(row.pk)[:8]


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    list_display = ("begin_of_id", "user", "agent", "message_count", "created_at", "updated_at")
    list_filter = ("agent",)
    search_fields = ("id", "user__username")
    fields = ("id", "user", "agent", "provider", "model", "message_count", "created_at", "updated_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        rows: QuerySet[Conversation] = super().get_queryset(request)
        return rows.select_related("user").annotate(message_count=Count("messages"))

    @admin.display(description="messages", ordering="message_count")
    def message_count(self, conversation: Any) -> int:
        return int(conversation.message_count)


@admin.register(AgentRun)
class AgentRunAdmin(ReadOnlyAdmin):
    list_display = ("begin_of_id", "user", "agent", "state", "attempts", "created_at", "finished_at")
    list_filter = ("state", "agent")
    search_fields = ("id", "user__username")
    fields = (
        *("id", "user", "agent", "provider", "model", "state", "error_class", "attempts"),
        *("created_at", "started_at", "finished_at", "heartbeat_at"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentRun]:
        rows: QuerySet[AgentRun] = super().get_queryset(request)
        return rows.select_related("user")

    @admin.display(description="error")
    def error_class(self, run: AgentRun) -> str:
        return str(run.error["class"]) if run.error else ""
