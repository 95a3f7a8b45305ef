"""Users of a site that is searched for keys: browsers and programs, with faults of every kind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2  # noqa: TID251  (a visitor of the site, not the site)

from benchmarks.prove.canaries import CANARIES, Findings
from project.tests.checkout import Site

FAULTS = ("400", "401", "403", "404", "429", "500", "503", "html", "cut", "badjson", "error-event", "usage-nan")
AT_ONCE = 8


class Visitor:
    """A user with a browser and a token; every response is searched."""

    def __init__(self, site: Site, name: str, token: str, findings: Findings) -> None:
        address = f"http://127.0.0.1:{site.port}"
        self.findings = findings
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
        return self._searched("admin pages" if path.startswith("/admin/") else "pages", response)

    def api(self, method: str, path: str, **extra: Any) -> httpx2.Response:
        where = "gateway answers" if path.startswith("/v1/") else "API answers"
        return self._searched(where, self.program.request(method, path, **extra))

    def _searched(self, where: str, response: httpx2.Response) -> httpx2.Response:
        path = f"{response.request.method} {response.request.url.path}"
        self.findings.search(where, response.content, path)
        self.findings.search("headers", str(response.headers).encode(), path)
        with self.findings.lock:
            self.findings.answers[response.status_code] += 1
            if response.status_code == 500 or b"cannot reach its database" in response.content:
                self.findings.broken.append((response.status_code, path, response.headers.get("X-Request-ID", "")))
        return response


def visit(site: Site, tokens: dict[str, str], findings: Findings, requests: int) -> None:
    visitors = {name: Visitor(site, name, tokens[name], findings) for name in tokens}
    errors: list[BaseException] = []

    def go(number: int) -> None:
        chance = random.Random(number)
        while sum(findings.answers.values()) < requests and not errors:
            try:
                chance.choice(STEPS)(visitors, chance)
            except httpx2.TransportError as error:  # an upstream fault may cut our own response off
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
