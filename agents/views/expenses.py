"""Expenses: the list with totals, the form to check and correct one, exports."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from agents.expenses import exporting, services
from agents.expenses.currencies import CODES
from agents.expenses.forms import ExpenseForm, forms_of
from agents.expenses.listing import Wanted, totals
from agents.expenses.models import Expense
from agents.expenses.services import ALREADY_KEPT
from agents.expenses.values import Category
from agents.models import AgentRun
from agents.views.answers import UserRequest, find_run, texts_of
from llm_credentials.services import Overtaken

PER_PAGE = 30
MONTHS_SHOWN = 12


@require_GET
@never_cache
@login_required
def expense_list(request: UserRequest) -> HttpResponse:
    """Filtered by ``q``, ``month`` and ``category``."""
    problem = ""
    try:
        wanted = Wanted.of(request.GET.dict())
    except ValidationError as error:
        wanted, problem = Wanted(), " ".join(texts_of(error))
    found = wanted.of_user(request.user)
    sums = totals(found)
    context = {
        "page": Paginator(found, PER_PAGE).get_page(request.GET.get("page")),
        "totals": sums[:MONTHS_SHOWN],
        "is_cut": len(sums) > MONTHS_SHOWN,
        "wanted": wanted,
        "categories": Category.choices,
        "problem": problem,
    }
    return render(request, "agents/expense_list.html", context, status=422 if problem else 200)


@require_GET
@never_cache
@login_required
def expense_export(request: UserRequest) -> HttpResponse:
    """Exports the filtered list as ``format``: csv or json."""
    try:
        wanted = Wanted.of(request.GET.dict())
    except ValidationError as error:
        return HttpResponse(" ".join(texts_of(error)), status=422, content_type="text/plain; charset=utf-8")
    return exporting.exported(wanted.of_user(request.user), "json" if request.GET.get("format") == "json" else "csv")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
def expense_create(request: UserRequest) -> HttpResponse:
    """Form to check an expense, from the run ``?run=`` or entered by hand; POST saves it."""
    run = _run_of(request)
    if run is not None and (kept := Expense.objects.filter(run=run).first()) is not None:
        return redirect(kept)
    if request.method == "POST":
        return _kept(request, run)
    try:
        fields = services.read_by(run) if run else {}
    except ValidationError as error:
        messages.error(request, " ".join(texts_of(error)))
        return redirect(run or "agents:expense-list")
    form, lines = forms_of(initial=fields)
    return _page(request, form, lines, run=run)


def _run_of(request: UserRequest) -> AgentRun | None:
    """Raises Http404."""
    if not (key := request.GET.get("run", "")):
        return None
    try:
        return find_run(request.user, UUID(key))
    except ValueError:
        raise Http404 from None


def _kept(request: UserRequest, run: AgentRun | None) -> HttpResponse:
    form, lines = forms_of(request.POST)
    try:
        fields = _given(form, lines)
        expense = services.expense_create(
            user=request.user, run_id=run.pk if run else None, accept=form.accepted(), **fields
        )
    except ValidationError as error:
        if _is_kept(error):  # by the first of two clicks
            return redirect(Expense.objects.for_user(request.user).get(run=run))
        return _page(request, form, lines, run=run, error=error, status=422)
    messages.success(request, _("The expense is in your list."))
    return redirect(expense)


def _is_kept(error: ValidationError) -> bool:
    return any(each.code == ALREADY_KEPT for each in error.error_dict.get("run", ()))


def _given(form: ExpenseForm, lines: Any) -> dict[str, Any]:
    """Fields for a service. Raises ValidationError if the form was tampered with."""
    if not form.is_valid() or not lines.is_valid():
        raise ValidationError({"lines": [_("The lines did not arrive whole. Load the page anew, then save again.")]})
    return form.fields_given() | {"lines": services.lines_of([line.cleaned_data for line in lines])}


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
def expense_detail(request: UserRequest, expense_id: UUID) -> HttpResponse:
    """One expense, with every field editable."""
    expense = find_expense(request, expense_id)
    if request.method != "POST":
        form, lines = forms_of(initial=services.fields_of(expense) | {"version": expense.version})
        return _page(request, form, lines, expense=expense)
    form, lines = forms_of(request.POST)
    try:
        fields = _given(form, lines)
        expense = services.expense_update(
            user=request.user,
            expense_id=expense.pk,
            version=form.cleaned_data["version"],
            accept=form.accepted(),
            **fields,
        )
    except Overtaken:
        # If the user saves again, they mean to overwrite the current version.
        form.data = {**request.POST.dict(), "version": str(expense.version)}
        return _page(request, form, lines, expense=expense, is_overtaken=True, status=409)
    except ValidationError as error:
        return _page(request, form, lines, expense=expense, error=error, status=422)
    messages.success(request, _("The expense was changed."))
    return redirect(expense)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def expense_delete(request: UserRequest, expense_id: UUID) -> HttpResponse:
    """Asks on GET, deletes on POST."""
    expense = find_expense(request, expense_id)
    if request.method != "POST":
        return render(request, "agents/expense_delete.html", {"expense": expense})
    services.expense_delete(user=request.user, expense_id=expense.pk)
    messages.success(request, _("The expense was removed."))
    return redirect("agents:expense-list")


def find_expense(request: UserRequest, expense_id: UUID) -> Expense:
    return get_object_or_404(Expense.objects.for_user(request.user), pk=expense_id)


def _page(
    request: UserRequest,
    form: ExpenseForm,
    lines: Any,
    *,
    expense: Expense | None = None,
    run: AgentRun | None = None,
    error: ValidationError | None = None,
    is_overtaken: bool = False,
    status: int = 200,
) -> HttpResponse:
    others = form.tell(error) if error is not None and form.is_bound else {}
    result = (run.result or {}) if run else {}
    context = {
        "form": form,
        "lines": lines,
        "expense": expense,
        "run": run,
        "problem": result.get("problem", ""),
        "receipt_id": services.receipt_id_of(expense, run),
        "asked": {name: others.pop(name) for name in (services.DIFFERENCE, services.DUPLICATE) if name in others},
        "faults": [text for texts in others.values() for text in texts],
        "is_overtaken": is_overtaken,
        "currencies": CODES,
    }
    return render(request, "agents/expense_detail.html", context, status=status)
