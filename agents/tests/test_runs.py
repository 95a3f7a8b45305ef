"""Background runs through a real worker, a real queue and a real provider."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from agents import runs, tasks
from agents.catalog.conversation import ConversationAgent
from agents.models import AgentRun, RunState
from agents.tests.live import SandboxJournal, sandbox_key
from agents.watching import announce_stop
from llm_credentials import bridge
from llm_credentials.ledger import writer
from llm_credentials.ledger.entries import Reservation
from llm_credentials.providers import LLMMessage, SiteUnavailable
from project.tests.servers import wait_until

pytestmark = pytest.mark.usefixtures("transactional_db")


def queued(user: User, text: str = "What is 17 * 23?") -> AgentRun:
    run = runs.run_create(user=user, agent="conversation", text=text)
    tasks.enqueue_run(run)
    return run


def wait_for(run: AgentRun, *states: RunState, limit_s: float = 30) -> AgentRun:
    def reached() -> bool:
        run.refresh_from_db()
        return run.state in states

    wait_until(reached, f"the run to be {' or '.join(states)}", limit_s)
    return run


def test_run_is_done_by_a_worker(alice: User, journal: SandboxJournal, celery_worker_thread: Any) -> None:
    sandbox_key(alice)
    run = wait_for(queued(alice), RunState.DONE)
    assert "391" in run.output
    assert run.error is None
    assert run.receipt is not None
    assert run.receipt["key_owner"] == "user"
    assert [step["type"] for step in run.steps] == ["model"]
    assert run.duration_ms is not None
    assert len(journal.chats()) == 1


def test_run_shows_its_output_while_it_goes_on_and_ends_when_cancelled(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
) -> None:
    sandbox_key(alice, model="sandbox-chat~delay=20")
    run = queued(alice, "count to 500")

    def has_output() -> bool:
        run.refresh_from_db()
        return "10" in run.output

    wait_until(has_output, "some output")
    assert run.state == RunState.RUNNING
    runs.run_cancel(user=alice, run_id=run.pk)
    announce_stop(run.pk)
    journal.wait_gone()
    wait_for(run, RunState.CANCELLED)
    assert "10" in run.output


def test_run_of_a_user_who_is_deactivated_ends(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
) -> None:
    sandbox_key(alice)
    run = queued(alice, "count to 500")
    wait_until(journal.chats, "the call")
    User.objects.update(is_active=False)
    journal.wait_gone()
    wait_for(run, RunState.CANCELLED)
    later = wait_for(queued(alice), RunState.CANCELLED)
    assert later.output == ""
    assert len(journal.chats()) == 1


def test_run_that_a_provider_refuses_says_so(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
) -> None:
    sandbox_key(alice, key="sbx-exhausted-0123456789")
    run = wait_for(queued(alice), RunState.FAILED)
    assert run.error is not None
    assert run.error["class"] == "QuotaExhausted"
    assert "sbx-" not in str(run.error) + str(run.receipt)


def test_run_of_a_dead_worker_is_finished_once(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
) -> None:
    sandbox_key(alice)
    run = runs.run_create(user=alice, agent="conversation", text="What is 17 * 23?")
    dead = runs.run_claim(run.pk)
    assert dead is not None
    AgentRun.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    for _ in range(3):  # the broker gives out again what was never acknowledged
        tasks.enqueue_run(run)
    wait_for(run, RunState.DONE)
    assert run.attempts == 2
    assert not runs.run_finish(run.pk, dead, state=RunState.FAILED, output="late", steps=[])
    assert len(journal.chats()) == 1


def test_run_given_out_again_too_early_is_looked_at_later(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("agents.models", "agents.tasks"):
        monkeypatch.setattr(f"{module}.STALE_AFTER", timedelta(seconds=1))
    sandbox_key(alice)
    run = runs.run_create(user=alice, agent="conversation", text="What is 17 * 23?")
    runs.run_claim(run.pk)  # by a worker that dies right away
    tasks.enqueue_run(run)
    wait_for(run, RunState.DONE)
    assert run.attempts == 2


@pytest.mark.parametrize(("away", "state"), [(1, RunState.DONE), (2, RunState.FAILED)])
def test_run_that_finds_the_ledger_away_is_begun_again_as_often_as_a_run_may_be(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
    monkeypatch: pytest.MonkeyPatch,
    away: int,
    state: RunState,
) -> None:
    for module in ("agents.models", "agents.tasks"):
        monkeypatch.setattr(f"{module}.STALE_AFTER", timedelta(seconds=1))
    monkeypatch.setattr("agents.running.MAX_ATTEMPTS", 2)
    reserve, asked = writer.reserve, []

    async def reserve_later(reservation: Reservation) -> None:
        asked.append(reservation)
        if len(asked) <= away:
            raise SiteUnavailable
        await reserve(reservation)

    monkeypatch.setattr(writer, "reserve", reserve_later)
    sandbox_key(alice)
    run = wait_for(queued(alice), state)
    assert (run.attempts, len(journal.chats())) == (2, 2 - away)
    assert (run.error or {}).get("class") == (None if state == RunState.DONE else "SiteUnavailable")


@pytest.mark.parametrize("run_id", ["", "no-id", "../../x", "376551af-1e03-4b87-b62c-21de947e4002"])
def test_run_message_that_means_nothing_hurts_nobody(
    alice: User,
    journal: SandboxJournal,
    celery_worker_thread: Any,
    run_id: str,
) -> None:
    sandbox_key(alice)
    tasks.run_agent.apply_async(args=(run_id,))
    wait_for(queued(alice), RunState.DONE)


def test_run_message_carries_the_id_alone(alice: User, valkey_url: str) -> None:
    run = queued(alice, "my secret plan")
    with redis.Redis.from_url(valkey_url) as client:
        (message,) = client.lrange("runs.light", 0, -1)
    assert json.loads(_body(message))[0] == [str(run.pk)]
    assert b"secret plan" not in bytes(message) + _body(message)


def _body(message: bytes) -> bytes:
    return base64.b64decode(json.loads(message)["body"])


def test_run_without_a_queue_says_so(alice: User, no_queue: None) -> None:
    run = runs.run_create(user=alice, agent="conversation", text="Hello")
    with pytest.raises(tasks.QueueUnavailable):
        tasks.enqueue_run(run)


def test_run_in_a_transaction_that_is_rolled_back_never_happens(alice: User) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        runs.run_create(user=alice, agent="conversation", text="Hello")
        raise RuntimeError
    assert not AgentRun.objects.exists()


def test_agent_runs_from_plain_python(alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice)
    agent = ConversationAgent(alice)
    first = bridge.run(agent.run, "say swordfish")
    assert "swordfish" in first.text
    assert first.response is not None
    assert first.response.provider == "sandbox"
    assert first.receipt.attempts[-1].outcome == "ok"
    second = bridge.run(agent.run, "what did I say?", history=first.messages)
    assert "swordfish" in second.text
    assert [message.role for message in second.messages] == ["user", "assistant", "user", "assistant"]


def test_agent_streams_from_plain_python(alice: User, journal: SandboxJournal) -> None:
    async def kinds() -> list[str]:
        return [event.type async for event in ConversationAgent(alice).stream("What is 17 * 23?")]

    sandbox_key(alice)
    seen = bridge.run(kinds)
    assert seen[0] == "text"
    assert seen[-2:] == ["receipt", "done"]


def test_agent_makes_room_when_the_window_is_smaller_than_thought(
    alice: User,
    journal: SandboxJournal,
) -> None:
    sandbox_key(alice, model="sandbox-tiny")
    old = [LLMMessage.user("blah " * 200), LLMMessage.assistant("blah " * 200)] * 5
    result = bridge.run(ConversationAgent(alice).run, "What is 17 * 23?", history=old)
    assert "391" in result.text
    assert len(journal.chats()) > 1


def test_agent_runs_from_a_shell(alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice)
    assert "42" in async_to_sync(ConversationAgent(alice).run)("What is 6 * 7?").text
