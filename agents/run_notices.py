"""Notifies a user once that a run has ended: by mail, by webhook, or both, as the user chose."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.template.loader import render_to_string
from django.utils import timezone

from agents.models import AgentRun
from agents.registry import UnknownAgent, get_agent
from llm_credentials import webhooks
from llm_credentials.notices.mails import mail_send
from llm_credentials.notices.sending import MAIL_FAILURES

logger = logging.getLogger(__name__)

EVENT = "run_ended"
WAITS = "run_waits"


def tell(run_id: UUID) -> bool:
    """Whether a notification was sent by this call. Never fails the run."""
    run = AgentRun.objects.untold().select_related("user").filter(pk=run_id).first()
    # A conditional update claims the notification, because the task may be delivered twice.
    if run is None or not AgentRun.objects.filter(pk=run_id, told_at=None).update(told_at=timezone.now()):
        return False
    if not run.user.is_active:
        return False
    if run.webhook_when_done:
        webhooks.announce(run.user_id, EVENT, _facts(run))
    if run.mail_when_done and run.user.email:
        _mail(run)
    return True


def tell_waiting(run: AgentRun) -> None:
    """Notify the user that a run waits for approval; called once per pause."""
    if run.webhook_when_done:
        webhooks.announce(run.user_id, WAITS, _facts(run))
    if run.mail_when_done and run.user.email and run.user.is_active:
        _mail(run)


def _facts(run: AgentRun) -> dict[str, Any]:
    """What leaves the site: that the run ended, never its input or output."""
    return {"run": str(run.pk), "agent": run.agent, "state": run.state, "error": (run.error or {}).get("class", "")}


def _mail(run: AgentRun) -> None:
    context = {"run": run, "agent": _title(run.agent), "error": (run.error or {}).get("user_message", "")}
    try:
        mail_send(render_to_string("agents/mail/run_ended.txt", context), to=run.user.email)
    except MAIL_FAILURES as failure:
        logger.error("a mail about a run could not be sent: %s", type(failure).__name__)


def _title(slug: str) -> str:
    try:
        return str(get_agent(slug).title)
    except UnknownAgent:
        return slug
