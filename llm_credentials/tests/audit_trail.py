"""Making an audit trail, and reaching past its guards."""

from __future__ import annotations

from typing import Any

from llm_credentials import audit
from llm_credentials.audit import Action, guard
from llm_credentials.models import AuditEvent


def record_events(count: int = 1, **said: Any) -> list[AuditEvent]:
    for number in range(count):
        audit.record(**{"action": Action.SETTINGS_CHANGE, "subject": "7", "target": f"settings:{number}"} | said)
    return list(AuditEvent.objects.order_by("shard", "seq"))


def past_the_guard(rows: Any) -> None:
    with guard.lifted():
        rows._raw_delete(rows.db)


def ring_of(settings: Any, text: str) -> None:
    settings.CREDENTIAL_KEYS = text
