"""Expenses: what is kept of a receipt, asked about, listed, changed, added up and taken along."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from agents import attachments
from agents.expenses import services
from agents.expenses.listing import Wanted, totals
from agents.expenses.models import Expense
from agents.expenses.receipts import Receipt
from agents.expenses.values import NotAnAmount, amount_of, money_words
from agents.models import AgentRun, RunState
from agents.tests.test_expense import LUNA, photo
from llm_credentials.services import Overtaken

pytestmark = pytest.mark.django_db
BY_HAND: dict[str, Any] = {"vendor": "Café Luna", "date": "2024-11-03", "currency": "EUR", "total": "6.70"}


@pytest.fixture
def run(alice: User) -> AgentRun:
    """One that has read a receipt."""
    receipt = attachments.store_bytes(alice, "luna.jpg", photo())
    return AgentRun.objects.create(
        user=alice,
        agent="expense",
        input="luna.jpg",
        state=RunState.DONE,
        result=Receipt.model_validate(LUNA).model_dump(mode="json"),
        attachment_ids=[str(receipt.pk)],
    )


def keep(user: User, **changes: Any) -> Expense:
    return services.expense_create(user=user, **BY_HAND | changes)


def sent(client: Client, path: str, **changes: Any) -> Any:
    """The page's form as a browser sends it."""
    lines = changes.pop("lines", [])
    data = BY_HAND | {"tax_included": "on", "line-TOTAL_FORMS": str(len(lines)), "line-INITIAL_FORMS": "0"} | changes
    for number, line in enumerate(lines):
        data |= {f"line-{number}-{name}": value for name, value in line.items()}
    return client.post(path, data)


# Keeping


def test_receipt_is_kept_as_it_was_read_and_corrected(alice: User, run: AgentRun) -> None:
    expense = services.expense_create(user=alice, run_id=run.pk, vendor="Café Luna, Lisboa")
    assert (expense.vendor, expense.total, expense.currency) == ("Café Luna, Lisboa", Decimal("6.70"), "EUR")
    assert [line.description for line in expense.lines.all()] == ["Espresso", "Toast"]
    assert str(expense.attachment_id) == run.attachment_ids[0]
    with pytest.raises(ValidationError, match="in your list already"):
        services.expense_create(user=alice, run_id=run.pk, accept={"duplicate"})
    assert Expense.objects.count() == 1


def test_nothing_is_kept_before_its_user_says_so(client: Client, alice: User, run: AgentRun) -> None:
    client.force_login(alice)
    assert "Check and keep" in client.get(run.get_absolute_url()).content.decode()
    page = client.get(f"/expenses/new/?run={run.pk}").content.decode()
    assert 'value="Café Luna"' in page
    assert 'value="3.20"' in page
    assert not Expense.objects.exists()


def test_page_keeps_what_it_is_sent_and_a_second_click_leads_there(client: Client, alice: User, run: AgentRun) -> None:
    client.force_login(alice)
    path = f"/expenses/new/?run={run.pk}"
    lines = [{"description": "Dinner", "amount": "6,70"}, {"description": " "}]
    response = sent(client, path, lines=lines, note="With Bob")
    expense = Expense.objects.get()
    assert response.headers["Location"] == expense.get_absolute_url()
    assert [line.amount for line in expense.lines.all()] == [Decimal("6.70")]
    assert sent(client, path).headers["Location"] == expense.get_absolute_url()
    assert "In your list" in client.get(run.get_absolute_url()).content.decode()
    assert Expense.objects.count() == 1


@pytest.mark.parametrize("result", [{"is_receipt": False, "problem": "A cat."}, None, "text", {"is_receipt": "?"}])
def test_run_without_a_receipt_is_kept_by_nobody(client: Client, alice: User, run: AgentRun, result: Any) -> None:
    AgentRun.objects.filter(pk=run.pk).update(result=result)
    client.force_login(alice)
    assert client.get(run.get_absolute_url()).status_code == 200
    if result != {"is_receipt": "?"}:
        assert client.get(f"/expenses/new/?run={run.pk}").status_code == 302
        with pytest.raises(ValidationError, match=r"receipt"):
            services.expense_create(user=alice, run_id=run.pk, **BY_HAND)


BAD = {
    "nobody paid": ({"vendor": " "}, "vendor"),
    "long vendor": ({"vendor": "x" * 201}, "vendor"),
    "unknown currency": ({"currency": "EURO"}, "currency"),
    "no currency": ({"currency": "XXX"}, "currency"),
    "no day": ({"date": "2026-02-31"}, "date"),
    "words for a day": ({"date": "yesterday"}, "date"),
    "the future": ({"date": "2999-01-01"}, "date"),
    "long ago": ({"date": "0001-01-01"}, "date"),
    "no total": ({"total": ""}, "total"),
    "words for a total": ({"total": "six"}, "total"),
    "not a number": ({"total": "NaN"}, "total"),
    "infinite": ({"total": "1e999"}, "total"),
    "huge": ({"total": "9" * 14}, "total"),
    "half a cent": ({"total": "6.705"}, "total"),
    "half a yen": ({"total": "6.5", "currency": "JPY"}, "total"),
    "ambiguous": ({"total": "1,234"}, "total"),
    "other digits": ({"total": "٦"}, "total"),
    "tax": ({"tax": "a lot"}, "tax"),
    "category": ({"category": "fun"}, "category"),
    "note": ({"note": "x" * 2001}, "note"),
    "line without amount": ({"lines": [{"description": "Tea"}]}, "lines"),
    "line with words": ({"lines": [{"description": "Tea", "amount": "two"}]}, "lines"),
}


@pytest.mark.parametrize("name", BAD)
def test_expense_that_is_wrong_is_refused_by_field(client: Client, alice: User, name: str) -> None:
    changes, field = BAD[name]
    with pytest.raises(ValidationError) as refused:
        keep(alice, **changes)
    assert set(refused.value.message_dict) == {field}
    client.force_login(alice)
    response = sent(client, "/expenses/new/", **changes)
    assert response.status_code == 422
    told = [*response.context["form"].errors.get(field, []), *response.context["faults"]]
    assert refused.value.message_dict[field][0] in told

    assert not Expense.objects.exists()


def test_receipt_of_very_many_lines_is_refused(alice: User) -> None:
    with pytest.raises(ValidationError, match="At most 200 lines"):
        keep(alice, lines=[{"amount": "1"}] * 201)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *(("12.5", "12.5"), ("12,50", "12.5"), ("1,234.50", "1234.5"), ("1.234,50", "1234.5"), ("-3", "-3")),
        *((7, "7"), ("1'234.50", "1234.5"), ("\u22125.00", "-5"), ("1 234 567,89", "1234567.89")),
    ],
)
def test_amounts_are_read_as_people_write_them(text: Any, amount: str) -> None:
    assert amount_of(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "1,2,3", "1.234.567", "0x10", "1_000", "--1", True, None, "1,234.567,00"])
def test_amounts_that_could_be_read_twice_are_refused(text: Any) -> None:
    with pytest.raises(NotAnAmount):
        amount_of(text)


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [("1234.5", "EUR", "1,234.50 EUR"), ("1234", "JPY", "1,234 JPY"), ("1.5", "KWD", "1.500 KWD"), ("-3", "", "-3.00")],
)
def test_money_has_the_decimals_of_its_currency(amount: str, currency: str, words: str) -> None:
    assert money_words(Decimal(amount), currency) == words


def test_difference_and_duplicate_are_asked_and_not_hidden(client: Client, alice: User) -> None:
    lines = [{"description": "Tea", "quantity": "2", "unit_price": "3", "amount": "5.00"}]
    with pytest.raises(ValidationError) as refused:
        keep(alice, lines=lines)
    assert refused.value.message_dict["difference"] == [
        "Line 1: 2 times 3.00 is 6.00 EUR, and it says 5.00 EUR.",
        "The lines come to 5.00 EUR, and the total says 6.70 EUR: 1.70 EUR of difference.",
    ]
    keep(alice, lines=lines, accept={"difference"})
    client.force_login(alice)
    again = {"vendor": "CAFÉ  luna", "lines": lines}
    page = sent(client, "/expenses/new/", **again)
    assert page.status_code == 422
    assert set(page.context["asked"]) == {"difference", "duplicate"}
    assert "on this day with this total already" in page.content.decode()
    assert sent(client, "/expenses/new/", **again, accept_difference="on").status_code == 422
    assert sent(client, "/expenses/new/", **again, accept_difference="on", accept_duplicate="on").status_code == 302
    assert Expense.objects.count() == 2


def test_same_receipt_of_somebody_else_is_no_duplicate(alice: User, bob: User) -> None:
    keep(alice)
    keep(bob)
    keep(alice, total="-6.70")
    keep(alice, currency="CHF")


# Changing


def test_two_editors_at_once_lose_nothing(client: Client, alice: User) -> None:
    expense = keep(alice)
    client.force_login(alice)
    path = expense.get_absolute_url()
    assert sent(client, path, vendor="First", version="1").status_code == 302
    page = sent(client, path, vendor="Second", version="1")
    assert page.status_code == 409
    assert "changed while you had it open" in page.content.decode()
    assert 'value="Second"' in page.content.decode()
    expense.refresh_from_db()
    assert (expense.vendor, expense.version) == ("First", 2)
    assert sent(client, path, vendor="Second", version=page.context["form"]["version"].value()).status_code == 302
    with pytest.raises(Overtaken):
        services.expense_delete(user=alice, expense_id=expense.pk, version=1)


def test_change_keeps_what_is_not_named(alice: User, run: AgentRun) -> None:
    expense = services.expense_create(user=alice, run_id=run.pk)
    changed = services.expense_update(user=alice, expense_id=expense.pk, note="Client")
    assert (changed.vendor, changed.note, changed.lines.count()) == ("Café Luna", "Client", 2)
    with pytest.raises(ValidationError, match="of difference"):
        services.expense_update(user=alice, expense_id=expense.pk, total="7")


def test_expense_and_run_of_somebody_else_are_not_there(client: Client, alice: User, bob: User, run: AgentRun) -> None:
    expense = keep(alice)
    client.force_login(bob)
    for path in (expense.get_absolute_url(), f"{expense.get_absolute_url()}delete/", f"/expenses/new/?run={run.pk}"):
        assert client.get(path).status_code == 404
        assert sent(client, path).status_code == 404
    assert client.get(f"/expenses/new/?run={uuid4()}").status_code == 404
    assert client.get("/expenses/new/?run=x").status_code == 404
    assert "Café Luna" not in client.get("/expenses/").content.decode()
    for act in (services.expense_update, services.expense_delete):
        with pytest.raises(Expense.DoesNotExist):
            act(user=bob, expense_id=expense.pk)
    with pytest.raises(AgentRun.DoesNotExist):
        services.expense_create(user=bob, run_id=run.pk)


def test_expense_is_removed_after_asking(client: Client, alice: User, run: AgentRun) -> None:
    expense = services.expense_create(user=alice, run_id=run.pk)
    client.force_login(alice)
    path = f"{expense.get_absolute_url()}delete/"
    assert "6.70 EUR" in client.get(path).content.decode()
    assert client.post(path).status_code == 302
    assert not Expense.objects.exists()
    assert attachments.Attachment.objects.filter(pk=run.attachment_ids[0]).exists()


def test_form_that_is_not_ours_is_refused(client: Client, alice: User) -> None:
    client.force_login(alice)
    for broken in ({"line-TOTAL_FORMS": "x"}, {"line-TOTAL_FORMS": "-1"}, {"version": "9" * 40}):
        assert client.post("/expenses/new/", BY_HAND | broken).status_code == 422
    assert not Expense.objects.exists()


# Finding, adding up, taking along


@pytest.mark.parametrize(
    ("asked", "vendors"),
    [
        ({}, ["Café Luna", "Kiosk", "SBB"]),
        ({"q": "äpfel luna"}, ["Café Luna"]),
        ({"q": "100%_"}, []),
        ({"month": "2024-10"}, ["SBB"]),
        ({"category": "meals"}, ["Café Luna", "Kiosk"]),
        ({"q": "'; --" + "x" * 500}, []),
    ],
)
def test_list_is_searched(client: Client, alice: User, asked: dict[str, str], vendors: list[str]) -> None:
    keep(alice, category="meals", note="ÄPFEL")
    keep(alice, vendor="Kiosk", total="0.10", category="meals")
    keep(alice, vendor="SBB", total="-41", currency="CHF", category="travel", date="2024-10-31")
    assert sorted({each.vendor for each in Wanted.of(asked).of_user(alice)}) == vendors
    client.force_login(alice)
    page = client.get("/expenses/", asked)
    assert [each.vendor for each in page.context["page"]] == sorted(vendors, key=["Kiosk", "Café Luna", "SBB"].index)
    assert page.status_code == 200


@pytest.mark.parametrize("asked", [{"month": "2024-13"}, {"month": "now"}, {"category": "fun"}])
def test_list_says_what_it_does_not_understand(client: Client, alice: User, asked: dict[str, str]) -> None:
    client.force_login(alice)
    assert client.get("/expenses/", asked).status_code == 422
    assert client.get("/expenses/export/", asked).status_code == 422
    assert client.get("/api/user/expenses", asked).status_code == 422


def test_totals_are_exact_by_month_category_and_currency(alice: User, bob: User) -> None:
    for number in range(3):
        keep(alice, total="0.10", vendor=f"Kiosk {number}", category="meals")
    keep(alice, category="travel", total="-41", currency="CHF")
    keep(alice, category="travel", date="2024-10-31")
    keep(bob, total="1000")
    found = [
        (each.month.isoformat()[:7], each.currency, each.count, each.total_words, each.categories)
        for each in totals(Expense.objects.for_user(alice))
    ]
    assert found == [
        ("2024-11", "CHF", 1, "-41.00 CHF", [("travel", Decimal("-41.00"))]),
        ("2024-11", "EUR", 3, "0.30 EUR", [("meals", Decimal("0.30"))]),
        ("2024-10", "EUR", 1, "6.70 EUR", [("travel", Decimal("6.70"))]),
    ]


def test_csv_holds_no_formula_and_refunds_as_numbers(client: Client, alice: User) -> None:
    keep(alice, vendor="=HYPERLINK(1)", note="+cmd", total="-6.70", lines=[{"description": "@x", "amount": "-6.70"}])
    client.force_login(alice)
    response = client.get("/expenses/export/?format=csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(response.content.decode("utf-8")))
    assert (row["vendor"], row["note"], row["lines"]) == ("'=HYPERLINK(1)", "'+cmd", "'@x -6.70")
    assert (row["total"], row["tax"]) == ("-6.70", "")
    (said,) = json.loads(client.get("/expenses/export/?format=json").content)
    assert (said["vendor"], said["total"], said["lines"][0]["amount"]) == ("=HYPERLINK(1)", "-6.70", "-6.70")


# The API


def test_api_keeps_changes_and_removes(client: Client, alice: User, run: AgentRun) -> None:
    client.force_login(alice)
    made = client.post("/api/user/expenses", {"run": str(run.pk)}, content_type="application/json")
    assert made.status_code == 201
    body = made.json()
    assert (body["vendor"], body["total"], len(body["lines"])) == ("Café Luna", "6.70", 2)
    path = f"/api/user/expenses/{body['id']}"
    seen = client.get(path).headers["ETag"]
    assert made.headers["ETag"] == seen
    refused = client.patch(path, {"total": "7"}, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["where"]) == (422, "body.difference")
    changes = {"total": "7", "accept_difference": True}
    assert client.patch(path, changes, content_type="application/json").json()["total"] == "7.00"
    late = client.patch(path, {"note": "x"}, content_type="application/json", headers={"If-Match": seen})
    assert late.status_code == 412
    assert client.delete(path, headers={"If-Match": seen}).status_code == 412
    assert client.get("/api/user/expenses/totals").json()["items"][0]["total"] == "7.00"
    assert client.get("/api/user/expenses/export?format=json").json()[0]["total"] == "7.00"
    assert client.get("/api/user/expenses?month=2024-11").json()["count"] == 1
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("body", [{"total": 6.7}, {"version": 9}, {"user": 1}, {"lines": [{}]}, {"date": "x"}])
def test_api_takes_no_other_shapes(client: Client, alice: User, body: dict[str, Any]) -> None:
    client.force_login(alice)
    response = client.post("/api/user/expenses", BY_HAND | body, content_type="application/json")
    assert response.status_code == 422
    assert not Expense.objects.exists()
