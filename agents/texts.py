"""Makes text storable, puts it on one line, escapes it for Markdown. Django-free."""

from __future__ import annotations

import re


def storable(text: str) -> str:
    """Without NUL characters and lone surrogates, which PostgreSQL rejects in text columns."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """Collapses runs of white space, including line breaks, into one space."""
    return " ".join(text.split())


def markdown_escaped(text: str) -> str:
    """One line of Markdown that renders as the literal text."""
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", one_line(text))
