"""Takes the pictures of ``docs/tour.md``; the command stands there."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from PIL import Image
from playwright.sync_api import BrowserContext

from llm_credentials.models import Alert, UserCredential
from llm_credentials.tests.proofs import proven
from project.env import BASE_DIR
from project.tests import pages

PICTURES = BASE_DIR / "docs" / "tour"
COLOURS = 128
WIDE, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 760}

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Stop:
    name: str
    route: str
    query: str = ""
    phone: bool = False
    dark: bool = False
    anonymous: bool = False


STOPS = (
    Stop("home", "home", anonymous=True),
    Stop("guide", "llm_credentials:provider-start"),
    Stop("providers", "llm_credentials:provider-list"),
    Stop("providers-phone", "llm_credentials:provider-list", phone=True, dark=True),
    Stop("key", "llm_credentials:credential-edit"),
    Stop("routing", "llm_credentials:routing-detail", query="?failed=openai"),
    Stop("agents", "agents:agent-list"),
    Stop("conversation", "agents:conversation-detail"),
    Stop("conversation-phone", "agents:conversation-detail", phone=True, dark=True),
    Stop("run", "agents:run-detail"),
    Stop("usage", "llm_credentials:usage-detail"),
    Stop("compare", "llm_credentials:provider-compare"),
    Stop("tokens", "llm_credentials:token-list"),
    Stop("security", "llm_credentials:security-detail", dark=True),
)


def test_take_the_pictures(new_context: Callable[..., BrowserContext], alice: User, live_site: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    addresses = pages.page_addresses(pages.furnish(alice))
    Alert.objects.filter(user=alice).delete()
    UserCredential.with_removed.filter(user=alice, removed_at__isnull=False).delete()
    cookie = proven(alice).cookies[settings.SESSION_COOKIE_NAME].value
    for stop in STOPS:
        context = new_context(
            viewport=PHONE if stop.phone else WIDE,
            color_scheme="dark" if stop.dark else "light",
            reduced_motion="reduce",
        )
        if not stop.anonymous:
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": live_site}])
        page = context.new_page()
        page.goto(addresses[stop.route] + stop.query)
        picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        picture.convert("RGB").quantize(COLOURS).save(PICTURES / f"{stop.name}.png", optimize=True)
        context.close()
