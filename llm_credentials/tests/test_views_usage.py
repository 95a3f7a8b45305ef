"""The usage page, its files, the budget, and the same over all users for staff."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import Client

from llm_credentials.factory import client_for
from llm_credentials.ledger import rollups
from llm_credentials.models import LLMSettings
from llm_credentials.providers import BudgetExceeded, LLMMessage
from llm_credentials.tests.factories import SystemCredentialFactory, UsageRecordFactory, UserCredentialFactory

PAGE = "/settings/llm/usage/"
EXPORT = "/settings/llm/usage/export/"
BUDGET = "/settings/llm/usage/budget/set/"
SITE = "/admin/llm_credentials/usagerecord/summary/"
NOW = datetime(2026, 3, 31, 15, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def march() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


def html(response: Any) -> str:
    return unescape(response.content.decode())


def _file(response: Any) -> str:
    async def read() -> bytes:
        return b"".join([piece async for piece in response.streaming_content])

    return async_to_sync(read)().decode()


def _figures(text: str) -> list[str]:
    """The three numbers on top."""
    return re.findall(r'<dd class="num">(.*?)</dd>', text)


# The page


def test_usage_shows_cost_requests_and_the_share_of_own_keys(visitor: Client, alice: User, march: None) -> None:
    UsageRecordFactory(user=alice, at=NOW - DAY, cost_usd=Decimal("1.20"))
    UsageRecordFactory(user=alice, at=NOW, cost_usd=Decimal("0.10"), key_owner="system")
    UsageRecordFactory(user=alice, at=NOW - 40 * DAY, cost_usd=Decimal(50))
    before = _figures(html(visitor.get(PAGE)))
    assert before == ["$1.30", "2", "50 %"]
    rollups.roll_up()
    assert _figures(html(visitor.get(PAGE))) == before


def test_usage_counts_unknown_cost_beside_the_known(visitor: Client, alice: User, march: None) -> None:
    UsageRecordFactory(user=alice, at=NOW, cost_usd=None)
    assert _figures(html(visitor.get(PAGE)))[0] == "cost unknown"
    UsageRecordFactory(user=alice, at=NOW, cost_usd=Decimal("0.50"))
    text = html(visitor.get(PAGE))
    assert _figures(text)[0] == "$0.50"
    assert "and 1 request at unknown cost" in text


def test_usage_of_others_is_not_shown(visitor: Client, alice: User, bob: User) -> None:
    UsageRecordFactory(user=bob, model="model-of-bob")
    for by in ("provider", "model", "task", "key", "payer"):
        text = html(visitor.get(PAGE, {"by": by}))
        assert "model-of-bob" not in text
        assert "Nothing was used" in text


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("provider", ["OpenAI", "Mistral"]),
        ("model", ["gpt-big", "small"]),
        ("task", ["research-of-alice"]),
        ("key", ["OpenAI · work", "The organisation's key", "A removed key"]),
        ("payer", ["Own keys", "The organisation"]),
    ],
)
def test_usage_is_broken_down(visitor: Client, alice: User, by: str, expected: list[str]) -> None:
    key = UserCredentialFactory(user=alice, provider="openai", name="work")
    UsageRecordFactory(user=alice, model="gpt-big", task="research-of-alice", credential_id=key.pk)
    UsageRecordFactory(user=alice, provider="mistral", model="small", key_owner="system")
    UsageRecordFactory(user=alice, provider="mistral", model="small")
    text = html(visitor.get(PAGE, {"by": by}))
    for words in expected:
        assert words in text


def test_usage_chart_says_in_words_what_it_draws(visitor: Client, alice: User, march: None) -> None:
    UsageRecordFactory(user=alice, at=NOW - 2 * DAY, cost_usd=Decimal(4))
    UsageRecordFactory(user=alice, at=NOW, cost_usd=Decimal(1))
    text = html(visitor.get(PAGE))
    assert 'role="img" aria-labelledby="chart-title chart-words"' in text
    assert "the most was $4.00, 29 Mar 2026." in text
    assert "<title>29 Mar 2026, OpenAI: $4.00</title>" in text
    assert text.count('<rect class="bar') == 2
    assert ' style="' not in text


@pytest.mark.parametrize(("days", "unit"), [(1, "day"), (62, "day"), (63, "week"), (280, "week"), (365, "month")])
def test_usage_chart_has_a_bar_for_what_fits(visitor: Client, alice: User, march: None, days: int, unit: str) -> None:
    UsageRecordFactory(user=alice, at=NOW)
    first = (NOW - (days - 1) * DAY).date()
    text = html(visitor.get(PAGE, {"from": first, "to": NOW.date()}))
    assert f"Cost per {unit}" in text and f"Figures by {unit}" in text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"from": "2026-02-30"}, "Write days as 2026-01-31."),
        ({"from": "yesterday"}, "Write days as 2026-01-31."),
        ({"from": "20260301"}, "Write days as 2026-01-31."),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "The first day lies after the last one."),
        ({"from": "2026-04-01"}, "The first day lies in the future."),
        ({"from": "0001-01-01"}, "Nothing was written down before 2020."),
        ({"from": "2020-01-01"}, "Choose three years at most."),
        ({"range": "forever"}, "Choose one of: today"),
        ({"from": "\ud7ff", "to": "0"}, "Write days as 2026-01-31."),
    ],
)
def test_usage_refuses_odd_days_in_words(visitor: Client, march: None, query: dict[str, str], words: str) -> None:
    response = visitor.get(PAGE, query)
    assert response.status_code == 422
    assert words in html(response)
    assert "This month is shown instead." in html(response)
    assert visitor.get(EXPORT, query).status_code == 422


def test_usage_takes_an_end_in_the_future_as_today(visitor: Client, alice: User, march: None) -> None:
    UsageRecordFactory(user=alice, at=NOW)
    response = visitor.get(PAGE, {"from": "2026-03-30", "to": "2030-01-01"})
    assert _figures(html(response))[1] == "1"


def test_usage_asks_for_login(client: Client, db: None) -> None:
    for path in (PAGE, EXPORT):
        assert client.get(path)["Location"].startswith("/accounts/login/")


def test_usage_page_takes_ten_queries_however_much_there_is(
    visitor: Client, alice: User, march: None, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        UsageRecordFactory(user=alice, at=NOW - number * DAY, model=f"m{number}", provider="mistral")
    rollups.roll_up()
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(5))
    visitor.get(PAGE)
    with django_assert_max_num_queries(10):
        visitor.get(PAGE)


# Files


def test_export_writes_a_line_for_every_group_of_every_day(visitor: Client, alice: User, march: None) -> None:
    key = UserCredentialFactory(user=alice, provider="openai", key="sk-export-0123456789wxyz")
    for number in range(3):
        UsageRecordFactory(user=alice, at=NOW - number * DAY, cost_usd=Decimal("0.00000001"), credential_id=key.pk)
    UsageRecordFactory(user=alice, at=NOW, cost_usd=None, provider="mistral", key_owner="system")
    rollups.roll_up()
    response = visitor.get(EXPORT)
    assert response["Content-Disposition"] == 'attachment; filename="usage-2026-03-01-2026-03-31.csv"'
    rows = list(csv.DictReader(io.StringIO(_file(response))))
    assert [(row["day"], row["provider"], row["cost_usd"]) for row in rows] == [
        ("2026-03-29", "openai", "0.00000001"),
        ("2026-03-30", "openai", "0.00000001"),
        ("2026-03-31", "mistral", ""),
        ("2026-03-31", "openai", "0.00000001"),
    ]
    assert rows[0]["key"] == "OpenAI •••• wxyz"
    as_json = json.loads(_file(visitor.get(EXPORT, {"format": "json"})))
    assert [row["cost_usd"] for row in as_json] == ["0.00000001", "0.00000001", None, "0.00000001"]


def test_export_of_nothing_is_empty_and_whole(visitor: Client) -> None:
    assert _file(visitor.get(EXPORT)).startswith("day,provider,model,task,key,key_owner,requests")
    assert json.loads(_file(visitor.get(EXPORT, {"format": "json"}))) == []


@pytest.mark.parametrize(
    "name", ['=HYPERLINK("http://evil")', "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1"]
)
def test_export_holds_no_formula(visitor: Client, alice: User, name: str) -> None:
    """A model may be called whatever its user typed, and staff open the file too."""
    UsageRecordFactory(user=alice, model=name)
    (row,) = csv.DictReader(io.StringIO(_file(visitor.get(EXPORT)), newline=""))
    assert row["model"] == f"'{name}"


def test_export_refuses_an_unknown_form(visitor: Client) -> None:
    assert visitor.get(EXPORT, {"format": "xls"}).status_code == 422


# The budget


def test_budget_set_keeps_amount_and_whether_it_stops(visitor: Client, alice: User) -> None:
    assert visitor.post(BUDGET, {"amount": " $12.5 "})["Location"] == PAGE
    kept = LLMSettings.of(alice)
    assert (kept.monthly_budget_usd, kept.budget_stops) == (Decimal("12.50"), False)
    visitor.post(BUDGET, {"amount": "", "stops": "on"})
    kept = LLMSettings.of(alice)
    assert (kept.monthly_budget_usd, kept.budget_stops) == (None, True)


@pytest.mark.parametrize("amount", ["-1", "abc", "1,50", "NaN", "Infinity", "1e9", "9" * 50, "10000001", "\x00"])
def test_budget_set_refuses_what_is_no_amount(visitor: Client, alice: User, amount: str) -> None:
    response = visitor.post(BUDGET, {"amount": amount, "stops": "on"})
    assert response.status_code == 422
    assert 'id="budget-error"' in html(response)
    assert LLMSettings.of(alice).monthly_budget_usd is None


def test_budget_set_asks_for_login(client: Client, alice: User) -> None:
    assert client.post(BUDGET, {"amount": "1"})["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize(
    ("spent", "stops", "words"),
    [
        ("0.79", True, "Within"),
        ("0.80", True, "Nearly used up"),
        ("1.00", True, "Used up: calls are stopped"),
        ("1.00", False, "Used up"),
    ],
)
def test_budget_is_shown_with_its_state(visitor: Client, alice: User, spent: str, stops: bool, words: str) -> None:
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(1), budget_stops=stops)
    UsageRecordFactory(user=alice, cost_usd=Decimal(spent))
    text = html(visitor.get(PAGE))
    assert f"<span>{words}</span>" in text
    assert f'max="100" value="{int(Decimal(spent) * 100)}"' in text


@pytest.mark.parametrize("stops", [True, False])
def test_budget_stops_calls_if_its_owner_says_so(alice: User, sandbox_url: str, stops: bool) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-for-budgets", model="sandbox-chat")
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(1), budget_stops=stops, fallback_to_system=False)
    UsageRecordFactory(user=alice, cost_usd=Decimal(1))
    from llm_credentials.ledger import prices

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prices, "_price", lambda *args, **tokens: prices.Price(Decimal("0.01"), "test"))
        ask = async_to_sync(client_for(alice).complete)
        if stops:
            with pytest.raises(BudgetExceeded):
                ask([LLMMessage.user("Hello")])
        else:
            assert ask([LLMMessage.user("Hello")]).text


# Staff


def test_site_usage_adds_up_everybody_and_names_nobody(client: Client, staff: User, alice: User, bob: User) -> None:
    key = SystemCredentialFactory(name="shared")
    own = UserCredentialFactory(user=alice, name="private-name")
    UsageRecordFactory(user=alice, cost_usd=Decimal(1), credential_id=own.pk)
    UsageRecordFactory(user=bob, cost_usd=Decimal(2), key_owner="system", credential_id=key.pk)
    client.force_login(staff)
    text = html(client.get(SITE, {"by": "key"}))
    assert _figures(text) == ["$3.00", "2", "50 %"]
    assert "Users' own keys" in text and "· shared" in text
    for secret in ("alice", "bob", "private-name"):
        assert secret not in text.replace("staff", "")
    rows = list(csv.DictReader(io.StringIO(_file(client.get(f"{SITE}export/")))))
    assert sorted(row["key_owner"] for row in rows) == ["system", "user"]


def test_site_usage_wants_the_permission(client: Client, db: None) -> None:
    clerk = User.objects.create_user("clerk", password="clerk-password", is_staff=True)
    client.force_login(clerk)
    for path in (SITE, f"{SITE}export/"):
        assert client.get(path).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_usagerecord"))
    for path in (SITE, f"{SITE}export/"):
        assert client.get(path).status_code == 200
