"""Usage, cost and the budget."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from llm_credentials.ledger import budgets, exports
from llm_credentials.ledger.labels import Labels
from llm_credentials.ledger.reports import Report
from llm_credentials.models import LLMSettings
from llm_credentials.services import settings_update
from llm_credentials.views.answers import UserRequest
from llm_credentials.views.usage_report import Choice, UsagePage

PAGE = "llm_credentials/usage_detail.html"
FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


@require_GET
@never_cache
@login_required
def usage_detail(request: UserRequest) -> HttpResponse:
    """The user's usage: figures, a chart, a breakdown, the budget."""
    choice = Choice.of(request.GET.dict())
    return _show(request, choice, status=422 if choice.problem else 200)


def _show(request: UserRequest, choice: Choice, *, status: int = 200, **extra: Any) -> HttpResponse:
    page = UsagePage(choice, Report(choice.span, request.user.pk), Labels.for_user(request.user))
    settings = LLMSettings.of(request.user)
    standing = budgets.standing(request.user.pk, settings.monthly_budget_usd)
    context = {"page": page, "settings": settings, "standing": standing, **extra}
    return render(request, PAGE, context, status=status)


@require_GET
@never_cache
@login_required
def usage_export(request: UserRequest) -> HttpResponseBase:
    """Streams a file with every day, provider, model, task and key of the chosen days."""
    return export(request, request.user.pk, Labels.for_user(request.user))


def export(request: HttpRequest, user_id: Any, labels: Labels) -> HttpResponseBase:
    """The requested file, for this user or (None) for all."""
    choice = Choice.of(request.GET.dict())
    form = request.GET.get("format", "csv")
    if choice.problem or form not in FORMATS:
        words = choice.problem or _("Choose csv or json.")
        return HttpResponse(words, status=422, content_type="text/plain; charset=utf-8")
    return export_response(form, Report(choice.span, user_id), labels)


def export_response(form: str, report: Report, labels: Labels) -> StreamingHttpResponse:
    write = exports.csv_lines if form == "csv" else exports.json_lines
    name = f"usage-{report.span.first}-{report.span.last}.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return StreamingHttpResponse(write(report, labels), content_type=FORMATS[form], headers=headers)


@require_POST
@never_cache
@login_required
def budget_set(request: UserRequest) -> HttpResponse:
    """Set the monthly budget (``amount``, empty for none) and whether it stops calls (``stops``: ``on`` or nothing)."""
    try:
        amount = _amount(request.POST)
        changes: dict[str, Any] = {"run_budget_usd": _amount(request.POST, "run_amount")}
        settings_update(
            user=request.user,
            monthly_budget_usd=amount,
            budget_stops=request.POST.get("stops", "off") == "on",
            **(changes if "run_amount" in request.POST else {}),
        )
    except ValidationError as error:
        typed = request.POST.get("amount", "")[:20]
        return _show(request, Choice.of({}), status=422, budget_error=" ".join(error.messages), budget_typed=typed)
    messages.success(request, _("Budget saved.") if amount is not None else _("Budget removed."))
    return redirect("llm_credentials:usage-detail")


def _amount(posted: Mapping[str, str], name: str = "amount") -> Decimal | None:
    text = posted.get(name, "").strip().removeprefix("$")
    if not text:
        return None
    try:
        return Decimal(text) if len(text) <= 20 else Decimal("NaN")
    except InvalidOperation:
        raise ValidationError(_("Write an amount in US dollars, such as 20 or 12.50.")) from None
