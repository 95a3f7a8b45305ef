"""Describes events for the person whose keys they are about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.utils.translation import gettext as _

from llm_credentials.audit.words import Action
from llm_credentials.models import AuditEvent
from llm_credentials.providers import label_of

_OF_A_PROVIDER = ("credential", "test", "environment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    id: Any
    at: datetime
    action: str
    what: str
    about: str
    """The provider's name, or empty."""
    by: str
    """you, staff, somebody or the site; never the exact identity."""
    result: str
    channel: str
    through: str
    """The channel in words; empty for Python on the server."""
    ip: str
    """The network of origin; empty for other people's actions."""


def seen_by(user: AbstractBaseUser, event: AuditEvent) -> Seen:
    own = event.actor == str(user.pk)
    return Seen(
        id=event.pk,
        at=event.at,
        action=event.action,
        what=_what(event.action),
        about=_provider_of(event.target),
        by=_by(event, own=own),
        result=event.result,
        channel=event.channel,
        through=_through(event.channel),
        ip=event.ip if own or not event.actor else "",
    )


def _what(action: str) -> str:
    return str(Action(action).label) if action in Action.values else action


def _through(channel: str) -> str:
    words = {
        "page": _("in a browser"),
        "api": _("through the API"),
        "gateway": _("through the gateway"),
        "job": _("in a background job"),
    }
    return words.get(channel, "")


def _by(event: AuditEvent, *, own: bool) -> str:
    if own:
        return _("you")
    if event.action in (Action.LOGIN_FAILED, Action.ACCESS_DENIED):
        return _("somebody")
    return _("staff") if event.actor else _("the site")


def _provider_of(target: str) -> str:
    kind, _colon, rest = target.partition(":")
    if kind not in _OF_A_PROVIDER:
        return ""
    return label_of(rest.partition(":")[0])
