"""Describes alerts for a banner, with what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials.models import Alert, UserCredential
from llm_credentials.notices.alerts import this_month
from llm_credentials.notices.kinds import Kind

SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Banner:
    id: UUID
    at: datetime
    kind: str
    meaning: str
    """``broken`` or ``attention``."""
    words: str
    action: str
    url: str


def banners_of(user: Any, most: int = SHOWN) -> list[Banner]:
    """The latest alerts that still hold and were not dismissed. One query."""
    alerts = Alert.objects.for_user(user).filter(dismissed_at__isnull=True).holding(this_month())
    found = [_banner(alert) for alert in alerts.select_related("credential").order_by("-at")[:most]]
    if any(alert.meaning == "broken" for alert in found):
        found.sort(key=lambda banner: banner.meaning != "broken")
    return found


def dismiss(alert: Alert) -> None:
    """Hidden until the next change; a change made meanwhile stays visible."""
    Alert.objects.filter(pk=alert.pk, at=alert.at).update(dismissed_at=timezone.now())


def _banner(alert: Alert) -> Banner:
    meaning, words, action, url = _told(alert, Kind(alert.kind))
    return Banner(id=alert.pk, at=alert.at, kind=alert.kind, meaning=meaning, words=words, action=action, url=url)


def _told(alert: Alert, kind: Kind) -> tuple[str, str, str, str]:
    key = alert.credential
    facts = {"key": _name(key), "provider": key.provider_label if key else "", "detail": _(alert.detail)}
    match kind:
        case Kind.KEY_REFUSED:
            words = _("%(provider)s refused your key %(key)s. Revoked? Make a new one and enter it.") % facts
            return "broken", words, _("Enter another key"), _card(key)
        case Kind.KEY_SPENT:
            words = _("Your key %(key)s has no credit or quota left at %(provider)s.") % facts
            return "attention", words, _("Open the key"), _card(key)
        case Kind.KEY_NEEDS_REENTRY:
            words = _("Your key %(key)s can no longer be opened here. Nothing else is lost.") % facts
            return "broken", words, _("Enter it again"), _card(key)
        case Kind.KEY_LIMITED:
            words = _("%(provider)s closes a region, model or feature to your key %(key)s. It stays in use.") % facts
            return "attention", words, _("Choose another model"), _card(key)
        case Kind.BUDGET_WARNED:
            words = _("This month's budget is nearly used up: %(detail)s.") % facts
            return "attention", words, _("See usage"), reverse("llm_credentials:usage-detail")
        case Kind.BUDGET_USED_UP:
            words = _("This month's budget is used up: %(detail)s.") % facts
            return "broken", words, _("Change the budget"), reverse("llm_credentials:usage-detail") + "#budget"
        case Kind.WEBHOOK_OFF:
            words = _("Your webhook was switched off. %(detail)s") % facts
            return "attention", words, _("See alerts"), reverse("llm_credentials:alert-settings")
        case _:
            raise ValueError(f"{kind} is shown on no page")


def _name(key: UserCredential | None) -> str:
    if key is None:
        return ""
    return f"{key.name} {key.masked}".strip() if key.name != "default" else key.masked


def _card(key: UserCredential | None) -> str:
    if key is None:
        return reverse("llm_credentials:provider-list")
    query = "" if key.name == "default" else f"?name={key.name}"
    return reverse("llm_credentials:credential-edit", args=[key.provider]) + query
