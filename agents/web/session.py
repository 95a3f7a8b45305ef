"""Page reading of one turn: which pages may be read, which were, and their numbers.

A page's address may come from a search, from a link on a page that was read, or from the user. Other addresses are
refused: a model could put what it knows into one, and so send it to the owner of that address.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final

from agents.progress import say
from agents.search.local import SCHEME, documentation
from agents.search.merging import canonical
from agents.search.session import STRANGERS
from agents.search.sources import Sources
from agents.tools import ToolError
from agents.web.reading import Page, PageReader, PageRefused
from llm_credentials import egress
from llm_credentials.providers import LLMMessage

MAX_PAGES: Final = 12
PART_CHARS: Final = 16_000
MAX_LINKS: Final = 20
_URL: Final = re.compile(r"https?://[^\s<>\"'`\\^{}|]{3,2000}")
_END: Final = ".,;:!?)]}"


class ReadingSession:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._allowed: set[str] = set()
        self._pages: dict[str, Page] = {}
        self._reader: PageReader | None = None
        self._opening = asyncio.Lock()
        self.refused: dict[str, str] = {}
        """Address → why it was not read."""
        self._begun = 0

    def allow(self, urls: Iterable[str]) -> None:
        self._allowed.update(canonical(url) for url in urls)

    def allow_what_was_said(self, conversation: Sequence[LLMMessage]) -> None:
        """Allows addresses in the user's own messages."""
        for message in conversation:
            if message.role == "user":
                found = _URL.findall(message.text)
                self.allow([*found, *(url.rstrip(_END) for url in found)])

    async def read(self, url: str, part: int) -> str:
        """Raises ToolError."""
        url = url.strip()
        page = self._pages.get(canonical(url)) or await self._fetched(url)
        source = self._sources.add(page.url, page.title)
        parts = max(1, -(-len(page.text) // PART_CHARS))
        if not 1 <= part <= parts:
            raise ToolError(f"This page has {parts} parts.")
        text = page.text[(part - 1) * PART_CHARS : part * PART_CHARS]
        head = [
            source.head,
            STRANGERS,
            f"Part {part} of {parts}.{' The page is longer than that.' if page.truncated else ''}",
        ]
        links = [f"- {title} <{target}>" for title, target in page.links[:MAX_LINKS]] if part == 1 else []
        tail = ["", "Links on this page:", *links] if links else []
        return "\n".join([*head, "-----", text, "-----", *tail])

    async def _fetched(self, url: str) -> Page:
        place = canonical(url)
        if place not in self._allowed:
            raise ToolError(
                "Only pages are read that a search found, that a page links to which was read, or that the user named. "
                "Search for it first."
            )
        if self._begun >= MAX_PAGES:
            raise ToolError("Enough pages were read. Answer now with what they say.")
        self._begun += 1
        say(f"Reading {url[:200]}")
        page = self._from_documentation(url) if url.startswith(SCHEME) else await self._from_web(url)
        self._pages[place] = self._pages[canonical(page.url)] = page
        self.allow([page.url, *(target for _, target in page.links)])
        return page

    def _from_documentation(self, url: str) -> Page:
        document = documentation().read(url)
        if document is None:
            raise ToolError("There is no such page in the documentation.")
        return Page(url=url, title=document.title, text=document.text, truncated=False)

    async def _from_web(self, url: str) -> Page:
        async with self._opening:
            if self._reader is None:
                self._reader = PageReader(await egress.apolicy("tools"))
        try:
            return await self._reader.read(url)
        except PageRefused as refused:
            self.refused[url] = str(refused)
            raise ToolError(f"{refused} It is no source; do not cite it.") from None
