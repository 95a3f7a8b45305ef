"""Decodes a page as browsers do: by its byte order mark, the server's charset, then the page's own declaration."""

from __future__ import annotations

import codecs
import re
from typing import Final

# Browsers treat these charsets as the larger ones that contain them.
_AS: Final = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "iso8859-9": "cp1254"}
_KNOWN: Final = frozenset(
    {"utf-8", "utf-16", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "gb18030", "big5", "euc_jp", "iso2022_jp"}
    | {"shift_jis", "cp932", "euc_kr", "cp949", "mac-roman", "cp866", "cp874"}
    | {f"iso8859-{number}" for number in range(2, 17)}
    | {f"cp125{digit}" for digit in range(9)}
)
"""No others: some of Python's codecs are no text encodings, or take long for little input."""
_META = re.compile(rb"<meta[^<>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode(body: bytes, charset: str) -> str:
    """``charset``: from the server, or empty. Never raises; invalid bytes become U+FFFD."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    meta = _META.search(body[:4096])
    said = [known(charset), known(meta[1].decode("ascii")) if meta else ""]
    for name in (*said, "utf-8"):
        if name:
            try:
                # Not final: a truncated page may end within a character.
                return codecs.getincrementaldecoder(name)("strict").decode(body)
            except UnicodeDecodeError:
                continue
    text = body.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) > 2 * broken:
        return text  # UTF-8 with a few invalid bytes
    others = (name for name in said if name not in ("", "utf-8"))
    return body.decode(next(others, "cp1252"), "replace")


def known(name: str) -> str:
    """The codec for a page's charset; empty if it is not an accepted one."""
    try:
        found = codecs.lookup(name.strip()).name
    except (LookupError, ValueError):
        return ""
    found = _AS.get(found, found)
    return found if found in _KNOWN else ""
