"""Files in messages, memory, search, titles and exports of conversations."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from PIL import Image

from agents import answering, attachments, memory, sent_files, services, text_search
from agents.attachments import Attachment
from agents.catalog.conversation import ConversationAgent
from agents.models import Conversation, StoredMessage
from agents.tests.factories import ConversationFactory, StoredMessageFactory
from agents.tests.live import SandboxJournal, sandbox_key
from agents.tests.test_branching import ended
from agents.tests.test_web import pdf
from llm_credentials import services as vault
from llm_credentials.providers import ImagePart, LLMMessage, TextPart

pytestmark = pytest.mark.django_db
HTMX: dict[str, Any] = {"headers": {"HX-Request": "true"}}


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation")


def picture(side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


def send(user: User, conversation: Conversation, text: str = "Look", *files: Attachment, **more: Any) -> services.Turn:
    return services.message_send(user=user, conversation_id=conversation.pk, text=text, attachments=files, **more)


# Files


def test_picture_goes_to_a_model_that_sees(alice: User, conversation: Conversation, sandbox_url: str) -> None:
    sandbox_key(alice, model="sandbox-vision")
    image = attachments.store_bytes(alice, "a.png", picture())
    notes = attachments.store_bytes(alice, "notes.md", b"# Plan\nBuy bread")
    question = send(alice, conversation, "", image, notes).question
    assert conversation.messages.get(position=0).files[0]["name"] == "a.png"
    (message,) = sent_files.messages_with_files(alice.pk, [question])
    (shown,) = [part for part in message.parts if isinstance(part, ImagePart)]
    assert (shown.data, shown.media_type) == (image.data, "image/png")
    assert "Buy bread" in message.text
    conversation.refresh_from_db()
    assert conversation.title == "a.png, notes.md"


def test_picture_is_refused_in_words_where_nobody_sees(
    alice: User, conversation: Conversation, sandbox_url: str
) -> None:
    sandbox_key(alice, model="sandbox-fast")
    image = attachments.store_bytes(alice, "a.png", picture())
    with pytest.raises(ValidationError, match="None of your keys has a model that can see"):
        send(alice, conversation, "Look", image)
    vault.credential_save(user=alice, provider="sandbox", name="eyes", api_key="sbx-good-eyes", model="sandbox-vision")
    with pytest.raises(ValidationError, match=r"sandbox-fast cannot see pictures; .* Sandbox sandbox-vision"):
        send(alice, conversation, "Look", image, provider="sandbox", model="sandbox-fast")
    assert not conversation.messages.exists()


def test_text_of_a_pdf_goes_along(alice: User, conversation: Conversation) -> None:
    good = attachments.store_bytes(alice, "a.pdf", pdf("Rent is 900 euros"))
    broken = attachments.store_bytes(alice, "b.pdf", b"%PDF-1.7 of nothing")
    question = send(alice, conversation, "Look", good, broken).question
    (message,) = sent_files.messages_with_files(alice.pk, [question])
    assert "Rent is 900 euros" in message.text
    assert "A file, “b.pdf”, application/pdf" in message.text


def test_removed_file_and_unseen_picture_are_said_to_be_so(
    alice: User, conversation: Conversation, sandbox_url: str
) -> None:
    sandbox_key(alice, model="sandbox-vision")
    image, notes = attachments.store_bytes(alice, "a.png", picture()), attachments.store_bytes(alice, "b.txt", b"bread")
    question = send(alice, conversation, "Look", image, notes).question
    attachments.remove(alice, notes.pk)
    (message,) = sent_files.messages_with_files(alice.pk, [question], seen=False)
    assert "“a.png”, which you cannot see" in message.text
    assert "“b.txt” was removed" in message.text


def test_large_picture_is_made_smaller_for_the_model(alice: User) -> None:
    out = io.BytesIO()
    Image.new("RGB", (2100, 40), "teal").save(out, "PNG")
    data, kind = sent_files.smaller(out.getvalue(), "image/png")
    assert kind == "image/jpeg"
    with Image.open(io.BytesIO(data)) as image:
        assert max(image.size) == sent_files.MAX_IMAGE_SIDE_PX


def test_files_of_others_cannot_go_along(browser: Client, bob: User, conversation: Conversation) -> None:
    his = attachments.store_bytes(bob, "his.txt", b"his")
    url = reverse("agents:message-create", args=[conversation.pk])
    response = browser.post(url, {"text": "Look", "attachment": str(his.pk)}, **HTMX)
    assert response.status_code == 422
    assert "no such file" in response.text
    assert not conversation.messages.exists()


def test_files_go_with_their_conversation(alice: User, conversation: Conversation) -> None:
    sent = attachments.store_bytes(alice, "a.txt", b"a")
    waiting = attachments.store_bytes(alice, "b.txt", b"b")
    send(alice, conversation, "Look", sent)
    services.conversation_delete(user=alice, conversation_id=conversation.pk)
    assert [row.pk for row in Attachment.objects.for_user(alice)] == [waiting.pk]


@pytest.mark.django_db(transaction=True)
def test_answer_has_seen_the_picture(alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, model="sandbox-vision")
    image = attachments.store_bytes(alice, "a.png", picture())
    conversation = services.conversation_start(user=alice, agent="conversation")
    turn = send(alice, conversation, "What is this?", image)
    async_to_sync(answering.finish_answer)(turn.answer.pk)
    turn.answer.refresh_from_db()
    assert turn.answer.state == "complete"
    (asked,) = journal.chats()
    assert asked["images"] == 1


# Memory


@pytest.mark.django_db(transaction=True)
def test_older_half_is_summarised_once_and_kept(
    alice: User, journal: SandboxJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversationAgent, "history_tokens", 1200)
    sandbox_key(alice, model="sandbox-instant")
    conversation = services.conversation_start(user=alice, agent="conversation")
    for number in range(6):
        ended(send(alice, conversation, f"Question {number} " + "word " * 100).answer, "answer " * 100)
    turn = send(alice, conversation, "What is 2 + 2?")
    async_to_sync(answering.finish_answer)(turn.answer.pk)
    conversation.refresh_from_db()
    turn.answer.refresh_from_db()
    assert conversation.summary
    assert conversation.summary_until in range(1000, 6000, 1000)
    assert len(journal.chats()) == 2
    assert turn.answer.receipt["steps"] == 2  # what the summary cost stands with the answer
    before = conversation.summary
    async_to_sync(answering.finish_answer)(send(alice, conversation, "And 3 + 3?").answer.pk)
    conversation.refresh_from_db()
    assert (conversation.summary, len(journal.chats())) == (before, 3)
    client = Client()
    client.force_login(alice)
    assert "the model remembers this" in client.get(conversation.get_absolute_url()).text


@pytest.mark.django_db(transaction=True)
def test_without_a_summary_the_oldest_are_left_out(
    alice: User, journal: SandboxJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversationAgent, "history_tokens", 600)
    sandbox_key(alice, key="sbx-bad-0123456789")
    conversation = services.conversation_start(user=alice, agent="conversation")
    for _ in range(4):
        ended(send(alice, conversation, "word " * 100).answer, "answer " * 100)
    turn = send(alice, conversation, "What is 2 + 2?")
    async_to_sync(answering.finish_answer)(turn.answer.pk)
    conversation.refresh_from_db()
    turn.answer.refresh_from_db()
    assert (conversation.summary, turn.answer.state) == ("", "failed")


def test_room_is_what_the_window_leaves(alice: User, sandbox_url: str) -> None:
    sandbox_key(alice, model="sandbox-tiny")
    room = memory.room_of(ConversationAgent(alice), LLMMessage.user("Hello"))
    assert room == memory.MIN_ROOM_TOKENS


# Search


def test_search_finds_words_of_one_message_in_any_case(alice: User, bob: User) -> None:
    mine = services.conversation_start(user=alice, agent="conversation", text="Die Straße nach LÜBECK, 100% sicher")
    services.conversation_start(user=alice, agent="conversation", text="Nothing of it")
    services.conversation_start(user=bob, agent="conversation", text="straße lübeck")
    for query in ("STRASSE lübeck", "lübeck straße", "100%", "  sicher "):
        assert [row.pk for row in text_search.conversations_with(alice, query)] == [mine.pk], query
    for query in ("lübeck nothing", "%", "text", "type", "_", "\\"):
        assert not text_search.conversations_with(alice, query).filter(pk=mine.pk).exists() or query == "%", query
    assert text_search.conversations_with(alice, " \0 ").count() == 2


def test_search_page_shows_where(browser: Client, alice: User) -> None:
    found = services.conversation_start(user=alice, agent="conversation", text="Plan a trip to Lisbon <b>in May</b>")
    ended(found.messages.get(role="assistant"), "Take the tram to Belem & eat.")
    page = browser.get(reverse("agents:conversation-list"), {"q": "tram"}).text
    assert "<mark>tram</mark>" in page
    assert "Belem &amp; eat" in page
    assert "1 conversation with" in page
    nothing = browser.get(reverse("agents:conversation-list"), {"q": "<script>"}).text
    assert "Nothing found" in nothing
    assert "<script>”" not in nothing


# Titles and exports


def test_title_is_changed_by_its_owner_alone(browser: Client, charlie: User, alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="Hello")
    url = reverse("agents:conversation-rename", args=[conversation.pk])
    browser.post(url, {"title": "  My\nplans <b> \0"})
    conversation.refresh_from_db()
    assert conversation.title == "My plans <b>"
    for bad in ("", " ", "x" * 121):
        browser.post(url, {"title": bad})
    browser.force_login(charlie)
    assert browser.post(url, {"title": "Mine"}).status_code == 404
    conversation.refresh_from_db()
    assert conversation.title == "My plans <b>"


def test_export_holds_what_was_said(browser: Client, alice: User, charlie: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="What is a haiku?")
    ended(conversation.messages.get(role="assistant"), "A *poem*.", receipt={"provider": "openai", "model": "m"})
    url = reverse("agents:conversation-export", args=[conversation.pk])
    text = browser.get(url, {"format": "md"})
    assert text["Content-Disposition"] == 'attachment; filename="what-is-a-haiku.md"'
    assert "# What is a haiku?" in text.text
    assert "A *poem*." in text.text
    data = json.loads(browser.get(url, {"format": "json"}).content)
    assert [message["text"] for message in data["messages"]] == ["What is a haiku?", "A *poem*."]
    browser.force_login(charlie)
    assert browser.get(url).status_code == 404


# Pages


def test_side_by_side_edit_and_continue_on_the_page(browser: Client, alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="Hello")
    answer = ended(conversation.messages.get(role="assistant"), "Hi.")
    beside = browser.post(reverse("agents:message-beside", args=[answer.pk]), {"choice": "groq:some-model"}, **HTMX)
    other = StoredMessage.objects.get(variant=1)
    assert f'data-stream="/messages/{other.pk}/stream/"' in beside.text
    ended(other, "Good day.")
    page = browser.get(conversation.get_absolute_url()).text
    assert "Go on with this" in page
    browser.post(reverse("agents:message-choose", args=[other.pk]), **HTMX)
    other.refresh_from_db()
    assert not other.is_aside
    question = conversation.messages.get(position=0)
    edit = reverse("agents:message-edit", args=[question.pk])
    assert "Hello</textarea>" in browser.get(edit, **HTMX).text
    assert "Hello</textarea>" in browser.get(edit).text
    refused = browser.post(edit, {"text": ""})
    assert (refused.status_code, "Write a message first" in refused.text) == (422, True)
    changed = browser.post(edit, {"text": "Good evening"}, **HTMX)
    assert changed["HX-Retarget"] == "#turns"
    assert "2 of 2" in changed.text
    busy = browser.post(reverse("agents:message-continue", args=[other.pk]), **HTMX)
    assert busy.status_code == 409
    assert browser.post(reverse("agents:message-choose", args=[question.pk]), **HTMX).status_code == 409
    ended(conversation.messages.order_by("position").last())
    back = browser.post(reverse("agents:message-choose", args=[question.pk]), **HTMX)
    assert [word in back.text for word in ("1 of 2", "Hello", "Good day.", "Good evening")] == [True, True, True, False]
    plain = browser.post(reverse("agents:message-choose", args=[question.pk]))
    assert plain["Location"].endswith(f"#message-{question.pk}")


def test_second_tab_gets_what_the_first_one_sent(browser: Client, alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="First")
    ended(conversation.messages.get(role="assistant"))
    ended(send(alice, conversation, "Second").answer)
    url = reverse("agents:message-create", args=[conversation.pk])
    late = browser.post(url, {"text": "Third", "seen": "0"}, **HTMX)
    assert late["HX-Retarget"] == "#turns"
    assert [word in late.text for word in ("First", "Second", "Third")] == [True, True, True]
    twice = browser.post(url, {"text": "Third", "seen": "2000"}, **HTMX)
    assert twice.status_code == 409
    assert conversation.messages.filter(role="user").count() == 3


def test_migration_makes_old_messages_searchable(alice: User) -> None:
    from importlib import import_module

    from django.apps import apps

    row = StoredMessageFactory(conversation=ConversationFactory(user=alice), parts=(TextPart(text="Über ALLES"),))
    import_module("agents.migrations.0006_search_text").fill(apps, None)
    row.refresh_from_db()
    assert row.search_text == "über alles"


# The API


@pytest.mark.django_db(transaction=True)
def test_program_does_what_pages_do(alice: User, bob: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, model="sandbox-instant")

    def program(user: User) -> Client:
        return Client(headers={"Authorization": f"Bearer {vault.token_create(user=user, scopes=['agents'])[1]}"})

    def post(client: Client, path: str, **body: Any) -> Any:
        return client.post(path, json.dumps(body), content_type="application/json")

    mine = program(alice)
    one = f"/api/conversations/{post(mine, '/api/conversations', agent='conversation').json()['id']}"
    notes = mine.post("/api/attachments", {"file": io.BytesIO(b"bread")}).json()["id"]
    first = post(mine, f"{one}/messages", text="what is 17 * 23?", attachments=[notes]).json()
    other = post(mine, f"/api/messages/{first['id']}/beside", provider="sandbox", model="sandbox-fast").json()
    assert (other["variant"], other["is_aside"], other["receipt"]["model"]) == (1, True, "sandbox-fast")
    assert post(mine, f"/api/messages/{other['id']}/choose").json()["is_aside"] is False
    assert post(mine, f"/api/messages/{other['id']}/continue").status_code == 422
    assert post(mine, f"/api/messages/{other['id']}/retry").status_code == 422
    edited = post(mine, f"/api/messages/{other['id']}/edit", text="what is 2 + 2?").json()
    assert "4" in edited["text"]
    assert post(mine, f"/api/messages/{edited['id']}/stop").json()["state"] == "complete"
    asked = [row["id"] for row in mine.get(f"{one}/export").json()["messages"] if row["role"] == "user"]
    back = post(mine, f"/api/messages/{asked[0]}/choose").json()
    assert (back["is_aside"], back["text"]) == (False, "what is 17 * 23?")
    assert post(program(bob), f"/api/messages/{asked[1]}/choose").status_code == 404
    renamed = mine.patch(one, json.dumps({"title": "Sums"}), content_type="application/json")
    assert renamed.json()["title"] == "Sums"
    assert mine.get("/api/conversations?q=17").json()["count"] == 1
    assert mine.get("/api/conversations?q=nowhere").json()["count"] == 0
    assert len(mine.get(f"{one}/export").json()["messages"]) == 5
    assert mine.get(f"{one}/export?format=md").text.startswith("# Sums")
    assert post(program(bob), f"/api/messages/{edited['id']}/edit", text="Mine").status_code == 404
    assert post(program(bob), f"{one}/messages", text="Look", attachments=[notes]).status_code == 404
