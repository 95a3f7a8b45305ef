"""What a user settles about models."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llm_credentials.models import LLMSettings
from llm_credentials.services import (
    settings_update,
)
from llm_credentials.tests.writes import at_once, refused


@pytest.mark.django_db(transaction=True)
def test_settings_first_updates_at_once_make_one_row(alice: Any) -> None:
    results = at_once(
        lambda: settings_update(user=alice, temperature=0.5),
        lambda: settings_update(user=alice, max_tokens=100),
        lambda: settings_update(user=alice, alerts=False),
    )
    assert [result for result in results if isinstance(result, Exception)] == []
    row = LLMSettings.objects.get()
    assert (row.temperature, row.max_tokens, row.alerts) == (0.5, 100, False)


# Settings


def test_settings_have_defaults_without_a_row(alice: Any) -> None:
    row = LLMSettings.of(alice)
    assert row._state.adding
    assert (row.default_provider, row.fallback_to_system, row.strategy, row.alerts) == ("", True, "priority", True)
    assert (row.temperature, row.max_tokens, row.monthly_budget_usd) == (None, None, None)


def test_settings_update_changes_the_named_ones_only(alice: Any, bob: Any) -> None:
    settings_update(user=alice, default_provider="openai", temperature=1)
    row = settings_update(user=alice, fallback_to_system=False, monthly_budget_usd=12.345, strategy="cheapest")
    assert LLMSettings.of(alice) == row
    row.refresh_from_db()
    assert (row.default_provider, row.temperature, row.fallback_to_system) == ("openai", 1.0, False)
    assert (row.monthly_budget_usd, row.strategy) == (Decimal("12.34"), "cheapest")
    assert LLMSettings.of(bob)._state.adding


def test_settings_update_clears_with_none(alice: Any) -> None:
    settings_update(user=alice, temperature=1, max_tokens=10, monthly_budget_usd=1, default_provider="openai")
    settings_update(user=alice, temperature=None, max_tokens=None, monthly_budget_usd=None, default_provider="")
    row = LLMSettings.objects.get()
    assert (row.temperature, row.max_tokens, row.monthly_budget_usd, row.default_provider) == (None, None, None, "")


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, 2.1, NAN, INFINITY, "0.5", True, [])),
        *(("max_tokens", value) for value in (0, -1, 2**63, 1_000_001, "10", 1.5, True, NAN)),
        *(("monthly_budget_usd", value) for value in (-1, NAN, INFINITY, 1e12, "5", True, Decimal("NaN"))),
        *(("strategy", value) for value in ("", "random", None, 1)),
        *(("default_provider", value) for value in ("nope", 7, ["openai"])),
        *(("fallback_to_system", value) for value in (None, 1, "true")),
        ("alerts", "no"),
        ("user_id", 1),
        ("is_default", True),
        ("created_at", None),
    ],
)
def test_settings_update_bad_input_names_the_setting(alice: Any, name: str, value: Any) -> None:
    assert list(refused(lambda: settings_update(user=alice, **{name: value}))) == [name]
    assert not LLMSettings.objects.exists()
