"""Rotation beside readers, writers and another rotation."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, connections, transaction

from llm_credentials import canary, rotation, services
from llm_credentials.models import AuditEvent, UserCredential
from llm_credentials.tests.factories import (
    UserFactory,
)
from llm_credentials.tests.rotating import BOTH, NEW, OLD, sealed_under_the_old_key
from llm_credentials.tests.sealed_text import put_text


@pytest.fixture
def keys(db: Any) -> dict[Any, str]:
    return sealed_under_the_old_key()


@pytest.mark.django_db(transaction=True)
def test_rotation_beside_readers_and_writers_loses_nothing(settings: Any) -> None:
    users = [UserFactory() for _ in range(12)]
    for number, user in enumerate(users):
        services.credential_save(user=user, provider="openai", api_key=f"sk-{number:03d}-before-0123456789")
    settings.CREDENTIAL_KEYS = BOTH
    failures: list[object] = []
    over = threading.Event()
    latest = {user.pk: f"sk-{number:03d}-before-0123456789" for number, user in enumerate(users)}

    def write(part: int) -> None:
        for turn in range(6):
            for number, user in list(enumerate(users))[part::3]:
                key = f"sk-{number:03d}-turn-{turn}-0123456789"
                services.credential_save(user=user, provider="openai", api_key=key)
                latest[user.pk] = key

    def read() -> None:
        while not over.is_set():
            for row in UserCredential.objects.all():
                row.reveal()

    def guarded(work: Any, *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    writers = [threading.Thread(target=guarded, args=(write, part)) for part in range(3)]
    readers = [threading.Thread(target=guarded, args=(read,)) for _ in range(3)]
    for thread in (*writers, *readers):
        thread.start()
    while any(thread.is_alive() for thread in writers):
        rotation.rotate(batch=3)
    over.set()
    for thread in readers:
        thread.join()
    rotation.rotate(batch=3)
    assert failures == []
    assert rotation.figures().old == {}
    settings.CREDENTIAL_KEYS = NEW
    assert {row.user_id: row.reveal() for row in UserCredential.objects.all()} == latest


@pytest.mark.django_db(transaction=True)
def test_two_rotations_at_once_move_each_row_once_and_quarantine_once(settings: Any) -> None:
    user = UserFactory()
    expected = {}
    for number in range(40):
        saved = services.credential_save(user=user, provider="openai", name=f"n{number}", api_key=f"sk-{number:020d}")
        expected[saved.credential.pk] = f"sk-{number:020d}"
    broken = UserCredential.objects.order_by("pk")[7]
    put_text(broken, "v1:t1:cut")
    del expected[broken.pk]
    settings.CREDENTIAL_KEYS = BOTH
    canary.plant()
    begin = threading.Barrier(2)
    found: list[rotation.Moved] = []

    def go() -> None:
        try:
            begin.wait(20)
            found.append(rotation.rotate(batch=7))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(moved.resealed for moved in found) == 39
    assert AuditEvent.objects.filter(action="credential.quarantine").count() == 1
    settings.CREDENTIAL_KEYS = NEW
    assert {row.pk: row.reveal() for row in UserCredential.objects.exclude(pk=broken.pk)} == expected


@pytest.mark.django_db(transaction=True)
def test_rotation_waits_for_no_row_that_somebody_is_writing(alice: Any, settings: Any) -> None:
    """Or it would hold others meanwhile, and two would wait for each other. The row is moved by a later pass."""
    if connection.vendor != "postgresql":
        pytest.skip("here one writes at a time, and rotation holds nothing while it waits")
    for provider in ("openai", "groq", "mistral"):
        services.credential_save(user=alice, provider=provider, api_key=f"sk-{provider}-0123456789")
    settings.CREDENTIAL_KEYS = BOTH
    held, done = threading.Event(), threading.Event()

    def write() -> None:
        try:
            with transaction.atomic():
                UserCredential.objects.filter(provider="groq").update(model="being-written")
                held.set()
                done.wait(20)
        finally:
            connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    held.wait(20)
    moved = rotation.rotate(batch=10)
    assert (moved.resealed, rotation.figures().old) == (2, {"t1": 1})
    assert moved.held == rotation.MAX_PASSES
    done.set()
    writer.join()
    assert rotation.rotate(batch=10).resealed == 1
    assert UserCredential.objects.get(provider="groq").model == "being-written"


def test_another_process_without_the_new_key_puts_no_key_out_of_use(alice: Any, settings: Any) -> None:
    """While a new ring is rolled out, some have it and some have not."""
    from llm_credentials.providers import CredentialUnreadable
    from llm_credentials.routing import key_status

    settings.CREDENTIAL_KEYS = BOTH
    services.credential_save(user=alice, provider="openai", api_key="sk-rolled-out-0123456789")
    settings.CREDENTIAL_KEYS = OLD
    row = UserCredential.objects.get()
    assert row.is_lost
    assert key_status.verdict(row, CredentialUnreadable(provider="openai"), answered=False) is None
    settings.CREDENTIAL_KEYS = BOTH
    assert key_status.verdict(row, CredentialUnreadable(provider="openai"), answered=False) is not None
