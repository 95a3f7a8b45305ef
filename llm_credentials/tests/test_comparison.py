"""Providers side by side: what is computed, and the page that anybody may see."""

from __future__ import annotations

import re
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from llm_credentials import comparison
from llm_credentials.comparison import TYPICAL, Row, Sample
from llm_credentials.ledger.aggregates import Sums
from llm_credentials.models import GroupPolicy
from llm_credentials.providers import registry
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory

PAGE = "/providers/compare/"


def html(response: Any) -> str:
    return unescape(response.content.decode())


def _rows(**options: Any) -> list[Row]:
    return comparison.rows_of(registry.all_specs(), options.pop("sample", TYPICAL), **options)


# What is computed


def test_rows_are_the_current_models_of_every_real_provider() -> None:
    rows = _rows()
    assert {row.spec.slug for row in rows} >= {"openai", "anthropic", "gemini", "mistral", "ollama"}
    assert not any(row.facts.retired or row.spec.site_address_setting for row in rows)


def test_cost_of_a_sample_is_that_of_its_requests() -> None:
    """Not of one giant request, which tiers would make dearer."""
    one, many = (
        {row.id: row.cost_usd for row in _rows(sample=Sample(requests=count, input_tokens=100_000, output_tokens=900))}
        for count in (1, 1000)
    )
    known = [name for name, cost in one.items() if cost]
    assert len(known) > 20
    assert all(many[name] == (one[name] or 0) * 1000 for name in known)


def test_unknown_cost_stays_unknown_and_comes_last() -> None:
    rows = comparison.in_order(_rows(), "cost")
    costs = [row.cost_usd for row in rows]
    known = [cost for cost in costs if cost is not None]
    assert None in costs
    assert costs[: len(known)] == sorted(known)
    assert {row.cost_usd for row in rows if row.spec.self_hosted} == {Decimal(0)}


@pytest.mark.parametrize("sort", comparison.SORTS)
def test_every_order_keeps_every_row(sort: str) -> None:
    rows = _rows()
    assert sorted(row.id for row in comparison.in_order(rows, sort)) == sorted(row.id for row in rows)


def test_filter_keeps_what_can_all_of_it() -> None:
    shown = comparison.filtered(_rows(), ["vision", "tools"])
    assert shown and all({"vision", "tools"} <= row.facts.capabilities for row in shown)
    assert all("chat" in row.facts.capabilities for row in comparison.filtered(_rows(), []))
    assert all("embeddings" in row.facts.capabilities for row in comparison.filtered(_rows(), ["embeddings"]))


def test_advice_names_the_cheapest_that_is_fit_and_allowed() -> None:
    by_task = {one.task: one.row for one in comparison.advice(_rows())}
    seeing = by_task["Cheapest that can see images"]
    assert "vision" in seeing.facts.capabilities
    rivals = [row for row in _rows() if "vision" in row.facts.capabilities and not row.spec.self_hosted]
    assert seeing.cost_usd == min(row.cost_usd for row in rivals if row.cost_usd is not None)
    refused = _rows(refusal=lambda spec, model: "No." if model == seeing.facts.id else None)
    assert {one.task: one.row for one in comparison.advice(refused)}["Cheapest that can see images"].id != seeing.id


def test_sample_is_ones_own_use_else_a_typical_one() -> None:
    nothing = Sums.nothing()
    assert comparison.sample_of(nothing) == TYPICAL
    nothing.add(Sums(Sums.nothing().values | {"requests": 5, "errors": 1, "input_tokens": 402, "output_tokens": 2}))
    assert comparison.sample_of(nothing) == Sample(requests=4, input_tokens=100, output_tokens=1, own=True)


# The page


def test_compare_is_for_everybody(client: Client, db: None) -> None:
    text = html(client.get(PAGE))
    assert "What a typical month would cost with each model: 300 requests" in text
    assert "Cheapest that can see images" in text
    assert re.search(r"Prices from genai-prices [\d.]+, as they hold on \d+ \w+ \d{4}", text)


def test_compare_takes_ones_own_use_and_measures(client: Client, alice: User, bob: User) -> None:
    spec = registry.get_spec("anthropic")
    for _ in range(6):
        UsageRecordFactory(
            user=alice, provider="anthropic", model=spec.default_model, input_tokens=1000, latency_ms=900
        )
    UsageRecordFactory(user=bob, provider="openai", model="gpt-of-bob", input_tokens=777_777)
    UserCredentialFactory(user=alice, provider="anthropic")
    client.force_login(alice)
    text = html(client.get(PAGE, {"all": "1"}))
    assert "What your last 30 days would have cost with each model: 6 requests, each 1,000 tokens read" in text
    assert "Quickest for you so far" in text and "6 requests" in text
    assert "You have a key" in text
    assert "gpt-of-bob" not in text and "777,777" not in text


def test_compare_sorts_and_filters_by_links_alone(client: Client, db: None) -> None:
    text = html(client.get(PAGE, {"can": ["vision", "nonsense"], "sort": "context"}))
    assert 'aria-sort="descending"><a href="?can=vision&sort=context#models-title">Context' in text
    assert '<a class="chip" href="?sort=context#models-title" aria-current="true">' in text
    assert "Llama 3.3 70B" not in text
    assert client.get(PAGE, {"sort": "'; DROP", "can": "\ud7ff"}).status_code == 200


def test_compare_says_when_nothing_fits(client: Client, db: None) -> None:
    assert "No model can all of that" in html(client.get(PAGE, {"can": ["embeddings", "vision"]}))


def test_compare_shows_what_the_organisation_does_not_allow(client: Client, alice: User) -> None:
    group = Group.objects.create(name="staff only")
    alice.groups.add(group)
    GroupPolicy.objects.create(group=group, allowed_providers=["mistral"])
    client.force_login(alice)
    text = html(client.get(PAGE, {"all": "1"}))
    assert "ink-attention" in text
    advised = text.partition('class="advice"')[2].partition("</ul>")[0]
    assert "Mistral" in advised and "OpenAI" not in advised


def test_compare_takes_ten_queries(client: Client, alice: User, django_assert_max_num_queries: Any) -> None:
    UsageRecordFactory(user=alice)
    client.force_login(alice)
    with django_assert_max_num_queries(10):
        client.get(PAGE)
