"""Forms for what users type about a key. Services validate the input; forms pass it on and show the errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from llm_credentials.models import PersonalAccessToken, UserCredential
from llm_credentials.providers import ProviderSpec, provider_choices
from llm_credentials.services import Draft

OPTION_PREFIX = "option_"


class _ServiceForm(forms.Form):
    """A form whose input a service validates as well."""

    def take_errors(self, error: ValidationError) -> None:
        """Attach the service's errors to their fields; errors for fields that the form lacks go on top."""
        for name, texts in error.message_dict.items():
            for text in texts:
                self.add_error(name if name in self.fields else None, text)


class TokenForm(_ServiceForm):
    """Scopes, limits and lifetime of a new access token."""

    LISTS: ClassVar[tuple[str, ...]] = ("scopes", "providers")
    DAYS: ClassVar[tuple[tuple[str, Any], ...]] = (
        ("7", _("7 days")),
        ("30", _("30 days")),
        ("90", _("90 days")),
        ("365", _("a year")),
        ("0", _("until it is revoked")),
    )

    name = forms.CharField(label=_("Name"), required=False, max_length=100)
    scopes = forms.MultipleChoiceField(
        label=_("It may"), choices=PersonalAccessToken.Scope.choices, widget=forms.CheckboxSelectMultiple
    )
    days = forms.ChoiceField(label=_("It is valid for"), choices=DAYS, initial="90")
    budget_usd = forms.DecimalField(
        label=_("Monthly budget in US dollars"), required=False, min_value=Decimal(0), decimal_places=2, max_digits=10
    )
    providers = forms.MultipleChoiceField(
        label=_("Only these providers"),
        choices=provider_choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    @property
    def draft(self) -> dict[str, Any]:
        typed = self.cleaned_data
        days = int(typed["days"])
        return {
            "name": typed["name"],
            "scopes": typed["scopes"],
            "expires_at": timezone.now() + timedelta(days=days) if days else None,
            "budget_usd": typed["budget_usd"],
            "providers": typed["providers"],
        }

    @property
    def begun(self) -> str:
        """The chosen values as a query string."""
        return urlencode({name: value for name, value in self.cleaned_data.items() if value}, doseq=True)


class CredentialForm(_ServiceForm):
    """Name, key, model, address and the provider's declared options. Never renders a key."""

    name = forms.CharField(required=False, max_length=40)
    api_key = forms.CharField(required=False, strip=False, widget=forms.PasswordInput(render_value=False))
    model = forms.CharField(required=False)
    base_url = forms.CharField(required=False)

    def __init__(
        self, data: Mapping[str, Any] | None = None, *, spec: ProviderSpec, name: str, credential: UserCredential | None
    ) -> None:
        self.spec = spec
        self.credential = credential
        initial = {"name": name}
        if credential is not None:
            initial |= {"model": credential.model, "base_url": credential.base_url}
        super().__init__(data, initial=initial, prefix=None, auto_id=f"{spec.slug}-{name}-%s")
        if not spec.base_url_editable:
            del self.fields["base_url"]
        stored = dict(credential.options) if credential is not None else {}
        for option in spec.options:
            self.fields[OPTION_PREFIX + option.name] = forms.CharField(
                label=option.label,
                required=False,
                help_text=option.help_text,
                initial=stored.get(option.name, ""),
                widget=forms.PasswordInput(render_value=False) if option.secret else forms.TextInput(),
            )
            self.fields[OPTION_PREFIX + option.name].widget.attrs["placeholder"] = option.placeholder or option.default

    @property
    def option_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name.startswith(OPTION_PREFIX)]

    @property
    def needs_options(self) -> bool:
        """Whether a required option of the provider has no value yet."""
        stored = dict(self.credential.options) if self.credential is not None else {}
        return any(
            option.required and not option.default and not stored.get(option.name) for option in self.spec.options
        )

    @property
    def draft(self) -> Draft:
        """The input as a draft. An empty key or a field that the form lacks means unchanged."""
        typed = self.cleaned_data
        options = {field.name: typed[OPTION_PREFIX + field.name] for field in self.spec.options}
        return Draft(
            api_key=typed["api_key"] or None,
            model=typed["model"],
            base_url=typed.get("base_url"),
            options=options if self.spec.options else None,
        )

    @property
    def differs(self) -> bool:
        """Whether any input differs from what is stored."""
        credential, draft = self.credential, self.draft
        if credential is None or draft.api_key:
            return True
        same_options = draft.options is None or {k: v for k, v in draft.options.items() if v} == dict(
            credential.options
        )
        same_url = draft.base_url is None or draft.base_url == credential.base_url
        return not (draft.model == credential.model and same_url and same_options)

    def forget_refused(self) -> None:
        """Blank rejected values, so that a key pasted into the wrong field is not rendered."""
        kept = {name for name in self.fields if name not in self.errors and name != "api_key"}
        if self.non_field_errors():
            kept = {name for name in kept if not name.startswith(OPTION_PREFIX)}
        self.data = {name: value for name, value in self.data.items() if name in kept}


class RoutingForm(forms.Form):
    """One row of the routing page: first provider or key, sampling, consent. Empty means inherited."""

    choice = forms.CharField(required=False, max_length=80)
    """``key:<uuid>``, ``provider:<slug>`` or empty."""
    model = forms.CharField(required=False)
    temperature = forms.FloatField(required=False)
    max_tokens = forms.IntegerField(required=False)
    consent = forms.ChoiceField(required=False, choices=[("", ""), ("on", ""), ("off", "")])

    FIELDS = ("choice", "model", "temperature", "max_tokens", "consent")
    _PLACES: Mapping[str, str] = {"credential": "choice", "provider": "choice", "default_provider": "choice"}

    def override(self) -> dict[str, Any]:
        """Arguments for ``services.task_override_set``."""
        kind, _, value = self.cleaned_data["choice"].partition(":")
        return {
            "credential": value if kind == "key" else None,
            "provider": value if kind == "provider" else "",
            "model": self.cleaned_data["model"],
            "temperature": self.cleaned_data["temperature"],
            "max_tokens": self.cleaned_data["max_tokens"],
            "fallback_to_system": {"on": True, "off": False}.get(self.cleaned_data["consent"]),
        }

    def defaults(self) -> dict[str, Any]:
        """Arguments for ``services.settings_update``: the defaults for all tasks."""
        typed = self.override()
        return {
            "default_provider": typed["provider"],
            "temperature": typed["temperature"],
            "max_tokens": typed["max_tokens"],
            "fallback_to_system": typed["fallback_to_system"] is not False,
        }

    def take_errors(self, error: ValidationError) -> None:
        """Attach the service's errors to their fields."""
        for name, texts in error.message_dict.items():
            place = self._PLACES.get(name, "consent" if name == "fallback_to_system" else name)
            for text in texts:
                self.add_error(place if place in self.fields else None, text)
