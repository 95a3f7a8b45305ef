"""Accounts in the admin: what staff do to one is written down, by the names of what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db import models, transaction
from django.http import HttpRequest

from llm_credentials.audit import Action, note, target_of

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin

admin.site.site_header = admin.site.site_title = f"{settings.SITE_NAME} administration"
admin.site.index_title = "Everything of this site"
admin.site.unregister(User)


@admin.register(User)
class AuditedUserAdmin(_UserAdmin):
    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            # Fields of passwords are named "password1" and so on; their values are nowhere here.
            changed = target_of("account", ",".join(sorted(form.changed_data)))
            action = Action.ACCOUNT_CHANGE if change else Action.ACCOUNT_CREATE
            note(action=action, subject=str(obj.pk), target=changed if change else "")

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:
        """Somebody else's password, set by staff."""
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            note(action=Action.PASSWORD_CHANGE, subject=id)
        return response

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        subject = str(obj.pk)
        with transaction.atomic():
            super().delete_model(request, obj)
            note(action=Action.ACCOUNT_DELETE, subject=subject)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[User]) -> None:
        with transaction.atomic():
            for user in queryset:
                self.delete_model(request, user)
