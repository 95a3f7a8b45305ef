"""Server-sent events that tell a user's open pages about changes made elsewhere.

==========  ==========================================================================================================
``test``    ``{"card", "url", "seen", "stored"}``: a test has progressed. ``card``: the id of its card; ``url``: the
            fragment for htmx; ``seen``: changes with every update; ``stored``: whether its key is stored (else typed)
``end``     ``{}``: the user is signed out. The last event
comments    every few seconds
==========  ==========================================================================================================

Events carry no content: the page requests the named fragment, as it does when it polls.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from llm_credentials import limits
from llm_credentials.connection_tests import expire_abandoned
from llm_credentials.live.access import Right
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.live.news import reading
from llm_credentials.models import ConnectionTest
from llm_credentials.streams import HEARTBEAT, HEARTBEAT_S, RETRY, EventStreamResponse, in_database, sse
from llm_credentials.views.answers import UserRequest
from llm_credentials.views.shown_keys import RECENT
from llm_credentials.views.shown_tests import TestView

LOOK_EVERY_S = 1.0
"""Poll interval during a test: a test that no worker takes changes no row."""
SHOWN_MAX = 50


@require_GET
@login_required
async def settings_events(request: UserRequest) -> HttpResponseBase:
    user = await request.auser()
    assert isinstance(user, User)
    await sync_to_async(limits.admit)("stream", user)
    return EventStreamResponse(test_events(user, request.session.session_key))


async def test_events(user: User, session_key: str | None) -> AsyncGenerator[bytes, None]:
    """Events about the user's tests, including recent ones, until the user is signed out or disconnects."""
    yield RETRY
    told: dict[str, str] = {}
    call = Call(Right(user.pk, session_key=session_key))
    with under_way(call), reading(user.pk) as reader:
        while True:
            found, is_busy = await in_database(_tests, user)
            for event in found:
                if told.get(event["url"]) != event["seen"]:
                    told[event["url"]] = event["seen"]
                    yield sse("test", event)
            try:
                with call:
                    has_news = await reader.wait(LOOK_EVERY_S if is_busy else HEARTBEAT_S)
            except Ended:
                yield sse("end", {})
                return
            if not has_news:
                yield HEARTBEAT


test_events.__test__ = False  # type: ignore[attr-defined]


def _tests(user: User) -> tuple[list[dict[str, Any]], bool]:
    """The latest recent test of each key, and whether one is in progress."""
    tests = ConnectionTest.objects.for_user(user).filter(for_site=False, created_at__gte=timezone.now() - RECENT)
    rows = list(tests.order_by("-created_at", "-id").defer("api_key")[:SHOWN_MAX])[::-1]
    busy = [row for row in rows if not row.is_finished]
    if busy and expire_abandoned(user):
        return _tests(user)
    latest = {(row.provider, row.name): row for row in rows}
    return [_event(row) for row in latest.values()], bool(busy)


def _event(test: ConnectionTest) -> dict[str, Any]:
    return {
        "card": f"{test.provider}-{test.name}",
        "url": reverse("llm_credentials:connection-test-detail", args=[test.pk]),
        "seen": TestView(test=test, spec=None).seen,
        "stored": test.credential_id is not None or test.replaces_id is not None,
    }
