"""Writes events."""

from __future__ import annotations

import structlog
from asgiref.sync import sync_to_async

from llm_credentials import keyring
from llm_credentials.audit import chain
from llm_credentials.audit.context import circumstances
from llm_credentials.audit.words import Action

log = structlog.get_logger(__name__)


def record(
    *,
    action: Action,
    subject: str = "",
    target: str = "",
    result: str = "ok",
    actor: str | None = None,
) -> None:
    """Write an event. ``actor``: None = the caller; ids as text. Raises KeyringError and AuditUnavailable; the
    announced action must not happen then.
    """
    now = circumstances()
    chain.write(
        chain.draft(
            action=str(action),
            actor=now.actor or "" if actor is None else actor,
            subject=subject,
            target=target,
            result=result,
            ip=now.ip,
            request_id=now.request_id,
            channel=now.channel,
        )
    )


arecord = sync_to_async(record)
"""Runs on this task's database thread."""


def note(*, action: Action, subject: str = "", target: str = "", result: str = "ok", actor: str | None = None) -> None:
    """As ``record``, for actions that must work without a usable key ring: deleting, leaving, logging in.

    Without a ring no key can be opened and an unsigned event would prove nothing, so the event goes to the log instead.
    """
    try:
        record(action=action, subject=subject, target=target, result=result, actor=actor)
    except keyring.KeyringError:
        log.error("audit_not_signed", action=str(action), subject=subject, target=target, result=result)
