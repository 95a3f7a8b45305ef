"""Scheduled runs: list, switch on and off, delete. They are created on an agent's page."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from agents import schedules
from agents.attachments import Attachment
from agents.schedules import ScheduledRun
from agents.views.answers import UserRequest


def _find(request: UserRequest, schedule_id: UUID) -> ScheduledRun:
    return get_object_or_404(ScheduledRun.objects.for_user(request.user), pk=schedule_id)


@require_GET
@never_cache
@login_required
def schedule_list(request: UserRequest) -> HttpResponse:
    files = Prefetch("attachments", Attachment.objects.without_content().order_by("created_at"))
    found = ScheduledRun.objects.for_user(request.user).order_by("-created_at").prefetch_related(files)
    return render(request, "agents/schedule_list.html", {"schedules": found})


@require_POST
@login_required
def schedule_switch(request: UserRequest, schedule_id: UUID) -> HttpResponse:
    """Switch ``on`` or ``off``."""
    found = _find(request, schedule_id)
    schedules.schedule_switch(user=request.user, schedule_id=found.pk, is_active=request.POST.get("to") == "on")
    return redirect("agents:schedule-list")


@require_POST
@login_required
def schedule_delete(request: UserRequest, schedule_id: UUID) -> HttpResponse:
    schedules.schedule_delete(user=request.user, schedule_id=_find(request, schedule_id).pk)
    messages.success(request, _("The schedule was removed; the runs that it started stay."))
    return redirect("agents:schedule-list")
