"""Accounts in the admin: what staff do to one is written down, by the names of what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest

from llm_credentials.admin.bases import AuditedChanges, Trace
from llm_credentials.audit import Action, note, target_of

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin

admin.site.site_header = admin.site.site_title = f"{settings.SITE_NAME} administration"
admin.site.index_title = "Everything of this site"
admin.site.unregister(User)


@admin.register(User)
class AuditedUserAdmin(AuditedChanges, _UserAdmin):
    def trace_of_change(self, obj: User, form: Any, change: bool) -> Trace:
        # Fields of passwords are named "password1" and so on; their values are nowhere here.
        target = target_of("account", ",".join(sorted(form.changed_data))) if change else ""
        action = Action.ACCOUNT_CHANGE if change else Action.ACCOUNT_CREATE
        return {"action": action, "subject": str(obj.pk), "target": target}

    def trace_of_removal(self, obj: User) -> Trace:
        return {"action": Action.ACCOUNT_DELETE, "subject": str(obj.pk)}

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:
        """Somebody else's password, set by staff."""
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            note(action=Action.PASSWORD_CHANGE, subject=id)
        return response
