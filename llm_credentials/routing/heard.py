"""What a stream has said so far, for whoever must know it when the stream breaks or nobody counted its tokens."""

from __future__ import annotations

from time import monotonic
from typing import Final, Protocol

MANY: Final = 500
"""So many pieces are kept as they came: reading their words costs more than passing them on."""
FEW: Final = 16
SLOW_AFTER_S: Final = 10.0
"""A stream that has gone on for so long has time to be read, and there may be hundreds of them: so many pieces are
kept of it."""


class Said(Protocol):
    @property
    def text(self) -> str: ...


class Heard:
    """Keeps pieces, and as soon as they are many their words in place of them, a thirtieth of their size."""

    __slots__ = ("_began", "_pieces", "_words")

    def __init__(self) -> None:
        self._began = monotonic()
        self._pieces: list[Said] = []
        self._words: list[str] = []

    def add(self, piece: Said) -> None:
        self._pieces.append(piece)
        kept = len(self._pieces)
        if kept >= MANY or (kept >= FEW and monotonic() - self._began >= SLOW_AFTER_S):
            self._read()

    def _read(self) -> None:
        self._words.append("".join(piece.text for piece in self._pieces))
        self._pieces.clear()

    @property
    def text(self) -> str:
        self._read()
        return "".join(self._words)
