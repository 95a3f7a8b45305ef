"""Exports and imports settings, and imports keys from a pasted ``.env`` text.

A preview is sent to the browser and submitted from there; the server keeps nothing in between.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import env_keys, stepup, transfer
from llm_credentials.env_keys import EnvPlan, Wish
from llm_credentials.models import UserCredential
from llm_credentials.views.answers import UserRequest
from llm_credentials.views.credentials import test_new_key

PAGE = "llm_credentials/transfer_detail.html"


@require_GET
@never_cache
@login_required
def transfer_detail(request: UserRequest) -> HttpResponse:
    return _show(request)


@require_GET
@never_cache
@login_required
def settings_export(request: UserRequest) -> HttpResponse:
    text = transfer.settings_export(request.user).model_dump_json(indent=2)
    response = HttpResponse(text, content_type="application/json; charset=utf-8")
    name = f"keyswitch-settings-{timezone.localdate():%Y-%m-%d}.json"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@require_POST
@never_cache
@login_required
def settings_import_look(request: UserRequest) -> HttpResponse:
    """Preview of the changes from an uploaded file, else from pasted text."""
    text = request.POST.get("document", "")
    upload = request.FILES.get("file")
    if upload is not None:
        # One byte over the limit shows that a file is too long, without reading it all.
        text = upload.read(transfer.MAX_BYTES + 1).decode("utf-8", "replace")
    try:
        document = transfer.document_read(text)
    except ValidationError as error:
        kept = "" if upload is not None else text[: transfer.MAX_BYTES]
        return _show(request, document=kept, document_errors=error.messages, status=422)
    lines = transfer.settings_import(user=request.user, document=document, dry_run=True)
    changes = sum(line.outcome == "changed" for line in lines)
    return _show(request, document=text, lines=lines, changes=changes)


@require_POST
@never_cache
@login_required
def settings_import(request: UserRequest) -> HttpResponse:
    try:
        document = transfer.document_read(request.POST.get("document", ""))
    except ValidationError as error:
        return _show(request, document_errors=error.messages, status=422)
    lines = transfer.settings_import(user=request.user, document=document)
    count = sum(line.outcome == "changed" for line in lines)
    words = ngettext("%(count)d thing was changed.", "%(count)d things were changed.", count)
    messages.success(request, words % {"count": count})
    return redirect("llm_credentials:provider-list")


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
@sensitive_variables("text")
def env_import_look(request: UserRequest) -> HttpResponse:
    """Preview of each key in the text."""
    text = request.POST.get("text", "")
    try:
        plan = env_keys.env_plan(user=request.user, text=text)
    except ValidationError as error:
        return _show(request, text_errors=error.messages, status=422)
    return _show(request, plan=plan, text=text)


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
@sensitive_variables("text")
def env_import(request: UserRequest) -> HttpResponse:
    """Store the keys of the chosen variables (repeated ``take``), with the choices made for each."""
    text = request.POST.get("text", "")
    wishes = {
        variable: Wish(
            provider=request.POST.get(f"provider-{variable}", ""), name=request.POST.get(f"name-{variable}", "")
        )
        for variable in request.POST.getlist("take")
    }
    try:
        if not stepup.is_recent(request):
            plan = env_keys.env_plan(user=request.user, text=text, wishes=wishes)
            proof = stepup.url(reverse("llm_credentials:step-up-done"))
            return _show(request, plan=plan, text=text, taken=set(wishes), proof=proof, status=401)
        plan = env_keys.env_import(user=request.user, text=text, take=wishes)
    except ValidationError as error:
        return _show(request, text_errors=error.messages, status=422)
    saved = _tested(request, plan)
    if any(key.outcome in ("refused", "choose") for key in plan.keys if key.variable in wishes) or not saved:
        return _show(request, plan=plan, text=text, taken=set(wishes), saved=saved, status=200 if saved else 422)
    messages.success(
        request, ngettext("%(count)d key is saved.", "%(count)d keys are saved.", saved) % {"count": saved}
    )
    return redirect("llm_credentials:provider-list")


def _tested(request: UserRequest, plan: EnvPlan) -> int:
    """Start a test of each key that was stored. Returns how many keys were stored."""
    stored = {(row.provider, row.name): row for row in UserCredential.objects.for_user(request.user)}
    saved = [key for key in plan.keys if key.outcome == "saved" and key.spec is not None]
    for key in saved:
        if key.spec is not None:
            test_new_key(request, stored[key.spec.slug, key.name])
    return len(saved)


def _show(request: UserRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    plan: EnvPlan | None = context.get("plan")
    taken = context.pop("taken", None)
    if plan is not None:
        context["keys"] = [
            (key, key.is_proposed if taken is None else key.variable in taken and key.can_be_taken) for key in plan.keys
        ]
    context["nothing"] = _("Nothing in it can be imported.") if plan is not None and not plan.keys else ""
    return render(request, PAGE, context, status=status)
