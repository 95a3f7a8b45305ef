"""Agents, runs and conversations as programs meet them."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client

from agents import services
from agents.models import AgentRun, Conversation, RunState, StoredMessage
from agents.tests.live import SandboxJournal, sandbox_key
from llm_credentials import services as vault
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = "/api/agents/conversation/runs"
ASKED = {"input": "What is 17 * 23?"}


class Program:
    def __init__(self, user: User, **token: Any) -> None:
        self.token, secret = vault.token_create(user=user, **token)
        self.client = Client(headers={"Authorization": f"Bearer {secret}"})

    def post(self, path: str, body: Any = None, key: str = "", **headers: str) -> Any:
        headers |= {"Idempotency-Key": key} if key else {}
        return self.client.post(path, json.dumps(body or {}), content_type="application/json", headers=headers)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers)


@pytest.fixture
def program(alice: User, journal: SandboxJournal) -> Program:
    sandbox_key(alice)
    return Program(alice, scopes=["agents"])


def code_of(response: Any) -> str:
    return str(response.json()["error"]["code"])


def events_of(response: Any) -> list[tuple[str, Any]]:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in response.streaming_content])

    return parsed(async_to_sync(read)().decode())


def parsed(text: str) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


def ended(program: Program, run_id: str) -> dict[str, Any]:
    wait_until(lambda: program.get(f"/api/runs/{run_id}").json()["finished_at"] is not None, "the run to end", 20)
    return dict(program.get(f"/api/runs/{run_id}").json())


def test_agents_are_listed(program: Program) -> None:
    body = program.get("/api/agents").json()
    assert "conversation" in [item["slug"] for item in body["items"]]


def test_run_is_done_on_the_tokens_account(program: Program, celery_worker_thread: Any, alice: User) -> None:
    response = program.post(RUNS, ASKED)
    assert response.status_code == 202
    assert AgentRun.objects.get().token_id == program.token.pk
    run = ended(program, response.json()["id"])
    assert (run["state"], "391" in run["output"], run["receipt"]["key_owner"]) == ("done", True, "user")
    events = events_of(program.get(run["events_url"]))
    assert [name for name, _ in events] == ["text", "steps", "done"]
    assert events[0][1]["text"] == run["output"]
    assert events[-1][1]["id"] == run["id"]
    seen = f"1-{len(run['output']) - 3}-{len(run['steps'])}"
    rest = events_of(program.get(run["events_url"], **{"Last-Event-ID": seen}))
    assert rest[0] == ("text", {"text": run["output"][-3:], "replace": False})
    assert [name for name, _ in rest] == ["text", "done"]


def test_run_reaches_the_tokens_providers_alone(
    alice: User, journal: SandboxJournal, celery_worker_thread: Any
) -> None:
    sandbox_key(alice)
    program = Program(alice, scopes=["agents"], providers=["groq"])
    run = ended(program, program.post(RUNS, ASKED).json()["id"])
    assert run["state"] == "failed"
    assert journal.chats() == []


def test_run_of_a_revoked_token_calls_nothing(program: Program, alice: User, journal: SandboxJournal) -> None:
    from agents.running import run_execute
    from llm_credentials import bridge

    run_id = program.post(RUNS, ASKED).json()["id"]
    vault.token_revoke(user=alice, token_id=program.token.pk)
    bridge.run(run_execute, AgentRun.objects.get().pk)
    run = AgentRun.objects.get(pk=run_id)
    assert run.state == RunState.CANCELLED
    assert run.error is not None
    assert run.error["class"] == "AccessWithdrawn"
    assert journal.chats() == []


def test_run_under_way_ends_with_its_token(
    alice: User, journal: SandboxJournal, celery_worker_thread: Any, live_as_in_production: None
) -> None:
    sandbox_key(alice, model="sandbox-chat~delay=30")
    program = Program(alice, scopes=["agents"])
    reader = Program(alice, scopes=["read"])
    run_id = program.post(RUNS, ASKED).json()["id"]
    wait_until(lambda: bool(journal.chats()), "the call to be under way")
    vault.token_revoke(user=alice, token_id=program.token.pk)
    assert ended(reader, run_id)["state"] == "cancelled"
    assert program.get(f"/api/runs/{run_id}").status_code == 401


def test_run_takes_its_conversation_along(program: Program, journal: SandboxJournal, celery_worker_thread: Any) -> None:
    conversation = program.post("/api/conversations", {"agent": "conversation"}).json()["id"]
    program.post(f"/api/conversations/{conversation}/messages", {"text": "My name is Ada."})
    alone = ended(program, program.post(RUNS, ASKED).json()["id"])
    with_it = ended(program, program.post(RUNS, {**ASKED, "conversation": conversation}).json()["id"])
    assert with_it["receipt"]["usage"]["input_tokens"] > alone["receipt"]["usage"]["input_tokens"]
    assert StoredMessage.objects.count() == 2, "the run adds nothing"


def test_run_is_cancelled_and_tried_again(program: Program) -> None:
    run_id = program.post(RUNS, ASKED).json()["id"]
    assert program.post(f"/api/runs/{run_id}/cancel").json()["state"] == "cancelled"
    again = program.post(f"/api/runs/{run_id}/retry")
    assert (again.status_code, again.json()["state"], again.json()["id"] != run_id) == (202, "queued", True)
    listed = program.get("/api/runs?page_size=1").json()
    assert (listed["count"], len(listed["items"]), listed["items"][0]["id"]) == (2, 1, again.json()["id"])


def test_run_that_cannot_be_queued_is_taken_back(program: Program, no_queue: None) -> None:
    response = program.post(RUNS, ASKED, key="once")
    assert (response.status_code, code_of(response)) == (503, "queue_unavailable")
    assert not AgentRun.objects.exists()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/agents/nobody/runs", ASKED, 404),
        (RUNS, {}, 422),
        (RUNS, {"input": "   "}, 422),
        (RUNS, {"input": "x" * 100_001}, 422),
        (RUNS, {**ASKED, "provider": "nobody"}, 422),
        (RUNS, {**ASKED, "provider": "sandbox", "model": "../../admin"}, 422),
        (RUNS, {**ASKED, "conversation": "00000000-0000-4000-8000-000000000000"}, 422),
        (RUNS, {**ASKED, "token_id": "00000000-0000-4000-8000-000000000000"}, 422),
        (RUNS, {**ASKED, "user": 1}, 422),
        ("/api/conversations", {"agent": "nobody"}, 422),
    ],
)
def test_bad_input_is_refused(program: Program, path: str, body: dict[str, Any], status: int) -> None:
    response = program.post(path, body)
    assert response.status_code == status, response.content
    assert not AgentRun.objects.exists()


def test_message_is_answered(program: Program) -> None:
    conversation = program.post("/api/conversations", {"agent": "conversation"}).json()["id"]
    path = f"/api/conversations/{conversation}"
    answer = program.post(f"{path}/messages", {"text": "What is 17 * 23?"})
    assert (answer.status_code, answer.json()["state"]) == (200, "complete")
    assert "391" in answer.json()["text"]
    whole = program.get(path).json()
    assert [each["role"] for each in whole["messages"]["items"]] == ["user", "assistant"]
    assert program.get("/api/conversations").json()["items"][0]["id"] == conversation
    assert program.client.delete(path).status_code == 204
    assert program.get(path).status_code == 404


def test_message_is_answered_as_it_is_written(program: Program) -> None:
    conversation = program.post("/api/conversations", {"agent": "conversation"}).json()["id"]
    response = program.post(
        f"/api/conversations/{conversation}/messages", {"text": "What is 17 * 23?"}, Accept="text/event-stream"
    )
    events = events_of(response)
    assert events[-1][0] == "done"
    assert "".join(data["text"] for name, data in events if name == "text") == events[-1][1]["text"]


def test_streams_come_piece_by_piece_from_a_real_server(program: Program, live_site: str, alice: User) -> None:
    _, secret = vault.token_create(user=alice, scopes=["agents"])
    conversation = services.conversation_start(user=alice, agent="conversation")
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", "Accept": "text/event-stream"}
    connection = http.client.HTTPConnection(live_site.removeprefix("http://"), timeout=20)
    path = f"/api/conversations/{conversation.pk}/messages"
    connection.request("POST", path, json.dumps({"text": "What is 17 * 23?"}), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    events = parsed(answer.read().decode())
    connection.close()
    assert len([name for name, _ in events if name == "text"]) > 1
    assert (events[-1][0], events[-1][1]["state"]) == ("done", "complete")


def test_second_message_at_once_conflicts(program: Program, alice: User) -> None:
    conversation = services.conversation_start(user=alice, agent="conversation", text="Hello")
    response = program.post(f"/api/conversations/{conversation.pk}/messages", {"text": "Again"})
    assert (response.status_code, code_of(response)) == (409, "answer_running")


def test_others_find_nothing(program: Program, alice: User, bob: User) -> None:
    run_id = program.post(RUNS, ASKED).json()["id"]
    conversation = Conversation.objects.create(user=alice, agent="conversation")
    other = Program(bob)
    for path in (f"/api/runs/{run_id}", f"/api/runs/{run_id}/events", f"/api/conversations/{conversation.pk}"):
        assert other.get(path).status_code == 404
    for path in (f"/api/runs/{run_id}/cancel", f"/api/runs/{run_id}/retry"):
        assert other.post(path).status_code == 404
    assert other.post(f"/api/conversations/{conversation.pk}/messages", {"text": "Hello"}).status_code == 404
    assert other.post(RUNS, {**ASKED, "conversation": str(conversation.pk)}).status_code == 422
    assert other.get("/api/runs").json()["count"] == 0


def test_same_key_and_body_have_one_effect_and_the_same_answer(program: Program, bob: User) -> None:
    first = program.post(RUNS, ASKED, key="one")
    second = program.post(RUNS, ASKED, key="one")
    assert (second.status_code, second.json()) == (202, first.json())
    assert (second["Idempotent-Replayed"], "Idempotent-Replayed" in first) == ("true", False)
    other = program.post(RUNS, {"input": "Something else"}, key="one")
    assert (other.status_code, code_of(other)) == (422, "idempotency_key_reused")
    assert AgentRun.objects.count() == 1
    assert program.post(RUNS, ASKED, key="two").json()["id"] != first.json()["id"]
    assert Program(bob).post(RUNS, ASKED, key="one").json()["id"] != first.json()["id"]


def test_twins_at_once_have_one_effect(program: Program) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: program.post(RUNS, ASKED, key="one"), range(4)))
    assert AgentRun.objects.count() == 1
    good = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert len(set(good)) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}


def test_message_sent_twice_is_answered_once(program: Program, journal: SandboxJournal) -> None:
    path = f"/api/conversations/{program.post('/api/conversations', {'agent': 'conversation'}).json()['id']}/messages"
    first, second = (program.post(path, {"text": "Hello"}, key="m") for _ in range(2))
    assert first.json() == second.json()
    assert len(journal.chats()) == 1


def test_refused_post_may_be_sent_again_with_its_key(program: Program, set_rate: Any) -> None:
    set_rate("run", "user", "0/m")
    assert program.post(RUNS, ASKED, key="one").status_code == 429
    set_rate("run", "user", "10/m")
    assert program.post(RUNS, ASKED, key="one").status_code == 202


def test_tokens_of_other_scopes_start_nothing(alice: User) -> None:
    program = Program(alice, scopes=["read"])
    assert program.get("/api/runs").status_code == 200
    assert code_of(program.post(RUNS, ASKED)) == "scope_missing"
    assert not AgentRun.objects.exists()
