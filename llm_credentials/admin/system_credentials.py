"""Keys of the site, and the encryption keys that seal all keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from llm_credentials import keyring, rotation, services
from llm_credentials.admin.bases import MaskedKey
from llm_credentials.admin.credentials import RemovedKeys
from llm_credentials.admin.key_actions import KeyActions
from llm_credentials.models import SystemCredential, environment_credentials
from llm_credentials.providers import provider_choices
from llm_credentials.validation import clean_priority

if TYPE_CHECKING:
    _CredentialForm = forms.ModelForm[SystemCredential]
else:
    _CredentialForm = forms.ModelForm


class SystemCredentialForm(_CredentialForm):
    """Never renders the key; an empty input keeps the stored one."""

    provider = forms.ChoiceField(choices=provider_choices)
    new_key = forms.CharField(
        label=_("API key"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=_("Leave empty to keep the stored key. A new address needs the key again."),
    )

    class Meta:
        model = SystemCredential
        fields = ("provider", "name", "base_url", "model", "options", "is_active", "priority")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            # The key was sealed for this provider; another provider needs another credential.
            for name in {"provider", "name"} & self.fields.keys():  # absent with view permission only
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
class SystemCredentialAdmin(RemovedKeys, KeyActions, MaskedKey):
    form = SystemCredentialForm
    change_list_template = "admin/llm_credentials/systemcredential/change_list.html"
    list_display = ("title", "masked_key", "model", "status_now", "priority", "last_used")
    list_filter = ("status", "provider", "is_active")
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
            # The form was valid, but saving failed: a concurrent change, or a wrong key ring.
            self.message_user(request, " ".join(error.messages), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        extra = {"environment_credentials": environment_credentials(), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def get_urls(self) -> list[URLPattern]:
        page = path("key-ring/", self.admin_site.admin_view(self.key_ring_view), name="llm_credentials_key_ring")
        return [page, *super().get_urls()]

    def key_ring_view(self, request: HttpRequest) -> HttpResponse:
        """Number of rows sealed under each encryption key, as ``rotate_credential_keys`` reports it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = self.admin_site.each_context(request) | {"title": gettext("Encryption keys"), "opts": self.opts}
        try:
            figures = rotation.figures()
            context |= {"figures": figures, "ring": keyring.ring(), "state": _ring_state(figures)}
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


def _ring_state(figures: rotation.Figures) -> tuple[str, str]:
    """(meaning, words)."""
    if figures.unreadable:
        return "broken", gettext("Some keys cannot be opened any more. Nobody can read them, the site included.")
    if figures.old:
        return "attention", gettext("Some keys are still sealed under an old encryption key.")
    if any(figures.droppable.values()):
        return "valid", gettext("Everything is sealed under the current key; an old one may be dropped.")
    return "valid", gettext("Everything is sealed under the current key.")
