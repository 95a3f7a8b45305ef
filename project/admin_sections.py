"""Groups the admin's pages by task instead of by app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Words: TypeAlias = str | Promise


@dataclass(frozen=True)
class Page:
    """A page that is not a model's list."""

    title: Words
    url_name: str
    permission: str = ""
    """Empty: any staff."""


SECTIONS: Final[tuple[tuple[str, Words, tuple[str | Page, ...]], ...]] = (
    (
        "watch",
        _("At work"),
        (
            Page(_("Health"), "admin:health"),
            Page(_("Usage of everybody"), "admin:llm_credentials_usage", "llm_credentials.view_usagerecord"),
            *("llm_credentials.AuditEvent", "llm_credentials.UsageRecord", "llm_credentials.ConnectionTest"),
            *("agents.AgentRun", "agents.Conversation"),
        ),
    ),
    (
        "site",
        _("The site's keys"),
        (
            Page(_("Models of this site"), "admin:llm_credentials_site_models", "llm_credentials.view_systemconfig"),
            *("llm_credentials.SystemCredential", "llm_credentials.SystemConfig"),
            Page(_("Encryption keys"), "admin:llm_credentials_key_ring", "llm_credentials.view_systemcredential"),
        ),
    ),
    (
        "rules",
        _("What users may"),
        ("llm_credentials.GroupPolicy", "llm_credentials.UserAllowance", "llm_credentials.EgressAllowance"),
    ),
    (
        "users",
        _("What users have"),
        ("llm_credentials.UserCredential", "llm_credentials.PersonalAccessToken", "llm_credentials.LLMSettings"),
    ),
    (
        "accounts",
        _("Accounts"),
        ("auth.User", "auth.Group", "account.EmailAddress", "mfa.Authenticator", "usersessions.UserSession"),
    ),
)


def sections(request: HttpRequest, apps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Regroups Django's app list, which has only what this user may see, into these sections."""
    rows = {f"{app['app_label']}.{model['object_name']}": model for app in apps for model in app["models"]}
    found = []
    for slug, title, entries in SECTIONS:
        if models := [row for entry in entries if (row := _row(request, entry, rows)) is not None]:
            found.append(_section(slug, title, models))
    if rows:
        found.append(_section("more", _("More"), list(rows.values())))
    _mark_current(request, [row for section in found for row in section["models"]])
    return found


def _mark_current(request: HttpRequest, rows: Iterable[dict[str, Any]]) -> None:
    """The row with the longest matching address: the site's own pages lie below lists."""
    here = [row for row in rows if row["admin_url"] and request.path.startswith(row["admin_url"])]
    for row in sorted(here, key=lambda row: -len(row["admin_url"]))[:1]:
        row["current"] = True


def _section(slug: str, title: Words, models: list[Any]) -> dict[str, Any]:
    url = reverse("admin:index")
    return {"name": title, "app_label": slug, "app_url": url, "has_module_perms": True, "models": models}


def _row(request: HttpRequest, entry: str | Page, rows: dict[str, Any]) -> Any:
    if isinstance(entry, str):
        return rows.pop(entry, None)
    user: Any = request.user
    if entry.permission and not user.has_perm(entry.permission):
        return None
    name = entry.url_name.partition(":")[2]
    return {"name": entry.title, "object_name": name, "admin_url": reverse(entry.url_name), "view_only": True}
