"""Findings for the admin's start page. Staff see only findings whose page they may open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llm_credentials.audit.verify import last_check
from llm_credentials.ledger import budgets
from llm_credentials.models import Alert, SystemConfig, SystemCredential, environment_credentials
from llm_credentials.models.alerts import STATUS_OF
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices.alerts import this_month
from llm_credentials.templatetags.keyswitch import money
from project.vitals import Meaning, Vitals

CHECK_CHAIN_EVERY: Final = timedelta(days=7)
_BROKEN: Final = (LLMCredential.Status.INVALID, LLMCredential.Status.ERROR, LLMCredential.Status.NEEDS_REENTRY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A problem, and the page on which it can be solved."""

    meaning: Meaning
    words: str
    action: str
    url: str


def findings(request: HttpRequest, vitals: Vitals) -> list[Finding]:
    """Most severe first. One query for each finding that this user may see."""
    user: Any = request.user
    found: list[Finding] = []
    if user.has_perm("llm_credentials.view_systemcredential"):
        found += _site_keys()
    if user.has_perm("llm_credentials.view_usercredential"):
        found += _users_keys()
    if user.has_perm("llm_credentials.view_userallowance"):
        found += _allowance()
    if user.has_perm("llm_credentials.view_auditevent"):
        found += _chain()
    if user.has_perm("agents.view_agentrun"):
        found += _runs(vitals.failed_runs)
    if user.has_perm("auth.view_user"):
        found += _staff_without_factor()
    return sorted(found, key=lambda finding: finding.meaning != "broken")


def _list(model: str, query: str = "") -> str:
    return reverse(f"admin:{model}_changelist") + query


def _site_keys() -> Iterator[Finding]:
    place = _list("llm_credentials_systemcredential")
    stored = list(SystemCredential.objects.in_order())
    if not any(row.is_active for row in stored) and not environment_credentials():
        words = _("The site has no key of its own: whoever has none gets no answer.")
        yield Finding(meaning="attention", words=words, action=_("Settle the models"), url=_models_page())
    broken = [row for row in stored if row.is_active and row.shown_status in _BROKEN]
    for row in broken:
        told = {"key": str(row), "status": row.shown_status.label}
        yield Finding(
            meaning="broken",
            words=_("The site's key %(key)s: %(status)s.") % told,
            action=_("Open the key"),
            url=f"{place}{row.pk}/change/",
        )


def _models_page() -> str:
    return reverse("admin:llm_credentials_site_models")


def _users_keys() -> Iterator[Finding]:
    """Based on the alerts of keys that failed in use: there are few alerts, but many keys."""
    alerts = Alert.objects.holding(this_month()).filter(kind__in=STATUS_OF).values("kind").order_by("kind")
    for row in alerts.annotate(keys=Count("pk")):
        status, keys = STATUS_OF[row["kind"]], row["keys"]
        yield Finding(
            meaning="attention",
            words=_users_words(status, keys),
            action=_("See them"),
            url=_list("llm_credentials_usercredential", f"?status__exact={status}"),
        )


def _users_words(status: LLMCredential.Status, keys: int) -> str:
    match status:
        case LLMCredential.Status.INVALID:
            words = ngettext("%(n)d user's key is refused.", "%(n)d users' keys are refused.", keys)
        case LLMCredential.Status.NEEDS_REENTRY:
            words = ngettext("%(n)d user's key needs re-entry.", "%(n)d users' keys need re-entry.", keys)
        case _:
            words = ngettext("%(n)d user's key has no credit left.", "%(n)d users' keys have no credit left.", keys)
    return words % {"n": keys}


def _allowance() -> Iterator[Finding]:
    config = SystemConfig.objects.filter(category="llm", key="system_allowance").values_list("value", flat=True)
    limit = budgets.limits_from(None, config.first()).system_daily_total_usd
    if limit is None:
        return
    spent = budgets.spent_usd("total", None)
    if spent >= limit * budgets.WARN_FROM:
        words = _("%(spent)s of today's %(limit)s on the site's keys are used.")
        yield Finding(
            meaning="broken" if spent >= limit else "attention",
            words=words % {"spent": money(spent), "limit": money(limit)},
            action=_("See the allowances"),
            url=_list("llm_credentials_userallowance"),
        )


def _chain() -> Iterator[Finding]:
    last = last_check()
    place, action = _list("llm_credentials_auditevent"), _("Check the chain")
    if last is not None and last.result == "broken":
        words = _("The audit trail was found broken when it was last checked.")
        yield Finding(meaning="broken", words=words, action=action, url=place)
    elif last is None or last.at < timezone.now() - CHECK_CHAIN_EVERY:
        words = _("Nobody has checked the audit trail for a week.")
        yield Finding(meaning="attention", words=words, action=action, url=place)


def _runs(failed: int) -> Iterator[Finding]:
    if failed:
        words = ngettext("%(n)d run failed in the last 24 hours.", "%(n)d runs failed in the last 24 hours.", failed)
        place = _list("agents_agentrun", "?state__exact=failed")
        yield Finding(meaning="attention", words=words % {"n": failed}, action=_("See them"), url=place)


def _staff_without_factor() -> Iterator[Finding]:
    if not settings.REQUIRE_STAFF_MFA:
        return
    enrolled = Authenticator.objects.exclude(type=Authenticator.Type.RECOVERY_CODES).values("user_id")
    lacking = User.objects.filter(is_staff=True, is_active=True).exclude(pk__in=enrolled).count()
    if lacking:
        words = ngettext(
            "%(n)d member of staff has no second factor and is kept out.",
            "%(n)d members of staff have no second factor and are kept out.",
            lacking,
        )
        place = _list("auth_user", "?is_staff__exact=1")
        yield Finding(meaning="attention", words=words % {"n": lacking}, action=_("See staff"), url=place)
