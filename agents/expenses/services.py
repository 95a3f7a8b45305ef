"""All writes to expenses. Invalid input raises ValidationError with ``{field: [text]}``.

Fields: ``vendor``, ``date``, ``currency``, ``total``, ``category``, ``tax``, ``tax_included``, ``note`` and ``lines``
(``description``, ``quantity``, ``unit_price``, ``amount``); amounts and dates may be text or typed values. Two faults
only need confirmation: sums that do not agree, and a duplicate expense. They raise ValidationError for ``difference``
and ``duplicate`` until the caller names them in ``accept``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from agents.attachments import Attachment
from agents.expenses.checking import Checked, check
from agents.expenses.models import Expense, ExpenseLine
from agents.models import AgentRun, RunState
from llm_credentials.services import Overtaken

if TYPE_CHECKING:
    from django.contrib.auth.models import User

DIFFERENCE: Final = "difference"
DUPLICATE: Final = "duplicate"
ALREADY_KEPT: Final = "already_kept"
"""Error code for a receipt that is already kept."""


def expense_create(*, user: User, run_id: UUID | None = None, accept: Collection[str] = (), **fields: Any) -> Expense:
    """``run_id``: the run that read the receipt; it provides the values missing from ``fields``.

    Raises AgentRun.DoesNotExist, also for other users' runs.
    """
    run = None if run_id is None else AgentRun.objects.for_user(user).get(pk=run_id)
    checked = check((read_by(run) if run else {}) | fields)
    _ask(user, checked, accept)
    expense = Expense(user=user, run=run, attachment=_receipt_of(run))
    try:
        with transaction.atomic():
            _write(expense, checked)
    except IntegrityError:
        if run is None or not Expense.objects.filter(run=run).exists():
            raise
        words = _("This receipt is in your list already. Change it there.")
        raise ValidationError({"run": [ValidationError(words, code=ALREADY_KEPT)]}) from None
    return expense


def expense_update(
    *, user: User, expense_id: UUID, version: int | None = None, accept: Collection[str] = (), **fields: Any
) -> Expense:
    """Fields not given stay as they are. ``version``: the version the caller has seen.

    Raises Overtaken if the expense has another version by now, Expense.DoesNotExist.
    """
    with transaction.atomic():
        expense = Expense.objects.for_user(user).select_for_update().get(pk=expense_id)
        if version is not None and version != expense.version:
            raise Overtaken
        checked = check(fields_of(expense) | fields)
        _ask(user, checked, accept, but=expense)
        expense.version += 1
        _write(expense, checked)
    return expense


def expense_delete(*, user: User, expense_id: UUID, version: int | None = None) -> None:
    """The run and the file that it came from stay. Raises Overtaken, Expense.DoesNotExist."""
    with transaction.atomic():
        expense = Expense.objects.for_user(user).select_for_update().get(pk=expense_id)
        if version is not None and version != expense.version:
            raise Overtaken
        expense.delete()


def duplicates(user: User, checked: Checked, *, but: Expense | None = None) -> list[Expense]:
    """Expenses with the same vendor, day and total."""
    same = Expense.objects.for_user(user).filter(date=checked.date, currency=checked.currency, total=checked.total)
    vendor = _alike(checked.vendor)
    return [each for each in same if _alike(each.vendor) == vendor and (but is None or each.pk != but.pk)]


def read_by(run: AgentRun) -> dict[str, Any]:
    """The fields as this run read them. Raises ValidationError for a run that read no receipt."""
    result = run.result
    if run.agent != "expense" or run.state != RunState.DONE or not isinstance(result, dict):
        raise ValidationError({"run": [_("This run read no receipt.")]})
    if not result.get("is_receipt"):
        raise ValidationError({"run": [_("What this run was given is no receipt.")]})
    return {name: result.get(name) for name in FIELDS if result.get(name) is not None}


FIELDS: Final = ("vendor", "date", "currency", "total", "category", "tax", "tax_included", "lines")
"""Fields common to receipts and expenses."""


def fields_of(expense: Expense) -> dict[str, Any]:
    kept = {name: getattr(expense, name) for name in (*FIELDS, "note") if name != "lines"}
    names = ("description", "quantity", "unit_price", "amount")
    return kept | {"lines": [{name: getattr(line, name) for name in names} for line in expense.lines.all()]}


def _ask(user: User, checked: Checked, accept: Collection[str], *, but: Expense | None = None) -> None:
    asked: dict[str, list[str]] = {}
    if DIFFERENCE not in accept and (found := checked.faults()):
        asked[DIFFERENCE] = found
    if DUPLICATE not in accept and duplicates(user, checked, but=but):
        words = _("You have an expense of %(vendor)s on this day with this total already.")
        asked[DUPLICATE] = [words % {"vendor": checked.vendor}]
    if asked:
        raise ValidationError(asked)


def _write(expense: Expense, checked: Checked) -> None:
    for name, value in checked.columns().items():
        setattr(expense, name, value)
    said = (checked.vendor, checked.note, *(line.description for line in checked.lines))
    expense.search_text = " ".join(said).casefold()
    expense.save()
    expense.lines.all().delete()
    ExpenseLine.objects.bulk_create(
        ExpenseLine(
            expense=expense,
            position=position,
            description=line.description,
            quantity=line.quantity,
            unit_price=line.unit_price,
            amount=line.amount,
        )
        for position, line in enumerate(checked.lines)
    )


def _receipt_of(run: AgentRun | None) -> Attachment | None:
    if run is None or not run.attachment_ids:
        return None
    rows = Attachment.objects.filter(user_id=run.user_id).without_content()
    return rows.filter(pk=run.attachment_ids[0]).first()


def receipt_id_of(expense: Expense | None, run: AgentRun | None) -> UUID | None:
    """Id of the file that shows the receipt, or its first page."""
    if expense is not None:
        return expense.attachment_id
    receipt = _receipt_of(run)
    return receipt.pk if receipt else None


def _alike(vendor: str) -> str:
    return " ".join(vendor.casefold().split())


def lines_of(found: Any) -> list[Mapping[str, Any]]:
    """Lines as a form or a run has them, without empty ones."""
    return [each for each in found or [] if any(str(value or "").strip() for value in each.values())]
