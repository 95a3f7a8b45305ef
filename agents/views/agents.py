"""The page with the agents."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from agents.models import Conversation
from agents.registry import agents
from agents.views.answers import UserRequest
from llm_credentials.factory import explain_route

RECENT = 5


@require_GET
@never_cache
@login_required
def agent_list(request: UserRequest) -> HttpResponse:
    context = {
        "agents": agents(),
        "recent": Conversation.objects.for_user(request.user).recent_first()[:RECENT],
        "has_route": explain_route(request.user).chosen is not None,
    }
    return render(request, "agents/agent_list.html", context)
