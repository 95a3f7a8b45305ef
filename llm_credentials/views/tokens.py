"""Lists, creates and revokes access tokens."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from llm_credentials import services, stepup
from llm_credentials.forms import TokenForm
from llm_credentials.models import PersonalAccessToken
from llm_credentials.views.answers import UserRequest


@require_GET
@never_cache
@login_required
def token_list(request: UserRequest) -> HttpResponse:
    tokens = PersonalAccessToken.objects.for_user(request.user).listed()
    return render(request, "llm_credentials/token_list.html", {"tokens": tokens})


@require_http_methods(["GET", "POST"])
@never_cache
@login_required
def token_create(request: UserRequest) -> HttpResponse:
    """The form, after step-up; then the token, which only this response contains."""
    form = TokenForm(request.POST if request.method == "POST" else None, initial=_begun(request.GET))
    if not stepup.is_recent(request):
        return stepup.lead(request, request.path + (f"?{form.begun}" if form.is_valid() else ""))
    if request.method == "GET" or not form.is_valid():
        return _show_form(request, form)
    try:
        token, secret = services.token_create(user=request.user, **form.draft)
    except ValidationError as error:
        form.take_errors(error)
        return _show_form(request, form)
    return render(request, "llm_credentials/token_made.html", {"token": token, "secret": secret})


def _begun(query: QueryDict) -> dict[str, object]:
    """The choices made before step-up; this form contains no secret."""
    given = {name: query.getlist(name) if name in TokenForm.LISTS else query[name] for name in query}
    return {name: value for name, value in given.items() if name in TokenForm.base_fields}


def _show_form(request: UserRequest, form: TokenForm) -> HttpResponse:
    return render(request, "llm_credentials/token_create.html", {"form": form}, status=422 if form.errors else 200)


@require_GET
@never_cache
@login_required
def token_confirm_revocation(request: UserRequest, token_id: UUID) -> HttpResponse:
    token = get_object_or_404(PersonalAccessToken.objects.for_user(request.user).listed(), pk=token_id)
    return render(request, "llm_credentials/token_revoke.html", {"token": token})


@require_POST
@never_cache
@login_required
def token_revoke(request: UserRequest, token_id: UUID) -> HttpResponse:
    """Needs no step-up, so that a leaked token can be revoked at once."""
    try:
        services.token_revoke(user=request.user, token_id=token_id)
    except PersonalAccessToken.DoesNotExist:
        raise Http404 from None
    messages.success(request, _("The token is revoked. Programs that hold it are refused from now on."))
    return redirect(reverse("llm_credentials:token-list"))
