"""Calls under way when what they rest on is taken away, by somebody who does not tell this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from llm_credentials import bridge, client_cache
from llm_credentials.audit.context import begin_call
from llm_credentials.factory import client_for, open_client
from llm_credentials.live import access, calls
from llm_credentials.models import PersonalAccessToken, SystemConfig, UsageRecord, UserCredential
from llm_credentials.providers import AccessWithdrawn, LLMMessage, StreamInterrupted
from llm_credentials.routing import snapshot_cache
from llm_credentials.services import credential_save, token_create
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory
from llm_credentials.tests.test_live_changes import elsewhere
from project.tests.servers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_as_in_production")]

KEY, NEW_KEY = "sbx-good-live-0000001", "sbx-good-live-0000002"
LONG = [LLMMessage.user("count to 500")]


@pytest.fixture(autouse=True)
def _empty_journal(sandbox_url: str) -> Iterator[None]:
    urlopen(Request(f"{sandbox_url}/_sandbox/requests", method="DELETE"))
    yield
    bridge.close()


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(
        user=alice, provider="sandbox", key=KEY, model="sandbox-chat~delay=60", priority=1
    )
    return made


def asked(sandbox_url: str, key: str = KEY) -> list[dict[str, Any]]:
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
    with urlopen(f"{sandbox_url}/_sandbox/requests?key={fingerprint}") as answer:
        rows = json.load(answer)
    return list(rows["items"] if isinstance(rows, dict) else rows)


def settled(count: int) -> list[UsageRecord]:
    """The ledger is written in groups, a moment later."""
    wait_until(lambda: UsageRecord.objects.exclude(state="reserved").count() == count, "the ledger")
    return list(UsageRecord.objects.all())


class Reader:
    """Reads a stream, or waits for a whole answer, in a thread."""

    def __init__(self, user: User, how: str = "stream", token: PersonalAccessToken | None = None) -> None:
        self.user, self.how, self.token = user, how, token
        self.text = ""
        self.error: BaseException | None = None
        self.pausing, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            bridge.run(self._read)
        except BaseException as error:
            self.error = error

    async def _read(self) -> None:
        if self.token is not None:
            begin_call(actor=str(self.user.pk), token_id=self.token.pk, request_id="test")
        client = client_for(self.user)
        if self.how == "complete":
            self.text = (await client.complete(LONG)).text
            return
        async for chunk in client.stream(LONG):
            self.text += chunk.text
            if self.how == "slow reader" and not self.pausing.is_set():
                self.pausing.set()
                await asyncio.to_thread(self.go_on.wait, 30)

    def until_under_way(self, sandbox_url: str) -> None:
        if self.how == "complete":
            wait_until(lambda: asked(sandbox_url), "the provider to be asked")
        elif self.how == "slow reader":
            assert self.pausing.wait(20)
        else:
            wait_until(lambda: self.text, "the first word")

    def ended(self) -> BaseException | None:
        self.go_on.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.error


def deactivate(user: User, credential: UserCredential) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def delete_user(user: User, credential: UserCredential) -> None:
    User.objects.get(pk=user.pk).delete()


def turn_off(user: User, credential: UserCredential) -> None:
    UserCredential.objects.update(is_active=False)


def remove(user: User, credential: UserCredential) -> None:
    UserCredential.objects.update(removed_at=timezone.now())


def delete(user: User, credential: UserCredential) -> None:
    UserCredential.objects.all()._raw_delete("default")


def test_stream_ends_when_its_right_is_gone(alice: User, credential: UserCredential, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", name="second", key=NEW_KEY, priority=2)
    for take_away in (turn_off, remove, deactivate):
        reader = Reader(alice)
        reader.until_under_way(sandbox_url)
        elsewhere(lambda take_away=take_away: take_away(alice, credential))  # type: ignore[misc]
        error = reader.ended()
        assert isinstance(error, AccessWithdrawn) and isinstance(error, StreamInterrupted)
        assert str(error) == access.WORDS["user" if take_away is deactivate else "key"]
        assert error.partial is not None and error.partial.text == reader.text
        assert error.receipt.attempts[-1].outcome == "AccessWithdrawn"
        UserCredential.with_removed.update(is_active=True, removed_at=None)
    rows = wait_until(lambda: [row for row in asked(sandbox_url) if row["client_gone"]], "the provider to notice")
    assert len(rows) == 3
    assert asked(sandbox_url, NEW_KEY) == [], "no further provider call"
    rows_of_ledger = settled(3)
    assert all((row.state, row.outcome) == ("estimated", "AccessWithdrawn") for row in rows_of_ledger)
    assert all(row.output_tokens for row in rows_of_ledger)


@pytest.mark.parametrize("take_away", [delete, delete_user])
def test_whole_answer_ends_when_its_right_is_gone(
    alice: User, credential: UserCredential, sandbox_url: str, take_away: Callable[..., None]
) -> None:
    UserCredential.objects.update(model="sandbox-chat~wait=30")
    reader = Reader(alice, "complete")
    reader.until_under_way(sandbox_url)
    elsewhere(lambda: take_away(alice, credential))
    assert isinstance(reader.ended(), AccessWithdrawn)
    wait_until(lambda: [row for row in asked(sandbox_url) if row["client_gone"]], "the provider to notice")
    assert settled(1)[0].state == "estimated"
    assert len(asked(sandbox_url)) == 1


def test_stream_whose_reader_does_not_come_back_is_closed(
    alice: User, credential: UserCredential, sandbox_url: str
) -> None:
    reader = Reader(alice, "slow reader")
    reader.until_under_way(sandbox_url)
    elsewhere(lambda: turn_off(alice, credential))
    wait_until(lambda: [row for row in asked(sandbox_url) if row["client_gone"]], "the provider to notice")
    wait_until(lambda: UsageRecord.objects.filter(state="estimated").exists(), "the ledger")
    error = reader.ended()
    assert isinstance(error, AccessWithdrawn)
    assert UsageRecord.objects.count() == 1


def test_call_of_a_token_ends_when_it_is_revoked(alice: User, credential: UserCredential, sandbox_url: str) -> None:
    revoked, other = token_create(user=alice)[0], token_create(user=alice)[0]
    reader, bystander = Reader(alice, token=revoked), Reader(alice, token=other)
    reader.until_under_way(sandbox_url)
    bystander.until_under_way(sandbox_url)
    elsewhere(lambda: PersonalAccessToken.objects.filter(pk=revoked.pk).update(revoked_at=timezone.now()))
    assert str(reader.ended()) == access.WORDS["token"]
    assert bystander.thread.is_alive()
    elsewhere(lambda: PersonalAccessToken.objects.update(expires_at=timezone.now()))
    assert str(bystander.ended()) == access.WORDS["token"]


def test_call_on_a_key_of_the_site_ends_when_staff_take_it_away(alice: User, sandbox_url: str) -> None:
    SystemConfig.objects.create(category="llm", key="system_allowance", value={"unpriced_models": True})
    row = SystemCredentialFactory(provider="sandbox", key=KEY, model="sandbox-chat~delay=60")
    reader = Reader(alice)
    reader.until_under_way(sandbox_url)
    elsewhere(lambda: type(row).objects.update(is_active=False))
    assert str(reader.ended()) == access.WORDS["key"]


def test_call_under_way_ends_with_the_key_that_was_replaced(
    alice: User, credential: UserCredential, sandbox_url: str
) -> None:
    credential_save(user=alice, provider="sandbox", model="sandbox-chat~delay=2")
    reader = Reader(alice)
    reader.until_under_way(sandbox_url)
    elsewhere(lambda: credential_save(user=alice, provider="sandbox", api_key=NEW_KEY))
    assert reader.ended() is None
    assert "500" in reader.text
    next_one = Reader(alice)
    assert next_one.ended() is None
    assert len(asked(sandbox_url)) == 1 and len(asked(sandbox_url, NEW_KEY)) == 1


def test_other_users_calls_go_on(alice: User, bob: User, credential: UserCredential, sandbox_url: str) -> None:
    UserCredentialFactory(user=bob, provider="sandbox", key=NEW_KEY, model="sandbox-chat~delay=3")
    mine, theirs = Reader(alice), Reader(bob)
    mine.until_under_way(sandbox_url)
    theirs.until_under_way(sandbox_url)
    elsewhere(lambda: deactivate(alice, credential))
    assert isinstance(mine.ended(), AccessWithdrawn)
    assert theirs.ended() is None and "500" in theirs.text


def test_change_that_was_noted_nowhere_still_ends_calls(
    alice: User, credential: UserCredential, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are asked about now and then, whatever the triggers say."""
    from llm_credentials.live import watched

    monkeypatch.setattr(calls, "ASKED_EVERY_S", 0.2)
    watched.remove()
    try:
        reader = Reader(alice)
        reader.until_under_way(sandbox_url)
        elsewhere(lambda: turn_off(alice, credential))
        assert isinstance(reader.ended(), AccessWithdrawn)
    finally:
        watched.install()


# The next key of a chain that has been under way for a while


def test_chain_does_not_go_on_to_a_key_that_was_removed_meanwhile(
    alice: User, credential: UserCredential, sandbox_url: str
) -> None:
    UserCredential.objects.update(model="sandbox-chat~wait=1~fault=401")
    second = UserCredentialFactory(user=alice, provider="sandbox", name="second", key=NEW_KEY, priority=2)
    reader = Reader(alice)
    wait_until(lambda: asked(sandbox_url), "the first key to be tried")
    elsewhere(lambda: UserCredential.objects.filter(pk=second.pk).update(is_active=False))
    assert reader.ended() is not None
    assert asked(sandbox_url, NEW_KEY) == []


def test_key_that_was_replaced_and_revoked_a_moment_ago_fails_no_call(
    alice: User, credential: UserCredential, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider refuses the old key before this process has heard of the new one."""
    UserCredential.objects.update(model="sandbox-instant")
    elsewhere(lambda: credential_save(user=alice, provider="sandbox", api_key="sbx-bad-live-00000001"))
    stale = snapshot_cache.load(alice)
    monkeypatch.setattr(snapshot_cache, "find", lambda user: stale)
    elsewhere(lambda: credential_save(user=alice, provider="sandbox", api_key=NEW_KEY))
    answer = bridge.run(client_for(alice).complete, [LLMMessage.user("What is 6 * 7?")])
    assert [attempt.outcome for attempt in answer.receipt.attempts] == ["AuthenticationFailed", "ok"]
    wait_until(lambda: UserCredential.objects.get().status == "valid", "the new key's status")


# Clients


def test_client_of_a_key_leaves_memory_when_the_key_does(alice: User, bob: User, sandbox_url: str) -> None:
    for user in (alice, bob):
        UserCredentialFactory(user=user, provider="sandbox", key=KEY)

    def kept() -> set[Any]:
        return {found.user_id for _, _, found in client_cache._everywhere()}

    def opened_all() -> bool:
        for row in UserCredential.objects.all():
            bridge.run(open_client, row)
        return kept() == {alice.pk, bob.pk}

    wait_until(opened_all, "clients to be kept, once the news of their making is old")
    UserCredential.objects.filter(user=alice).update(priority=7)
    assert kept() == {alice.pk, bob.pk}
    elsewhere(lambda: UserCredential.objects.filter(user=alice).update(is_active=False))
    wait_until(lambda: kept() == {bob.pk}, "the client to be dropped")
    elsewhere(lambda: credential_save(user=bob, provider="sandbox", api_key=NEW_KEY))
    wait_until(lambda: not kept(), "the client to be dropped")


def test_client_of_a_key_that_changed_while_it_was_opened_is_not_kept(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed_meanwhile(*args: Any) -> None:
        credential_save(user=alice, provider="sandbox", api_key=NEW_KEY)

    monkeypatch.setattr("llm_credentials.opening.announce_opening", changed_meanwhile)
    bridge.run(open_client, credential)
    assert not list(client_cache._everywhere())
