"""What the catalogue says, over the whole registry."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, get_args

import genai_prices
import pytest

from llm_credentials.providers import ModelFacts, ModelInfo, ProviderSpec, get_spec
from llm_credentials.providers.registry import all_specs
from llm_credentials.providers.spec import Cost, Speed
from llm_credentials.providers.tests.answering import Answer, answering, of_json

SPECS = [pytest.param(spec, id=spec.slug) for spec in all_specs()]
CLOUDS = [pytest.param(spec, id=spec.slug) for spec in all_specs() if spec.key_required and not spec.self_hosted]
ASKED = {
    "openai": ("gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "gpt-3.5-turbo", "text-embedding-3-small"),
    "anthropic": (
        "claude-3-5-sonnet",
        "claude-3-5-sonnet-20241022",
        "claude-3-5-haiku-20241022",
        "claude-3-opus-20240229",
        "claude-3-haiku-20240307",
        "claude-sonnet-4-20250514",
    ),
    "gemini": ("gemini-pro", "gemini-pro-vision", "gemini-1.5-pro", "gemini-1.5-flash", "gemini-2.0-flash-exp"),
    "deepseek": ("deepseek-chat", "deepseek-coder"),
    "digitalocean": ("gpt-4o", "gpt-4o-mini"),
    "groq": ("llama-3.1-70b-versatile", "llama-3.1-8b-instant", "mixtral-8x7b-32768"),
    "together": ("meta-llama/Llama-3-70b-chat-hf", "meta-llama/Llama-3-8b-chat-hf"),
}
"""The models that people named when they asked for this, most of them gone by now."""


def models(spec: ProviderSpec) -> dict[str, ModelFacts]:
    return {model.id: model for model in spec.models}


@pytest.mark.parametrize("spec", SPECS)
def test_row_says_what_people_need_to_choose_it(spec: ProviderSpec) -> None:
    assert spec.label[:1].isupper()
    assert spec.description
    assert spec.best_for
    assert not spec.best_for.endswith(".")
    assert spec.cost in get_args(Cost)
    assert spec.speed in get_args(Speed)
    assert 0 <= spec.hue < 360
    assert len(spec.monogram) == 2
    assert spec.site_address_setting or spec.docs_url.startswith("https://")
    assert (spec.base_url is not None) or spec.base_url_help or spec.site_address_setting


@pytest.mark.parametrize("spec", CLOUDS)
def test_row_of_a_cloud_says_where_keys_come_from_and_which_variables_hold_them(spec: ProviderSpec) -> None:
    assert spec.key_url.startswith("https://")
    assert spec.env_prefix
    assert spec.env_key_names[0] == f"{spec.env_prefix}_API_KEY"
    assert spec.base_url is None or spec.base_url.startswith("https://")


def test_variables_and_key_prefixes_belong_to_one_row_each() -> None:
    variables = [name for spec in all_specs() for name in spec.env_key_names]
    assert len(variables) == len(set(variables))
    for spec in all_specs():
        for place, prefix in enumerate(spec.key_prefixes):
            assert not any(later.startswith(prefix) for later in spec.key_prefixes[place + 1 :])


@pytest.mark.parametrize("spec", SPECS)
def test_chosen_models_are_known_current_and_fit_their_purpose(spec: ProviderSpec) -> None:
    known = models(spec)
    for name in filter(None, (spec.default_model, spec.cheapest_model)):
        facts = known[name]
        assert {"chat", "stream"} <= facts.capabilities
        assert not (facts.retired or facts.successor)
    if (name := spec.default_embedding_model) and name in known:
        assert known[name].capabilities == {"embeddings"}
        assert not known[name].retired
    assert not spec.default_embedding_model or "embeddings" in spec.capabilities


@pytest.mark.parametrize("spec", SPECS)
def test_facts_of_models_are_sensible(spec: ProviderSpec) -> None:
    for model in spec.models:
        assert model.cost in get_args(Cost)
        assert model.speed in get_args(Speed)
        assert model.context_window is not None, model.id
        assert 256 <= model.context_window <= 20_000_000, model.id
        assert model.max_output_tokens is None or 0 < model.max_output_tokens <= model.context_window, model.id
        assert ("embeddings" in model.capabilities) is (model.embedding_dimensions is not None), model.id
        assert model.successor != model.id
        assert model.as_of is None or date(2026, 1, 1) <= model.as_of <= date(2030, 1, 1)


@pytest.mark.parametrize(("slug", "model"), [(slug, model) for slug, names in ASKED.items() for model in names])
def test_model_that_was_asked_for_is_known_and_leads_to_a_current_one(slug: str, model: str) -> None:
    spec = get_spec(slug)
    facts = models(spec)[model]
    assert facts.label
    if facts.retired:
        successor = models(spec)[facts.successor or ""]
        assert not successor.retired


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.slug) for spec in all_specs() if spec.price_provider])
def test_current_models_have_a_price(spec: ProviderSpec) -> None:
    provider = "openai" if spec.price_provider == "azure" else spec.price_provider
    for model in spec.models:
        if not model.retired:
            price = genai_prices.calc_price(
                genai_prices.Usage(input_tokens=1000, output_tokens=0 if model.embedding_dimensions else 1000),
                model_ref=model.id,
                provider_id=provider,
                genai_request_timestamp=datetime(2026, 11, 21, 12, tzinfo=UTC),
            )
            assert price.total_price > 0, model.id


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.slug) for spec in all_specs() if spec.price_provider])
def test_cheapest_model_is_the_cheapest_of_the_two_that_are_recommended(spec: ProviderSpec) -> None:
    order = list(get_args(Cost))
    if spec.models:
        known = models(spec)
        assert order.index(known[spec.cheapest_model].cost) <= order.index(known[spec.default_model].cost)


def test_default_models_are_of_the_families_that_the_sdks_know() -> None:
    from anthropic.types import model as anthropic_models
    from openai.types.shared.chat_model import ChatModel

    def names(of: Any) -> set[str]:
        return {of} if isinstance(of, str) else {name for one in get_args(of) for name in names(one)}

    for slug, known in (("openai", names(ChatModel)), ("anthropic", names(anthropic_models.Model))):
        spec = get_spec(slug)
        assert {spec.default_model, spec.cheapest_model} <= known


def test_models_whose_end_the_sdk_announces_have_a_successor() -> None:
    from anthropic.resources.messages.messages import DEPRECATED_MODELS

    for name, facts in models(get_spec("anthropic")).items():
        if name in DEPRECATED_MODELS:
            assert facts.successor, name


# Lists of models


async def listed(provider: str, answer: Answer) -> dict[str, ModelInfo]:
    async with answering(answer) as server:
        return {info.id: info for info in await server.client(provider).list_models()}


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("openai", {"object": "list", "data": [{"id": "gpt-4o", "object": "model"}, {"id": "o9-new"}]}),
        ("anthropic", {"data": [{"id": "claude-3-opus-20240229"}, {"id": "claude-9"}], "has_more": False}),
        (
            "gemini",
            {
                "models": [
                    {"name": f"models/{name}", "supportedGenerationMethods": ["generateContent"]}
                    for name in ("gemini-2.5-pro", "gemini-9")
                ]
            },
        ),
    ],
)
async def test_listed_models_take_from_the_catalogue_what_the_provider_leaves_out(provider: str, body: Any) -> None:
    known, new = (await listed(provider, of_json(body))).values()
    facts = get_spec(provider).model_facts(known.id)
    assert facts is not None
    assert (known.label, known.context_window) == (facts.label, facts.context_window)
    assert known.capabilities == facts.capabilities
    assert (new.label, new.context_window) == (new.id, None)
    assert "chat" in new.capabilities


async def test_listed_models_keep_what_the_provider_says() -> None:
    rows = [{"id": "openai/gpt-oss-120b", "context_window": 65_536, "display_name": "Oss"}]
    (info,) = (await listed("groq", of_json({"data": rows}))).values()
    assert (info.label, info.context_window) == ("Oss", 65_536)
