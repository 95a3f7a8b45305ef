"""The models and keys that the site offers: for completions, for embeddings, and for the supervisor that picks agents.

A choice is stored as SystemConfig ``llm/…`` in the form that ``routing.snapshot`` reads. It names its SystemCredential;
a key from the environment has no id and is found by its provider. Callers of this module have checked that this is
staff (``policies.may_change_site``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from llm_credentials import conf, services, site_rows
from llm_credentials.connection_tests import EMBEDDINGS_ROLE, SiteKey, site_models_available, site_test_start
from llm_credentials.models import ConnectionTest, SystemConfig, SystemCredential
from llm_credentials.models.credentials import EnvironmentCredential, environment_credentials
from llm_credentials.preferences import clean_max_tokens, clean_temperature
from llm_credentials.providers import ModelInfo, ProviderSpec, specs
from llm_credentials.routing.snapshot import system_choice
from llm_credentials.routing.values import SystemChoice
from llm_credentials.services import Draft
from llm_credentials.validation import UNFIT, clean_model, clean_provider, collect

COMPLETIONS_ROLE: Final = "default"
"""Name of the SystemCredential for completions, as ``EMBEDDINGS_ROLE`` is for embeddings with their own key."""
FIRST_MAX_TOKENS: Final = 4096
FIRST_TEMPERATURE: Final = 0.7
TURNED_OFF: Final = gettext_noop(
    "The site's key of this provider is turned off. Turn it on among the system credentials."
)

Use: TypeAlias = Literal["completions", "embeddings"]


class Keep(Enum):
    """The default of arguments for which ``None`` does not mean "unchanged"."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteChoice:
    """``provider`` empty: nothing is chosen. ``model`` empty: the provider's default."""

    provider: str
    api_key_set: bool
    masked_key: str
    model: str
    endpoint: str
    """Empty: the provider's own address."""
    max_tokens: int | None
    temperature: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteSettings:
    completions: SiteChoice
    embeddings: SiteChoice
    same_key: bool
    """Whether embeddings use the completions' key."""
    supervisor: SystemChoice


def read() -> SiteSettings:
    """Opens no key."""
    values = dict(SystemConfig.objects.filter(category="llm").values_list("key", "value"))
    completions, embeddings = (system_choice(values.get(f"{use}_config")) for use in ("completions", "embeddings"))
    keys = _key_of(completions), _key_of(embeddings)
    return SiteSettings(
        completions=_shown(completions, keys[0]),
        embeddings=_shown(embeddings, keys[1]),
        same_key=_is_same(*keys),
        supervisor=system_choice(values.get("supervisor")),
    )


def _shown(choice: SystemChoice, key: SiteKey | None) -> SiteChoice:
    return SiteChoice(
        provider=choice.provider,
        api_key_set=key is not None and key.has_key,
        masked_key=key.masked if key else "",
        model=choice.model,
        endpoint=key.base_url if key else "",
        max_tokens=choice.max_tokens,
        temperature=choice.temperature,
    )


def _is_same(one: SiteKey | None, other: SiteKey | None) -> bool:
    return one is not None and other is not None and (one.pk, one.provider) == (other.pk, other.provider)


def _key_of(choice: SystemChoice) -> SiteKey | None:
    if choice.credential is not None:
        return SystemCredential.objects.filter(pk=choice.credential).first()
    return stored_key(choice.provider, COMPLETIONS_ROLE) if choice.provider else None


def stored_key(provider: str, role: str) -> SiteKey | None:
    """The key that staff stored under this name, else the provider's key from the environment."""
    row = SystemCredential.objects.filter(provider=provider, name=role).first()
    return row or next((each for each in environment_credentials() if each.provider == provider), None)


def embedding_providers() -> list[ProviderSpec]:
    return [spec for spec in specs() if "embeddings" in spec.capabilities]


def default_embedding_provider() -> str:
    """The site's default provider if it has embeddings, else the first provider with an embedding model."""
    able = [spec.slug for spec in embedding_providers() if spec.default_embedding_model]
    preferred = conf.default_provider()
    return preferred if preferred in able else next(iter(able), "")


# Writing


@sensitive_variables()
def completions_set(
    *,
    provider: str,
    api_key: str | None = None,
    model: str | None = None,
    endpoint: str | Keep | None = KEEP,
    max_tokens: int | Keep | None = KEEP,
    temperature: float | Keep | None = KEEP,
    seen: str | None = None,
) -> SiteSettings:
    """Set the provider, model and key for completions. Raises ValidationError by field, Overtaken.

    An omitted ``api_key`` is unchanged; so is an omitted ``model``, unless the provider changes, which clears it.
    """
    spec = clean_provider(provider)
    with transaction.atomic():
        row = site_rows.locked("completions_config", seen)
        before = system_choice(row.value)
        errors: dict[str, list[str]] = {}
        chosen = collect(errors, lambda: _model(spec, before, model, "completions"))
        tokens = _first(max_tokens, before, before.max_tokens, FIRST_MAX_TOKENS)
        warmth = _first(temperature, before, before.temperature, FIRST_TEMPERATURE)
        for field, clean, value in (
            ("max_tokens", clean_max_tokens, tokens),
            ("temperature", clean_temperature, warmth),
        ):
            try:
                clean(value)
            except ValidationError as error:
                errors[field] = error.messages
        key = collect(
            errors, lambda: _key_set(spec, COMPLETIONS_ROLE, Draft(api_key=api_key, base_url=_text(endpoint)))
        )
        if errors or key is None:
            raise ValidationError(errors)
        site_rows.write(row, spec, key.pk, chosen or "", tokens, warmth)
    return read()


def _first(typed: Any, before: SystemChoice, stored: Any, first: Any) -> Any:
    """The typed value, else the stored one, else the initial one if nothing was ever chosen."""
    if typed is not KEEP:
        return typed
    return stored if before.provider else first


def _text(endpoint: str | Keep | None) -> str | None:
    """The address as a draft holds it: None for "as stored", empty for the provider's own."""
    return None if endpoint is KEEP else endpoint or ""


@sensitive_variables()
def embeddings_set(
    *,
    provider: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    endpoint: str | Keep | None = KEEP,
    same_key_as_completions: bool | None = None,
    seen: str | None = None,
) -> SiteSettings:
    """Set the provider, model and key for embeddings: their own key or the completions' key.

    Raises ValidationError by field, Overtaken.

    An omitted ``provider`` is unchanged, or the completions' provider when their key is shared. Embeddings keep their
    key when completions move to another one.
    """
    with transaction.atomic():
        row = site_rows.locked("embeddings_config", seen)
        before = system_choice(row.value)
        config = SystemConfig.objects.filter(category="llm", key="completions_config").first()
        completions = system_choice(config.value if config else None)
        shared = completions.provider if same_key_as_completions else ""
        spec = clean_provider(provider or shared or before.provider or default_embedding_provider())
        if "embeddings" not in spec.capabilities:
            raise ValidationError(
                {"provider": [_("%(provider)s has no embeddings. Choose another provider.") % {"provider": spec.label}]}
            )
        errors: dict[str, list[str]] = {}
        chosen = collect(errors, lambda: _model(spec, before, model, "embeddings"))
        draft = Draft(api_key=api_key, base_url=_text(endpoint))
        key = collect(errors, lambda: _embedding_key(spec, before, completions, draft, same_key_as_completions))
        if errors or key is None:
            raise ValidationError(errors)
        site_rows.write(row, spec, key.pk, chosen or "", None, None)
    return read()


@sensitive_variables()
def _embedding_key(
    spec: ProviderSpec, before: SystemChoice, completions: SystemChoice, draft: Draft, same: bool | None
) -> SiteKey:
    theirs, present = _key_of(completions), _key_of(before) if before.provider == spec.slug else None
    typed = bool((draft.api_key or "").strip("•* \t\r\n"))
    if same is None and not before.provider and not typed:
        same = completions.provider == spec.slug
    if same:
        if typed:
            raise ValidationError({"api_key": [_("Either a key, or the same as for completions.")]})
        if theirs is None or theirs.provider != spec.slug:
            text = _("Completions have no key for %(provider)s. Enter one for embeddings.") % {"provider": spec.label}
            raise ValidationError({"same_key_as_completions": [text]})
        present = theirs
    elif typed or present is None or (same is False and _is_same(present, theirs)):
        return _key_set(spec, EMBEDDINGS_ROLE, draft)
    if isinstance(present, SystemCredential) and present.name == EMBEDDINGS_ROLE:
        return _key_set(spec, EMBEDDINGS_ROLE, draft)
    if draft.base_url is not None and draft.base_url.rstrip("/") != present.base_url.rstrip("/"):
        raise ValidationError({"endpoint": [_("Another address needs a key of its own for embeddings.")]})
    return present


def supervisor_set(*, provider: str, model: str = "", seen: str | None = None) -> SiteSettings:
    """Set the model that picks the agent for a message; without a provider the program picks it.

    Raises ValidationError by field, Overtaken.
    """
    with transaction.atomic():
        row = site_rows.locked("supervisor", seen)
        if provider:
            spec = clean_provider(provider)
            site_rows.write(
                row, spec, None, _model(spec, system_choice(row.value), model or None, "completions"), None, None
            )
        else:
            row.delete()
            site_rows.note_change("supervisor", "removed")
    return read()


@sensitive_variables()
def _key_set(spec: ProviderSpec, role: str, draft: Draft) -> SiteKey:
    """The site's key under this name, updated with the draft. Raises ValidationError."""
    stored = stored_key(spec.slug, role)
    try:
        checked = services.credential_check(provider=spec.slug, name=role, stored=stored, draft=draft)
        if checked.api_key is None and isinstance(stored, EnvironmentCredential):
            return stored
        if checked.api_key is None and stored is not None and not stored.is_active:
            raise ValidationError({"api_key": [_(TURNED_OFF)]})
        return services.system_credential_save(
            provider=spec.slug,
            name=role,
            api_key=checked.api_key,
            base_url=checked.base_url,
            options=checked.options,
            is_active=True if checked.api_key else None,
        ).credential
    except ValidationError as error:
        raise as_endpoint(error) from None


def as_endpoint(error: ValidationError) -> ValidationError:
    """Renames the ``base_url`` errors to this module's ``endpoint``."""
    return ValidationError(
        {"endpoint" if name == "base_url" else name: texts for name, texts in error.error_dict.items()}
    )


def _model(spec: ProviderSpec, before: SystemChoice, typed: str | None, use: Use) -> str:
    """The model to store; empty for the provider's default. Raises ValidationError."""
    moved = before.provider != spec.slug
    model = clean_model(typed) if typed is not None else "" if moved else before.model
    facts = spec.model_facts(model)
    if moved and model == before.model and facts is None:
        model = ""  # a form that still had the other provider's model
    capability = "embeddings" if use == "embeddings" else "chat"
    if facts is not None and capability not in facts.capabilities:
        no_embeddings, no_chats = (
            _("%(model)s makes no embeddings. Choose another model."),
            _("%(model)s answers no chats. Choose another model."),
        )
        raise ValidationError({"model": [(no_embeddings if use == "embeddings" else no_chats) % {"model": model}]})
    if not model and not _default_model(spec, use):
        raise ValidationError(
            {"model": [_("Name a model: %(provider)s has none of its own choice.") % {"provider": spec.label}]}
        )
    return model


def _default_model(spec: ProviderSpec, use: Use) -> str:
    return spec.default_embedding_model if use == "embeddings" else spec.default_model


# Asking the provider


def role_of(use: Use) -> str:
    return EMBEDDINGS_ROLE if use == "embeddings" else COMPLETIONS_ROLE


def _key_for(provider: str, use: Use) -> SiteKey | None:
    """The key in use for this, else the one that saving would find."""
    value = SystemConfig.objects.filter(category="llm", key=f"{use}_config").values_list("value", flat=True).first()
    choice = system_choice(value)
    return (_key_of(choice) if choice.provider == provider else None) or stored_key(provider, role_of(use))


@sensitive_variables()
def models_for(
    *, user: AbstractBaseUser, provider: str, use: Use, api_key: str | None = None, endpoint: str | None = None
) -> Sequence[ModelInfo]:
    """The models available for this use; empty where the provider cannot list them.

    Raises ValidationError and TestLimited.
    """
    stored = _key_for(clean_provider(provider).slug, use)
    unsaved = Draft(api_key=api_key, base_url=endpoint)
    try:
        found = site_models_available(user=user, provider=provider, role=role_of(use), stored=stored, unsaved=unsaved)
    except ValidationError as error:
        raise as_endpoint(error) from None
    wanted = {"embeddings"} if use == "embeddings" else {"chat"}
    return [info for info in found.models if wanted <= info.capabilities]


@sensitive_variables()
def test_begin(
    *,
    user: AbstractBaseUser,
    provider: str | None,
    use: Use,
    api_key: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    token_id: UUID | None = None,
) -> ConnectionTest:
    """Queue a test of the site's key, or of an unsaved one; the caller enqueues it after commit.

    Omitted arguments are taken from the settings. Raises ValidationError, TestBusy and TestLimited.
    """
    settled: SiteChoice = getattr(read(), use)
    if not provider and not settled.provider:
        raise ValidationError({"provider": ValidationError(_("Nothing is settled yet: name a provider."), code=UNFIT)})
    spec = clean_provider(provider or settled.provider)
    if model is None:
        model = settled.model if settled.provider == spec.slug else ""
    draft = Draft(api_key=api_key, model=model or _default_model(spec, use), base_url=endpoint)
    try:
        return site_test_start(
            user=user,
            provider=spec.slug,
            role=role_of(use),
            stored=_key_for(spec.slug, use),
            unsaved=draft,
            token_id=token_id,
        )
    except ValidationError as error:
        raise as_endpoint(error) from None


test_begin.__test__ = False  # type: ignore[attr-defined]
