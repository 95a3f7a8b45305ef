"""Conversations found by what they mean: vectors of their messages, and these made anew."""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client

from agents import indexing, semantic_search, services
from agents.models import Conversation, StoredMessage
from agents.tests.live import sandbox_key
from agents.vectors import MAX_PIECES, PIECE_CHARS, TextVector, nearest, pieces_of, rows_for, signs_of
from llm_credentials import embeddings
from llm_credentials.embeddings import embed_texts, index_in_use, pack, put_in_use, remake, standing, unpack
from llm_credentials.models import EmbeddingIndex, LLMSettings, SystemConfig, UsageRecord
from llm_credentials.providers import BadProviderResponse, NotConfigured, SecretInRequest, TextPart

State = EmbeddingIndex.State
CATS = "How do I teach my cat not to scratch the sofa?"
TAXES = "Which taxes does a small bakery pay in Norway?"


@pytest.fixture
def settled(sandbox_url: str, db: Any) -> EmbeddingIndex:
    SystemConfig.objects.create(category="llm", key="embeddings_config", value={"provider": "sandbox"})
    index = index_in_use()
    assert index is not None
    return index


def conversation(user: User, *texts: str) -> Conversation:
    made = Conversation.objects.create(user=user, agent="conversation", title="Untitled")
    for number, text in enumerate(texts):
        role = "assistant" if number % 2 else "user"
        made.messages.create(
            position=number, role=role, parts=(TextPart(text=text),), search_text=services.searchable(text)
        )
    return made


def found_by(user: User, query: str, index: EmbeddingIndex) -> list[Conversation]:
    return [near.conversation for near in async_to_sync(semantic_search.near)(user, query, index=index)]


# The service


@pytest.mark.django_db(transaction=True)
def test_embedding_is_pinned_batched_and_in_the_ledger(alice: User, settled: EmbeddingIndex) -> None:
    sandbox_key(alice)
    texts = [f"text {number}" for number in range(embeddings.MAX_TEXTS + 1)]
    vectors = async_to_sync(embed_texts)(alice, texts, index=settled)
    settled.refresh_from_db()
    assert (settled.provider, settled.model) == ("sandbox", "sandbox-embed")
    assert {len(vector) for vector in vectors} == {4 * (settled.dimension or 0)}
    assert sum(value * value for value in unpack(vectors[0])) == pytest.approx(1, abs=1e-5)
    from llm_credentials.ledger import writer

    writer.flush()
    assert [row.task for row in UsageRecord.objects.for_user(alice)] == ["embeddings", "embeddings"]


@pytest.mark.django_db(transaction=True)
def test_vectors_of_another_length_are_refused(alice: User, settled: EmbeddingIndex) -> None:
    sandbox_key(alice)
    EmbeddingIndex.objects.update(dimension=7)
    settled.refresh_from_db()
    with pytest.raises(BadProviderResponse):
        async_to_sync(embed_texts)(alice, ["a"], index=settled)


@pytest.mark.django_db(transaction=True)
def test_embedding_needs_a_key_of_that_very_provider(alice: User, bob: User, settled: EmbeddingIndex) -> None:
    with pytest.raises(NotConfigured):
        async_to_sync(embed_texts)(bob, ["a"], index=settled)
    sandbox_key(alice)
    LLMSettings.objects.create(user=alice, fallback_to_system=False)
    settled.provider, settled.model = "openai", "text-embedding-3-small"
    with pytest.raises(NotConfigured):
        async_to_sync(embed_texts)(alice, ["a"], index=settled)


@pytest.mark.django_db(transaction=True)
def test_stored_key_is_never_embedded(alice: User, settled: EmbeddingIndex) -> None:
    sandbox_key(alice)
    with pytest.raises(SecretInRequest):
        async_to_sync(embed_texts)(alice, ["my key is sbx-good-agents-0123456789"], index=settled)


@pytest.mark.django_db
def test_without_settled_embeddings_there_is_no_index() -> None:
    assert (index_in_use(), standing(), remake()) == (None, None, None)
    SystemConfig.objects.create(category="llm", key="embeddings_config", value={"provider": "gone"})
    assert index_in_use() is None
    assert not EmbeddingIndex.objects.exists()


# Pieces and vectors


def test_pieces_overlap_end_where_words_do_and_lose_nothing() -> None:
    text = " ".join(f"word{number}." for number in range(1_000))
    pieces = pieces_of(text)
    assert all(len(piece) <= PIECE_CHARS for piece in pieces)
    assert all(piece.endswith(".") for piece in pieces)
    assert {word for piece in pieces for word in piece.split()} >= set(text.split())
    assert pieces_of(text) == pieces
    assert (pieces_of("  \n "), pieces_of("one")) == ([], ["one"])
    assert len(pieces_of("x" * 10_000_000)) == MAX_PIECES


@pytest.mark.django_db
def test_nearest_finds_what_comparing_all_would(alice: User, settled: EmbeddingIndex) -> None:
    chance = random.Random(7)
    made = [pack([chance.gauss(0, 1) for _ in range(64)]) for _ in range(300)]
    kept = conversation(alice, *(f"m{number}" for number in range(300)))
    messages = list(kept.messages.in_order())
    rows = [
        rows_for(alice.pk, settled, [vector], message_id=row.pk)[0] for vector, row in zip(made, messages, strict=True)
    ]
    TextVector.objects.bulk_create(rows)
    close = [value + chance.gauss(0, 0.05) for value in unpack(made[17])]
    hits = nearest(TextVector.objects.for_user(alice), pack(close), most=3)
    assert (hits[0].message_id, len(hits)) == (messages[17].pk, 3)
    assert hits[0].score > 0.9 > hits[1].score


def test_vectors_are_kept_in_one_order_of_bytes() -> None:
    assert pack([0.0, 1.0]) == b"\x00\x00\x00\x00\x00\x00\x80\x3f"
    assert pack([0.0, 0.0]) == b"\x00" * 8
    assert signs_of(pack([1, -1, 1])) == b"\x05"


@pytest.mark.django_db
def test_vector_stands_for_a_message_or_a_file_and_a_piece_once(alice: User, settled: EmbeddingIndex) -> None:
    message = conversation(alice, CATS).messages.get()
    row = rows_for(alice.pk, settled, [pack([1.0])])[0]
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
    rows_for(alice.pk, settled, [pack([1.0])], message_id=message.pk)[0].save()
    with pytest.raises(IntegrityError), transaction.atomic():
        rows_for(alice.pk, settled, [pack([1.0])], message_id=message.pk)[0].save()


# The search


@pytest.mark.django_db(transaction=True)
def test_search_finds_by_meaning_what_lacks_the_words(
    alice: User, bob: User, settled: EmbeddingIndex, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_key(alice)
    sandbox_key(bob)
    cats, _taxes, theirs = conversation(alice, CATS), conversation(alice, TAXES), conversation(bob, CATS)
    queued: list[tuple[Any, ...]] = []
    monkeypatch.setattr(indexing.read_conversations, "apply_async", lambda args, **_: queued.append(args))
    client.force_login(alice)
    page = client.get("/conversations/?q=teaching cats about scratching sofas").content.decode()
    assert "Nothing found" in page
    assert queued == [(alice.pk,)]
    indexing.read_conversations(*queued[0])
    assert not TextVector.objects.for_user(bob).exists()
    page = client.get("/conversations/?q=teaching cats about scratching sofas").content.decode()
    assert "Close in meaning" in page
    assert f"/conversations/{cats.pk}/" in page
    assert str(theirs.pk) not in page
    assert found_by(alice, "scratch sofa cat", settled)[0] == cats
    assert found_by(bob, "scratch sofa cat", settled) == []
    near = client.get("/api/conversations/near?q=teaching cats about scratching sofas").json()["items"]
    assert near[0]["id"] == str(cats.pk)
    assert near[0]["piece"] == CATS
    client.force_login(bob)
    assert client.get("/api/conversations/near?q=teaching cats about scratching sofas").json() == {"items": []}
    assert str(cats.pk) not in client.get("/conversations/?q=teaching cats about sofas").content.decode()


@pytest.mark.django_db(transaction=True)
def test_search_goes_on_by_words_when_nobody_can_embed(alice: User, settled: EmbeddingIndex, client: Client) -> None:
    kept = conversation(alice, CATS)
    TextVector.objects.bulk_create(rows_for(alice.pk, settled, [pack([1.0])], message_id=kept.messages.get().pk))
    client.force_login(alice)
    page = client.get("/conversations/?q=sofa").content.decode()
    assert str(kept.pk) in page
    assert "Close in meaning" not in page
    indexing.read_conversations(alice.pk)
    indexing.read_conversations(0)


@pytest.mark.django_db(transaction=True)
def test_deleting_a_conversation_deletes_its_vectors(alice: User, settled: EmbeddingIndex) -> None:
    sandbox_key(alice)
    kept, gone = conversation(alice, TAXES), conversation(alice, CATS, "By patience.")
    indexing.read_conversations(alice.pk)
    assert TextVector.objects.for_user(alice).count() == 3
    services.conversation_delete(user=alice, conversation_id=gone.pk)
    assert [row.message.conversation for row in TextVector.objects.for_user(alice)] == [kept]


@pytest.mark.django_db(transaction=True)
def test_message_deleted_while_it_is_embedded_gets_no_vector(
    alice: User, settled: EmbeddingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = conversation(alice, CATS)
    messages = list(gone.messages.all())

    async def meanwhile(*args: Any, **_: Any) -> list[bytes]:
        await Conversation.objects.all().adelete()
        return [pack([1.0])]

    monkeypatch.setattr(semantic_search, "embed_texts", meanwhile)
    assert async_to_sync(semantic_search.read_messages)(alice, messages, settled) == 0
    assert not TextVector.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_message_that_is_refused_does_not_hold_up_the_others(alice: User, settled: EmbeddingIndex) -> None:
    conversation(alice, CATS, "The key is sbx-good-agents-0123456789", TAXES)
    sandbox_key(alice)
    indexing.read_conversations(alice.pk)
    assert TextVector.objects.for_user(alice).count() == 3
    assert not semantic_search.unread(alice, settled).exists()
    assert found_by(alice, "taxes bakery", settled)


@pytest.mark.django_db
def test_answer_that_is_gone_on_with_gets_new_vectors(alice: User, settled: EmbeddingIndex) -> None:
    answer = conversation(alice, CATS, "By pat").messages.get(role="assistant")
    TextVector.objects.bulk_create(rows_for(alice.pk, settled, [pack([1.0])], message_id=answer.pk))
    services.answer_reopen(answer, user=alice, provider=None, model=None, token_id=None, begun="By pat")
    assert not TextVector.objects.exists()


# Another model


def choose(model: str) -> None:
    SystemConfig.objects.update(value={"provider": "sandbox", "model": model})


@pytest.mark.django_db(transaction=True)
def test_new_model_makes_the_index_anew_while_the_old_one_answers(
    alice: User, bob: User, settled: EmbeddingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_key(alice)
    for user in (alice, bob):
        conversation(user, CATS, "Patience.")
    indexing.read_conversations(alice.pk)
    choose("sandbox-embed-2")
    seen = standing()
    assert seen is not None
    assert (seen.is_outdated, seen.vectors, seen.model) == (True, 2, "sandbox-embed-2")
    assert index_in_use() == settled
    monkeypatch.setattr(indexing.remake_index, "apply_async", lambda args, **_: None)
    made = remake()
    assert made is not None
    assert remake() == made
    assert (index_in_use(), standing().is_outdated) == (settled, False)  # type: ignore[union-attr]
    monkeypatch.setattr(semantic_search, "embed_texts", lambda *_, **__: one_for_each(_[1]))
    indexing.remake_index(str(made.pk))
    assert index_in_use() == made
    assert {row.index_id for row in TextVector.objects.all()} == {made.pk}
    assert TextVector.objects.count() == 2
    assert not EmbeddingIndex.objects.filter(pk=settled.pk).exists()


async def one_for_each(texts: Any) -> list[bytes]:
    return [pack([1.0, 0.0]) for _ in texts]


@pytest.mark.django_db(transaction=True)
def test_making_an_index_is_gone_on_with_where_it_ended(
    alice: User, settled: EmbeddingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation(alice, *(f"message {number}" for number in range(40)))
    asked: list[int] = []

    def counted(_user: Any, texts: Any, **_: Any) -> Any:
        asked.append(len(texts))
        return one_for_each(texts)

    monkeypatch.setattr(semantic_search, "embed_texts", counted)
    indexing.read_conversations(alice.pk)
    choose("sandbox-embed-2")
    sent: list[Any] = []
    monkeypatch.setattr(indexing.remake_index, "apply_async", lambda args, **_: sent.append(args))
    made = remake()
    assert made is not None
    messages = list(StoredMessage.objects.all()[:30])
    async_to_sync(semantic_search.read_messages)(alice, messages, made)  # by a worker that was killed then
    assert made.claim()
    indexing.remake_index(str(made.pk))
    assert index_in_use() == settled  # that one may still be alive
    EmbeddingIndex.objects.filter(pk=made.pk).update(heartbeat_at=None)
    sent.clear()
    indexing.tend_index()
    assert sent == [(str(made.pk),)]
    asked.clear()
    indexing.remake_index(*sent[0])
    assert asked == [10]
    assert index_in_use() == made


@pytest.mark.django_db(transaction=True)
def test_index_that_is_not_wanted_any_more_is_dropped(settled: EmbeddingIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing.remake_index, "apply_async", lambda args, **_: None)
    choose("one")
    first = remake()
    assert first is not None
    choose("two")
    second = remake()
    assert second is not None
    assert not EmbeddingIndex.objects.filter(pk=first.pk).exists()
    indexing.remake_index(str(first.pk))
    indexing.remake_index(str(uuid4()))
    put_in_use(first)
    choose("sandbox-embed")
    assert remake() is None
    assert [(row.state, row.pk) for row in EmbeddingIndex.objects.all()] == [(State.ACTIVE, settled.pk)]
