"""What ``manage.py up`` refuses before it writes or starts anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection

from llm_credentials import services
from llm_credentials.models import KeyringCanary, UserCredential
from project import env
from project.management.commands import up

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a checkout that has a site's key no more."""
    file = tmp_path / ".env"
    file.write_text("LOCAL=true\nSECRET_KEY=kept\nCREDENTIAL_KEYS=\n")
    monkeypatch.setattr(env, "ENV_FILE", file)
    monkeypatch.setattr(env._Environment, "ENVIRON", {"SECRET_KEY": "kept"})
    return file


@pytest.fixture
def owner(alice: User) -> User:
    services.credential_save(user=alice, provider="openai", api_key="sk-emptied-ring-0123456789")
    return alice


@pytest.mark.parametrize("left", ["rows and canary", "canary", "rows"])
def test_up_makes_no_second_ring_for_a_database_that_is_sealed(owner: User, env_file: Path, left: str) -> None:
    if left == "canary":
        UserCredential.objects.all().delete()
    elif left == "rows":
        KeyringCanary.objects.all().delete()
    before = env_file.read_text()
    with pytest.raises(CommandError, match="Put back what CREDENTIAL_KEYS held"):
        call_command("up", stdout=io.StringIO())
    assert env_file.read_text() == before


def test_up_makes_no_ring_while_the_database_does_not_answer(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    before = env_file.read_text()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE keyring_canaries RENAME COLUMN key_id TO away")
    try:
        monkeypatch.setattr(KeyringCanary.objects, "exists", KeyringCanary.objects.filter(key_id="x").count, False)
        with pytest.raises(CommandError, match="make it answer first"):
            call_command("up", stdout=io.StringIO())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE keyring_canaries RENAME COLUMN away TO key_id")
    assert env_file.read_text() == before


def test_up_makes_the_first_ring(db: None, env_file: Path) -> None:
    up._refuse_a_second_ring()
    assert env.complete_env_file() == ["CREDENTIAL_KEYS"]
    assert "CREDENTIAL_KEYS=k1:" in env_file.read_text()


def test_up_looks_at_no_database_when_there_is_a_ring(env_file: Path, monkeypatch: pytest.MonkeyPatch, db: Any) -> None:
    monkeypatch.setitem(env._Environment.ENVIRON, "CREDENTIAL_KEYS", "k1:x")
    monkeypatch.delattr(up.canary, "holds_sealed_rows")
    up._refuse_a_second_ring()
