"""Exports a user's data and deletes their account.

Other apps register their part of the export with ``exports``; their foreign keys delete their rows with the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final

from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.utils import timezone

from llm_credentials.audit import Action, note
from llm_credentials.ledger import writer
from llm_credentials.models import (
    Alert,
    AuditEvent,
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    SearchCredential,
    TaskOverride,
    UsageDay,
    UsageRecord,
    UserAllowance,
    UserCredential,
    Webhook,
    WebhookDelivery,
)
from llm_credentials.notices import Kind, notify
from llm_credentials.wall import open_for

Part = Callable[[User], Any]
_parts: dict[str, Part] = {}

NEVER: Final = frozenset(
    {"api_key", "fingerprint", "hash", "user", "claim", "mac", "previous", "key_id", "shard", "seq"}
)
"""Columns that are never exported: keys in any form, and values that only this site can use."""


def exports(name: str, part: Part) -> None:
    """Add ``part(user)`` (JSON values, dates, UUIDs, decimals) to every export under this name."""
    _parts[name] = part


def rows_of(rows: Iterable[models.Model], *, without: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Every exportable column of the rows."""
    return [
        {
            field.attname: getattr(row, field.attname)
            for field in row._meta.concrete_fields
            if field.name not in NEVER and field.name not in without
        }
        for row in rows
    ]


def account_export(*, user: User) -> dict[str, Any]:
    """Everything that this site stores about the user, but never a key."""
    note(action=Action.ACCOUNT_EXPORT, subject=str(user.pk))
    notify(user.pk, Kind.DATA_EXPORTED)
    writer.flush()
    own: Mapping[str, Any] = {
        "exported_at": timezone.now(),
        "account": {
            "username": user.username,
            "email": user.email,
            "email_addresses": list(EmailAddress.objects.filter(user=user).values("email", "verified", "primary")),
            "date_joined": user.date_joined,
            "last_login": user.last_login,
        },
        "credentials": rows_of(UserCredential.objects.for_user(user).in_order()),
        "search_credentials": rows_of(SearchCredential.objects.for_user(user).in_order()),
        "settings": rows_of(LLMSettings.objects.filter(user=user)),
        "task_overrides": rows_of(TaskOverride.objects.for_user(user)),
        "allowance": rows_of(UserAllowance.objects.filter(user=user), without=frozenset({"note"})),
        "access_tokens": rows_of(PersonalAccessToken.objects.for_user(user)),
        "connection_tests": rows_of(ConnectionTest.objects.for_user(user)),
        "alerts": rows_of(Alert.objects.for_user(user).order_by("at")),
        "webhook": rows_of(Webhook.objects.filter(user=user), without=frozenset({"secret"})),
        "webhook_deliveries": rows_of(WebhookDelivery.objects.filter(webhook__user=user).order_by("created_at")),
        "usage": rows_of(UsageRecord.objects.for_user(user).order_by("at")),
        "usage_by_day": rows_of(UsageDay.objects.for_user(user).order_by("day", "pk"), without=frozenset({"id"})),
        "audit_events": rows_of(AuditEvent.objects.for_user(user).recent_first(), without=frozenset({"actor"})),
    }
    return {**own, **{name: part(user) for name, part in _parts.items()}}


def account_delete(*, user: User) -> None:
    """Delete the account with all its keys, tokens, tests, conversations and runs; jobs that use them stop.

    Ledger and audit rows stay, but identify the user only by an id that no longer exists.
    """
    user_id = str(user.pk)
    sessions = list(UserSession.objects.filter(user=user).values_list("session_key", flat=True))
    # Deletion makes ledger rows ownerless, which row-level security forbids their owner to do.
    with open_for("deleting an account"), transaction.atomic():
        LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(User), object_id=user_id).delete()
        user.delete()
        note(action=Action.ACCOUNT_DELETE, actor=user_id, subject=user_id)
    store = import_module(settings.SESSION_ENGINE).SessionStore
    for session_key in sessions:
        store(session_key).delete()
