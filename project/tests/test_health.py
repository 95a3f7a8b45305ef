from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from llm_credentials import canary
from project import health
from project.tests.servers import wait_until

GONE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_migrated", False)


def test_healthz_asks_nothing(client: Client) -> None:
    # No database mark: a query would be refused.
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_readyz_is_ready_but_degraded_without_a_worker(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "degraded": True,
        "database": "ok",
        "keys": "ok",
        "broker": "ok",
        "worker": "none seen",
    }


OTHER_KEY = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@pytest.mark.django_db
@pytest.mark.parametrize(("ring", "state"), [("", "missing or unreadable"), (f"t1:{OTHER_KEY}", "wrong")])
def test_readyz_is_degraded_with_a_wrong_key_ring(client: Client, settings: Any, ring: str, state: str) -> None:
    canary.plant()
    settings.CREDENTIAL_KEYS = ring
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["degraded"] is True
    assert response.json()["keys"].startswith(state)


def test_readyz_sees_the_worker(client: Client, celery_worker_thread: Any) -> None:
    wait_until(lambda: client.get("/readyz").json()["worker"] == "ok", "the worker's sign of life")
    assert client.get("/readyz").json()["degraded"] is False


@pytest.mark.django_db
def test_readyz_forgets_a_worker_that_left(client: Client) -> None:
    health.worker_alive("one@host")
    assert client.get("/readyz").json()["worker"] == "ok"
    health.worker_gone("one@host")
    assert client.get("/readyz").json()["worker"] == "none seen"


@pytest.mark.django_db
def test_readyz_is_degraded_without_a_broker(client: Client, settings: Any) -> None:
    settings.REDIS_URL = GONE
    response = client.get("/readyz")
    assert response.status_code == 200
    assert (response.json()["degraded"], response.json()["broker"]) == (True, "down")


def test_worker_outlives_its_broker(settings: Any) -> None:
    settings.REDIS_URL = GONE
    health.worker_alive("one@host")
    health.worker_gone("one@host")


@pytest.mark.django_db
def test_readyz_names_missing_migrations(client: Client) -> None:
    MigrationRecorder(connection).record_unapplied("sessions", "0001_initial")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "migrate" in response.json()["database"]


def test_readyz_is_503_without_a_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def refuse(*args: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(health, "MigrationExecutor", refuse)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False,
        "degraded": False,
        "database": "down",
        "keys": "unknown",
        "broker": "ok",
        "worker": "none seen",
    }
