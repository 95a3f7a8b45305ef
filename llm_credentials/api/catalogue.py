"""``/api/providers``: what this site knows of providers and their models, and what the caller may use of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.utils import timezone
from ninja import Router, Schema
from pydantic import Field

from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.errors import REFUSALS
from llm_credentials.ledger import prices
from llm_credentials.policies import policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.providers.registry import specs
from llm_credentials.providers.spec import ModelFacts
from llm_credentials.routing.policy import NO_OWN_KEYS, Policy

router = Router()


class FieldOut(Schema):
    """A further field of a key, as ``options`` takes it."""

    name: str
    label: str
    help_text: str
    placeholder: str
    default: str
    required: bool
    secret: bool


class ModelOut(Schema):
    id: str
    label: str
    capabilities: list[str]
    context_window: int | None = Field(description="Tokens; null: unknown.")
    max_output_tokens: int | None
    cost: str
    speed: str
    retired: bool
    successor: str | None
    input_usd_per_million: Decimal | None = Field(description="For a million tokens of a short prompt; null: unknown.")
    output_usd_per_million: Decimal | None
    allowed: bool = Field(description="By the organisation's policy.")


class ProviderOut(Schema):
    slug: str
    label: str
    description: str
    best_for: str
    cost: str
    speed: str
    free_tier: bool
    self_hosted: bool
    capabilities: list[str]
    key_hint: str = Field(description="How a key looks.")
    key_required: bool
    key_url: str = Field(description="Where one makes a key.")
    docs_url: str
    base_url: str | None = Field(description="The address unless a key names its own; null: it must.")
    base_url_editable: bool
    options: list[FieldOut]
    default_model: str
    cheapest_model: str
    default_embedding_model: str
    models: list[ModelOut] = Field(description="Those that are known here; others may be used, too.")
    allowed: bool = Field(description="By the organisation's policy.")
    own_key_allowed: bool = Field(description="Whether the caller may store a key of their own for it.")
    refusal: str = Field(description="What the policy forbids, in words; empty: nothing.")


class ProviderList(Schema):
    items: list[ProviderOut]
    count: int


@router.get("", response={200: ProviderList, **REFUSALS}, url_name="provider_list", auth=only("read"))
def provider_list(request: ApiRequest) -> dict[str, Any]:
    policy = policy_of(request.user)
    today = timezone.now().toordinal()
    items = [_provider_out(spec, policy, today) for spec in specs()]
    return {"items": items, "count": len(items)}


def _provider_out(spec: ProviderSpec, policy: Policy, today: int) -> dict[str, Any]:
    computed = {"models", "capabilities", "allowed", "own_key_allowed", "refusal", "options"}
    plain = {name: getattr(spec, name) for name in ProviderOut.model_fields if name not in computed}
    refused = policy.refusal_of_provider(spec)
    return {
        **plain,
        "capabilities": sorted(spec.capabilities),
        "options": [{name: getattr(option, name) for name in FieldOut.model_fields} for option in spec.options],
        "models": [_model_out(spec, facts, policy, today) for facts in spec.models],
        "allowed": not refused,
        "own_key_allowed": policy.own_keys and not refused,
        "refusal": refused or ("" if policy.own_keys else NO_OWN_KEYS),
    }


def _model_out(spec: ProviderSpec, facts: ModelFacts, policy: Policy, today: int) -> dict[str, Any]:
    asked, answered = prices.listed_usd(spec, facts.id, today)
    computed = {"capabilities", "input_usd_per_million", "output_usd_per_million", "allowed"}
    return {
        **{name: getattr(facts, name) for name in ModelOut.model_fields if name not in computed},
        "capabilities": sorted(facts.capabilities),
        "input_usd_per_million": asked,
        "output_usd_per_million": answered,
        "allowed": policy.allows_provider(spec.slug) and policy.allows_model(spec.slug, facts.id),
    }
