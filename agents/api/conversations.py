"""``/api/conversations``: talk with an agent, answer by answer."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.http import HttpResponse
from ninja import Query, Router, Schema
from ninja.responses import Status
from pydantic import Field

from agents import answering, attachments, exporting, indexing, services, text_search
from agents.api.events import answer_events
from agents.api.shared import (
    ACTING,
    EVENTS,
    READING,
    WORKING,
    AgentSlug,
    ConversationOut,
    MessageIn,
    MessageOut,
    Said,
    caller,
    conversation_out,
    in_words,
    message_out,
    right_of,
)
from agents.models import StoredMessage
from agents.views.answers import admit_message, find_conversation
from agents.views.conversations import export_response
from agents.watching import announce_stop
from llm_credentials.api.auth import ApiRequest, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.api.pages import PageIn, PageOut, page_of
from llm_credentials.streams import EventStreamResponse

router = Router()
STREAM = "text/event-stream"
SearchWords = Annotated[str, Query(max_length=200, description="Words to look for.")]
FILES: dict[str, Any] = {
    "responses": {200: {"content": {"text/markdown": {"schema": {"type": "string"}}, "application/json": {}}}}
}


class ConversationIn(Said):
    agent: AgentSlug


class TitleIn(StrictSchema):
    title: str = Field(min_length=1, max_length=120)


class ConversationList(PageOut):
    items: list[ConversationOut]


class MessageList(PageOut):
    items: list[MessageOut]


class NearOut(ConversationOut):
    piece: str = Field(description="Of what is near in meaning, the words.")


class NearList(Schema):
    items: list[NearOut]


class ConversationWhole(ConversationOut):
    messages: MessageList


@router.get("", response={200: ConversationList, **REFUSALS}, url_name="conversation_list", auth=READING)
def conversation_list(request: ApiRequest, where: Query[PageIn], q: SearchWords = "") -> dict[str, Any]:
    """The one with the newest message first; with `q` those where all its words stand in one message or the title."""
    return page_of(text_search.conversations_with(caller(request), q), where, conversation_out)


@router.get("/near", response={200: NearList, **REFUSALS}, url_name="conversation_near", auth=ACTING)
def conversation_near(request: ApiRequest, q: SearchWords) -> dict[str, Any]:
    """Those near in meaning, the nearest first; none where embeddings are not settled or nobody can be asked just now.

    Asking costs what embedding the words costs. What has come lately is found a moment later.
    """
    found = indexing.found_near(caller(request), q.strip())
    return {"items": [conversation_out(each.conversation).dict() | {"piece": each.snippet.before} for each in found]}


@router.post("", response={201: ConversationOut, **REFUSALS}, url_name="conversation_create", auth=ACTING)
def conversation_create(request: ApiRequest, payload: ConversationIn) -> Any:
    """An empty one; one of this agent that is empty still is given again. It costs nothing."""
    found = services.conversation_start(user=caller(request), **payload.dict())
    return Status(201, conversation_out(found))


@router.get(
    "/{uuid:conversation_id}", response={200: ConversationWhole, **REFUSALS}, url_name="conversation_get", auth=READING
)
def conversation_get(request: ApiRequest, conversation_id: UUID, where: Query[PageIn]) -> dict[str, Any]:
    """With its messages, oldest first; the pages are theirs."""
    conversation = find_conversation(caller(request), conversation_id)
    services.messages_settle(conversation)
    messages = page_of(conversation.messages.in_order(), where, message_out)
    return conversation_out(conversation).dict() | {"messages": messages}


@router.patch(
    "/{uuid:conversation_id}", response={200: ConversationOut, **REFUSALS}, url_name="conversation_change", auth=ACTING
)
def conversation_change(request: ApiRequest, conversation_id: UUID, payload: TitleIn) -> ConversationOut:
    found = find_conversation(caller(request), conversation_id)
    renamed = services.conversation_rename(user=caller(request), conversation_id=found.pk, title=payload.title)
    return conversation_out(renamed)


@router.get(
    "/{uuid:conversation_id}/export",
    response={200: None, **REFUSALS},
    url_name="conversation_export",
    openapi_extra=FILES,
    auth=READING,
)
def conversation_export(request: ApiRequest, conversation_id: UUID, format: exporting.Form = "json") -> HttpResponse:
    """As JSON with everything that is kept of it, or as Markdown to read."""
    return export_response(find_conversation(caller(request), conversation_id), format)


@router.delete("/{uuid:conversation_id}", response={204: None, **REFUSALS}, url_name="conversation_delete", auth=ACTING)
def conversation_delete(request: ApiRequest, conversation_id: UUID) -> Any:
    """With all its messages; an answer that is being written ends."""
    conversation = find_conversation(caller(request), conversation_id)
    writing = list(conversation.messages.open())
    services.conversation_delete(user=caller(request), conversation_id=conversation.pk)
    for answer in writing:
        announce_stop(answer.pk)
    return HttpResponse(status=204)


@router.post(
    "/{uuid:conversation_id}/messages",
    response={200: MessageOut, **WORKING},
    url_name="message_create",
    openapi_extra=EVENTS,
    auth=ACTING,
)
def message_create(
    request: ApiRequest,
    conversation_id: UUID,
    payload: MessageIn,
    response: HttpResponse,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """The answer once it is whole, or with `Accept: text/event-stream` as it is written: `text`, `reasoning` and `tool`
    events, at the end `done` or `error` (the answer). `state` and `error` say how it ended.
    """
    conversation = find_conversation(caller(request), conversation_id)
    streamed = request.get_preferred_type(["application/json", STREAM]) == STREAM
    if streamed and idempotency_key is not None:
        words = "A stream cannot be given twice: leave out the key, or ask for the whole answer."
        raise ApiError(422, "invalid_request", words, "header.Idempotency-Key")

    def send() -> StoredMessage:
        if (payload.provider is None) != (payload.model is None):
            raise ApiError(422, "invalid_request", "Name provider and model together.", "body.model")
        admit_message(caller(request), conversation, payload.provider)
        said = payload.dict() | {"attachments": attachments.find(caller(request), payload.attachments)}
        turn = services.message_send(
            user=caller(request), conversation_id=conversation_id, token_id=token_id_of(request), **said
        )
        return turn.answer

    def answered() -> tuple[int, MessageOut]:
        answer = send()
        async_to_sync(answering.finish_answer)(answer.pk, session_key=right_of(request).session_key)
        answer.refresh_from_db()
        return 200, message_out(answer)

    with in_words():
        if streamed:
            return EventStreamResponse(answer_events(send().pk, right_of(request)))
        return once(request, idempotency_key, response, answered)
