"""Search without a network: finds sections of the site's own documentation by words. For tests, the demo, and users
without a search service.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from llm_credentials.providers.search import Hit

SCHEME: Final = "docs:"
FOLDER: Final = Path(__file__).resolve().parents[2]
"""Of the checkout."""
_WORD: Final = re.compile(r"\w+")
_HEADING: Final = re.compile(r"^#{1,3} +(.+?) *#*$", re.MULTILINE)
_STOPWORDS: Final = frozenset(
    {"a", "an", "and", "are", "can", "do", "does", "for", "how", "i", "in", "is", "it", "my", "of", "on", "or", "the"}
    | {"to", "what", "when", "where", "which", "who", "why", "with", "you"}
)


@dataclass(frozen=True, slots=True)
class Document:
    url: str
    title: str
    text: str


class LocalIndex:
    """An in-memory full-text index with one document per section; thread-safe."""

    label: Final = "This site's documentation"

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = {document.url: document for document in documents}
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE sections USING fts5(title, text, url UNINDEXED, tokenize='porter unicode61')"
        )
        self._database.executemany(
            "INSERT INTO sections (title, text, url) VALUES (?, ?, ?)",
            ((each.title, each.text, each.url) for each in self._documents.values()),
        )

    async def search(self, query: str, *, count: int = 10) -> list[Hit]:
        """Sections with any of the words; those with more and rarer words come first."""
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:20]
        wanted = [word for word in words if word not in _STOPWORDS] or words
        return await asyncio.to_thread(self._hits, wanted, count) if wanted else []

    def read(self, url: str) -> Document | None:
        return self._documents.get(url)

    def _hits(self, words: list[str], count: int) -> list[Hit]:
        match = " OR ".join(f'"{word}"' for word in words)
        statement = (
            "SELECT url, title, snippet(sections, 1, '', '', '…', 40) FROM sections WHERE sections MATCH ?"
            " ORDER BY bm25(sections, 4.0, 1.0) LIMIT ?"
        )
        with self._lock, closing(self._database.execute(statement, (match, count))) as rows:
            return [Hit(url=url, title=title, snippet=" ".join(text.split())) for url, title, text in rows]


@cache
def documentation() -> LocalIndex:
    """README and docs/ of this checkout, one document per section."""
    pages = [FOLDER / "README.md", *sorted((FOLDER / "docs").glob("*.md"))]
    return LocalIndex(section for page in pages if page.is_file() for section in _sections(page))


def _sections(page: Path) -> Iterable[Document]:
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(FOLDER).as_posix()
    starts = list(_HEADING.finditer(text))
    whole = starts[0][1] if starts else name
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[start.end() : following.start() if following else len(text)].strip()
        if body:
            heading = start[1].replace("`", "")
            title = heading if start is starts[0] else f"{whole}: {heading}"
            anchor = re.sub(r"[^\w]+", "-", heading.lower()).strip("-")
            yield Document(url=f"{SCHEME}{name}#{anchor}", title=title, text=body)
