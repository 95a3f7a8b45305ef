"""Extracts the text of a page or a PDF, or the images of a PDF. Runs as a separate program: a hostile page may keep any
parser busy for hours or fill memory, so the system limits CPU and memory, and nothing else is in reach.

Reads ``html`` (UTF-8), ``pdf`` or ``pdf-pictures`` bytes from stdin, by its one argument; writes ``{"title", "text",
"truncated", "links"}``, of pictures ``{"pictures": [JPEG in base64]}``.
"""

from __future__ import annotations

import base64
import io
import json
import resource
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdf import PdfReader

CPU_S: Final = 8
MEMORY_BYTES: Final = 1024 * 1024 * 1024
MAX_TEXT: Final = 200_000
MAX_PDF_PAGES: Final = 60
MAX_LINKS: Final = 100
MAX_PICTURES: Final = 6
MAX_PICTURE_SIDE_PX: Final = 2_048
MAX_PICTURE_PIXELS: Final = 40_000_000
MIN_PICTURE_SIDE_PX: Final = 200
"""Smaller images are logos, not pages."""
MAIN_MIN: Final = 400
"""Minimum text in <main> or <article> for it to count as the page; otherwise the whole body is used."""

_HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "select", "nav"})
_VOID = frozenset(
    {"br", "hr", "img", "input", "link", "meta", "wbr", "source", "area", "base", "col", "embed", "track"}
)
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "header", "footer", "aside", "ul", "ol", "table", "tr", "blockquote"}
    | {"pre", "h1", "h2", "h3", "h4", "h5", "h6", "br", "hr", "dl", "dt", "dd", "figure", "form", "title", "body", "li"}
)
_HEADINGS = {f"h{level}": f"{'#' * level} " for level in range(1, 7)}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.body: list[str] = []
        self.main: list[str] = []
        self._hidden: list[str] = []
        self._mains = 0
        self._in_title = self._in_pre = False
        self.links: list[list[str]] = []
        """[text, address as written]"""
        self._in_link = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.append(tag)
            return
        named = dict(attrs)
        unseen = "hidden" in named or named.get("aria-hidden") == "true" or "display:none" in _style(named)
        if tag in _HIDDEN or (unseen and tag not in _VOID):
            self._hidden.append(tag)
            return
        if tag == "title":
            self._in_title = True
        if tag in ("main", "article"):
            self._mains += 1
        if tag == "pre":
            self._in_pre = True
        if tag == "a":
            self._link(named.get("href") or "")
        if tag in _BLOCKS:
            self._write("\n")
        if tag in _HEADINGS:
            self._write("\n" + _HEADINGS[tag])
        elif tag == "li":
            self._write("- ")
        elif tag in ("td", "th"):
            self._write(" | ")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
            return
        if tag == "title":
            self._in_title = False
        if tag in ("main", "article"):
            self._mains = max(0, self._mains - 1)
        if tag == "pre":
            self._in_pre = False
        if tag == "a":
            self._in_link = False
        if tag in _BLOCKS:
            self._write("\n")

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._in_title:
            self.title.append(data)
            return
        if self._in_link and len(self.links[-1][0]) < 150:
            self.links[-1][0] += data[:150]
        self._write(data if self._in_pre else " ".join(data.split()) + (" " if data[-1:].isspace() else ""), data)

    def _link(self, address: str) -> None:
        self._in_link = bool(address) and address[0] != "#" and len(address) < 2000 and len(self.links) < MAX_LINKS
        if self._in_link:
            self.links.append(["", address])

    def _write(self, text: str, data: str = "") -> None:
        if data[:1].isspace() and not self._in_pre:
            text = f" {text}"
        self.body.append(text)
        if self._mains:
            self.main.append(text)


def _style(named: dict[str, str | None]) -> str:
    return (named.get("style") or "").replace(" ", "").lower()


def of_html(page: str) -> dict[str, Any]:
    parser = _Text()
    parser.feed(page)
    parser.close()
    main, body = _tidy("".join(parser.main)), _tidy("".join(parser.body))
    links = [[" ".join(_sound(text).split()), _sound(address)] for text, address in parser.links]
    title = " ".join("".join(parser.title).split())
    return _answer(title, main if len(main) >= MAIN_MIN else body, False) | {
        "links": [each for each in links if each[0]]
    }


def _reader(data: bytes) -> PdfReader:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data), strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("locked")
    return reader


def of_pdf(data: bytes) -> dict[str, Any]:
    reader = _reader(data)
    texts: list[str] = []
    size = 0
    for page in reader.pages[:MAX_PDF_PAGES]:
        texts.append(page.extract_text())
        size += len(texts[-1])
        if size > MAX_TEXT:
            break
    title = str((reader.metadata and reader.metadata.title) or "")
    return _answer(" ".join(title.split()), _tidy("\n\n".join(texts)), len(reader.pages) > len(texts))


def pictures_of_pdf(data: bytes) -> dict[str, Any]:
    """Images of its first pages, in order, that are large enough to be scans."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_PICTURE_PIXELS // 2  # Pillow raises an error at twice that
    found: list[str] = []
    for page in _reader(data).pages[:MAX_PICTURES]:
        try:
            for each in page.images:
                if len(found) < MAX_PICTURES and each.image is not None:
                    found += _as_jpeg(each.image)
        # Parsers of broken images raise almost any exception; the other pages may be fine.
        except Exception:  # noqa: S112
            continue
    return {"pictures": found}


def _as_jpeg(picture: Image) -> list[str]:
    if min(picture.size) < MIN_PICTURE_SIDE_PX:
        return []
    picture.thumbnail((MAX_PICTURE_SIDE_PX, MAX_PICTURE_SIDE_PX))
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=85)
    return [base64.b64encode(out.getvalue()).decode()]


def _tidy(text: str) -> str:
    lines = (line.rstrip() for line in text.replace("\xa0", " ").splitlines())
    kept: list[str] = []
    for line in lines:
        if line.strip(" |") or (kept and kept[-1]):
            kept.append(line if line.strip(" |") else "")
    return "\n".join(kept).strip()


def _answer(title: str, text: str, truncated: bool) -> dict[str, Any]:
    cut = truncated or len(text) > MAX_TEXT
    return {"title": _sound(title[:300]), "text": _sound(text[:MAX_TEXT]), "truncated": cut, "links": []}


def _sound(text: str) -> str:
    """Without lone surrogates, which some PDFs contain and JSON cannot."""
    return text.encode("utf-8", "replace").decode()


_KINDS: Final[dict[str, Callable[[bytes], dict[str, Any]]]] = {
    "html": lambda data: of_html(data.decode("utf-8", "replace")),
    "pdf": of_pdf,
    "pdf-pictures": pictures_of_pdf,
}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    data = sys.stdin.buffer.read()
    answer = _KINDS[sys.argv[1]](data)
    # The file size limit does not apply to a pipe.
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
