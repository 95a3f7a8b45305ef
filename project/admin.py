"""Accounts in the admin. Every change by staff is audited by field name, and the account's owner is notified of changes
that could let somebody else in. Staff must re-authenticate first, because a new password, address or superuser would
bypass every other check.

Session keys and secrets of second factors, which would let somebody sign in as the user, are never shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allauth.account.admin import EmailAddressAdmin
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import models, transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from llm_credentials import stepup
from llm_credentials.admin.bases import (
    AuditedChanges,
    AuditedConfiguration,
    AuditedRemoval,
    ModelAdmin,
    ProvenChanges,
    Trace,
    ViewOnly,
)
from llm_credentials.audit import Action, note, target_of
from llm_credentials.models import ConnectionTest
from llm_credentials.notices import Kind, notify
from project.roles import ROLES

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin

admin.site.site_header = admin.site.site_title = f"{settings.SITE_NAME} administration"
for _model in (User, Group, EmailAddress, Authenticator, UserSession):
    admin.site.unregister(_model)


@admin.register(User)
class AuditedUserAdmin(ProvenChanges, AuditedChanges, _UserAdmin):
    def trace_of_change(self, obj: User, form: Any, change: bool) -> Trace:
        # Names of changed fields only ("password1" etc.), never their values.
        target = target_of("account", ",".join(sorted(form.changed_data))) if change else ""
        action = Action.ACCOUNT_CHANGE if change else Action.ACCOUNT_CREATE
        return {"action": action, "subject": str(obj.pk), "target": target}

    def trace_of_removal(self, obj: User) -> Trace:
        return {"action": Action.ACCOUNT_DELETE, "subject": str(obj.pk)}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Connection tests are deleted with their owner; nobody deletes them separately."""
        deleted, counts, lacking, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, lacking - {ConnectionTest._meta.verbose_name}, protected

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        before = form.initial.get("email") if change else ""
        if before and "email" in form.changed_data:
            notify(obj.pk, Kind.EMAIL_CHANGED, to=before)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:
        """Staff set another user's password."""
        if self.has_change_permission(request) and not stepup.is_recent(request):
            return self._ask_proof(request)
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            note(action=Action.PASSWORD_CHANGE, subject=id)
            notify(id, Kind.PASSWORD_CHANGED)
        return response


@admin.register(Group)
class AuditedGroupAdmin(ProvenChanges, AuditedConfiguration, GroupAdmin):
    """The built-in groups can be assigned, but not changed."""

    list_display = ("name", "members")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        groups: models.QuerySet[Any] = super().get_queryset(request).annotate(member_count=models.Count("user"))
        return groups

    @admin.display(description=_("members"), ordering="member_count")
    def members(self, group: Any) -> int:
        return int(group.member_count)

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.name not in ROLES)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.name not in ROLES)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Deleting several at once, where Django only checks the model's permission."""
        deleted, counts, lacking, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, lacking, [*protected, *(group.name for group in objs if group.name in ROLES)]

    def trace_of(self, obj: Group) -> Trace:
        return {"action": Action.CONFIG_CHANGE, "subject": "system", "target": target_of("group", str(obj.pk))}


@admin.register(EmailAddress)
class AuditedEmailAddressAdmin(ProvenChanges, AuditedConfiguration, EmailAddressAdmin):  # type: ignore[misc]
    list_select_related = ("user",)
    proven_actions = ("delete_selected", "make_verified")

    @admin.action(description=_("Mark the selected addresses as verified"), permissions=["change"])
    def make_verified(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        for address in queryset.filter(verified=False):
            note(**self.trace_of(address))
        super().make_verified(request, queryset)

    def trace_of(self, obj: EmailAddress) -> Trace:
        return {"action": Action.ACCOUNT_CHANGE, "subject": str(obj.user_id), "target": target_of("account", "email")}


class Bearing(AuditedRemoval, ProvenChanges, ViewOnly):
    """Sessions and second factors: can be deleted, not changed."""

    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")


@admin.register(Authenticator)
class FactorAdmin(Bearing):
    list_display = ("user", "type", "created_at", "last_used_at")
    list_filter = ("type",)
    fields = list_display

    def trace_of_removal(self, obj: Authenticator) -> Trace:
        return {"action": Action.FACTOR_REMOVE, "subject": str(obj.user_id), "target": target_of("factor", obj.type)}

    def delete_model(self, request: HttpRequest, obj: Authenticator) -> None:
        with transaction.atomic():
            super().delete_model(request, obj)
            notify(obj.user_id, Kind.FACTOR_REMOVED, factor=obj.type)


class _Ending(ModelAdmin):
    """The base class that the auditing mixins call last."""

    def delete_model(self, request: HttpRequest, obj: UserSession) -> None:
        obj.end()


@admin.register(UserSession)
class SessionAdmin(Bearing, _Ending):
    list_display = ("user", "created_at", "last_seen_at", "ip", "user_agent")
    fields = list_display

    def trace_of_removal(self, obj: UserSession) -> Trace:
        return {"action": Action.LOGOUT, "subject": str(obj.user_id), "target": target_of("session")}
