"""Streams an answer as server-sent events.

====================  ================================================================================================
``text``              ``{"html", "tail", "replace"}``: sanitised HTML. ``html`` is final and is appended (with
                      ``replace``: replaces everything); ``tail`` is shown after it until the next event
``reasoning``         ``{"text"}``: more of the model's reasoning
``tool``              ``{"id", "name", "state": running|ok|failed}``
``progress``          ``{"text"}``: a tool's progress message
``done``              ``{"state", "html"}``: the whole answer as its page shows it, with receipt. The last event
``error``             the fields of the error (see ``agents.receipts``) with ``state`` and ``html``. The last event
comments              every few seconds, so that no proxy closes the connection as idle
====================  ================================================================================================

Opening the stream of a waiting answer starts the one call for it. Opening it again, from anywhere, starts no second
call: later readers follow what the first call has stored. When the first reader disconnects, the call ends, and the
partial answer is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.translation import gettext_noop

from agents import services
from agents.answering import write_answer
from agents.database import in_database
from agents.loop import Event, Progress, Reasoning, Text, ToolEnd, ToolStart
from agents.markdown import closed_length, render_open
from agents.models import StoredMessage
from agents.receipts import site_error
from agents.turns import answer_of, choices_for
from llm_credentials.live.access import may_see
from llm_credentials.streams import HEARTBEAT, HEARTBEAT_S, RETRY, sse

FOLLOW_EVERY_S = 0.7
SHOW_EVERY_S = 0.05
SLOW_TAIL_CHARS = 4000
"""A longer tail (a long code block) is sent less often, since it is sent whole each time."""

SIGNED_OUT = site_error("SignedOut", gettext_noop("You are signed out. What had come is kept; sign in to read it."))
GONE = site_error("Gone", gettext_noop("This conversation was removed."))


async def answer_events(request: HttpRequest, user: User, message_id: UUID) -> AsyncGenerator[bytes, None]:
    session_key = request.session.session_key
    yield RETRY
    begun = await in_database(_begun, message_id)
    async with aclosing(_live(write_answer(message_id, session_key=session_key), begun)) as live:
        async for chunk in live:
            yield chunk
    async with aclosing(_follow(message_id, user.pk, session_key)) as followed:
        async for chunk in followed:
            yield chunk
    yield await in_database(_last_event, request, user.pk, session_key, message_id)


class LiveText:
    """Turns a growing text into ``text`` events: finished blocks are sent once, the open rest again each time."""

    def __init__(self, begun: str = "") -> None:
        self.open = begun

    def add(self, text: str) -> dict[str, Any]:
        self.open += text
        cut = closed_length(self.open)
        closed, self.open = self.open[:cut], self.open[cut:]
        return {"html": render_open(closed) if closed else "", "tail": render_open(self.open), "replace": False}

    @property
    def pause_s(self) -> float:
        return SHOW_EVERY_S * max(1.0, len(self.open) / SLOW_TAIL_CHARS)


class Feed:
    """Events of an answer's writer since the last read. The writer never waits for a slow connection."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self.events: list[Event] = []
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self._fill(events))
        self.task.add_done_callback(lambda _: self.ready.set())

    async def _fill(self, events: AsyncGenerator[Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                self.events.append(event)
                self.ready.set()

    async def take(self) -> list[Event] | None:
        """New events; an empty list after a silence; None at the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self.ready.wait()
        except TimeoutError:
            return []
        self.ready.clear()
        taken, self.events = self.events, []
        if not taken and self.task.done():
            self.task.result()
            return None
        if self.task.done():
            self.ready.set()
        return taken

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def _begun(message_id: UUID) -> str:
    """The existing text of a continued answer."""
    message = StoredMessage.objects.filter(pk=message_id).first()
    if message is None:
        return ""
    return f"{message.text}\n\n" if message.paused and message.text else message.begun


async def _live(events: AsyncGenerator[Event, None], begun: str) -> AsyncGenerator[bytes, None]:
    feed = Feed(events)
    text = LiveText(begun)
    try:
        while (taken := await feed.take()) is not None:
            for chunk in _chunks(taken, text) or [HEARTBEAT]:
                yield chunk
            await asyncio.sleep(text.pause_s)
    finally:
        await feed.close()


def _chunks(events: list[Event], text: LiveText) -> list[bytes]:
    """Merges neighbouring pieces of text into one event."""
    said = "".join(event.text for event in events if isinstance(event, Text))
    thought = "".join(event.text for event in events if isinstance(event, Reasoning))
    chunks = [sse("reasoning", {"text": thought})] if thought else []
    if said:
        chunks.append(sse("text", text.add(said)))
    for event in events:
        if isinstance(event, Progress):
            chunks.append(sse("progress", {"text": event.text}))
        elif isinstance(event, ToolStart):
            chunks.append(sse("tool", {"id": event.call.id, "name": event.call.name, "state": "running"}))
        elif isinstance(event, ToolEnd):
            state = "failed" if event.result.is_error else "ok"
            chunks.append(sse("tool", {"id": event.result.call_id, "name": event.result.name, "state": state}))
    return chunks


async def _follow(message_id: UUID, user_id: int, session_key: str | None) -> AsyncGenerator[bytes, None]:
    """Follow an answer that another call writes, until it ends or this reader may no longer see it."""
    shown = ""
    while True:
        text = await in_database(_written_so_far, message_id, user_id, session_key)
        if text is None:
            return
        if text != shown:
            shown = text
            yield sse("text", {"html": "", "tail": render_open(text), "replace": True})
        else:
            yield HEARTBEAT
        await asyncio.sleep(FOLLOW_EVERY_S)


def _written_so_far(message_id: UUID, user_id: int, session_key: str | None) -> str | None:
    """None when there is nothing to wait for."""
    message = StoredMessage.objects.select_related("conversation").filter(pk=message_id).first()
    if message is None or not may_see(user_id, session_key):
        return None
    services.messages_settle(message.conversation)
    message.refresh_from_db()
    return message.text if message.is_open else None


def _last_event(request: HttpRequest, user_id: int, session_key: str | None, message_id: UUID) -> bytes:
    message = StoredMessage.objects.select_related("conversation__user").filter(pk=message_id).first()
    if message is None:
        return sse("error", {**GONE, "state": "gone", "html": ""})
    if not may_see(user_id, session_key):
        return sse("error", {**SIGNED_OUT, "state": message.state, "html": ""})
    choices = choices_for(message.conversation.user, message.conversation)
    context = {"shown": answer_of(message), "choices": choices}
    html = render_to_string("agents/conversation_detail.html#answer", context, request)
    if message.error is not None:
        return sse("error", {**message.error, "state": message.state, "html": html})
    return sse("done", {"state": message.state, "html": html})
