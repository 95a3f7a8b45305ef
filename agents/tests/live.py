"""Talking to the real site, and to the sandbox behind it."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services as vault
from llm_credentials.models import UserCredential
from project.tests.servers import wait_until

TIMEOUT_S = 20


def sandbox_key(user: User, *, model: str = "sandbox-chat", key: str = "sbx-good-agents") -> UserCredential:
    """A stored key for the sandbox; the model may name a fault."""
    saved = vault.credential_save(
        user=user, provider="sandbox", api_key=key, model=model.replace("~", "+").replace("=", ":")
    )
    return saved.credential


@dataclass
class Visitor:
    """A signed-in browser without a page: forms and streams."""

    site: str
    cookies: dict[str, str]

    @classmethod
    def of(cls, site: str, user: User) -> Self:
        client = Client()
        client.force_login(user)
        return cls(site, {settings.SESSION_COOKIE_NAME: client.cookies[settings.SESSION_COOKIE_NAME].value})

    @property
    def session_key(self) -> str:
        return self.cookies[settings.SESSION_COOKIE_NAME]

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.site).netloc, timeout=TIMEOUT_S)

    def _headers(self, **extra: str) -> dict[str, str]:
        cookies = {**self.cookies, settings.CSRF_COOKIE_NAME: "c" * 32}
        pairs = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return {"Cookie": pairs, "X-CSRFToken": "c" * 32, "Referer": self.site, **extra}

    def post(self, path: str, *, htmx: bool = False, **fields: str) -> tuple[int, str, str]:
        """Status, Location and body."""
        connection = self._connect()
        extra = {"HX-Request": "true"} if htmx else {}
        extra["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST", path, urlencode(fields), self._headers(**extra))
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, answer.headers.get("Location", ""), body

    def get(self, path: str) -> tuple[int, str]:
        connection = self._connect()
        connection.request("GET", path, headers=self._headers())
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def read(self, path: str) -> Stream:
        connection = self._connect()
        connection.request("GET", path, headers=self._headers(Accept="text/event-stream"))
        return Stream(connection, connection.getresponse())


@dataclass
class Stream:
    connection: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    @property
    def status(self) -> int:
        return self.answer.status

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """The next event that is no comment; None at the end."""
        event = ""
        while line := self.answer.readline():
            words = line.decode().rstrip("\n")
            if words.startswith("event: "):
                event = words.removeprefix("event: ")
            elif words.startswith("data: "):
                return event, json.loads(words.removeprefix("data: "))
        return None

    def until_text(self, words: str) -> None:
        """Read until these words have been shown."""
        shown = ""
        while words not in shown:
            got = self.next()
            assert got is not None, f"the stream ended before {words!r}"
            assert got[0] == "text", got
            shown += got[1]["html"] + got[1]["tail"]

    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        events = []
        while (got := self.next()) is not None:
            events.append(got)
        return events

    def last(self) -> tuple[str, dict[str, Any]]:
        return self.rest()[-1]

    def leave(self) -> None:
        self.answer.close()
        self.connection.close()


class SandboxJournal:
    """What the sandbox was asked with one key."""

    def __init__(self, url: str) -> None:
        self.netloc = urlsplit(url).netloc

    def _ask(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection(self.netloc, timeout=TIMEOUT_S)
        connection.request(method, path)
        body = connection.getresponse().read()
        connection.close()
        return json.loads(body) if body else None

    def reset(self) -> None:
        self._ask("DELETE", "/_sandbox/requests")

    def chats(self) -> list[dict[str, Any]]:
        entries = self._ask("GET", "/_sandbox/requests")
        rows = entries["items"] if isinstance(entries, dict) else entries
        return [row for row in rows if row["operation"] == "chat"]

    def wait_gone(self) -> dict[str, Any]:
        """The request that its client left. Raises TimeoutError."""
        return wait_until(
            lambda: next((row for row in self.chats() if row["client_gone"]), None), "the upstream call's end"
        )
