"""Sources that an answer may cite; a page always keeps the same number. Django-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from agents.search.merging import canonical
from agents.texts import markdown_escaped, one_line
from llm_credentials.providers import LLMMessage

MAX_SOURCES: Final = 200
_HEAD: Final = re.compile(r"\[(\d{1,3})\] (.*) <([^<>\s]+)>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    number: int
    url: str
    title: str
    snippet: str = ""

    @property
    def head(self) -> str:
        """The line that names the source in a tool's result and identifies it in later turns."""
        return f"[{self.number}] {one_line(self.title)} <{self.url}>"

    @property
    def link(self) -> str:
        """As Markdown, with the title and address escaped, since strangers wrote them."""
        title = markdown_escaped(self.title)
        if not self.url.startswith(("https://", "http://")):
            return f"{title} (`{self.url.replace('`', '')}`)"
        return f"[{title}](<{quote(self.url, safe=_URL_SIGNS)}>)"


_URL_SIGNS: Final = "%/:?&=#+,;@!$'()*~[]"


class Sources:
    def __init__(self) -> None:
        self._by_number: dict[int, Source] = {}
        self._by_place: dict[str, Source] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: object) -> bool:
        return number in self._by_number

    def get(self, url: str) -> Source | None:
        return self._by_place.get(canonical(url))

    def add(self, url: str, title: str, snippet: str = "") -> Source:
        """The source for this page, under its existing number or the next one."""
        found = self.get(url)
        if found is not None:
            return found
        url = url.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20")
        number = max(self._by_number, default=0) + 1
        source = Source(number=number, url=url, title=one_line(title) or url, snippet=one_line(snippet))
        self._by_number[number] = self._by_place[canonical(url)] = source
        return source

    def all(self) -> list[Source]:
        return [self._by_number[number] for number in sorted(self._by_number)]

    def recall(self, conversation: Sequence[LLMMessage], tool: str, *, first_line_only: bool) -> None:
        """Restore the sources this tool named in earlier turns, which the conversation may still cite by number."""
        for message in conversation:
            for result in message.tool_results:
                if result.name != tool or result.is_error:
                    continue
                lines = result.content.split("\n")
                for line in lines[:1] if first_line_only else lines:
                    if (head := _HEAD.fullmatch(line)) and len(self) < MAX_SOURCES:
                        self._take_up(int(head[1]), head[3], head[2])

    def _take_up(self, number: int, url: str, title: str) -> None:
        if number not in self._by_number and self.get(url) is None:
            source = Source(number=number, url=url, title=title)
            self._by_number[number] = self._by_place[canonical(url)] = source
