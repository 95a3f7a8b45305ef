"""Shared by the views of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django_htmx.middleware import HtmxDetails

from agents import attachments
from agents.attachments import Attachment
from agents.models import AgentRun, Conversation, StoredMessage
from llm_credentials import limits
from llm_credentials.factory import explain_route
from llm_credentials.limits import LimitReached

BUSY = gettext_noop(
    "An answer is still being written. Stop it or wait for its end, then send again; your text is still here."
)


class UserRequest(HttpRequest):
    """A request that passed ``login_required`` and the htmx middleware."""

    user: User
    htmx: HtmxDetails


def sent_with(request: HttpRequest) -> list[Attachment]:
    """The files of a form. Raises ValidationError."""
    assert isinstance(request.user, User)
    uploads = request.FILES.getlist("files")
    return attachments.from_form(request.user, request.POST.getlist("attachment"), uploads)


def is_plain(request: HttpRequest) -> bool:
    """Whether the form was sent without JavaScript, so that the answer cannot be streamed."""
    return request.POST.get("plain") == "1"


def find_conversation(user: User, conversation_id: UUID) -> Conversation:
    """Raises Http404, also for other users' rows."""
    return get_object_or_404(Conversation.objects.for_user(user), pk=conversation_id)


def find_message(user: User, message_id: UUID) -> StoredMessage:
    """Raises Http404, also for other users' rows."""
    return get_object_or_404(StoredMessage.objects.for_user(user).select_related("conversation"), pk=message_id)


def find_run(user: User, run_id: UUID) -> AgentRun:
    """Raises Http404, also for other users' rows."""
    return get_object_or_404(AgentRun.objects.for_user(user), pk=run_id)


def admit_message(user: User, conversation: Conversation, provider: str | None = None) -> None:
    """Apply the rate limit for a message, at the provider it names or would use. Raises LimitReached."""
    named = conversation.provider if provider is None else provider
    limits.admit("chat", user, provider=named or _first_asked(user, conversation.agent))


def admit_run(user: User, agent: str, provider: str, model: str) -> None:
    """The same for a run. Raises LimitReached."""
    limits.admit("run", user, provider=provider or _first_asked(user, agent, model))


def _first_asked(user: User, agent: str, model: str = "") -> str:
    """The first provider of a call that names none; empty if none can be used."""
    chosen = explain_route(user, task=agent, model=model or None).chosen
    return chosen.key.provider if chosen else ""


def too_many_messages(limit: LimitReached) -> str:
    return _("There were many messages just now. Send this one in %(retry_after_s)s s; your text is still here.") % {
        "retry_after_s": limit.retry_after_s
    }


def too_many_runs(limit: LimitReached) -> str:
    return _("Many runs were started just now. Start this one in %(retry_after_s)s s; your text is still here.") % {
        "retry_after_s": limit.retry_after_s
    }


def approvals_of(request: HttpRequest, calls: Sequence[Mapping[str, Any]] | None) -> dict[str, bool]:
    """Decisions from the form in ``_partials/approvals.html``, by call id."""
    return {call["id"]: request.POST.get(f"call-{index}") == "yes" for index, call in enumerate(calls or ())}


def texts_of(error: ValidationError) -> list[str]:
    return [text for texts in error.message_dict.values() for text in texts]
