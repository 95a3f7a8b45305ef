"""Rotates thousands of keys to a new encryption key while others write and read them and the rotation is killed.

python -m benchmarks.prove.rotation [--keys 10000] [--kills 20]
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.stage import stage

# isort: split
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import decrypt, encrypt
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, connections
from django.utils import timezone

from llm_credentials import canary, rotation, services
from llm_credentials.audit.verify import verify
from llm_credentials.models import ConnectionTest, UserCredential
from project.tests import apart

OLD = f"old1:{base64.b64encode(b'0123456789abcdef0123456789abcdef').decode()}"
NEW = f"new1:{base64.b64encode(b'fedcba9876543210fedcba9876543210').decode()}"
BOTH = f"{NEW},{OLD}"
PROCESSES = 2
"""For the writers, and the same number for the readers."""
WRITER_PAUSE_S = (0.3, 1.5)
CONNECTIONS = 15
"""Per process."""
READER_PAUSE_S = (0.05, 0.3)
PROVIDERS = ("openai", "anthropic", "gemini", "deepseek", "groq", "together", "mistral", "digitalocean")


@dataclass(kw_only=True)
class Size:
    keys: int = 10_000
    writers: int = 50
    readers: int = 50
    kills: int = 20

    @property
    def batch(self) -> int:
        """Small enough that each kill hits a rotation at work."""
        return min(200, max(1, self.keys // 20))


@dataclass(kw_only=True)
class Found:
    """Records of the proof's processes."""

    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Credential → its writer's last confirmed change."""
    writes: int = 0
    failed_writes: list[str] = field(default_factory=list)
    reads: int = 0
    failed_reads: list[str] = field(default_factory=list)


def lines(size: Size | None = None) -> Iterator[Line]:
    with stage():
        yield from measured(size or Size())


def measured(size: Size) -> Iterator[Line]:
    """In the current database, with its own key ring."""
    ring = settings.CREDENTIAL_KEYS
    try:
        settings.CREDENTIAL_KEYS = OLD
        expected = _fill(size.keys)
        settings.CREDENTIAL_KEYS = BOTH
        with TemporaryDirectory(prefix="keyswitch-rotation-") as directory:
            kills, seconds = _rotate_under_load(size, sorted(expected), Path(directory))
            found = _collect(Path(directory))
        yield from _judged(size, expected, found, kills, seconds)
    finally:
        settings.CREDENTIAL_KEYS = ring


def _fill(keys: int) -> dict[str, str]:
    """Credential → key. A tenth as many users; some with a second factor, some with a key under test."""
    users = User.objects.bulk_create(
        User(username=f"rotated-{number}", email=f"rotated-{number}@example.com")
        for number in range(max(2, keys // 20))
    )
    canary.plant()
    rows, expected = [], {}
    for number in range(keys):
        user = users[number % len(users)]
        turn = number // len(users)
        provider = PROVIDERS[turn % len(PROVIDERS)]
        row = UserCredential(user=user, provider=provider, name=f"n{turn // len(PROVIDERS)}", model="m-0")
        row.seal(_key(str(row.pk), 0))
        rows.append(row)
        expected[str(row.pk)] = _key(str(row.pk), 0)
    UserCredential.objects.bulk_create(rows, batch_size=1000)
    for user in users[: max(1, len(users) // 5)]:
        Authenticator.objects.create(user=user, type="totp", data={"secret": encrypt(f"totp-{user.pk}")})
        test = ConnectionTest(user=user, provider="openai", name="waiting", created_at=timezone.now())
        test.seal(f"sk-under-test-{user.pk:010d}")
        test.save()
    UserCredential.objects.filter(pk__in=[row.pk for row in rows[::50]]).update(removed_at=timezone.now())
    return expected


def _key(credential: str, turn: int) -> str:
    """Contains its credential's id, so that a reader recognises another's key at once."""
    return f"sk-{credential}-{turn:06d}"


# The load, in separate processes


def _rotate_under_load(size: Size, credentials: list[str], directory: Path) -> tuple[int, float]:
    """(kills that hit a rotation at work, seconds from the first start to the last end)"""
    stop = directory / "stop"
    load = [_started(_write, credentials, size.writers, number, directory) for number in range(PROCESSES)]
    load += [_started(_read, credentials, size.readers, number, directory) for number in range(PROCESSES)]
    began = time.monotonic()
    try:
        hits = sum(_killed_at_work(share / (size.kills + 1), size.batch) for share in range(1, size.kills + 1))
        _end(_started(_rotate, size.batch))
    finally:
        took_s = time.monotonic() - began
        stop.touch()
        for each in load:
            _end(each)
    # Rows that a writer held each time the rotation came by.
    rotation.rotate(batch=size.batch)
    return hits, took_s


def _killed_at_work(share: float, batch: int) -> bool:
    """A rotation killed at a random instruction after about this share of the rows."""
    rotating = _started(_rotate_to_be_killed, round(rotation.figures().total * (1 - share)), batch)
    return apart.ended(rotating) == -signal.SIGKILL


def _rotate(batch: int) -> None:
    rotation.rotate(batch=batch)


def _rotate_to_be_killed(left: int, batch: int) -> None:
    """Starts a timer for the kill once at most ``left`` rows remain, and waits for it before the next batch."""
    end = threading.Timer(random.uniform(0, 0.05), os.kill, (os.getpid(), signal.SIGKILL))

    def tell(_: int) -> None:
        if end.ident:
            end.join()
        elif sum(rotation.figures().old.values()) <= left:
            end.start()

    rotation.rotate(batch=batch, tell=tell)


def _started(work: Callable[..., None], *args: Any) -> BaseProcess:
    return apart.started(_as_the_site, work, *args)


def _as_the_site(work: Callable[..., None], *args: Any) -> None:
    if connection.vendor == "postgresql":
        # Many threads share a few connections.
        connection.settings_dict["OPTIONS"]["pool"] = {"min_size": 1, "max_size": CONNECTIONS, "timeout": 60}
    logging.disable(logging.CRITICAL)
    work(*args)


def _end(process: BaseProcess) -> None:
    if status := apart.ended(process):
        raise RuntimeError(f"a process of the proof ended with {status}")


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    def guarded(number: int) -> None:
        try:
            work(number)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write(credentials: list[str], writers: int, part: int, directory: Path) -> None:
    """Each writer has its own credentials, so that its last confirmed change must be in the database."""
    stop, mine = directory / "stop", writers // PROCESSES
    out, lock = (directory / f"written-{part}").open("w"), threading.Lock()

    def go(number: int) -> None:
        chance = random.Random(part * 1000 + number)
        own = credentials[part * mine + number :: mine * PROCESSES]
        turn = 0
        while not stop.exists():
            credential, turn = chance.choice(own), turn + 1
            try:
                said = _change(credential, turn, chance)
            except Exception as error:
                said = {"failed": f"{type(error).__name__}: {error}"[:200]}
            with lock:
                out.write(json.dumps({"credential": credential, **said}) + "\n")
                out.flush()
            connection.close()
            time.sleep(chance.uniform(*WRITER_PAUSE_S))

    _in_threads(mine, go)


def _change(credential: str, turn: int, chance: random.Random) -> dict[str, Any]:
    """Replace the key, change the model or switch it on or off, as its owner would; returns what was confirmed."""
    row = UserCredential.with_removed.select_related("user").defer("api_key").get(pk=credential)
    if row.removed_at is not None:
        return {}
    what: dict[str, Any] = {"user": row.user, "provider": row.provider, "name": row.name}
    match chance.randrange(3):
        case 0:
            services.credential_save(**what, api_key=_key(credential, turn))
            return {"key": _key(credential, turn)}
        case 1:
            services.credential_save(**what, model=f"m-{turn}")
            return {"model": f"m-{turn}"}
        case _:
            services.credential_save(**what, is_active=not row.is_active)
            return {"is_active": not row.is_active}


def _read(credentials: list[str], readers: int, part: int, directory: Path) -> None:
    stop = directory / "stop"
    out, lock = (directory / f"read-{part}").open("w"), threading.Lock()

    def go(number: int) -> None:
        chance = random.Random(-part * 1000 - number)
        reads = 0
        while not stop.exists():
            credential = chance.choice(credentials)
            reads += 1
            try:
                good = UserCredential.with_removed.get(pk=credential).reveal().startswith(f"sk-{credential}-")
                fault = "" if good else "another key"
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"[:200]
            if fault:
                with lock:
                    out.write(json.dumps({"failed": fault}) + "\n")
            connection.close()
            time.sleep(chance.uniform(*READER_PAUSE_S))
        with lock:
            out.write(json.dumps({"reads": reads}) + "\n")
            out.flush()

    _in_threads(readers // PROCESSES, go)


def _collect(directory: Path) -> Found:
    found = Found()
    for path in directory.glob("written-*"):
        for line in path.read_text().splitlines():
            said = json.loads(line)
            credential = said.pop("credential")
            if "failed" in said:
                found.failed_writes.append(said["failed"])
            elif said:
                found.writes += 1
                found.written.setdefault(credential, {}).update(said)
    for path in directory.glob("read-*"):
        for line in path.read_text().splitlines():
            said = json.loads(line)
            found.reads += said.get("reads", 0)
            found.failed_reads += [said["failed"]] if "failed" in said else []
    return found


# Checks


def _judged(size: Size, expected: dict[str, str], found: Found, kills: int, seconds: float) -> Iterator[Line]:
    load = f"{size.writers} writers ({found.writes} changes), {size.readers} readers ({found.reads} openings)"
    yield Line(f"{size.kills} kill -9 of a rotation at work", f"{kills}, {seconds:.0f} s in all", kills == size.kills)
    yield _none(f"failed openings beside it, {load}", found.failed_reads)
    yield _none("failed changes", found.failed_writes)
    left = rotation.figures()
    yield _none(
        f"of {size.keys} keys left on the old encryption key", [f"{rows} {key}" for key, rows in left.old.items()]
    )
    droppable = left.droppable.get("old1", False)
    yield Line("the report says that the old key may go", "it may" if droppable else "still needed", droppable)
    yield _none("places in the database sealed under it, its own mark aside", _places_of("v1:old1:"))
    settings.CREDENTIAL_KEYS = NEW
    yield from _after_the_drop(expected, found)


def _after_the_drop(expected: dict[str, str], found: Found) -> Iterator[Line]:
    lost, unread = [], []
    for row in UserCredential.with_removed.all():
        written = found.written.get(str(row.pk), {})
        try:
            key = row.reveal()
        except Exception as error:
            unread.append(type(error).__name__)
            continue
        if key != written.get("key", expected[str(row.pk)]):
            lost.append("key")
        lost += [name for name in ("model", "is_active") if name in written and getattr(row, name) != written[name]]
    yield _none("changes lost", lost)
    yield _none("keys that do not open once the old encryption key is dropped", unread)
    factors = Authenticator.objects.all()
    closed = [factor.pk for factor in factors if _decrypted(factor.data["secret"]) != f"totp-{factor.user_id}"]
    closed += [test.pk for test in ConnectionTest.objects.filter(api_key__isnull=False) if not _opens(test)]
    yield _none("second factors and keys under test that do not open", closed)
    report = verify()
    yield Line("the audit trail holds", f"{report.events} events checked", report.holds)


def _none(claim: str, found: list[Any]) -> Line:
    examples = "".join(f"; {each}" for each in found[:3])
    return Line(f"{claim}: 0", f"{len(found)}{examples}", not found)


def _decrypted(sealed: str) -> str:
    try:
        return str(decrypt(sealed))
    except Exception as error:
        return type(error).__name__


def _opens(row: Any) -> bool:
    with suppress(Exception):
        return bool(row.reveal())
    return False


def _places_of(beginning: str) -> list[str]:
    with connection.cursor() as cursor:
        tables = [table for table in connection.introspection.table_names(cursor) if table != "keyring_canaries"]
        found = []
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            if beginning in repr(cursor.fetchall()):
                found.append(table)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    return 1 if print_lines(lines(Size(keys=options.keys, kills=options.kills))) else 0


if __name__ == "__main__":
    sys.exit(main())
