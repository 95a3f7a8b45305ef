"""The models that a key may use: from its provider's list, else from the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import cache

from llm_credentials import bridge
from llm_credentials.connection_tests.starting import SiteKey, draft_of, spend
from llm_credentials.factory import open_client
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.policies import allows_own_key, check_own_key, policy_of
from llm_credentials.providers import LLMClient, LLMError, ModelInfo, ProviderSpec
from llm_credentials.services import Draft
from llm_credentials.validation import clean_provider

MODELS_CACHE_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelList:
    models: tuple[ModelInfo, ...]
    source: str
    """``provider`` or ``catalogue`` (the provider could not be asked)."""


def models_available(
    *, user: AbstractBaseUser, provider: str, name: str = "default", unsaved: Draft | None = None
) -> ModelList:
    """The models of this key from its provider's list, else from the catalogue.

    Excludes models that the organisation's policy forbids. Cached per credential version for ten minutes. Raises
    ValidationError and TestLimited.
    """
    spec = clean_provider(provider)
    credential = UserCredential.objects.for_user(user).filter(provider=provider, name=name).first()
    policy = policy_of(user)
    if unsaved is not None:
        subject = draft_of(user, spec, name, credential, unsaved)
        check_own_key(policy, spec, model=None, base_url=subject.base_url)
        found = _asked(user, spec, subject.credential or subject)
    elif credential is None or not allows_own_key(policy, spec, base_url=credential.base_url):
        found = from_catalogue(spec)
    else:
        found = _models_of(user, spec, credential)
    return replace(found, models=tuple(info for info in found.models if policy.allows_model(spec.slug, info.id)))


def site_models_available(
    *, user: AbstractBaseUser, provider: str, role: str, stored: SiteKey | None, unsaved: Draft | None
) -> ModelList:
    """As ``models_available``, with a site key or a typed one; without either, from the catalogue."""
    spec = clean_provider(provider)
    if stored is None and (unsaved is None or not (unsaved.api_key or unsaved.base_url)):
        return from_catalogue(spec)
    subject = draft_of(user, spec, role, stored, unsaved, for_site=True)
    return _asked(user, spec, subject if subject.has_key or stored is None else stored)


def _models_of(user: AbstractBaseUser, spec: ProviderSpec, credential: UserCredential) -> ModelList:
    key = f"llm-models:{user.pk}:{credential.pk}:{credential.version}"
    kept: list[list[Any]] | None = cache.get(key)
    if kept is not None:
        return ModelList(models=tuple(map(_unpacked, kept)), source="provider")
    found = _asked(user, spec, credential)
    if found.source == "provider":
        cache.set(key, list(map(_packed, found.models)), MODELS_CACHE_S)
    return found


def _packed(info: ModelInfo) -> list[Any]:
    return [info.id, info.label, info.context_window, sorted(info.capabilities)]


def _unpacked(kept: Sequence[Any]) -> ModelInfo:
    model_id, label, window, capabilities = kept
    return ModelInfo(id=model_id, label=label, context_window=window, capabilities=frozenset(capabilities))


def _asked(user: AbstractBaseUser, spec: ProviderSpec, subject: UserCredential | ConnectionTest | SiteKey) -> ModelList:
    spend("models", user, spec)
    try:
        models = bridge.run(_list_models, subject, user.pk)
    except (LLMError, TimeoutError):
        return from_catalogue(spec)
    return ModelList(models=tuple(models), source="provider") if models else from_catalogue(spec)


async def _list_models(subject: UserCredential | ConnectionTest | SiteKey, user_id: Any) -> list[ModelInfo]:
    async with asyncio.timeout(settings.LLM_TEST_TIMEOUT_S):
        client: LLMClient = await open_client(subject, user_id=user_id)
        return await client.list_models()


def from_catalogue(spec: ProviderSpec) -> ModelList:
    return ModelList(
        models=tuple(
            ModelInfo(
                id=facts.id, label=facts.label, context_window=facts.context_window, capabilities=facts.capabilities
            )
            for facts in spec.models
            if not facts.retired
        ),
        source="catalogue",
    )
