"""Every page in a real browser: accessible, light, in one piece at each width, and with a picture kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from django.test import Client
from playwright.sync_api import BrowserContext, CDPSession, Page, Route

from llm_credentials.tests.proofs import proven
from project.tests import pages
from project.tests.e2e.conftest import AXE, PICTURES

DESKTOP, PHONE = 1280, 390
WIDTHS = (DESKTOP // 2, PHONE, 320)
"""In CSS pixels: a wide screen at 200 %, a phone, and the narrowest that anybody has."""
MOST_BYTES = 150 * 1024
PUBLIC = ("home", "account_login", "account_signup", "account_reset_password", "llm_credentials:provider-compare")
RUN_AXE = """async (only) => {
  const found = await axe.run(document, {
    resultTypes: ["violations"],
    ...(only ? { runOnly: only } : { rules: { "target-size": { enabled: true } } }),
  });
  return found.violations.flatMap((one) =>
    one.nodes.slice(0, 3).map((node) => `${one.id}: ${node.target.join(" ")}: ${one.help}`));
}"""
LOOK_AT = """() => {
  const wrong = [];
  const named = (element) => element.getAttribute("aria-label") || element.getAttribute("aria-labelledby");
  const told = (element) => element.outerHTML.slice(0, 120);
  if (!document.documentElement.lang) wrong.push("no language");
  if (document.title.trim().length < 5) wrong.push("no title");
  if (!/width=device-width/.test(document.querySelector("meta[name=viewport]")?.content)) wrong.push("no viewport");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  for (const image of document.images) if (!image.width || !image.height) wrong.push(`no size: ${told(image)}`);
  for (const region of document.querySelectorAll("[role=status], [role=log], [aria-live]:not([aria-live=off])"))
    if (!named(region) || !region.role) wrong.push(`a live region without role or name: ${told(region)}`);
  for (const style of document.querySelectorAll("body *")) {
    const { animationName, animationDuration, transitionDuration } = getComputedStyle(style);
    const longest = Math.max(...transitionDuration.split(", ").map(parseFloat));
    const moves = animationName !== "none" && parseFloat(animationDuration) > 0.01;
    if (moves || longest > 0.01) wrong.push(`moves for those who asked for no motion: ${told(style)}`);
  }
  return wrong;
}"""
UNSEEN_FOCUS = """() => {
  const look = (element) => { const s = getComputedStyle(element);
    return [s.outlineStyle, s.outlineWidth, s.outlineColor, s.boxShadow, s.backgroundColor, s.borderColor].join(); };
  const around = (element) => [element, element.parentElement, element.nextElementSibling,
    element.closest("label, .field, .input-group, li, details")].filter(Boolean);
  const unseen = [];
  for (const element of document.querySelectorAll("a[href], button, input, select, textarea, summary")) {
    if (element.disabled || element.type === "hidden") continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    document.activeElement?.blur();
    const before = around(element).map(look).join("|");
    element.focus();
    if (document.activeElement === element && around(element).map(look).join("|") === before)
      unseen.push(`focus is not seen: ${element.outerHTML.slice(0, 120)}`);
  }
  document.activeElement?.blur();
  return unseen;
}"""
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.django_db(transaction=True)


class Weight:
    """The bytes that came over the line since ``start``, as if for the first time."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.bytes = 0
        session: CDPSession = context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        session.on("Network.loadingFinished", self._add)

    def _add(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])

    def start(self) -> None:
        self.bytes = 0


def whole_pages(client: Client, addresses: dict[str, str]) -> dict[str, str]:
    """Asked for in another thread: this one belongs to the browser's driver."""

    def is_whole(name: str) -> bool:
        response = client.get(addresses[name])
        return pages.is_page(response) and b"<!doctype html>" in response.content[:200]

    with ThreadPoolExecutor(1) as thread:
        wanted = thread.submit(lambda: [name for name in addresses if is_whole(name)])
        return {name: addresses[name] for name in wanted.result()}


def faults_of(page: Page, name: str) -> list[str]:
    """Of the page that the browser shows; its picture is kept on the way."""
    page.evaluate(AXE)
    found = [*page.evaluate(RUN_AXE, None), *page.evaluate(LOOK_AT)]
    if name.partition("-")[2] in PUBLIC and not page.locator("meta[name=description][content]").count():
        found.append("no description")
    page.keyboard.press("Tab")
    found += page.evaluate(UNSEEN_FOCUS)
    keep_picture(page, name, "light")
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {each}" for each in page.evaluate(RUN_AXE, ["color-contrast"])]
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        if sideways := page.evaluate(SIDEWAYS):
            found.append(f"scrolls sideways by {sideways} px at {width} px")
        if width == PHONE:
            found += [f"phone, dark: {each}" for each in page.evaluate(RUN_AXE, None)]
            keep_picture(page, name, "dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": DESKTOP, "height": 844})
    return found


def keep_picture(page: Page, name: str, scheme: str) -> None:
    width = (page.viewport_size or {})["width"]
    path = PICTURES / f"{name.replace(':', '-')}-{scheme}-{width}.png"
    page.screenshot(path=path, full_page=True, animations="disabled")


Visitor = tuple[str, Client, dict[str, str]]
SHARES = 3


def visitors(alice: User, bob: User) -> list[Visitor]:
    """Who looks, and at which addresses: a user with a bit of everything, one with second factors, both outside."""
    addresses = pages.page_addresses(pages.furnish(alice))
    guarded = pages.page_addresses({"pk": str(pages.add_second_factor(bob))})
    half_in = Client()
    half_in.post(addresses["account_login"], {"login": "bob", "password": "bob-password"})

    def those(where: dict[str, str], *beginnings: str) -> dict[str, str]:
        return {name: path for name, path in where.items() if name.startswith(beginnings)}

    return [
        ("alice", proven(alice), addresses),
        ("bob", proven(bob), those(guarded, "mfa_", "account_reauth", "llm_credentials:security")),
        ("bob-half-in", half_in, those(guarded, "mfa_auth")),
        ("nobody", Client(), those(addresses, "home", "account_", "mfa_login")),
    ]


@pytest.mark.parametrize("share", range(SHARES))
def test_every_page_is_accessible_light_and_in_one_piece(
    new_context: Callable[..., BrowserContext], alice: User, bob: User, live_site: str, share: int
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {}
    for who, client, addresses in visitors(alice, bob):
        context = new_context(viewport={"width": DESKTOP, "height": 844}, reduced_motion="reduce", color_scheme="light")
        if cookie := client.cookies.get(settings.SESSION_COOKIE_NAME):
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie.value, "url": live_site}])
        page = context.new_page()
        weight = Weight(context, page)
        asked = dict(list(addresses.items())[share::SHARES])
        for name, path in whole_pages(client, asked).items():
            weight.start()
            page.goto(path, wait_until="load")
            faults = [f"{weight.bytes // 1024} KB"] if weight.bytes > MOST_BYTES else []
            faults += faults_of(page, f"{who}-{name}")
            if faults:
                found[f"{who} {name} {path}"] = faults
    assert not found, json.dumps(found, indent=1, ensure_ascii=False)


def answering(body: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(body=body, content_type="text/html")


def test_error_pages_are_as_good_as_the_others(new_context: Callable[..., BrowserContext], live_site: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    context = new_context(viewport={"width": DESKTOP, "height": 844}, reduced_motion="reduce", color_scheme="light")
    page = context.new_page()
    for error in ("400", "403", "403_csrf", "404", "413", "429", "500", "503"):
        shown = render_to_string(f"{error}.html", {"retry_after_s": 42})
        page.route(f"**/broken/{error}/", answering(shown))
        page.goto(f"/broken/{error}/")
        assert faults_of(page, f"error-{error}") == [], error
