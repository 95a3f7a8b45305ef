"""Files: upload, read, delete."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_GET, require_POST

from agents import attachments
from agents.attachments import Attachment
from agents.views.answers import UserRequest, texts_of
from llm_credentials import limits
from llm_credentials.limits import LimitReached, with_pause

CHIP = "agents/_partials/attachment_chip.html"
REFUSED = "agents/_partials/attachment_refused.html"


@require_POST
@login_required
def attachment_create(request: UserRequest) -> HttpResponse:
    """Upload one file ahead of its form: returns the chip for that form, or an error."""
    try:
        limits.admit("upload", request.user)
        stored = attachments.from_form(request.user, (), request.FILES.getlist("files")[: attachments.MAX_FILES])
    except ValidationError as error:
        return render(request, REFUSED, {"errors": texts_of(error)}, status=422)
    except LimitReached as limit:
        return with_pause(render(request, REFUSED, {"errors": [str(limit)]}, status=429), limit)
    if not stored:
        return render(request, REFUSED, {"errors": [_("Choose a file first.")]}, status=422)
    return render(request, CHIP, {"attachments": stored}, status=201)


@require_GET
@cache_control(private=True, no_cache=True)
@login_required
def attachment_detail(request: UserRequest, attachment_id: UUID) -> HttpResponseBase:
    """Cached by the browser, which revalidates each time whether the user may still have it."""
    response: HttpResponseBase | None = get_conditional_response(request, etag=f'"{attachment_id}"')
    if response is not None and Attachment.objects.for_user(request.user).filter(pk=attachment_id).exists():
        return response
    response = download(request.user, attachment_id)
    response["ETag"] = f'"{attachment_id}"'
    return response


def download(user: User, attachment_id: UUID) -> HttpResponse:
    """As a download, never as a page of this site. Raises Http404."""
    try:
        found = attachments.read(user, attachment_id)
    except Attachment.DoesNotExist:
        raise Http404 from None
    # Serve text as plain text, so that a browser does not render an HTML file on this site.
    kind = found.media_type if not found.is_text else "text/plain; charset=utf-8"
    headers = {
        "Content-Disposition": content_disposition_header(True, found.name) or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return HttpResponse(found.data, content_type=kind, headers=headers)


@require_POST
@login_required
def attachment_delete(request: UserRequest, attachment_id: UUID) -> HttpResponse:
    try:
        attachments.remove(request.user, attachment_id)
    except Attachment.DoesNotExist:
        raise Http404 from None
    return HttpResponse(status=204) if request.htmx else redirect("agents:conversation-list")
