"""No key leaves its sealed column: canaries go through every feature and are looked for everywhere else."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client

from agents.catalog.conversation import ConversationAgent
from agents.models import AgentRun, StoredMessage
from llm_credentials import bridge, services
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.providers import LLMError
from llm_credentials.tests.canaries import Needles, forms_of
from project.tests.servers import wait_until

# Of characters that every encoding writes in its own way.
TAIL = "cn4Ry/+\"%&<'{}=q7zXw2"
GOOD = f"sbx-good-{TAIL}-a"
UNSAVED = f"sbx-good-{TAIL}-b"
REPLACED = f"sbx-good-{TAIL}-c"
BAD = f"sbx-bad-{TAIL}-d"
EXHAUSTED = f"sbx-exhausted-{TAIL}-e"
BROKEN = f"sbx-good-{TAIL}-f\r\nX-Evil: 1"
FORM = f"sbx-good-{TAIL}-g"
FOREIGN = f"sbx-good-{TAIL}-h"
CANARIES = (GOOD, UNSAVED, REPLACED, BAD, EXHAUSTED, BROKEN, FORM, FOREIGN)

pytestmark = pytest.mark.django_db(transaction=True)


def test_needles_find_every_encoding() -> None:
    """The search itself can see: each encoding of the canary is found when it is there."""
    for form in forms_of(GOOD):
        assert needles_in(b"xx" + form + b"yy")
    shifted = base64.b64encode(b"ab" + GOOD.encode() + b"c")
    assert needles_in(shifted)
    assert not needles_in(b"sbx-good-nothing")


NEEDLES = Needles(CANARIES, TAIL)


def needles_in(haystack: bytes) -> list[bytes]:
    return NEEDLES.found_in(haystack)


class Witness:
    """Everything that was said anywhere, by where it was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []

    def hear(self, where: str, what: str | bytes) -> None:
        self.said.append((where, what.encode(errors="surrogatepass") if isinstance(what, str) else what))

    def leaks(self) -> list[str]:
        return [f"{where}: {found[0]!r}" for where, what in self.said if (found := needles_in(what))]


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def debug_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every logger speaks at DEBUG; what it says is read before anything redacts it."""
    names = [None, *logging.root.manager.loggerDict]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def monitored(valkey_url: str, witness: Witness) -> Iterator[None]:
    """All commands that Valkey is given."""
    with redis.Redis.from_url(valkey_url) as client, client.monitor() as monitor:
        stopped = threading.Event()

        def listen() -> None:
            for command in monitor.listen():
                witness.hear("MONITOR", str(command["command"]))
                if "end-of-watch" in command["command"]:
                    stopped.set()
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield
        client.echo("end-of-watch")
        assert stopped.wait(10)


class Visitor:
    """A browser's session over HTTP; everything that it gets is heard."""

    def __init__(self, site: str, user: User, witness: Witness) -> None:
        session = Client()
        session.force_login(user)
        cookies = {settings.SESSION_COOKIE_NAME: session.cookies[settings.SESSION_COOKIE_NAME].value}
        self.http = httpx2.Client(base_url=site, cookies=cookies, timeout=30)
        self.witness = witness
        self.get("/settings/llm/")
        self.http.headers["X-CSRFToken"] = self.http.cookies["csrftoken"]
        self.http.headers["Referer"] = site

    def hear(self, response: httpx2.Response) -> httpx2.Response:
        self.witness.hear(f"{response.request.method} {response.request.url.path}", response.content)
        self.witness.hear(f"headers of {response.request.url.path}", str(response.headers))
        assert response.status_code != 500, response.request.url
        return response

    def get(self, path: str, **extra: Any) -> httpx2.Response:
        return self.hear(self.http.get(path, **extra))

    def post(self, path: str, **extra: Any) -> httpx2.Response:
        return self.hear(self.http.post(path, **extra))


def test_canaries_stay_in_their_sealed_column(
    alice: User,
    bob: User,
    staff: User,
    sandbox_url: str,
    live_site: str,
    celery_worker_thread: Any,
    witness: Witness,
    debug_logs: None,
    monitored: None,
    caplog: pytest.LogCaptureFixture,
    valkey_url: str,
) -> None:
    visitor = Visitor(live_site, alice, witness)
    keys_by_api(visitor)
    keys_by_page(visitor)
    keys_under_test(visitor, alice)
    talk(visitor, alice)
    failures(visitor, alice, witness)
    services.credential_save(user=bob, provider="sandbox", api_key=FOREIGN)
    staff_looks(live_site, staff, witness)
    lists(visitor)
    for_the_record(witness, valkey_url)
    for record in caplog.records:
        witness.hear(f"log of {record.name}", caplog.handler.format(record))
    assert len(witness.said) > 100
    assert UserCredential.objects.count() == 2
    assert witness.leaks() == []


def keys_by_api(visitor: Visitor) -> None:
    api = "/api/user/llm-credentials"
    for key in (GOOD, REPLACED, BROKEN, f"{GOOD}é", "•••• 4f2a", GOOD * 200):
        visitor.post(api, json={"provider": "sandbox", "api_key": key, "model": "sandbox-instant"})
    visitor.post(api, json={"provider": "nobody", "api_key": GOOD})
    visitor.post(api, json={"provider": "sandbox", "api_key": [GOOD], "surprise": GOOD})
    visitor.post(api, content=json.dumps({"provider": "sandbox", "api_key": GOOD})[:-1].encode())
    visitor.post(api, json={"provider": "openai_compatible", "api_key": GOOD, "base_url": "http://10.0.0.1/v1"})
    visitor.post(api, json={"provider": "sandbox", "model": GOOD, "name": GOOD})
    visitor.post(f"{api}/sandbox/test", json={"api_key": UNSAVED})


def keys_by_page(visitor: Visitor) -> None:
    page = "/settings/llm/sandbox"
    for headers in ({}, {"HX-Request": "true"}):
        visitor.post(f"{page}/save/", data={"api_key": BROKEN, "model": "../x"}, headers=headers)
        visitor.post(f"{page}/save/", data={"api_key": FORM, "model": "sandbox-instant"}, headers=headers)
        visitor.post(f"{page}/test/", data={"api_key": UNSAVED, "model": "sandbox-instant"}, headers=headers)
        visitor.post(f"{page}/models/load/", data={"api_key": UNSAVED}, headers=headers)
        visitor.post("/settings/llm/nobody/save/", data={"api_key": FORM}, headers=headers)
    visitor.get("/settings/llm/")


def keys_under_test(visitor: Visitor, user: User) -> None:
    for key in (BAD, EXHAUSTED, GOOD):
        settled(user)
        services.credential_save(user=user, provider="sandbox", api_key=key, model="sandbox-instant")
        visitor.post("/api/user/llm-credentials/sandbox/test")
        settled(user)
        visitor.get("/api/user/llm-credentials")
        visitor.get("/settings/llm/")
    visitor.get("/api/user/llm-credentials/available-models/sandbox")


def settled(user: User) -> None:
    wait_until(lambda: not ConnectionTest.objects.for_user(user).unfinished().exists(), "the tests to end")


def talk(visitor: Visitor, user: User) -> None:
    """A streamed chat, a plain one, a background run and a call from Python."""
    visitor.post("/agents/conversation/conversations/", data={"text": "hello"}, headers={"HX-Request": "true"})
    answer = StoredMessage.objects.filter(conversation__user=user, role="assistant").latest("created_at")
    visitor.get(f"/messages/{answer.pk}/stream/", headers={"Accept": "text/event-stream"})
    visitor.get(f"/conversations/{answer.conversation_id}/")
    visitor.post(f"/conversations/{answer.conversation_id}/messages/", data={"text": "what is 6 * 7"})
    visitor.post("/runs/create/", data={"agent": "conversation", "text": "hello", "input": "hello"})
    wait_until(lambda: not AgentRun.objects.filter(state__in=("queued", "running")).exists(), "the run to end")
    answers = StoredMessage.objects.filter(conversation__user=user, role="assistant", state="complete")
    assert answers.count() >= 2
    for run in AgentRun.objects.all():
        assert run.state == "done"
        visitor.get(f"/runs/{run.pk}/")
    assert bridge.run(ConversationAgent(user).run, "hello").text


def failures(visitor: Visitor, user: User, witness: Witness) -> None:
    """Calls that fail, with their tracebacks down to the local variables."""
    for model in (
        "sandbox-chat~fault=401",
        "sandbox-chat~fault=500",
        "sandbox-chat~fault=html",
        "sandbox-chat~fault=cut",
    ):
        services.credential_save(user=user, provider="sandbox", model=model)
        try:
            bridge.run(ConversationAgent(user).run, "hello")
        except LLMError as error:
            witness.hear("traceback", "".join(traceback.TracebackException.from_exception(error).format()))
            witness.hear("repr", repr(error) + repr(error.__dict__) + repr(error.__cause__) + repr(error.__context__))
        visitor.post("/agents/conversation/conversations/", data={"text": "hello"})
    visitor.get("/conversations/")


def staff_looks(site: str, staff: User, witness: Witness) -> None:
    visitor = Visitor(site, staff, witness)
    for path in ("", "llm_credentials/usercredential/", "llm_credentials/connectiontest/"):
        visitor.get(f"/admin/{path}")
    for credential in UserCredential.objects.all():
        visitor.get(f"/admin/llm_credentials/usercredential/{credential.pk}/change/")
        visitor.get(f"/admin/llm_credentials/usercredential/{credential.pk}/history/")
    visitor.get("/admin/llm_credentials/usercredential/", params={"api_key__startswith": "s", "q": GOOD[:8]})


def lists(visitor: Visitor) -> None:
    for path in (
        "/",
        "/agents/",
        "/conversations/",
        "/runs/",
        "/settings/llm/",
        "/settings/security/",
        "/accounts/2fa/",
    ):
        visitor.get(path)
    for path in ("/api/user/llm-credentials", "/api/openapi.json", "/nowhere/", "/readyz"):
        visitor.get(path)


def for_the_record(witness: Witness, valkey_url: str) -> None:
    """Stores as a thief would carry them off: the database, its dump, Valkey."""
    dumped = io.StringIO()
    call_command("dumpdata", stdout=dumped)
    witness.hear("dumpdata", dumped.getvalue())
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            witness.hear(f"table {table}", repr(cursor.fetchall()))
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        for path in (Path(name), Path(name + "-wal")):
            # By another process: a file that this one closes takes all its locks on the open database with it.
            copied = subprocess.run(["cat", path], capture_output=True, check=True) if path.exists() else None
            witness.hear(path.name, copied.stdout if copied else b"")
    with redis.Redis.from_url(valkey_url) as client:
        for key in client.scan_iter():
            witness.hear("Valkey key", key)
            witness.hear("Valkey value", client.dump(key) or b"")


def test_a_crash_page_in_debug_hides_the_key(sandbox_url: str) -> None:
    """What an uncaught error inside the opening of a key would show, with DEBUG on."""
    script = f"""
import django, sys
django.setup()
from django.test import RequestFactory
from django.views.debug import ExceptionReporter, get_exception_reporter_filter
from llm_credentials.providers import build_client
request = RequestFactory().post("/x", {{"api_key": {GOOD!r}, "password": {GOOD!r}}})
def crash(api_key):
    client = build_client("openai", api_key=api_key, model="m")
    raise RuntimeError("x")
try:
    crash({GOOD!r})
except RuntimeError:
    print(ExceptionReporter(request, *sys.exc_info()).get_traceback_html())
"""
    from project import env

    environment = env.child_environment(DJANGO_SETTINGS_MODULE="project.settings_test", DEBUG="true")
    page = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert b"RuntimeError" in page.stdout, page.stderr
    source_lines = [line for line in page.stdout.splitlines() if needles_in(line) and b"crash(" not in line]
    assert source_lines == []
