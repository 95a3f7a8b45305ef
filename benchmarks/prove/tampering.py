"""Changes and moves sealed values in the database; none may open, none may show, and pages must keep working.

python -m benchmarks.prove.tampering [--changes 1000]
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.stage import stage

# isort: split
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from llm_credentials import keyring, services
from llm_credentials.factory import open_client
from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.tests.canaries import Needles

PROVIDERS = ("openai", "groq", "mistral", "deepseek")
PAGE = "/settings/llm/"
API = "/api/user/llm-credentials"


@dataclass(kw_only=True)
class Found:
    changes: int = 0
    opened: list[str] = field(default_factory=list)
    """Kinds of change after which the value opened."""
    shown: list[str] = field(default_factory=list)
    """Places that showed a key or a ciphertext."""
    pages: list[str] = field(default_factory=list)
    """Pages not answered with 200."""


def lines(changes: int = 1000) -> Iterator[Line]:
    with stage():
        yield from measured(changes)


def measured(changes: int) -> Iterator[Line]:
    found = _tamper(changes)
    refused = found.changes - len(found.opened)
    kinds = f"; opened after: {', '.join(sorted(set(found.opened)))}" if found.opened else ""
    yield Line(f"changed or moved sealed values refused: {changes}", f"{refused}{kinds}", refused >= changes)
    yield Line("places that showed a key or a ciphertext: 0", f"{len(found.shown)} {found.shown[:3]}", not found.shown)
    yield Line("pages that were not 200: 0", f"{len(found.pages)} {found.pages[:3]}", not found.pages)


def _tamper(changes: int) -> Found:
    """Each change is made, tried and undone."""
    alice, bob = (User.objects.create_user(f"tampered-{name}") for name in ("alice", "bob"))
    rows = [_stored(user, provider) for user in (alice, bob) for provider in PROVIDERS]
    site = services.system_credential_save(provider="openai", api_key="sk-tampered-site-0123456789").credential
    stored: list[UserCredential | SystemCredential] = [*rows, site]
    texts = {row.pk: _text(row) for row in stored}
    older = _replaced(rows[0], texts)
    needles = Needles([f"sk-tampered-{row.user_id}-{row.provider}-0123456789" for row in rows])
    chance, found = random.Random(4), Found()
    kinds = _kinds(rows, site, texts, older)
    visitor = Client(raise_request_exception=False)
    visitor.force_login(alice)
    while found.changes < changes:
        for kind, change in kinds.items():
            row = rows[0] if kind.startswith("older") else chance.choice(rows)
            _put(row, change(row, chance))
            _try(row, kind, found, needles)
            if found.changes % 20 == 0:
                _look(visitor, found, needles)
            _put(row, texts[row.pk])
            UserCredential.objects.filter(pk=row.pk).update(status="unverified", status_detail="")
    whole = [row for row in UserCredential.objects.all() if not row.reveal()]
    assert not whole
    return found


def _stored(user: User, provider: str) -> UserCredential:
    key = f"sk-tampered-{user.pk}-{provider}-0123456789"
    return services.credential_save(user=user, provider=provider, api_key=key).credential


def _replaced(row: UserCredential, texts: dict[Any, str]) -> str:
    """The row's ciphertext from before its key was replaced: sealed for this row, but outdated."""
    before = texts[row.pk]
    services.credential_save(user=row.user, provider=row.provider, api_key=f"sk-tampered-newer-{row.pk}")
    texts[row.pk] = _text(row)
    return before


Change = Callable[[UserCredential, random.Random], str]


def _kinds(rows: list[UserCredential], site: SystemCredential, texts: dict[Any, str], older: str) -> dict[str, Change]:
    def other(row: UserCredential, chance: random.Random, *, of_owner: bool) -> str:
        fitting = [each for each in rows if each.pk != row.pk and (each.user_id == row.user_id) is of_owner]
        return texts[chance.choice(fitting).pk]

    def flipped(row: UserCredential, chance: random.Random) -> str:
        text = texts[row.pk]
        place = chance.randrange(len(text))
        return text[:place] + chr(33 + (ord(text[place]) - 33 + chance.randrange(1, 94)) % 94) + text[place + 1 :]

    def bit(row: UserCredential, chance: random.Random) -> str:
        head, _, token = texts[row.pk].rpartition(":")
        raw = bytearray(base64.urlsafe_b64decode(token))
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return f"{head}:{base64.urlsafe_b64encode(raw).decode()}"

    def sealed_bare(row: UserCredential, chance: random.Random) -> str:
        """Sealed with the key ring, but not bound to a row."""
        return keyring.ring().encrypt(b"sk-planted-0123456789").decode()

    return {
        "a character changed": flipped,
        "a bit flipped": bit,
        "cut": lambda row, chance: texts[row.pk][: chance.randrange(1, len(texts[row.pk]))],
        "lengthened": lambda row, chance: texts[row.pk] + chance.choice("Aa0=-_"),
        "replaced by plain text": lambda row, chance: f"sk-planted-{chance.randrange(10**9):010d}",
        "sealed for nobody": sealed_bare,
        "of another row of the owner": lambda row, chance: other(row, chance, of_owner=True),
        "of another user": lambda row, chance: other(row, chance, of_owner=False),
        "of the site": lambda row, chance: texts[site.pk],
        "under an unknown key": lambda row, chance: texts[row.pk].replace(":t1:", ":t9:", 1),
        "of another format": lambda row, chance: texts[row.pk].replace("v1:", f"v{chance.randrange(2, 99)}:", 1),
        "older, of the same row": lambda row, chance: older,
    }


def _text(row: UserCredential | SystemCredential) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT api_key FROM {row._meta.db_table} WHERE id = %s", [_id(row)])
        return str(cursor.fetchone()[0])


def _put(row: UserCredential, text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {row._meta.db_table} SET api_key = %s WHERE id = %s", [text, _id(row)])


def _id(row: UserCredential | SystemCredential) -> str:
    return row.pk.hex if connection.vendor == "sqlite" else str(row.pk)


def _try(row: UserCredential, kind: str, found: Found, needles: Needles) -> None:
    found.changes += 1
    read = UserCredential.objects.get(pk=row.pk)
    try:
        async_to_sync(open_client)(read)
        found.opened.append(kind)
    except CredentialUnreadable as error:
        said = f"{error!r} {error.__dict__} {error.__cause__!r} {error.__context__!r} {read!r} {read.api_key!r}"
        if needles.found_in(said.encode()) or _text(row) in said:
            found.shown.append(f"error after: {kind}")


def _look(visitor: Client, found: Found, needles: Needles) -> None:
    for path in (PAGE, API):
        response = visitor.get(path)
        if response.status_code != 200:
            found.pages.append(f"{path} {response.status_code}")
        if needles.found_in(response.content) or b"v1:t1:" in response.content:
            found.shown.append(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000)
    return 1 if print_lines(lines(parser.parse_args().changes)) else 0


if __name__ == "__main__":
    sys.exit(main())
