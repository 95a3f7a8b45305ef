"""Runs and answers as server-sent events for programs: plain text, where pages get HTML."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from uuid import UUID

from agents.answering import write_answer
from agents.api.shared import message_out, run_out
from agents.database import in_database
from agents.loop import Event, Progress, Reasoning, Text, ToolEnd, ToolStart
from agents.models import AgentRun, StoredMessage
from agents.receipts import site_error
from agents.sse import FOLLOW_EVERY_S, GONE, Feed
from llm_credentials.live.access import WORDS, Right, lost
from llm_credentials.streams import HEARTBEAT, sse

_SEEN = re.compile(r"(\d{1,6})-(\d{1,9})-(\d{1,6})")


async def run_events(run_id: UUID, right: Right, last_event_id: str) -> AsyncGenerator[bytes, None]:
    """From where ``last_event_id`` ends. Ends when the run does, or when the caller may read it no longer."""
    found = _SEEN.fullmatch(last_event_id)
    attempt, shown, steps = (int(number) for number in found.groups()) if found else (0, 0, 0)
    while True:
        run = await in_database(_run_for, run_id, right)
        if isinstance(run, bytes):
            yield run
            return
        replace = run.attempts != attempt or shown > len(run.output)
        attempt, shown, steps = run.attempts, 0 if replace else shown, 0 if replace else steps
        silent = True
        if len(run.output) > shown:
            piece, shown = run.output[shown:], len(run.output)
            yield _marked(sse("text", {"text": piece, "replace": replace}), attempt, shown, steps)
            silent = False
        if len(run.steps) > steps:
            steps = len(run.steps)
            yield _marked(sse("steps", {"steps": run.steps}), attempt, shown, steps)
            silent = False
        if run.is_waiting:
            yield sse("approval", run_out(run).model_dump(mode="json"))
            return
        if not run.is_open:
            yield sse("error" if run.error else "done", run_out(run).model_dump(mode="json"))
            return
        if silent:
            yield HEARTBEAT
        await asyncio.sleep(FOLLOW_EVERY_S)


def _marked(event: bytes, attempt: int, shown: int, steps: int) -> bytes:
    return f"id: {attempt}-{shown}-{steps}\n".encode() + event


def _run_for(run_id: UUID, right: Right) -> AgentRun | bytes:
    """The run; or the last event for a caller who gets no more."""
    if (refusal := _refusal(right)) is not None:
        return refusal
    run = AgentRun.objects.filter(pk=run_id, user_id=right.user_id).first()
    return run if run is not None else sse("error", GONE)


def _refusal(right: Right) -> bytes | None:
    reason = lost([right]).get(right)
    return sse("error", site_error("AccessWithdrawn", WORDS[reason])) if reason is not None else None


async def answer_events(message_id: UUID, right: Right) -> AsyncGenerator[bytes, None]:
    """An answer as it is written, for the caller who asked for it; when they leave, it ends."""
    feed = Feed(write_answer(message_id, session_key=right.session_key))
    try:
        while (taken := await feed.take()) is not None:
            for chunk in list(_chunks(taken)) or [HEARTBEAT]:
                yield chunk
    finally:
        await feed.close()
    yield await in_database(_last_event, message_id, right)


def _chunks(events: list[Event]) -> Iterator[bytes]:
    for event in events:
        match event:
            case Text():
                yield sse("text", {"text": event.text})
            case Reasoning():
                yield sse("reasoning", {"text": event.text})
            case Progress():
                yield sse("progress", {"text": event.text})
            case ToolStart():
                yield sse("tool", {"id": event.call.id, "name": event.call.name, "state": "running"})
            case ToolEnd():
                state = "failed" if event.result.is_error else "ok"
                yield sse("tool", {"id": event.result.call_id, "name": event.result.name, "state": state})
            case _:
                pass


def _last_event(message_id: UUID, right: Right) -> bytes:
    if (refusal := _refusal(right)) is not None:
        return refusal
    message = StoredMessage.objects.filter(pk=message_id, conversation__user_id=right.user_id).first()
    if message is None:
        return sse("error", GONE)
    kind = "approval" if message.is_asking else "error" if message.error else "done"
    return sse(kind, message_out(message).model_dump(mode="json"))
