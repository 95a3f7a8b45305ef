"""Rows: how they are found, and what each of them must say."""

from __future__ import annotations

import dataclasses
import pkgutil
import re
from types import ModuleType

import pytest

import llm_credentials.providers as providers
from llm_credentials.providers import ProviderSpec, UnknownProvider, get_spec, provider_choices, specs
from llm_credentials.providers import adapters as adapters_package
from llm_credentials.providers.adapters._chat.dialect import dialect_of
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.registry import all_specs, client_class, collect

ROW = ProviderSpec(slug="new", label="New", client="a.b:C", base_url="https://api.example.com/v1")
NAMES = {
    *("openai", "anthropic", "gemini", "deepseek", "digitalocean", "groq", "together", "mistral"),
    *("azure_openai", "ollama", "openai_compatible", "sandbox"),
}


def module(*rows: ProviderSpec) -> ModuleType:
    made = ModuleType("made")
    made.SPECS = rows  # type: ignore[attr-defined]
    return made


def test_all_providers_are_found() -> None:
    assert {spec.slug for spec in all_specs()} >= NAMES


def test_row_appears_by_lying_in_a_module() -> None:
    assert collect([module(ROW), ModuleType("empty")])["new"] is ROW


def test_dropped_row_is_found_without_any_other_edit(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    from llm_credentials.providers import registry

    folder = Path(str(tmp_path))
    (folder / "dropped.py").write_text(
        "from llm_credentials.providers.spec import ProviderSpec\n"
        "SPECS = (ProviderSpec(slug='dropped', label='Dropped', base_url='https://api.example.com/v1',\n"
        "    client='llm_credentials.providers.adapters._chat.client:ChatCompletionsClient'),)\n"
    )
    monkeypatch.setattr(adapters_package, "__path__", [*adapters_package.__path__, str(folder)])
    registry._all.cache_clear()
    try:
        assert ("dropped", "Dropped") in provider_choices()
        client = providers.build_client("dropped", api_key="key", model="m")
        assert client.base_url == "https://api.example.com/v1"
    finally:
        monkeypatch.undo()
        registry._all.cache_clear()
    with pytest.raises(UnknownProvider):
        get_spec("dropped")


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="new"):
        collect([module(ROW), module(ROW)])


def test_unknown_slug_is_refused_in_words() -> None:
    with pytest.raises(UnknownProvider, match="no provider"):
        get_spec("nobody")


def test_choices_are_slug_and_label_in_order() -> None:
    choices = provider_choices()
    assert [slug for slug, _ in choices] == [spec.slug for spec in specs()]
    assert [label.lower() for _, label in choices] == sorted(label.lower() for _, label in choices)


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.slug)
def test_row_is_complete(spec: ProviderSpec) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{1,31}", spec.slug)
    assert spec.label
    assert spec.description.endswith(".")
    assert spec.best_for
    assert spec.capabilities
    assert not spec.key_required or spec.key_hint
    assert issubclass(client_class(spec.client), LLMClient)
    assert dataclasses.fields(spec)
    ids = [model.id for model in spec.models]
    assert len(ids) == len(set(ids))
    if spec.models:
        assert spec.default_model in ids
        assert spec.cheapest_model in ids


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.slug)
def test_models_have_a_source_and_retired_ones_a_living_successor(spec: ProviderSpec) -> None:
    for model in spec.models:
        assert model.label
        if not spec.site_address_setting:
            assert model.source.startswith("https://"), model.id
            assert model.as_of is not None
        assert not model.retired or model.successor, model.id
        if model.successor:
            successor = spec.model_facts(model.successor)
            assert successor is not None, model.id
            assert not successor.retired, model.id
    for name in (spec.default_model, spec.cheapest_model):
        facts = spec.model_facts(name) if name else None
        assert facts is None or not facts.retired


@pytest.mark.parametrize(
    "spec", [spec for spec in all_specs() if "_chat" in spec.client or spec.slug in ("ollama", "azure_openai")]
)
def test_dialect_has_known_names_only(spec: ProviderSpec) -> None:
    assert dialect_of(spec)
    with pytest.raises(TypeError):
        dialect_of(dataclasses.replace(spec, slug="other", dialect={"no_such_name": 1}))


def test_models_that_were_asked_for_are_known() -> None:
    asked = {
        "openai": ("gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "gpt-3.5-turbo", "text-embedding-3-small"),
        "deepseek": ("deepseek-chat", "deepseek-coder"),
        "groq": ("llama-3.1-70b-versatile", "llama-3.1-8b-instant", "mixtral-8x7b-32768"),
        "together": ("meta-llama/Llama-3-70b-chat-hf", "meta-llama/Llama-3-8b-chat-hf"),
        "digitalocean": ("gpt-4o", "gpt-4o-mini"),
    }
    for slug, models in asked.items():
        for model in models:
            assert get_spec(slug).model_facts(model) is not None, (slug, model)


def test_fine_tune_takes_the_facts_of_its_base() -> None:
    facts = get_spec("openai").model_facts("ft:gpt-4o-mini:acme::abc123")
    assert facts is not None
    assert facts.id == "gpt-4o-mini"
    assert get_spec("openai").model_facts("ft:") is None


def test_public_names_are_these_and_no_others() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(providers.__path__)}
    found = {name for name in vars(providers) if not name.startswith("_")} - submodules
    assert found == set(providers.__all__)
    assert sorted(providers.__all__) == providers.__all__ or set(providers.__all__) == found
