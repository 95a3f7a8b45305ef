"""Validates a draft of a key, merged with the stored one, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from llm_credentials import keyring
from llm_credentials.models import EnvironmentCredential, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers import ProviderSpec
from llm_credentials.validation import (
    KEY_NEEDED,
    REENTER,
    UNFIT,
    clean_api_key,
    clean_model,
    clean_name,
    clean_options,
    clean_provider,
    collect,
    validate_destination,
)

NO_RING: Final = gettext_noop(
    "Keys cannot be stored just now: this site's encryption keys are not in order. Tell its operator."
)

StoredKey: TypeAlias = LLMCredential | EnvironmentCredential


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedCredential:
    """A draft merged with the stored key and validated as a whole."""

    spec: ProviderSpec
    api_key: str | None = field(repr=False)
    """A new key; None: the stored one is kept."""
    model: str
    base_url: str
    options: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Unsaved fields of a key as the user typed them. ``None``: as stored."""

    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    base_url: str | None = None
    options: Mapping[str, Any] | None = None


@sensitive_variables()
def credential_check(
    *,
    provider: str,
    stored: StoredKey | None,
    draft: Draft | None,
    name: str = "default",
) -> CheckedCredential:
    """What would be saved or tested. Writes nothing and opens no key. Raises ValidationError."""
    spec = clean_provider(provider)
    clean_name(name)
    typed = draft or Draft()
    errors: dict[str, list[Any]] = {}
    has_key = stored is not None and stored.has_key
    stored_model = stored.model if stored is not None else ""
    api_key = collect(errors, lambda: clean_api_key(typed.api_key, stored=has_key))
    model = collect(errors, lambda: clean_model(typed.model) if typed.model is not None else stored_model) or ""
    base_url = collect(errors, lambda: _address(spec, typed.base_url, stored)) or ""
    options = collect(errors, lambda: _options(spec, typed.options, stored)) or {}
    if api_key is not None:
        collect(errors, _require_ring)
    elif "api_key" not in errors and "base_url" not in errors:
        if has_key and stored is not None and base_url != stored.base_url:
            errors["api_key"] = [ValidationError(_(REENTER), code=UNFIT)]
        elif not has_key and spec.key_required:
            words = _("Enter your %(provider)s key.") % {"provider": spec.label}
            errors["api_key"] = [ValidationError(words, code=KEY_NEEDED)]
    if errors:
        raise ValidationError(errors)
    return CheckedCredential(spec=spec, api_key=api_key, model=model, base_url=base_url, options=options)


def changes_key(*, user: AbstractBaseUser, provider: str, name: str, draft: Draft) -> bool:
    """Whether saving this adds or replaces a key or changes its address, which requires step-up authentication.

    Raises ValidationError.
    """
    spec, name = clean_provider(provider), clean_name(name)
    stored = UserCredential.objects.for_user(user).filter(provider=spec.slug, name=name).first()
    checked = credential_check(provider=spec.slug, name=name, stored=stored, draft=draft)
    if stored is None or checked.api_key is not None or checked.base_url != stored.base_url:
        return True
    secret = [option.name for option in spec.options if option.secret]
    return any(checked.options.get(each) != stored.options.get(each) for each in secret)


def _require_ring() -> None:
    try:
        keyring.ring()
    except keyring.KeyringError:
        raise ValidationError({"api_key": [_(NO_RING)]}) from None


def _address(spec: ProviderSpec, typed: str | None, stored: StoredKey | None) -> str:
    if typed is None and stored is not None:
        return stored.base_url
    return validate_destination(spec.slug, typed or "")


def _options(spec: ProviderSpec, typed: Mapping[str, Any] | None, stored: StoredKey | None) -> dict[str, str]:
    if typed is None and stored is not None:
        return dict(stored.options)
    return clean_options(typed or {}, spec)
