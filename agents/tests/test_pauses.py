"""Runs that ask their user, and runs with options, files, shapes and a limit of cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from agents import attachments, runs
from agents.models import AgentRun, RunState
from agents.running import Outcome, run_execute
from agents.tests.agents_of_tests import NOTES, BillerAgent, WriterAgent, on_the_site
from agents.tests.live import sandbox_key
from agents.tests.scripted import Answer, call
from agents.tests.wires import Script, scripted
from llm_credentials import bridge
from llm_credentials import services as vault

pytestmark = pytest.mark.usefixtures("transactional_db", "guests")


@pytest.fixture
def guests() -> Iterator[None]:
    with on_the_site(WriterAgent, BillerAgent):
        yield


@pytest.fixture
def script(sandbox_url: str) -> Iterator[Script]:
    noting = Answer(text=["I will note it."], calls=[call("note", text="milk")])
    with scripted(sandbox_url, noting, "Noted.") as script:
        yield script


def executed(run: AgentRun) -> AgentRun:
    assert bridge.run(run_execute, run.pk) is Outcome.ENDED
    run.refresh_from_db()
    return run


@pytest.fixture
def paused(alice: User, script: Script) -> AgentRun:
    sandbox_key(alice)
    return executed(runs.run_create(user=alice, agent="writer", text="Note milk."))


def test_run_waits_with_what_it_would_do(paused: AgentRun) -> None:
    assert paused.state == RunState.WAITING
    assert paused.pending is not None
    (asked,) = paused.pending
    assert (asked["name"], asked["arguments"], asked["access"]) == ("note", {"text": "milk"}, "writes")
    assert asked["description"] == "Write a note."
    assert NOTES == []
    assert paused.output == "I will note it."
    assert paused.receipt is not None


def test_run_goes_on_with_a_yes(alice: User, paused: AgentRun, script: Script) -> None:
    runs.run_answer(user=alice, run_id=paused.pk, answers={paused.pending[0]["id"]: True})  # type: ignore[index]
    done = executed(paused)
    assert (done.state, NOTES) == (RunState.DONE, ["milk"])
    assert done.output == "I will note it.\n\nNoted."
    assert done.receipt is not None
    assert done.receipt["steps"] == 2
    assert [step.get("text", step["type"]) for step in done.steps] == [
        *("model", "tool", "Sharpening the pencil", "model")
    ]
    assert script.asked[1].results[0].content == "written"


@pytest.mark.parametrize("answers", [{}, "no"], ids=["no answer", "a no"])
def test_run_goes_on_without_what_it_may_not_do(alice: User, paused: AgentRun, answers: Any) -> None:
    given = {} if answers == {} else {paused.pending[0]["id"]: False}  # type: ignore[index]
    runs.run_answer(user=alice, run_id=paused.pk, answers=given)
    assert executed(paused).state == RunState.DONE
    assert NOTES == []


def test_run_is_answered_once_and_by_its_user(alice: User, bob: User, paused: AgentRun) -> None:
    with pytest.raises(AgentRun.DoesNotExist):
        runs.run_answer(user=bob, run_id=paused.pk, answers={})
    with pytest.raises(ValidationError, match="No call x"):
        runs.run_answer(user=alice, run_id=paused.pk, answers={"x": True})
    runs.run_answer(user=alice, run_id=paused.pk, answers={})
    with pytest.raises(ValidationError, match="waits for no answer"):
        runs.run_answer(user=alice, run_id=paused.pk, answers={paused.pending[0]["id"]: True})  # type: ignore[index]


def test_approved_call_of_a_killed_worker_is_not_made_again(alice: User, paused: AgentRun, script: Script) -> None:
    runs.run_answer(user=alice, run_id=paused.pk, answers={paused.pending[0]["id"]: True})  # type: ignore[index]
    claim = runs.run_claim(paused.pk)
    assert claim is not None
    assert runs.run_calls_begin(paused.pk, claim)  # and the worker is killed in the middle of the call
    AgentRun.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert executed(paused).state == RunState.DONE
    assert NOTES == []
    assert "may have been made or not" in script.asked[1].results[0].content


def test_run_that_waits_is_cancelled_at_once(alice: User, paused: AgentRun) -> None:
    assert runs.run_cancel(user=alice, run_id=paused.pk).state == RunState.CANCELLED
    assert bridge.run(run_execute, paused.pk) is Outcome.NOTHING_TO_DO


def test_run_page_shows_every_letter_of_what_it_asks(alice: User, client: Client, paused: AgentRun) -> None:
    AgentRun.objects.update(pending=[{**paused.pending[0], "arguments": {"text": "<b>a\u202eb\u200b"}, "answer": None}])  # type: ignore[index]
    client.force_login(alice)
    page = client.get(paused.get_absolute_url()).content.decode()
    assert "&lt;b&gt;a\\u202eb\\u200b" in page
    assert "Write a note." in page


def test_page_answers_call_by_call(
    alice: User, charlie: User, client: Client, paused: AgentRun, valkey_url: str
) -> None:
    path = f"/runs/{paused.pk}/approve/"
    client.force_login(charlie)
    assert client.post(path, {"call-0": "yes"}).status_code == 404
    client.force_login(alice)
    assert client.post(path, {"call-0": "yes"}).status_code == 302
    paused.refresh_from_db()
    assert paused.state == RunState.QUEUED
    assert paused.pending[0]["answer"] is True  # type: ignore[index]
    again = client.post(path, {"call-0": "no"}, follow=True).content.decode()
    assert "waits for no answer" in again


def test_api_shows_what_waits_and_takes_the_answer(alice: User, paused: AgentRun, valkey_url: str) -> None:
    _, token = vault.token_create(user=alice, name="t", scopes=["agents", "read"])
    client = Client(headers={"Authorization": f"Bearer {token}"})
    shown = client.get(f"/api/runs/{paused.pk}").json()
    assert shown["state"] == "waiting"
    body = json.dumps({"approvals": {shown["pending"][0]["id"]: True}})
    path = f"/api/runs/{paused.pk}/approvals"
    answered = client.post(path, body, content_type="application/json")
    assert (answered.status_code, answered.json()["state"]) == (202, "queued")
    assert client.post(path, body, content_type="application/json").status_code == 422
    assert client.post(path, '{"approvals": {"x": "perhaps"}}', content_type="application/json").status_code == 422


def test_run_keeps_its_result_in_its_shape(alice: User, sandbox_url: str) -> None:
    sandbox_key(alice)
    file = attachments.store_bytes(alice, "bill.txt", b"Bakery, 3.20")
    run = runs.run_create(user=alice, agent="biller", text="Read it.", files=[file], options={"currency": "USD"})
    file.refresh_from_db()
    assert file.run_id == run.pk
    with scripted(sandbox_url, '{"vendor": "Bakery", "total": "3.20"}'):
        done = executed(run)
    assert done.result == {"vendor": "Bakery", "total": "3.20"}
    assert done.output.startswith("```json")
    assert runs.run_again(done).attachment_ids == [str(file.pk)]


def test_run_whose_answer_has_the_wrong_shape_twice_fails_in_words(alice: User, sandbox_url: str) -> None:
    sandbox_key(alice)
    with scripted(sandbox_url, "No.", "No."):
        done = executed(runs.run_create(user=alice, agent="biller", text="Read it."))
    assert done.state == RunState.FAILED
    assert done.error is not None
    assert done.error["class"] == "OutputInvalid"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"currency": "XXX"}, "XXX"),
        ({"colour": "red"}, "no option colour"),
        ({"lines": "many"}, "whole number"),
        ({"lines": 10}, "9"),
    ],
)
def test_options_are_checked_by_the_form_of_the_agent(alice: User, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        runs.run_create(user=alice, agent="biller", text="Read it.", options=options)


def test_options_that_are_left_out_are_as_the_form_begins(alice: User) -> None:
    run = runs.run_create(user=alice, agent="biller", text="Read it.", options={"lines": "3"})
    assert run.options == {"currency": "EUR", "lines": 3}
    with pytest.raises(ValidationError, match="no options"):
        runs.run_create(user=alice, agent="writer", text="Note it.", options={"currency": "EUR"})


def test_run_that_may_cost_nothing_is_ended_before_it_costs(alice: User, sandbox_url: str) -> None:
    vault.credential_save(
        user=alice,
        provider="openai",
        api_key="sbx-good-paid",
        model="gpt-4o",
        base_url=f"{sandbox_url}/v1",
    )
    run = runs.run_create(user=alice, agent="biller", text="Read it.", max_cost_usd=Decimal("0.0001"))
    with scripted(sandbox_url) as script:
        done = executed(run)
    assert script.asked == []
    assert done.error is not None
    assert (done.error["class"], done.spent_usd) == ("LimitReached", 0)


def test_run_costs_no_more_than_its_user_settled_for_each(alice: User, sandbox_url: str) -> None:
    sandbox_key(alice)
    vault.settings_update(user=alice, run_budget_usd=Decimal("0.00"))
    with scripted(sandbox_url) as script:
        done = executed(runs.run_create(user=alice, agent="biller", text="Read it.", max_cost_usd=Decimal(5)))
    assert script.asked == []
    assert done.error is not None
    assert done.error["class"] == "LimitReached"


def test_money_that_a_dead_attempt_spent_is_gone(alice: User, sandbox_url: str) -> None:
    sandbox_key(alice)
    run = runs.run_create(user=alice, agent="biller", text="Read it.", max_cost_usd=Decimal("0.10"))
    AgentRun.objects.update(spent_usd=Decimal("0.10"))
    with scripted(sandbox_url) as script:
        done = executed(run)
    assert script.asked == []
    assert done.error is not None
    assert done.error["class"] == "LimitReached"


def test_run_that_kills_its_workers_is_given_up(alice: User, script: Script) -> None:
    run = runs.run_create(user=alice, agent="writer", text="Note milk.")
    AgentRun.objects.update(state=RunState.RUNNING, attempts=5, heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert bridge.run(run_execute, run.pk) is Outcome.NOTHING_TO_DO
    run.refresh_from_db()
    assert run.state == RunState.FAILED
    assert script.asked == []


def test_agent_page_starts_a_run_with_everything(alice: User, client: Client, valkey_url: str) -> None:
    client.force_login(alice)
    page = client.get("/agents/biller/?example=1").content.decode()
    assert "Bakery, 3.20</textarea>" in page
    fields = {"text": "Read it.", "option-currency": "USD", "option-lines": "", "max_cost_usd": "0.25"}
    started = client.post("/agents/biller/runs/", fields | {"mail_when_done": "on"})
    run = AgentRun.objects.get()
    assert started.headers["Location"] == run.get_absolute_url()
    assert (run.options, run.max_cost_usd) == ({"currency": "USD", "lines": None}, Decimal("0.25"))
    assert (run.mail_when_done, run.webhook_when_done) == (True, False)


@pytest.mark.parametrize(
    "fields",
    [{"text": ""}, {"option-lines": "x"}, {"max_cost_usd": "-1"}, {"max_cost_usd": "1e99"}, {"attachment": "nothing"}],
)
def test_agent_page_says_what_is_wrong_and_keeps_the_rest(alice: User, client: Client, fields: dict[str, str]) -> None:
    client.force_login(alice)
    given = {"text": "Read <it>.", "option-currency": "USD", **fields}
    answer = client.post("/agents/biller/runs/", given)
    assert answer.status_code == 422
    assert "error" in answer.content.decode()
    assert fields.get("text", "Read &lt;it&gt;.") in answer.content.decode()
    assert not AgentRun.objects.exists()
    assert client.get("/agents/nobody/").status_code == 404
