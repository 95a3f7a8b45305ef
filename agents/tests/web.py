"""A small web for agents: pages by their paths, and a search service among them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User

from agents.web import reading
from llm_credentials.models import EgressAllowance
from llm_credentials.providers.tests.test_fetch import HTML, Site, page, serving
from llm_credentials.search_keys import SearchDraft, search_key_save

T = TypeVar("T")
JSON = b"content-type: application/json"
TEXT = b"content-type: text/plain"
KEY = "tvly-dev-0123456789abcdefghij"

Pages = Mapping[str, bytes | Callable[[str], bytes]]


def html(title: str, body: str) -> bytes:
    return page(f"<title>{title}</title><p>{body}".encode(), HTML)


def hits(*rows: Mapping[str, str]) -> bytes:
    return page(json.dumps({"results": list(rows)}).encode(), JSON)


def on_web(user: User, pages: Pages, work: Callable[[Site], Awaitable[T]], *, searches: bool = True) -> T:
    """``work`` beside a server that staff allow agents to reach, where ``/search`` is the user's own service.

    In pages ``SITE`` stands for the server's address. What is missing is a 404.
    """
    reading._robots.clear()

    async def go() -> T:
        held: list[Site] = []

        def answer(path: bytes) -> bytes:
            given = pages.get(path.decode().partition("?")[0])
            found = given(path.decode()) if callable(given) else given
            if found is None:
                return page(b"", TEXT, status=b"404 x")
            head, _, body = found.partition(b"\r\n\r\n")
            body = body.replace(b"SITE", held[0].url.encode())
            lines = [
                line for line in head.split(b"\r\n")[1:] if not line.startswith((b"content-length", b"connection"))
            ]
            return page(body, *lines, status=head.split(b"\r\n")[0][9:])

        async with serving(answer) as site:
            held.append(site)
            await _open(user, site, searches)
            return await work(site)

    return async_to_sync(go)()


async def _open(user: User, site: Site, searches: bool) -> None:
    port = int(site.url.rpartition(":")[2])
    await EgressAllowance.objects.acreate(host="127.0.0.1", port=port, for_tools=True, for_providers=False)
    if searches:
        draft = SearchDraft(api_key=KEY, base_url=site.url)
        await sync_to_async(search_key_save)(user=user, provider="tavily", draft=draft)


def asked_paths(site: Site) -> list[str]:
    return [head.split(b" ")[1].decode() for head in site.heads]


def tool_texts(messages: Any) -> list[str]:
    return [result.content for message in messages for result in message.tool_results]
