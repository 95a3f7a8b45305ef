"""Tool servers that users connect (MCP), and which of their tools may be used.

A tool's name, description and schema are written by its server; they reach a model only after the user has read and
approved them. The approval is pinned by a hash: a tool whose description changes is not used until it is approved
again. Headers are sealed, bound to their address.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials import egress
from llm_credentials.audit import Action, note, target_of
from llm_credentials.audit.opening import announce
from llm_credentials.fields import SealedField, Unreadable
from llm_credentials.providers import EgressBlocked, transport

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MAX_SERVERS: Final = 10
MAX_TOOLS: Final = 100
"""Per server; further ones are ignored."""
MAX_DESCRIPTION_CHARS: Final = 2000
MAX_SCHEMA_CHARS: Final = 20_000
MAX_HEADERS: Final = 10
_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_RESERVED: Final = {"host", "content-length", "content-type", "accept", "connection", "transfer-encoding"}


class MCPServerQuerySet(models.QuerySet["MCPServer"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()


class MCPServer(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="mcp_servers")
    name = models.CharField(max_length=20)
    """Its tools are called ``<name>__<tool>``."""
    url = models.CharField(max_length=2048, blank=True, default="")
    """Empty for a program listed by staff."""
    program = models.CharField(max_length=50, blank=True, default="")
    """Key in ``settings.MCP_STDIO_SERVERS``; empty for a server with an address."""
    headers = SealedField(null=True, blank=True)
    header_names = models.JSONField(default=list)
    problem = models.CharField(max_length=300, blank=True)
    """Why its tools could not be listed the last time."""
    checked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = MCPServerQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="one_tool_server_a_name")]

    def __str__(self) -> str:
        return f"Tool server {self.pk}"

    def sealing_context(self, field: SealedField) -> str:
        return "|".join((f"{self._meta.db_table}.{field.column}", str(self.pk), str(self.user_id), "mcp", self.url))

    @sensitive_variables()
    def seal(self, headers: Mapping[str, str]) -> None:
        """Put the headers into the row, sealed for its current owner and address. Does not save."""
        self.headers = _headers_field().seal(self, json.dumps(dict(headers))) if headers else None
        self.header_names = sorted(headers)

    @sensitive_variables()
    def reveal(self) -> dict[str, str]:
        """Decrypt the headers, after writing an event to the audit trail. Raises Unreadable and AuditUnavailable."""
        if self.headers is None:
            return {}
        owner, target = str(self.user_id), target_of("tool_server", self.pk)
        if not announce(Action.HEADERS_OPEN, subject=owner, target=target, user_id=self.user_id):
            raise Unreadable
        found: dict[str, str] = json.loads(_headers_field().open(self, self.headers))
        return found


def _headers_field() -> SealedField:
    field = MCPServer._meta.get_field("headers")
    assert isinstance(field, SealedField)
    return field


class MCPToolQuerySet(models.QuerySet["MCPTool"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(server__user_id=user.pk) if user.is_authenticated else self.none()

    def usable(self) -> Self:
        """Approved in their current form, and listed by their server the last time."""
        return self.filter(is_listed=True, approved=F("fingerprint"))


class MCPTool(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    server = models.ForeignKey(MCPServer, on_delete=models.CASCADE, related_name="tools")
    name = models.CharField(max_length=128)
    description = models.TextField(blank=True)
    schema = models.JSONField(default=dict)
    fingerprint = models.CharField(max_length=64)
    """Hash of the current name, description and schema."""
    approved = models.CharField(max_length=64, blank=True, default="")
    """The fingerprint that the user approved."""
    asks = models.BooleanField(default=True)
    """Whether the user is asked before each call."""
    is_listed = models.BooleanField(default=True)

    objects = MCPToolQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["server", "name"], name="one_tool_a_name")]

    def __str__(self) -> str:
        return f"Tool {self.pk}"

    @property
    def is_usable(self) -> bool:
        return self.is_listed and self.approved == self.fingerprint

    @property
    def has_changed(self) -> bool:
        """Whether it differs from what was approved."""
        return bool(self.approved) and self.approved != self.fingerprint

    @property
    def full_name(self) -> str:
        """The tool's name for models: at most 64 letters, digits, ``_`` and ``-``, as every provider accepts."""
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", self.name)
        whole = f"{self.server.name}__{plain}"
        if plain == self.name and len(whole) <= 64:
            return whole
        return f"{whole[:55]}_{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A tool as its server describes it."""

    name: str
    description: str
    schema: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        said = json.dumps([self.name, self.description, self.schema], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


# Writes


@sensitive_variables()
def server_create(
    *, user: User, name: str, url: str = "", program: str = "", headers: Mapping[str, str] | None = None
) -> MCPServer:
    """Raises ValidationError by field. ``agents.tools.mcp.refresh`` lists its tools."""
    if not _NAME.fullmatch(name) or "__" in name:
        raise ValidationError({"name": [_("A name has up to 20 small letters, digits and _, a letter first.")]})
    if bool(url) == bool(program):
        raise ValidationError({"url": [_("Give the address of the server.")]})
    if program and program not in settings.MCP_STDIO_SERVERS:
        raise ValidationError({"program": [_("This site offers no program of this name.")]})
    server = MCPServer(user=user, name=name, url=_checked_url(url) if url else "", program=program)
    server.seal(_checked_headers(headers or {}) if url else {})
    with transaction.atomic():
        mine = MCPServer.objects.for_user(user)
        if mine.filter(name=name).exists():
            raise ValidationError({"name": [_("You have a server of this name already.")]})
        if mine.count() >= MAX_SERVERS:
            words = _("You have %(most)s servers, which is as many as fit. Remove one first.")
            raise ValidationError({"name": [words % {"most": MAX_SERVERS}]})
        server.save(force_insert=True)
        _note(server)
    return server


def _note(server: MCPServer, result: str = "connected") -> None:
    note(
        action=Action.TOOLS_CHANGE,
        subject=str(server.user_id),
        target=target_of("tool_server", server.pk),
        result=result,
    )


def _checked_url(url: str) -> str:
    blocked = ""
    try:
        return transport.check_url(url.strip(), egress.policy("tools"))
    except EgressBlocked as error:
        blocked = str(error)
    raise ValidationError({"url": [blocked]})


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > MAX_HEADERS:
        raise ValidationError({"headers": [_("At most %(most)s headers fit.") % {"most": MAX_HEADERS}]})
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _RESERVED or name.lower().startswith("mcp-"):
            raise ValidationError({"headers": [_("%(name)s is no header that can be set.") % {"name": name[:64]}]})
        if not value or len(value) > 4096 or not value.isascii() or not value.isprintable():
            words = _("The value of %(name)s is empty, too long, or has letters that no header carries.")
            raise ValidationError({"headers": [words % {"name": name}]})
    return dict(headers)


def header_lines(text: str) -> dict[str, str]:
    """``Name: value``, one per line. Raises ValidationError."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise ValidationError({"headers": [_("Write one header a line, as Name: value.")]})
        found[name.strip()] = value.strip()
    return found


def server_delete(*, user: User, server_id: UUID) -> None:
    with transaction.atomic():
        server = MCPServer.objects.for_user(user).get(pk=server_id)
        _note(server, "removed")
        server.delete()


def tools_listed(server: MCPServer, listed: Sequence[Listed]) -> None:
    """Store a server's current tools; a tool that differs from what was approved waits for its user."""
    with transaction.atomic():
        known = {tool.name: tool for tool in server.tools.select_for_update()}
        for each in {each.name: each for each in listed}.values():
            tool = known.pop(each.name, None) or MCPTool(server=server, name=each.name)
            tool.description, tool.schema = each.description, each.schema
            tool.fingerprint, tool.is_listed = each.fingerprint, True
            tool.save()
        MCPTool.objects.filter(pk__in=[tool.pk for tool in known.values()]).update(is_listed=False)
        MCPServer.objects.filter(pk=server.pk).update(checked_at=timezone.now(), problem="")


def tools_not_listed(server: MCPServer, problem: str) -> None:
    MCPServer.objects.filter(pk=server.pk).update(checked_at=timezone.now(), problem=problem[:300])


def tool_approve(*, user: User, tool_id: UUID, fingerprint: str, asks: bool) -> MCPTool:
    """Approve the version the user has read, not one that replaced it meanwhile. Raises ValidationError."""
    with transaction.atomic():
        tool = MCPTool.objects.for_user(user).select_for_update(of=("self",)).get(pk=tool_id)
        if tool.fingerprint != fingerprint or not tool.is_listed:
            raise ValidationError({"tool": [_("This tool has changed since you read it. Read it again.")]})
        tool.approved, tool.asks = fingerprint, asks
        tool.save(update_fields=["approved", "asks"])
        _note(tool.server, "approved")
    return tool


def tool_withdraw(*, user: User, tool_id: UUID) -> None:
    MCPTool.objects.filter(pk=MCPTool.objects.for_user(user).get(pk=tool_id).pk).update(approved="")
