"""What staff see: that a key is there and how it fares, never the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters

from llm_credentials import keyring, rotation, services, stepup
from llm_credentials.admin_site_models import site_model_urls
from llm_credentials.admin_usage import usage_urls
from llm_credentials.audit import Action, note, record, target_of
from llm_credentials.audit.export import Format, lines
from llm_credentials.audit.verify import verify
from llm_credentials.models import (
    AuditEvent,
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    SystemConfig,
    SystemCredential,
    UsageRecord,
    UserCredential,
    environment_credentials,
)
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts
from llm_credentials.policy_admin import GroupPolicyAdmin, UserAllowanceAdmin
from llm_credentials.providers import provider_choices
from llm_credentials.validation import clean_config, clean_priority

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    _CredentialForm = forms.ModelForm[SystemCredential]
    _ConfigForm = forms.ModelForm[SystemConfig]
else:
    _ModelAdmin = admin.ModelAdmin
    _CredentialForm = _ConfigForm = forms.ModelForm

__all__ = ["GroupPolicyAdmin", "UserAllowanceAdmin"]
"""Registered where they are defined."""

_KEY_COLUMNS = ("api_key", "fingerprint", "last4")


class KeylessLookups(_ModelAdmin):
    """No address of the admin may ask about a key, not even for its beginning."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        parts = lookup.split("__")
        if any(part in _KEY_COLUMNS for part in parts) or parts[0] == "hash":
            return False
        return super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]


class ViewOnly(KeylessLookups):
    """Shows the fields that it names, and none other."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MaskedKey(KeylessLookups):
    @admin.display(description="key")
    def masked_key(self, row: LLMCredential) -> str:
        return row.masked or "none"

    @admin.display(description="fingerprint")
    def short_fingerprint(self, row: LLMCredential) -> str:
        return row.fingerprint[:8]

    @admin.display(description="status", ordering="status")
    def status_now(self, row: LLMCredential) -> str:
        return str(row.shown_status.label)


class ProvenChanges(_ModelAdmin):
    """What changes keys, or carries data away, asks staff too to show who they are, before a form is filled."""

    proven_actions: tuple[str, ...] = ("delete_selected",)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        may = self.has_change_permission(request) if object_id else self.has_add_permission(request)
        if may and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if self.has_delete_permission(request) and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().delete_view(request, object_id, extra_context)

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        chosen = set(request.POST.getlist("action")) & set(self.proven_actions)
        if chosen and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().response_action(request, queryset, *args, **kwargs)

    def _ask_proof(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            text = "Nothing was done: your last confirmation is too long ago. Confirm that it is you, and do it again."
            self.message_user(request, text, messages.WARNING)
        return stepup.lead(request, request.get_full_path())


class AuditedRemoval(ProvenChanges):
    """Keys that staff remove leave an event, one by one or many at once, and their owners are told."""

    def delete_model(self, request: HttpRequest, obj: LLMCredential) -> None:
        with transaction.atomic():
            target, facts = services.credential_target(obj), key_facts(obj)
            super().delete_model(request, obj)
            note(action=Action.CREDENTIAL_DELETE, subject=obj.owner_ref(), target=target)
            if isinstance(obj, UserCredential):
                notify(obj.user_id, Kind.KEY_REMOVED, **facts)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        with transaction.atomic():
            for credential in queryset:
                self.delete_model(request, credential)


@admin.register(UserCredential)
class UserCredentialAdmin(ViewOnly, AuditedRemoval, MaskedKey):
    """Staff may look and delete. They cannot redirect or use a key that is not theirs."""

    list_display = (
        "user",
        "provider_label",
        "name",
        "masked_key",
        "model",
        "status_now",
        "is_active",
        "tested_at",
        "last_used_at",
    )
    list_filter = ("provider", "status", "is_active")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("user", "priority", "created_at")
    fields = (
        "id",
        "user",
        "provider",
        "name",
        "masked_key",
        "short_fingerprint",
        "base_url",
        "model",
        "options",
        "is_active",
        "priority",
        "status_now",
        "status_detail",
        "tested_at",
        "last_used_at",
        "request_count",
        "version",
        "created_at",
        "updated_at",
    )

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Whoever looks at another's record leaves a trace of it."""
        credential = self.get_object(request, object_id)
        if credential is not None and self.has_view_permission(request, credential):
            target = services.credential_target(credential)
            note(action=Action.CREDENTIAL_VIEW, subject=credential.owner_ref(), target=target)
        return super().change_view(request, object_id, *args, **kwargs)


class SystemCredentialForm(_CredentialForm):
    """The key goes in and never comes out; left empty, the stored one stays."""

    provider = forms.ChoiceField(choices=provider_choices)
    new_key = forms.CharField(
        label="API key",
        required=False,
        strip=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Leave empty to keep the stored key. A new address needs the key again.",
    )

    class Meta:
        model = SystemCredential
        fields = ("provider", "name", "base_url", "model", "options", "is_active", "priority")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            # The key was sealed for this provider; another provider is another credential.
            for name in {"provider", "name"} & self.fields.keys():  # none of them where one may only look
                self.fields[name].disabled = True

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        stored = None if self.instance._state.adding else SystemCredential.objects.filter(pk=self.instance.pk).first()
        try:
            services.credential_check(
                provider=cleaned["provider"], name=cleaned["name"], stored=stored, draft=self.draft(cleaned)
            )
        except ValidationError as error:
            for field, texts in error.message_dict.items():
                self.add_error("new_key" if field == "api_key" else field, texts)
        return cleaned

    def clean_priority(self) -> int:
        try:
            return clean_priority(self.cleaned_data["priority"])
        except ValidationError as error:
            raise ValidationError(error.messages) from None

    @staticmethod
    def draft(cleaned: dict[str, Any]) -> services.Draft:
        return services.Draft(
            api_key=cleaned["new_key"],
            model=cleaned["model"],
            base_url=cleaned["base_url"],
            options=cleaned["options"] or {},
        )


@admin.register(SystemCredential)
class SystemCredentialAdmin(AuditedRemoval, MaskedKey):
    form = SystemCredentialForm
    change_list_template = "admin/llm_credentials/systemcredential/change_list.html"
    list_display = (
        "provider_label",
        "name",
        "masked_key",
        "model",
        "status_now",
        "is_active",
        "priority",
        "last_used_at",
    )
    list_filter = ("provider", "status", "is_active")
    ordering = ("priority", "created_at")
    fields = (
        "provider",
        "name",
        "masked_key",
        "new_key",
        "base_url",
        "model",
        "options",
        "is_active",
        "priority",
        "status_now",
        "status_detail",
        "short_fingerprint",
        "version",
    )
    readonly_fields = ("masked_key", "status_now", "status_detail", "short_fingerprint", "version")

    @method_decorator(sensitive_post_parameters("new_key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ValidationError as error:
            # Valid when the form looked, and not any more: somebody else was faster, or the key ring is wrong.
            self.message_user(request, " ".join(error.messages), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        extra = {"environment_credentials": environment_credentials(), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def get_urls(self) -> list[URLPattern]:
        page = path("key-ring/", self.admin_site.admin_view(self.key_ring_view), name="llm_credentials_key_ring")
        return [page, *super().get_urls()]

    def key_ring_view(self, request: HttpRequest) -> HttpResponse:
        """How many rows are sealed under which encryption key, as ``rotate_credential_keys`` reports it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = self.admin_site.each_context(request) | {"title": "Encryption keys", "opts": self.opts}
        try:
            context |= {"figures": rotation.figures(), "ring": keyring.ring()}
        except keyring.KeyringError as error:
            context |= {"problem": f"{error} {error.hint}"}
        return TemplateResponse(request, "admin/llm_credentials/systemcredential/key_ring.html", context)

    def save_model(self, request: HttpRequest, obj: SystemCredential, form: Any, change: bool) -> None:
        draft = form.draft(form.cleaned_data)
        saved = services.system_credential_save(
            provider=obj.provider,
            name=obj.name,
            api_key=draft.api_key,
            model=draft.model,
            base_url=draft.base_url,
            options=draft.options,
            is_active=obj.is_active,
            priority=obj.priority,
        )
        obj.pk = saved.credential.pk
        obj._state.adding = False


class SystemConfigForm(_ConfigForm):
    class Meta:
        model = SystemConfig
        fields = ("category", "key", "value")

    def clean_value(self) -> Any:
        return clean_config(self.cleaned_data["value"])


@admin.register(SystemConfig)
class SystemConfigAdmin(KeylessLookups):
    form = SystemConfigForm
    change_list_template = "admin/llm_credentials/systemconfig/change_list.html"
    list_display = ("category", "key", "updated_at")
    list_filter = ("category",)
    ordering = ("category", "key")

    def get_urls(self) -> list[URLPattern]:
        return [*site_model_urls(self), *super().get_urls()]

    def save_model(self, request: HttpRequest, obj: SystemConfig, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            note(action=Action.CONFIG_CHANGE, subject="system", target=target_of("config", obj.category, obj.key))

    def delete_model(self, request: HttpRequest, obj: SystemConfig) -> None:
        target = target_of("config", obj.category, obj.key)
        with transaction.atomic():
            super().delete_model(request, obj)
            note(action=Action.CONFIG_CHANGE, subject="system", target=target, result="removed")

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        with transaction.atomic():
            for row in queryset:
                self.delete_model(request, row)


@admin.register(LLMSettings)
class LLMSettingsAdmin(ViewOnly):
    list_display = ("user", "default_provider", "fallback_to_system", "strategy", "monthly_budget_usd", "updated_at")
    list_filter = ("default_provider", "fallback_to_system", "strategy")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    fields = (
        "user",
        "default_provider",
        "fallback_to_system",
        "temperature",
        "max_tokens",
        "strategy",
        "monthly_budget_usd",
        "budget_stops",
        "alerts",
        "created_at",
        "updated_at",
    )


@admin.register(PersonalAccessToken)
class PersonalAccessTokenAdmin(ViewOnly):
    list_display = ("__str__", "user", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email", "prefix")
    fields = (
        *("id", "user", "name", "prefix", "scopes", "providers", "budget_usd"),
        *("created_at", "expires_at", "last_used_at", "revoked_at"),
    )
    actions = ("revoke",)

    @admin.action(description="Revoke the selected tokens", permissions=["delete"])
    def revoke(self, request: HttpRequest, queryset: models.QuerySet[PersonalAccessToken]) -> None:
        usable = queryset.filter(revoked_at__isnull=True)
        with transaction.atomic():
            tokens = list(usable)
            usable.update(revoked_at=timezone.now())
            for token in tokens:
                note(action=Action.TOKEN_REVOKE, subject=str(token.user_id), target=target_of("token", token.pk))
                notify(token.user_id, Kind.TOKEN_REVOKED, **services.token_facts(token))
        self.message_user(request, f"{len(tokens)} tokens revoked.", messages.SUCCESS)


@admin.register(UsageRecord)
class UsageRecordAdmin(ViewOnly):
    list_display = (
        "at",
        "user",
        "task",
        "provider",
        "model",
        "key_owner",
        "state",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "latency_ms",
        "outcome",
    )
    list_filter = ("state", "key_owner", "provider", "outcome")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("-at",)
    fields = (
        "id",
        "call_id",
        "user",
        "task",
        "provider",
        "model",
        "credential_id",
        "key_owner",
        "state",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "reserved_usd",
        "cost_usd",
        "price_source",
        "latency_ms",
        "ttft_ms",
        "outcome",
        "at",
    )

    def get_urls(self) -> list[URLPattern]:
        return [*usage_urls(self), *super().get_urls()]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ConnectionTest)
class ConnectionTestAdmin(ViewOnly):
    list_display = ("created_at", "user", "provider", "name", "state", "detail", "finished_at")
    list_filter = ("state", "provider")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("-created_at",)
    fields = (
        "id",
        "user",
        "provider",
        "name",
        "base_url",
        "model",
        "state",
        "steps",
        "detail",
        "created_at",
        "started_at",
        "finished_at",
    )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AuditEvent)
class AuditEventAdmin(ViewOnly, ProvenChanges):
    """Read-only for everybody; the database refuses what would get past this."""

    proven_actions = ("export_json_lines", "export_csv")
    change_list_template = "admin/llm_credentials/auditevent/change_list.html"
    list_display = ("at", "action", "actor", "subject", "target", "result", "channel", "ip")
    list_filter = ("action", "channel", "result")
    search_fields = ("=actor", "=subject", "target", "=request_id")
    search_help_text = "The id of a user, the beginning or an inner part of a target, or the id of a request."
    date_hierarchy = "at"
    ordering = ("-at", "-seq", "shard")
    show_full_result_count = False
    fields = (
        *("id", "at", "action", "actor", "subject", "target", "result", "ip", "request_id", "channel"),
        *("shard", "seq", "key_id", "previous", "mac"),
    )
    actions = ("export_json_lines", "export_csv")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Export the selected events as JSON Lines", permissions=["view"])
    def export_json_lines(self, request: HttpRequest, queryset: models.QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "jsonl", "application/jsonl")

    @admin.action(description="Export the selected events as CSV", permissions=["view"])
    def export_csv(self, request: HttpRequest, queryset: models.QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "csv", "text/csv; charset=utf-8")

    @staticmethod
    def _exported(queryset: models.QuerySet[AuditEvent], form: Format, content_type: str) -> HttpResponse:
        record(action=Action.AUDIT_EXPORT, subject="system", target=target_of("events", form))
        response = HttpResponse(lines(queryset, form), content_type=content_type)
        response["Content-Disposition"] = f'attachment; filename="audit-events.{form}"'
        return response

    def get_urls(self) -> list[URLPattern]:
        page = path("verify/", self.admin_site.admin_view(self.verify_view), name="llm_credentials_audit_verify")
        return [page, *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """Walks every chain, as ``audit_verify`` does."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect("../")
        context = self.admin_site.each_context(request) | {"title": "Audit chain", "opts": self.opts}
        try:
            report = verify()
            context |= {"report": report}
            note(action=Action.AUDIT_VERIFY, subject="system", result="holds" if report.holds else "broken")
        except keyring.KeyringError as error:
            context |= {"problem": f"{error} {error.hint}"}
        return TemplateResponse(request, "admin/llm_credentials/auditevent/verify.html", context)


from llm_credentials import admin_egress  # noqa: E402, F401 (its page registers itself)
