"""Turns an event into a mail to the owner."""

from __future__ import annotations

from collections.abc import Mapping
from smtplib import SMTPException
from typing import Any, Final

import structlog
from celery import current_app
from django.contrib.auth import get_user_model
from django.db import transaction
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from llm_credentials.audit.context import address_now, circumstances
from llm_credentials.notices.kinds import Kind
from llm_credentials.notices.mails import mail_send
from llm_credentials.valkey import QUEUE_AWAY

log = structlog.get_logger(__name__)

TASK: Final = "llm_credentials.notice"
MAIL_FAILURES: Final = (SMTPException, OSError)
"""What a mail server that is down or refuses raises."""


def notify(user_id: Any, kind: Kind, **facts: str) -> None:
    """Mail the user that this happened to their key or account. Never raises.

    A worker sends the mail after commit, or this process if the broker is down. ``facts`` are the template's variables
    for ``kind``, short and never secret: of a key at most ``provider`` (its label), ``name`` and ``last4``; ``to``
    replaces the user's current address. Actor, time and origin are added from the context. Example:
    ``notify(row.user_id, Kind.KEY_NEEDS_REENTRY, **key_facts(row))``.
    """
    told = {name: " ".join(str(value).split())[:200] for name, value in facts.items()}
    if kind.was_done_by_somebody:
        told |= _circumstances(str(user_id))
    transaction.on_commit(lambda: _hand_over(user_id, kind, told), robust=True)


def _circumstances(user_id: str) -> dict[str, str]:
    now = circumstances()
    if now.actor == user_id:
        by = "you"
    elif now.actor:
        by = "staff"
    else:
        by = "somebody" if now.channel in ("page", "api", "gateway") else "site"
    return {
        "at": f"{date_format(timezone.now(), 'DATETIME_FORMAT')} UTC",
        "by": by,
        "through": now.channel,
        # Owners do not learn the location of staff.
        "ip": "" if by == "staff" else address_now(),
    }


def _hand_over(user_id: Any, kind: Kind, facts: Mapping[str, str]) -> None:
    try:
        current_app.send_task(TASK, args=(user_id, kind.value, dict(facts)), retry=False)
    except QUEUE_AWAY as problem:
        log.warning("notice_not_queued", kind=kind.value, error=type(problem).__name__)
        try:
            deliver(user_id, kind, facts)
        except MAIL_FAILURES as failure:
            log.error("notice_not_sent", kind=kind.value, user=str(user_id), error=type(failure).__name__)


def deliver(user_id: Any, kind: Kind, facts: Mapping[str, str]) -> bool:
    """Send the mail now. Returns whether there was a recipient. Raises one of ``MAIL_FAILURES``."""
    user = get_user_model()._default_manager.filter(pk=user_id).first()
    address = facts.get("to") or getattr(user, "email", "")
    if not address:
        return False
    shown = {**facts, "key": _key_words(facts)}
    mail_send(render_to_string(f"llm_credentials/mail/{kind.value}.txt", shown), to=address)
    return True


def _key_words(facts: Mapping[str, str]) -> str:
    """The owner's name for the key that a mail is about."""
    return (_("%(provider)s key “%(name)s”") if facts.get("name") else _("%(provider)s key")) % {
        "provider": facts.get("provider", ""),
        "name": facts.get("name", ""),
    }
