"""Text as it can be kept, and shown as it is. Django-free."""

from __future__ import annotations

import re


def storable(text: str) -> str:
    """Without NUL characters and lone surrogates, which PostgreSQL refuses in text columns."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def plain(text: str) -> str:
    """As Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
