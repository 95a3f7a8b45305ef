"""Runs that start by themselves, wait fairly, and tell of their end."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import close_old_connections, connection
from django.test import Client
from django.utils import timezone

from agents import attachments, run_notices, runs, schedules, tasks
from agents.attachments import Attachment
from agents.models import AgentRun, RunState
from agents.schedules import ScheduledRun
from agents.tests.factories import AgentRunFactory
from llm_credentials import services as vault
from llm_credentials import webhooks
from llm_credentials.models import WebhookDelivery
from llm_credentials.wall import open_for


def made(user: User, **how: Any) -> ScheduledRun:
    given = {"agent": "conversation", "text": "Good morning", "every": "day", "at": time(8), **how}
    return schedules.schedule_create(user=user, **given)


def due(schedule: ScheduledRun) -> ScheduledRun:
    schedule.next_at = timezone.now() - timedelta(minutes=1)
    schedule.save(update_fields=["next_at"])
    return schedule


@pytest.mark.parametrize(
    ("how", "after", "expected"),
    [
        ({"every": "hour", "at": time(3, 20)}, "2026-01-05T10:20:00", "2026-01-05T11:20:00"),
        ({"every": "hour", "at": time(0, 15), "time_zone": "Asia/Kolkata"}, "2026-01-05T10:00", "2026-01-05T10:45"),
        ({"every": "day", "time_zone": "Europe/Berlin"}, "2026-01-05T06:59", "2026-01-05T07:00"),
        ({"every": "day", "time_zone": "Europe/Berlin"}, "2026-01-05T07:00", "2026-01-06T07:00"),
        ({"every": "day", "time_zone": "Europe/Berlin"}, "2026-07-05T05:00", "2026-07-05T06:00"),
        ({"every": "day", "at": time(2, 30), "time_zone": "Europe/Berlin"}, "2026-03-29T00:00", "2026-03-29T01:30"),
        ({"every": "day", "at": time(2, 30), "time_zone": "Europe/Berlin"}, "2026-10-25T00:31", "2026-10-26T01:30"),
        ({"every": "week", "weekday": 4, "time_zone": "America/Los_Angeles"}, "2026-01-05T10:00", "2026-01-09T16:00"),
    ],
)
def test_schedule_keeps_the_clock_of_its_user(how: dict[str, Any], after: str, expected: str) -> None:
    schedule = ScheduledRun(**{"at": time(8), **how})
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert schedule.time_after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "how",
    [
        *({"every": "second"}, {"weekday": 7}, {"time_zone": "Mars/Olympus"}, {"time_zone": "../etc/passwd"}),
        *({"agent": "nobody"}, {"text": ""}, {"time_zone": ""}, {"options": {"x": 1}}),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(alice: User, how: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(alice, **how)


@pytest.mark.django_db
def test_due_schedule_starts_once_and_moves_on(alice: User) -> None:
    schedule = due(made(alice))
    run = schedules.schedule_start(schedule)
    assert run is not None
    assert schedules.schedule_start(schedule) is None  # another clock that had read it too
    schedule.refresh_from_db()
    assert schedule.next_at > timezone.now()
    assert AgentRun.objects.get().schedule_id == schedule.pk


@pytest.mark.django_db
def test_schedule_passes_over_while_its_last_run_goes_on(alice: User) -> None:
    schedule = made(alice)
    assert schedules.schedule_start(due(schedule)) is not None
    schedule.refresh_from_db()
    assert schedules.schedule_start(due(schedule)) is None
    schedule.refresh_from_db()
    assert "passed over" in schedule.problem
    assert schedule.is_active


@pytest.mark.django_db
def test_schedule_that_can_start_no_more_is_switched_off_with_the_reason(alice: User) -> None:
    schedule = due(made(alice))
    ScheduledRun.objects.update(agent="gone")
    schedule.refresh_from_db()
    assert schedules.schedule_start(schedule) is None
    schedule.refresh_from_db()
    assert (schedule.is_active, schedule.problem) == (False, "There is no such agent.")
    alice.is_active = False
    alice.save()
    other = due(made(alice))
    assert schedules.schedule_start(other) is None
    assert not AgentRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_clocks_start_a_due_run_once(alice: User, valkey_url: str) -> None:
    schedule = due(made(alice))
    started: list[AgentRun | None] = []
    together = threading.Barrier(2)

    def clock() -> None:
        with open_for("a clock of this test"):
            row = ScheduledRun.objects.select_related("user").get(pk=schedule.pk)
            together.wait(10)
            started.append(schedules.schedule_start(row))
        connection.close()

    threads = [threading.Thread(target=clock) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    close_old_connections()
    assert [run is None for run in started].count(False) == 1
    assert AgentRun.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_tick_starts_what_is_due_and_hands_over_what_was_held_back(
    alice: User, bob: User, valkey_url: str, settings: Any
) -> None:
    settings.RUNS_IN_FLIGHT = 2
    due(made(alice))
    for _ in range(5):
        tasks.enqueue_run(runs.run_create(user=bob, agent="conversation", text="One of many"))
    assert AgentRun.objects.in_flight().filter(user=bob).count() == 2
    mine = runs.run_create(user=alice, agent="conversation", text="The one")
    tasks.enqueue_run(mine)
    assert mine.enqueued_at is not None  # however many the other has
    first = AgentRun.objects.in_flight().filter(user=bob).earliest("created_at")
    runs.run_cancel(user=bob, run_id=first.pk)
    tasks.tend_runs()
    assert AgentRun.objects.in_flight().filter(user=bob).count() == 2
    assert AgentRun.objects.filter(user=alice).count() == 2
    assert AgentRun.objects.held_back().filter(user=bob).count() == 2


@pytest.mark.django_db(transaction=True)
def test_tick_without_a_queue_loses_nothing(alice: User, no_queue: None) -> None:
    due(made(alice))
    tasks.tend_runs()
    run = AgentRun.objects.get()
    assert (run.state, run.enqueued_at) == (RunState.QUEUED, None)


def ended(user: User, **how: Any) -> AgentRun:
    return AgentRunFactory(user=user, state=RunState.DONE, finished_at=timezone.now(), output="My secret", **how)


@pytest.mark.django_db
def test_end_is_told_once_without_what_was_said(alice: User) -> None:
    alice.email = "alice@example.com"
    alice.save()
    run = ended(alice, mail_when_done=True)
    assert run_notices.tell(run.pk)
    assert not run_notices.tell(run.pk)
    (letter,) = mail.outbox
    assert "Conversation" in letter.subject
    assert "My secret" not in letter.body + letter.subject


@pytest.mark.django_db
def test_end_goes_to_the_webhook_as_a_fact(alice: User) -> None:
    webhooks.webhook_set(user=alice, url="https://example.com/hook")
    assert run_notices.tell(ended(alice, webhook_when_done=True).pk)
    body = json.loads(WebhookDelivery.objects.get().body)
    assert body["event"] == "run_ended"
    assert body["facts"]["state"] == "done"
    assert "My secret" not in json.dumps(body)


@pytest.mark.django_db
def test_run_that_waits_for_a_yes_says_so(alice: User) -> None:
    alice.email = "alice@example.com"
    alice.save()
    webhooks.webhook_set(user=alice, url="https://example.com/hook")
    run = AgentRunFactory(user=alice, state=RunState.WAITING, mail_when_done=True, webhook_when_done=True)
    run_notices.tell_waiting(run)
    assert "waits for your yes" in mail.outbox[0].subject
    assert json.loads(WebhookDelivery.objects.get().body)["event"] == "run_waits"


@pytest.mark.django_db
def test_end_of_a_run_that_nobody_asked_about_is_told_to_nobody(alice: User) -> None:
    assert not run_notices.tell(ended(alice).pk)
    assert mail.outbox == []


@pytest.mark.django_db
def test_page_schedules_switches_and_removes(alice: User, client: Client) -> None:
    client.force_login(alice)
    fields = {"text": "Good morning", "every": "week", "at": "08:30", "weekday": "2", "time_zone": "Europe/Berlin"}
    assert client.post("/agents/conversation/schedules/", fields | {"time_zone": "Mars"}).status_code == 422
    assert client.post("/agents/conversation/schedules/", fields).status_code == 302
    schedule = ScheduledRun.objects.get()
    shown = client.get("/schedules/").content.decode()
    assert "Good morning" in shown
    assert "Wednesday" in shown
    client.post(f"/schedules/{schedule.pk}/switch/", {"to": "off"})
    schedule.refresh_from_db()
    assert not schedule.is_active
    client.post(f"/schedules/{schedule.pk}/delete/")
    assert not ScheduledRun.objects.exists()


@pytest.mark.django_db
def test_api_schedules(alice: User, bob: User) -> None:
    _, token = vault.token_create(user=alice, name="t", scopes=["agents", "read"])
    program = Client(headers={"Authorization": f"Bearer {token}"})
    body = {"agent": "conversation", "input": "Hi", "every": "day", "at": "08:00", "max_cost_usd": "0.5"}
    created = program.post("/api/schedules", json.dumps(body), content_type="application/json")
    assert created.status_code == 201
    path = f"/api/schedules/{created.json()['id']}"
    assert program.get("/api/schedules").json()["count"] == 1
    switched = program.patch(path, json.dumps({"is_active": False}), content_type="application/json")
    assert switched.json()["is_active"] is False
    theirs = made(bob)
    assert program.delete(f"/api/schedules/{theirs.pk}").status_code == 404
    assert program.delete(path).status_code == 204
    for wrong in ({"at": "25:00"}, {"every": "year"}, {"weekday": 9}, {"agent": "nobody"}):
        refused = program.post("/api/schedules", json.dumps(body | wrong), content_type="application/json")
        assert refused.status_code == 422


# Files


@pytest.fixture
def table(alice: User) -> Attachment:
    return attachments.store_bytes(alice, "prices.csv", b"month,usd\nMay,12\n")


@pytest.mark.django_db
def test_schedule_keeps_its_files_as_long_as_it_lives(alice: User, table: Attachment) -> None:
    schedule = made(alice, agent="code", text="", files=[table])
    assert schedule.input == "prices.csv"
    Attachment.objects.update(created_at=timezone.now() - timedelta(days=30))
    attachments.store_bytes(alice, "another.txt", b"Hello")  # which clears away what nothing uses
    run = schedules.schedule_start(due(schedule))
    assert run is not None
    assert [file.name for file in runs.files_of(run)] == ["prices.csv"]
    runs.run_discard(run)
    assert schedules.files_of(schedule) == [table]


@pytest.mark.django_db
def test_file_in_use_elsewhere_is_copied_for_a_schedule(alice: User, table: Attachment) -> None:
    run = runs.run_create(user=alice, agent="code", text="Look", files=[table])
    schedule = made(alice, agent="code", files=[table])
    (own,) = schedules.files_of(schedule)
    assert own.pk != table.pk
    run.delete()
    assert attachments.read(alice, own.pk).data == b"month,usd\nMay,12\n"
    assert made(alice, agent="code", files=[own]).attachment_ids != schedule.attachment_ids


@pytest.mark.django_db
def test_schedule_whose_file_was_removed_says_so_and_rests(alice: User, table: Attachment) -> None:
    schedule = due(made(alice, agent="code", files=[table]))
    attachments.remove(alice, table.pk)
    assert schedules.schedule_start(schedule) is None
    schedule.refresh_from_db()
    assert (schedule.is_active, schedule.problem) == (False, "There is no such file any more. Attach it again.")


@pytest.mark.django_db
def test_files_stay_with_the_last_run_of_a_schedule_that_is_removed(alice: User, table: Attachment) -> None:
    schedule = due(made(alice, agent="code", files=[table]))
    run = schedules.schedule_start(schedule)
    schedules.schedule_delete(user=alice, schedule_id=schedule.pk)
    table.refresh_from_db()
    assert (table.run, table.schedule) == (run, None)


@pytest.mark.django_db
def test_files_go_along_by_page_and_api(client: Client, alice: User, bob: User, table: Attachment) -> None:
    client.force_login(alice)
    form = {"text": "Look", "every": "day", "at": "08:00", "weekday": "0", "time_zone": "UTC"}
    assert client.post("/agents/code/schedules/", form | {"attachment": str(table.pk)}).status_code == 302
    assert "prices.csv" in client.get("/schedules/").content.decode()
    said = {"agent": "code", "every": "day", "at": "08:00", "attachments": [str(table.pk)]}
    other = client.post("/api/schedules", said, content_type="application/json")
    assert other.status_code == 201
    assert other.json()["attachments"] != [str(table.pk)]
    client.force_login(bob)
    assert client.post("/api/schedules", said, content_type="application/json").status_code == 422
    assert client.post("/agents/code/schedules/", form | {"attachment": str(table.pk)}).status_code == 422
    assert not ScheduledRun.objects.for_user(bob).exists()
