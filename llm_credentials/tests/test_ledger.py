from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from llm_credentials.factory import client_for
from llm_credentials.ledger import batches, books, budgets
from llm_credentials.ledger.books import Entry, Outcome, State
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.prices import UNKNOWN, Price
from llm_credentials.models import LLMSettings, SystemConfig, UsageRecord
from llm_credentials.providers import BudgetExceeded, LLMMessage, NotConfigured, Usage
from llm_credentials.routing import snapshot
from llm_credentials.routing.receipt import KeyOwner
from llm_credentials.tests.factories import UserCredentialFactory

pytestmark = pytest.mark.django_db

ASK = [LLMMessage.user("What is 17 * 23?")]
NO_LIMITS = Limits()


def _entry(user: User, owner: KeyOwner = "user", **changes: Any) -> Entry:
    values: dict[str, Any] = {"call_id": uuid4(), "user_id": user.pk, "task": "chat", "provider": "openai"}
    return Entry(**values | {"model": "gpt", "credential_id": None, "key_owner": owner} | changes)


def _dollars(amount: str) -> Price:
    return Price(Decimal(amount), "test")


def _ended(amount: str | None = "0.25", state: Any = State.SETTLED) -> Outcome:
    price = UNKNOWN if amount is None else _dollars(amount)
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=2)
    return Outcome(state=state, outcome="ok", latency_ms=12, ttft_ms=3, usage=usage, price=price)


def _spend(user: User, amount: str, owner: KeyOwner = "user", *, limits: Limits = NO_LIMITS, **changes: Any) -> None:
    reserved = books.reserve(_entry(user, owner, **changes), limits, _dollars(amount), 10)
    books.settle(reserved, _ended(amount))


# Reserve, settle, sweep


def test_reservation_is_written_at_its_worst_case(alice: User) -> None:
    entry = _entry(alice)
    books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    row = UsageRecord.objects.get(pk=entry.id)
    assert (row.state, row.reserved_usd, row.cost_usd, row.input_tokens) == ("reserved", Decimal("1.5"), None, 100)


def test_settlement_writes_what_it_came_to(alice: User) -> None:
    entry = _entry(alice)
    reserved = books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    assert books.settle(reserved, _ended("0.25"))
    row = UsageRecord.objects.get(pk=entry.id)
    assert (row.state, row.outcome, row.cost_usd, row.price_source) == ("settled", "ok", Decimal("0.25"), "test")
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens) == (10, 5, 4, None)
    assert (row.reasoning_tokens, row.latency_ms, row.ttft_ms) == (2, 12, 3)


def test_settlement_happens_once(alice: User) -> None:
    entry = _entry(alice)
    reserved = books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    assert books.settle(reserved, _ended("0.25"))
    assert not books.settle(reserved, _ended("9.99"))
    assert UsageRecord.objects.get().cost_usd == Decimal("0.25")


def test_settlement_at_an_unknown_price_has_no_cost(alice: User) -> None:
    entry = _entry(alice)
    reserved = books.reserve(entry, NO_LIMITS, UNKNOWN, 100)
    books.settle(reserved, _ended(None))
    row = UsageRecord.objects.get()
    assert (row.reserved_usd, row.cost_usd) == (None, None)


def test_void_attempt_costs_nothing(alice: User) -> None:
    entry = _entry(alice)
    reserved = books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    books.settle(reserved, _ended("0.25", State.VOID))
    assert UsageRecord.objects.get().cost_usd == 0
    assert budgets.spent_usd("own", alice.pk) == 0


def test_sweep_closes_what_a_crash_left_at_its_worst_case(alice: User) -> None:
    old = _entry(alice, at=timezone.now() - timedelta(seconds=books.LOST_AFTER_S + 1))
    young = _entry(alice)
    for entry in (old, young):
        books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    assert books.sweep() == 1
    row = UsageRecord.objects.get(pk=old.id)
    assert (row.state, row.outcome, row.cost_usd, row.input_tokens) == ("estimated", "lost", Decimal("1.5"), 100)
    assert UsageRecord.objects.get(pk=young.id).state == "reserved"
    assert books.sweep() == 0


def test_sweep_is_corrected_by_a_call_that_ends_after_all(alice: User) -> None:
    entry = _entry(alice, at=timezone.now() - timedelta(hours=1))
    reserved = books.reserve(entry, NO_LIMITS, _dollars("1.50"), 100)
    books.sweep()
    assert books.settle(reserved, _ended("0.25"))
    row = UsageRecord.objects.get()
    assert (row.state, row.cost_usd) == ("settled", Decimal("0.25"))
    assert not books.settle(reserved, _ended("9.99"))


# Budgets


def test_budget_admits_up_to_its_last_cent(alice: User) -> None:
    limits = Limits(own_monthly_usd=Decimal("1.00"))
    for _ in range(10):
        books.reserve(_entry(alice), limits, _dollars("0.10"), 10)
    with pytest.raises(BudgetExceeded, match=r"\$1\.00"):
        books.reserve(_entry(alice), limits, _dollars("0.01"), 10)
    assert UsageRecord.objects.count() == 10


def test_budget_gets_back_what_a_call_did_not_use(alice: User) -> None:
    limits = Limits(own_monthly_usd=Decimal("1.00"))
    entry = _entry(alice)
    reserved = books.reserve(entry, limits, _dollars("1.00"), 10)
    books.settle(reserved, _ended("0.05"))
    books.reserve(_entry(alice), limits, _dollars("0.90"), 10)


def test_budget_of_own_keys_is_a_month(alice: User, bob: User) -> None:
    limits = Limits(own_monthly_usd=Decimal("1.00"))
    _spend(alice, "5.00", at=timezone.now().replace(day=1) - timedelta(days=2))
    _spend(alice, "5.00", "system")
    _spend(bob, "5.00")
    books.reserve(_entry(alice), limits, _dollars("1.00"), 10)


def test_allowance_on_system_keys_is_a_day_for_each_user(alice: User, bob: User) -> None:
    limits = Limits(system_daily_usd=Decimal("1.00"))
    _spend(alice, "5.00", "system", at=timezone.now() - timedelta(days=1))
    _spend(alice, "5.00")
    _spend(bob, "5.00", "system")
    books.reserve(_entry(alice, "system"), limits, _dollars("1.00"), 10)
    with pytest.raises(BudgetExceeded, match="allowance on the site's keys"):
        books.reserve(_entry(alice, "system"), limits, _dollars("0.10"), 10)


def test_allowance_of_the_site_is_for_all_users_together(alice: User, bob: User) -> None:
    limits = Limits(system_daily_usd=Decimal("9.00"), system_daily_total_usd=Decimal("1.00"))
    books.reserve(_entry(alice, "system"), limits, _dollars("0.70"), 10)
    with pytest.raises(BudgetExceeded, match="The site's allowance"):
        books.reserve(_entry(bob, "system"), limits, _dollars("0.40"), 10)
    books.reserve(_entry(bob), limits, _dollars("0.40"), 10)


def test_budget_lets_unknown_prices_pass_until_it_is_used_up(alice: User) -> None:
    limits = Limits(own_monthly_usd=Decimal("1.00"))
    books.reserve(_entry(alice), limits, UNKNOWN, 10)
    _spend(alice, "1.00", limits=limits)
    with pytest.raises(BudgetExceeded):
        books.reserve(_entry(alice), limits, UNKNOWN, 10)
    books.reserve(_entry(alice), limits, _dollars("0"), 10)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("owner", ["user", "system"])
def test_budget_for_ten_admits_exactly_ten_of_a_hundred_at_once(alice: User, owner: KeyOwner) -> None:
    limits = Limits(
        own_monthly_usd=Decimal("1.00"), system_daily_usd=Decimal("1.00"), system_daily_total_usd=Decimal("5.00")
    )
    together = threading.Barrier(10)

    def call(number: int) -> bool:
        try:
            if number < 10:
                together.wait(20)
            books.reserve(_entry(alice, owner), limits, _dollars("0.10"), 10)
        except BudgetExceeded:
            return False
        finally:
            connections.close_all()
        return True

    with ThreadPoolExecutor(10) as pool:
        admitted = sum(pool.map(call, range(100)))
    assert admitted == 10
    assert UsageRecord.objects.count() == 10
    assert budgets.spent_usd("own" if owner == "user" else "system", alice.pk) == Decimal("1.00")


def test_standing_warns_from_four_fifths(alice: User) -> None:
    assert budgets.standing(alice.pk, None) is None
    _spend(alice, "0.79")
    standing = budgets.standing(alice.pk, Decimal("1.00"))
    assert standing is not None and not standing.warns
    _spend(alice, "0.01")
    standing = budgets.standing(alice.pk, Decimal("1.00"))
    assert standing is not None and standing.warns and not standing.is_used_up
    assert budgets.standing(alice.pk, Decimal(0)) is not None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Limits()),
        ({"daily_usd_per_user": 1.5, "daily_usd_total": "20"}, (Decimal("1.5"), Decimal(20), False)),
        ({"daily_usd_per_user": -1, "daily_usd_total": "much"}, (Decimal(0), Decimal(0), False)),
        ({"daily_usd_per_user": float("nan"), "unpriced_models": True}, (Decimal(0), None, True)),
        ([1, 2], Limits()),
    ],
)
def test_limits_of_staff_are_read_on_the_safe_side(config: object, expected: Any) -> None:
    limits = budgets.limits_from(None, config)
    if isinstance(expected, Limits):
        assert limits == expected
    else:
        assert (limits.system_daily_usd, limits.system_daily_total_usd, limits.system_unpriced) == expected


# Through the factory


def test_call_is_reserved_before_it_leaves(alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_credentials import routed_client

    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    seen: list[str] = []
    original = routed_client.open_client

    async def opened(*args: Any, **kwargs: Any) -> Any:
        seen.extend(states)
        return await original(*args, **kwargs)

    states: list[str] = []
    write = batches.write

    def writing(*args: Any) -> int:
        settled = write(*args)
        states.extend(UsageRecord.objects.values_list("state", flat=True))
        return settled

    monkeypatch.setattr(routed_client, "open_client", opened)
    monkeypatch.setattr(batches, "write", writing)
    response = async_to_sync(client_for(alice).complete)(ASK)
    assert seen == ["reserved"]
    assert (response.receipt.cost_usd, response.receipt.price_source) == (Decimal(0), "self-hosted")
    row = UsageRecord.objects.get()
    assert (row.state, row.cost_usd, row.price_source) == ("settled", Decimal(0), "self-hosted")


def _priced(monkeypatch: pytest.MonkeyPatch, usd: str | None) -> None:
    """Every call costs so much, at worst and in the end."""
    price = UNKNOWN if usd is None else _dollars(usd)
    monkeypatch.setattr("llm_credentials.ledger.prices._price", lambda *args, **tokens: price)
    monkeypatch.setattr(snapshot, "_price_today", lambda spec, model: price.usd)


def test_call_past_the_budget_never_leaves(alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    credential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal("1.00"))
    _priced(monkeypatch, "0.60")
    first = async_to_sync(client_for(alice).complete)(ASK)
    assert first.receipt.cost_usd == Decimal("0.60")
    with pytest.raises(BudgetExceeded) as caught:
        async_to_sync(client_for(alice).complete)(ASK)
    assert caught.value.receipt.attempts == []
    credential.refresh_from_db()
    assert credential.request_count == 1
    assert UsageRecord.objects.count() == 1


def test_call_of_several_attempts_costs_their_sum(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal costs nothing; an answer that could not be read may have been charged."""
    for name, model in (("a", "sandbox-chat+fault:401"), ("b", "sandbox-chat+fault:html"), ("c", "sandbox-chat")):
        UserCredentialFactory(user=alice, provider="sandbox", name=name, model=model, key=f"sbx-good-{name}-0123456789")
    _priced(monkeypatch, "0.10")
    receipt = async_to_sync(client_for(alice).complete)(ASK).receipt
    assert [each.outcome for each in receipt.attempts] == [
        "AuthenticationFailed",
        "BadProviderResponse",
        "BadProviderResponse",
        "ok",
    ]
    assert receipt.cost_usd == Decimal("0.30")
    assert sorted(UsageRecord.objects.values_list("state", flat=True)) == [
        "estimated",
        "estimated",
        "settled",
        "void",
    ]


def test_call_at_an_unknown_price_has_no_cost(alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    _priced(monkeypatch, None)
    receipt = async_to_sync(client_for(alice).complete)(ASK).receipt
    assert (receipt.cost_usd, receipt.price_source) == (None, None)
    assert UsageRecord.objects.get().cost_usd is None


def test_call_without_a_usage_block_is_estimated(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(
        user=alice, provider="sandbox", model="sandbox-chat+fault:usage-missing", key="sbx-good-0123456789"
    )
    receipt = async_to_sync(client_for(alice).complete)(ASK).receipt
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome, receipt.estimated) == ("estimated", "ok", True)
    assert receipt.as_json()["estimated"] is True
    assert row.input_tokens and row.output_tokens


def test_system_key_refuses_models_without_a_price_unless_staff_allow_them(
    alice: User, sandbox_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LLM_SYSTEM_KEYS = {"sandbox": {"api_key": "sbx-good-of-the-site-1", "model": "", "base_url": None}}
    _priced(monkeypatch, None)
    with pytest.raises(NotConfigured, match="price of sandbox-chat is unknown"):
        async_to_sync(client_for(alice).complete)(ASK)
    SystemConfig.objects.create(category="llm", key="system_allowance", value={"unpriced_models": True})
    assert async_to_sync(client_for(alice).complete)(ASK).receipt.attempts[0].key_owner == "system"


def test_listing_models_is_in_no_ledger(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    async_to_sync(client_for(alice).list_models)()
    assert UsageRecord.objects.count() == 0


def test_budget_adds_up_what_lies_back_only_once(alice: User, django_assert_num_queries: Any) -> None:
    now = timezone.now()
    if now.day == 1:
        now += timedelta(days=1)
    with time_machine.travel(now, tick=False):
        _spend(alice, "0.30", at=now - timedelta(hours=3))
        _spend(alice, "0.20", at=now - timedelta(minutes=1))
        with django_assert_num_queries(1):
            assert budgets.spent_usd("own", alice.pk) == Decimal("0.50")
        _spend(alice, "0.05")
        with django_assert_num_queries(1):
            assert budgets.spent_usd("own", alice.pk) == Decimal("0.55")
    with time_machine.travel(now + timedelta(hours=1), tick=False):
        assert budgets.spent_usd("own", alice.pk) == Decimal("0.55")


@pytest.mark.parametrize("moment", ["2026-03-01T00:00:01", "2026-03-01T00:20:00", "2026-03-15T12:00:00"])
def test_budget_begins_anew_with_its_period(alice: User, moment: str) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    with time_machine.travel(now, tick=False):
        month, day = now.replace(day=1, hour=0, minute=0, second=0), now.replace(hour=0, minute=0, second=0)
        for at in (month - timedelta(seconds=1), month, now):
            _spend(alice, "0.10", at=at)
        for at in (day - timedelta(seconds=1), day, now):
            _spend(alice, "0.10", "system", at=at)
        assert budgets.spent_usd("own", alice.pk) == Decimal("0.20")
        assert budgets.spent_usd("system", alice.pk) == Decimal("0.20")
        assert budgets.spent_usd("total", None) == Decimal("0.20")
