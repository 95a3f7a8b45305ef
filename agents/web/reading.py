"""Reads web pages for one run: caches what it has read, checks each site's robots.txt first, and returns text."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urldefrag, urljoin, urlsplit

from agents.web import charsets, extracting, robots
from agents.web.robots import Robots
from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.egress import check_page
from llm_credentials.providers.fetch import TEXT, Fetched, FetchFailed, fetch

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_HTML: Final = 1024 * 1024
AT_ONCE: Final = 4
ROBOTS_KEPT_S: Final = 3600.0
ROBOTS_KEPT: Final = 1000
PDF: Final = "application/pdf"
_HTML: Final = ("text/html", "application/xhtml+xml")
_TAKEN: Final = (*TEXT, PDF)
_EXTRACT_TIMEOUT_S: Final = 20.0

_robots: OrderedDict[tuple[EgressPolicy, str], tuple[Robots, float]] = OrderedDict()
"""robots.txt by origin, with the time it was read; shared by all users."""


class PageRefused(Exception):
    """The page was not read. The text tells people and models why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    url: str
    """Final address, after redirects."""
    title: str
    text: str
    truncated: bool
    """Whether ``text`` was cut."""
    links: tuple[tuple[str, str], ...] = ()
    """(text, absolute address), in page order."""


class PageReader:
    """Reads pages of one run under one policy."""

    def __init__(self, egress: EgressPolicy) -> None:
        self._egress = egress
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[str, asyncio.Lock] = {}

    async def read(self, url: str) -> Page:
        """Raises PageRefused."""
        try:
            async with self._turns:
                found = await fetch(
                    self._reachable(url),
                    egress=self._egress,
                    max_bytes=MAX_BYTES,
                    accept=_TAKEN,
                    first=self._ask_robots,
                )
        except EgressBlocked:
            raise PageRefused("This address may not be read: it is private, misspelt or not https.") from None
        except FetchFailed as failed:
            raise PageRefused(str(failed)) from None
        if found.status != 200:
            raise PageRefused(f"There is no page at this address: it answered {found.status}.")
        return await self._page(found)

    def _reachable(self, url: str) -> str:
        """Uses https where plain http is not allowed: most old links redirect there anyway."""
        url = url.strip()
        if url[:7].lower() == "http://":
            try:
                check_page(url, self._egress)
            except EgressBlocked:
                return f"https://{url[7:]}"
        return url

    async def _ask_robots(self, url: str) -> None:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        # Concurrent readers wait for the first one's request.
        async with self._asking.setdefault(origin, asyncio.Lock()):
            asked = await self._robots_of(origin)
        if not asked.allows((parts.path or "/") + (f"?{parts.query}" if parts.query else "")):
            raise FetchFailed("The site asks robots not to read this page (robots.txt). Use another source.")

    async def _robots_of(self, origin: str) -> Robots:
        place = (self._egress, origin)
        kept = _robots.get(place)
        if kept is not None and time.monotonic() < kept[1] + ROBOTS_KEPT_S:
            return kept[0]
        found = await self._fetched_robots(origin)
        _robots[place] = (found, time.monotonic())
        if len(_robots) > ROBOTS_KEPT:
            _robots.popitem(last=False)
        return found

    async def _fetched_robots(self, origin: str) -> Robots:
        try:
            answer = await fetch(
                f"{origin}/robots.txt", egress=self._egress, max_bytes=robots.MAX_BYTES, accept=("",), timeout_s=10.0
            )
        except (FetchFailed, EgressBlocked):
            return robots.NOTHING  # without an answer, nothing may be read
        if answer.status >= 500 or answer.status == 429:
            return robots.NOTHING
        if answer.status != 200 or answer.content_type.startswith("text/html"):
            return robots.EVERYTHING
        return robots.parse(answer.text)

    async def _page(self, found: Fetched) -> Page:
        if found.content_type == PDF:
            if found.truncated:
                raise PageRefused(f"The PDF is larger than {MAX_BYTES // 1024 // 1024} MB.")
            return await _extracted(found, "pdf", found.body)
        text = charsets.decode(found.body[:MAX_HTML], found.charset)
        if found.content_type.startswith(_HTML):
            return await _extracted(found, "html", text.encode("utf-8", "replace"))
        cut = found.truncated or len(found.body) > MAX_HTML or len(text) > extracting.MAX_TEXT
        return Page(url=found.url, title="", text=text[: extracting.MAX_TEXT].strip(), truncated=cut)


async def _extracted(found: Fetched, kind: str, data: bytes) -> Page:
    """Raises PageRefused if the content exceeds the limits of extraction, or has no text."""
    answer = await asyncio.to_thread(extract, kind, data)
    if answer is None:
        raise PageRefused(f"The {kind.upper()} could not be read: it is broken, locked, or made to take too long.")
    if not answer["text"]:
        raise PageRefused("The page holds no text. It may be made of pictures, or by scripts.")
    cut = bool(answer["truncated"]) or found.truncated or (kind == "html" and len(found.body) > MAX_HTML)
    return Page(
        url=found.url,
        title=str(answer["title"]),
        text=str(answer["text"]),
        truncated=cut,
        links=_links(found.url, answer["links"]),
    )


def _links(base: str, written: Any) -> tuple[tuple[str, str], ...]:
    links: dict[str, str] = {}
    for text, address in written:
        try:
            whole = urldefrag(urljoin(base, address.strip())).url
        except ValueError:
            continue
        if whole.startswith(("https://", "http://")) and whole != base and not set(whole) & set(" <>\n"):
            links.setdefault(whole, text)
    return tuple((text, whole) for whole, text in links.items())


def extract(kind: str, data: bytes) -> dict[str, object] | None:
    """In a separate process without this one's environment; see ``extracting``."""
    program = [sys.executable, "-I", str(Path(extracting.__file__)), kind]
    try:
        done = subprocess.run(  # noqa: S603  (our own program; the page is its input)
            program, input=data, capture_output=True, env={}, timeout=_EXTRACT_TIMEOUT_S, check=False
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None
