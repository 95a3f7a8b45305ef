"""Search, export and verification of the audit trail."""

from __future__ import annotations

import re
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from llm_credentials import keyring
from llm_credentials.admin.bases import ProvenChanges, ViewOnly
from llm_credentials.audit import Action, record, target_of
from llm_credentials.audit.export import Format, lines
from llm_credentials.audit.verify import check, last_check
from llm_credentials.models import AuditEvent
from llm_credentials.templatetags.keyswitch import pill

_KINDS: Final[dict[str, tuple[Any, tuple[str, ...]]]] = {
    "keys": (_("Keys"), ("key.", "credential.", "test.")),
    "logins": (_("Logins and accounts"), ("login", "logout", "password.", "factor.", "account.", "access.")),
    "tokens": (_("Access tokens"), ("token.",)),
    "site": (_("The site"), ("config.", "egress.", "ring.", "settings.", "webhook.")),
    "audit": (_("The trail itself"), ("audit.",)),
}
"""Groups of actions by name prefix. A fixed list, because listing the values in use would need a table scan."""
_RESULTS: Final = {"ok": _("Done"), "other": _("Refused or failed")}
_CHANNELS: Final = {
    "page": _("Browser"),
    "api": _("API"),
    "gateway": _("Gateway"),
    "job": _("Background job"),
    "python": _("Server"),
}


class KindFilter(admin.SimpleListFilter):
    title = _("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, label) for name, (label, _prefixes) in _KINDS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        if self.value() is None:
            return queryset
        _label, prefixes = _KINDS.get(str(self.value()), ("", ()))
        return queryset.filter(action__in=[each for each in Action.values if each.startswith(prefixes)])


class ActionFilter(admin.SimpleListFilter):
    title = _("action")
    parameter_name = "action_is"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return sorted(Action.choices, key=lambda choice: str(choice[1]))

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset if self.value() is None else queryset.filter(action=self.value())


class ResultFilter(admin.SimpleListFilter):
    title = _("result")
    parameter_name = "result_is"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(_RESULTS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        match self.value():
            case "ok":
                return queryset.filter(result="ok")
            case "other":
                return queryset.exclude(result="ok")
            case _:
                return queryset


class ChannelFilter(admin.SimpleListFilter):
    title = _("way in")
    parameter_name = "channel_is"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(_CHANNELS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset if self.value() is None else queryset.filter(channel=self.value())


class NamedEvents(ChangeList):
    """Loads the users of the shown events, for accounts that still exist."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        events = list(self.result_list)
        ids = {each for event in events for each in (event.actor, event.subject) if each.isdecimal()}
        users = get_user_model()._default_manager.in_bulk(list(ids))
        for event in events:
            event.users = users
        self.result_list = events


@admin.register(AuditEvent)
class AuditEventAdmin(ViewOnly, ProvenChanges):
    """Read-only for everybody; the database refuses changes that bypass this."""

    proven_actions = ("export_json_lines", "export_csv")
    change_list_template = "admin/llm_credentials/auditevent/change_list.html"
    list_display = ("moment", "what", "who", "whose", "target", "outcome", "way_in", "ip")
    list_filter = (ResultFilter, KindFilter, ("at", admin.DateFieldListFilter), ChannelFilter, ActionFilter)
    search_fields = ("=actor", "=subject", "target", "=request_id")
    search_help_text = _("A user's name or id, an inner part of a target, or the id of a request.")
    ordering = ("-at", "-seq", "shard")
    list_per_page = 50
    show_full_result_count = False
    fields = (
        *("id", "at", "what", "action", "actor", "subject", "target", "result", "ip", "request_id", "channel"),
        *("shard", "seq", "key_id", "previous", "mac"),
    )
    actions = ("export_json_lines", "export_csv")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NamedEvents

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEvent], search_term: str
    ) -> tuple[QuerySet[AuditEvent], bool]:
        """A user name is translated to the id that events store."""
        user = get_user_model()._default_manager.filter(username=search_term).first() if search_term else None
        if user is None:
            found: tuple[QuerySet[AuditEvent], bool] = super().get_search_results(request, queryset, search_term)
            return found
        return queryset.filter(Q(actor=str(user.pk)) | Q(subject=str(user.pk))), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        request.GET = _with_zone(request.GET)  # type: ignore[assignment]
        kept = [(name, value) for name, value in request.GET.items() if name not in ("at__gte", "at__lt", "p")]
        extra = {
            "last_check": last_check(),
            "since": request.GET.get("at__gte", "")[:10],
            "before": request.GET.get("at__lt", "")[:10],
            "kept": kept,
        }
        return super().changelist_view(request, extra | (extra_context or {}))

    @admin.display(description=_("when"), ordering="at")
    def moment(self, event: AuditEvent) -> str:
        return f"{event.at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description=_("what"), ordering="action")
    def what(self, event: AuditEvent) -> str:
        return str(Action(event.action).label) if event.action in Action.values else event.action

    @admin.display(description=_("who"), ordering="actor")
    def who(self, event: Any) -> str:
        return _name(event, event.actor) if event.actor else gettext("the site")

    @admin.display(description=_("whose"), ordering="subject")
    def whose(self, event: Any) -> str:
        return gettext("the site's") if event.subject == "system" else _name(event, event.subject)

    @admin.display(description=_("result"), ordering="result")
    def outcome(self, event: AuditEvent) -> str:
        good = event.result in ("ok", "on", "off", "holds", "removed") or event.result.startswith("moved")
        return pill("valid" if good else "attention", event.result)

    @admin.display(description=_("way in"), ordering="channel")
    def way_in(self, event: AuditEvent) -> str:
        return str(_CHANNELS.get(event.channel, event.channel))

    @admin.action(description=_("Export the selected events as JSON Lines"), permissions=["view"])
    def export_json_lines(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "jsonl", "application/jsonl")

    @admin.action(description=_("Export the selected events as CSV"), permissions=["view"])
    def export_csv(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "csv", "text/csv; charset=utf-8")

    @staticmethod
    def _exported(queryset: QuerySet[AuditEvent], form: Format, content_type: str) -> HttpResponse:
        record(action=Action.AUDIT_EXPORT, subject="system", target=target_of("events", form))
        response = HttpResponse(lines(queryset, form), content_type=content_type)
        response["Content-Disposition"] = f'attachment; filename="audit-events.{form}"'
        return response

    def get_urls(self) -> list[URLPattern]:
        page = path("verify/", self.admin_site.admin_view(self.verify_view), name="llm_credentials_audit_verify")
        return [page, *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """Verifies every chain, as ``audit_verify`` does."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect("../")
        context = self.admin_site.each_context(request) | {"title": gettext("Audit chain"), "opts": self.opts}
        try:
            context |= {"report": check()}
        except keyring.KeyringError as error:
            context |= {"problem": f"{error} {error.hint}"}
        return TemplateResponse(request, "admin/llm_credentials/auditevent/verify.html", context)


def _name(event: Any, user_id: str) -> str:
    """The user name, or the id if the account no longer exists."""
    user = event.users.get(int(user_id)) if user_id.isdecimal() else None
    return user.get_username() if user is not None else user_id


def _with_zone(query: QueryDict) -> QueryDict:
    """Interprets the form's days as UTC."""
    found = query.copy()
    for name in ("at__gte", "at__lt"):
        day = str(found.get(name, ""))
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", day):
            found[name] = f"{day} 00:00:00+00:00"
    return found
