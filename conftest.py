"""Fixtures for every app: users, and the real servers that tests use."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import structlog
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.core.cache import caches
from django.db import connection
from django_ratelimit import core as ratelimit_core
from hypothesis import settings as hypothesis_settings

from project import collector
from project.tests import servers
from project.tests.servers import nothing_open

# Otherwise each process of each pass, and each site that one starts, would compile all files again.
sys.dont_write_bytecode = False

# A busy machine must not fail tests. --hypothesis-profile=thorough tries many more examples.
hypothesis_settings.register_profile("here", deadline=None, max_examples=50)
hypothesis_settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis_settings.load_profile("here")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Everything loaded and collected stays until the end: scanning a million such objects finds no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(collector.YOUNG, 10, 10)
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extension modules call what the interpreter can no longer collect at its end a leak


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name parameters of type bytes by position: compressed ones contain the time, and parallel processes must agree on
    names.
    """
    return argname if isinstance(val, bytes) else None


MEETS_THE_DATABASE = {"db", "transactional_db", "live_site"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="try generated requests by the dozen, new ones each time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that do not use the database run once, on SQLite. Slow ones come first, so that none runs
    last and alone.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if connection.vendor == "sqlite":
        return
    again = {item: _meets_the_database(item) and not item.get_closest_marker("any_database") for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not again[item]])
    items[:] = [item for item in items if again[item]]


def _meets_the_database(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("django_db") or MEETS_THE_DATABASE & set(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session", autouse=True)
def nobody_outside() -> Iterator[None]:
    """Sockets connect to this machine only; host names other than localhost do not resolve."""
    with pytest.MonkeyPatch.context() as patch:
        servers.wall(patch.setattr)
        yield


@pytest.fixture(scope="session", autouse=True)
def valkey_url() -> Iterator[str]:
    """A Valkey for this test process, used by cache, broker, limits and pub/sub."""
    from project.celery import app
    from project.env import redis_addresses

    with servers.running_valkey() as url:
        site_settings.REDIS_URL = site_settings.CACHES["default"]["LOCATION"] = url
        with suppress(AttributeError):
            del caches["default"]  # existing clients have the old address
        site_settings.CELERY_BROKER_URL = redis_addresses(url)["broker"]
        # Workers check ten times a second, instead of once, whether the test ends.
        patience = {**site_settings.CELERY_BROKER_TRANSPORT_OPTIONS, "polling_interval": 0.1}
        app.conf.update(broker_url=site_settings.CELERY_BROKER_URL, broker_transport_options=patience)
        yield url
        caches.close_all()


@pytest.fixture(scope="session")
def _valkey(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture(autouse=True)
def empty_valkey(_valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what another has counted, cached or queued; its own changes take effect at once."""
    from llm_credentials import audit, client_cache, egress, timers
    from llm_credentials.api import api
    from llm_credentials.gateway import rates
    from llm_credentials.ledger import budgets
    from llm_credentials.live import changes, tokens
    from llm_credentials.routing import health, snapshot_cache

    timers.forget()  # timers set by another test
    _valkey.flushall()
    budgets.forget()
    health.forget_here()
    changes.apply([None])
    rates.forget()
    client_cache.forget()
    audit.end_job()  # the actor of another test
    api.forget_document()
    structlog.contextvars.clear_contextvars()
    monkeypatch.setattr(egress, "KEPT_S", 0.0)
    monkeypatch.setattr(snapshot_cache, "KEPT_S", 0.0)
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)


@pytest.fixture(autouse=True)
def _no_listener_where_nothing_is_committed(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change listener's thread would not see the test's uncommitted users, and take them for deleted."""
    from llm_credentials.live import listener

    marker = request.node.get_closest_marker("django_db")
    real = {"transactional_db", "live_site", "celery_worker_thread"} & set(request.fixturenames)
    if not real and not (marker is not None and marker.kwargs.get("transaction")):
        listener.close()
        monkeypatch.setattr(listener, "ensure", lambda **_: None)


@pytest.fixture
def live_as_in_production(monkeypatch: pytest.MonkeyPatch, empty_valkey: None) -> Iterator[None]:
    """Caches live as long as in production; changes are polled more often."""
    from llm_credentials import egress
    from llm_credentials.live import listener, tokens
    from llm_credentials.routing import snapshot_cache

    monkeypatch.setattr(egress, "KEPT_S", 600.0)
    monkeypatch.setattr(snapshot_cache, "KEPT_S", 600.0)
    monkeypatch.setattr(tokens, "KEPT_S", 600.0)
    monkeypatch.setattr(listener, "POLL_S", 0.05)
    for limit in ("FIRST_LOOK_S", "LINGER_S"):
        monkeypatch.setattr(listener, limit, servers.START_LIMIT_S)  # a busy machine must not fail tests
    listener.close()  # a running listener would find the test's first rows new, and drop the caches
    yield
    listener.close()


@pytest.fixture(autouse=True)
def ledger_of_the_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's own thread sees nothing of a test's transaction, so rows are written on the test's thread."""
    from llm_credentials.ledger import writer

    marker = request.node.get_closest_marker("django_db")
    commits = {"transactional_db", "live_site"} & set(request.fixturenames)
    if not commits and not (marker and marker.kwargs.get("transaction")):
        monkeypatch.setattr(writer, "inline", True)


@pytest.fixture(scope="session", autouse=True)
def wall_open_to_tests() -> Iterator[None]:
    """Code of a test, in its own thread or those it starts, sees every row; requests and jobs act for their user."""
    from llm_credentials.wall import open_for, standing

    start = threading.Thread.start

    def start_as_open(thread: threading.Thread) -> None:
        if standing.whose() == standing.EVERYBODY:
            run = thread.run

            def open_run() -> None:
                with open_for("a test"):
                    run()

            thread.run = open_run  # type: ignore[method-assign]
        start(thread)

    with open_for("a test"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_as_open)
        yield


@pytest.fixture(scope="session")
def _database_of_the_run(django_db_keepdb: bool, django_db_modify_db_settings: None) -> Iterator[None]:
    from project.tests import template

    template.copy_where_one_is_made()
    yield
    if connection.vendor == "sqlite" and not django_db_keepdb:
        template.remove_logs(str(connection.creation._get_test_db_name()))


@pytest.fixture(scope="session")
def django_db_setup(
    wall_open_to_tests: None, _database_of_the_run: None, django_db_setup: None, django_db_blocker: Any
) -> Iterator[None]:
    from llm_credentials.live import listener
    from project.tests.emptying import empty_quickly

    with django_db_blocker.unblock():
        empty_quickly()
    yield
    listener.close()
    if connection.vendor == "postgresql":
        # Threads of servers may still hold connections, which would block dropping the test database.
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of limits stands still: no minute ends between two calls."""
    begun = time.time()
    monkeypatch.setattr(ratelimit_core, "time", SimpleNamespace(time=lambda: begun))


@pytest.fixture
def set_rate(settings: Any, one_minute: None) -> Callable[[str, str, str], None]:
    """``set_rate(kind, scope, rate)`` for this test; ``0/m`` blocks everything."""

    def change(kind: str, scope: str, rate: str) -> None:
        settings.LLM_RATES = {**settings.LLM_RATES, kind: {**settings.LLM_RATES[kind], scope: rate}}

    return change


@pytest.fixture
def alice(db: Any) -> User:
    """The owner."""
    return User.objects.create_user("alice", "alice@example.com", "alice-password")


@pytest.fixture
def bob(db: Any) -> User:
    """A colleague."""
    return User.objects.create_user("bob", "bob@example.com", "bob-password")


@pytest.fixture
def charlie(db: Any) -> User:
    """A stranger."""
    return User.objects.create_user("charlie", "charlie@example.com", "charlie-password")


@pytest.fixture
def staff(db: Any) -> User:
    """Staff with every permission."""
    return User.objects.create_superuser("staff", "staff@example.com", "staff-password")


@pytest.fixture(scope="session")
def _live_server(valkey_url: str, django_db_setup: None) -> Iterator[servers.LiveServer]:
    server = servers.LiveServer()
    with nothing_open():
        server.start()
    yield server
    server.stop()


@pytest.fixture
def live_site(transactional_db: Any, _live_server: servers.LiveServer) -> Iterator[str]:
    """Address of the site on a real uvicorn; other processes and threads see what the test commits."""
    yield _live_server.url
    _live_server.settle()


@pytest.fixture
def celery_worker_thread(transactional_db: Any, valkey_url: str) -> Iterator[Any]:
    """A worker in a thread of this process, with Valkey as broker."""
    from celery.contrib.testing.worker import start_worker

    from project.celery import app

    options: dict[str, Any] = {"perform_ping_check": False, "shutdown_timeout": 20, "without_heartbeat": False}
    with ExitStack() as stack:
        with nothing_open():
            worker = stack.enter_context(start_worker(app, pool="threads", concurrency=2, **options))
        yield worker


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[str]:
    """The sandbox provider on a loopback port; yields its address, ``http://127.0.0.1:port``."""
    from llm_credentials.providers.sandbox.running import start_sandbox_thread

    url, stop = start_sandbox_thread()
    yield url
    stop()


@pytest.fixture
def sandbox_url(sandbox_server: str, settings: Any) -> str:
    """The sandbox provider as the site knows it: in the catalogue, and only its port may be reached."""
    settings.SANDBOX_URL = sandbox_server
    settings.LLM_EGRESS_ALLOW = [sandbox_server.removeprefix("http://")]
    return sandbox_server
