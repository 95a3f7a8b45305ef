from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials.ledger import rollups
from llm_credentials.models import UsageRecord
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory

API = "/api/usage"
NOW = datetime(2026, 3, 31, 15, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _march() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def caller(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def used(alice: User, bob: User) -> list[UsageRecord]:
    key = UserCredentialFactory(user=alice, name="work")
    UsageRecordFactory(user=bob, at=NOW, model="model-of-bob", cost_usd=Decimal(99))
    made = [
        UsageRecordFactory(user=alice, at=NOW - DAY, cost_usd=Decimal("0.5"), credential_id=key.pk),
        UsageRecordFactory(user=alice, at=NOW, cost_usd=Decimal("0.25"), model="other"),
        UsageRecordFactory(user=alice, at=NOW, cost_usd=None, provider="mistral", key_owner="system"),
        UsageRecordFactory(user=alice, at=NOW - 32 * DAY, cost_usd=Decimal(7)),
    ]
    rollups.roll_up()
    return made


def test_usage_list_gives_this_month_by_day(caller: Client, used: list[UsageRecord]) -> None:
    body = caller.get(API).json()
    assert (body["from"], body["to"], body["group_by"]) == ("2026-03-01", "2026-03-31", ["day"])
    assert [(row["day"], row["requests"], row["cost_usd"], row["unpriced"]) for row in body["items"]] == [
        ("2026-03-30", 1, "0.50000000", 0),
        ("2026-03-31", 2, "0.25000000", 1),
    ]
    assert (body["total"]["requests"], body["total"]["cost_usd"], body["count"]) == (3, "0.75000000", 2)
    assert "model-of-bob" not in str(body)


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("provider", [{"provider": "mistral"}, {"provider": "openai"}]),
        ("key_owner", [{"key_owner": "system"}, {"key_owner": "user"}]),
        ("provider,model", [("mistral", "gpt-test"), ("openai", "gpt-test"), ("openai", "other")]),
        ("", []),
    ],
)
def test_usage_list_groups(caller: Client, used: list[UsageRecord], group_by: str, expected: list[Any]) -> None:
    body = caller.get(API, {"group_by": group_by}).json()
    if expected and isinstance(expected[0], tuple):
        assert [(row["provider"], row["model"]) for row in body["items"]] == expected
    else:
        assert [{name: row[name] for name in one} for row, one in zip(body["items"], expected, strict=True)] == expected
    assert body["total"]["requests"] == 3


def test_usage_list_groups_by_several_however_they_are_named(caller: Client, used: list[UsageRecord]) -> None:
    apart, joined = (caller.get(API, {"group_by": said}).json() for said in (["provider", "model"], "provider,model"))
    assert (apart["items"], apart["group_by"]) == (joined["items"], ["provider", "model"])
    refused = caller.get(API, {"group_by": ["user", "model"]})
    assert (refused.status_code, refused.json()["error"]["where"]) == (422, "query.group_by")


def test_usage_list_names_keys(caller: Client, used: list[UsageRecord]) -> None:
    rows = caller.get(API, {"group_by": "key"}).json()["items"]
    assert {row["key"].split(" ••••")[0] for row in rows} == {
        "OpenAI · work",
        "A removed key",
        "The organisation's key",
    }


def test_usage_list_has_pages(caller: Client, used: list[UsageRecord]) -> None:
    body = caller.get(API, {"from": "2026-01-01", "page": 2, "page_size": 2}).json()
    assert [row["day"] for row in body["items"]] == ["2026-03-31"]
    assert (body["count"], body["page"], body["total"]["requests"]) == (3, 2, 4)


@pytest.mark.parametrize("asked", [({"format": "csv"}, {}), ({}, {"Accept": "text/csv"})])
def test_usage_list_as_csv(caller: Client, used: list[UsageRecord], asked: Any) -> None:
    query, headers = asked
    response = caller.get(API, {"group_by": "day,provider", **query}, headers=headers)
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.content.decode())))
    assert [(row["day"], row["provider"], row["cost_usd"]) for row in rows] == [
        ("2026-03-30", "openai", "0.50000000"),
        ("2026-03-31", "mistral", ""),
        ("2026-03-31", "openai", "0.25000000"),
    ]


def test_usage_list_prefers_json_where_both_are_fine(caller: Client, used: list[UsageRecord]) -> None:
    assert caller.get(API, headers={"Accept": "*/*"})["Content-Type"].startswith("application/json")


def test_usage_list_takes_its_days_in_either_order(caller: Client) -> None:
    said = caller.get(API, {"from": "2026-03-02", "to": "2026-03-01"}).json()
    assert (said["from"], said["to"]) == ("2026-03-01", "2026-03-02")


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({"group_by": "user"}, "query.group_by"),
        ({"group_by": "day,\ud7ff"}, "query.group_by"),
        ({"from": "2026-02-30"}, "query.from"),
        ({"from": ""}, "query.from"),
        ({"from": "2027-01-01"}, "query.from"),
        ({"from": "2020-01-01"}, "query.from"),
        ({"page": "0"}, "query.page"),
        ({"page": "99999999999999999999"}, "query.page"),
        ({"page_size": "1001"}, "query.page_size"),
        ({"format": "xml"}, "query.format"),
    ],
)
def test_usage_list_refuses_bad_questions(caller: Client, query: dict[str, str], where: str) -> None:
    response = caller.get(API, query)
    assert response.status_code == 422
    assert response.json()["error"]["where"] == where
