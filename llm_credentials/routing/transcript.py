"""The text of a stream so far: needed if it breaks, or if the provider does not report usage."""

from __future__ import annotations

from math import ceil
from time import monotonic
from typing import Final, Protocol

from llm_credentials.ledger.estimate import BYTES_A_TOKEN

MANY: Final = 500
"""How many pieces are kept unparsed: extracting their text costs more than passing them on."""
FEW: Final = 16
SLOW_AFTER_S: Final = 10.0
"""After this time only ``FEW`` pieces are kept unparsed: the stream is slow, and there may be hundreds of streams."""


class Said(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def is_only_counted(self) -> bool:
        """Whether only the length of its text is needed."""


class Transcript:
    """Keeps the pieces of a stream; beyond a limit only their text, in a thirtieth of the memory.

    For pieces that are only counted it keeps the number of bytes, so memory does not grow with the stream.
    """

    __slots__ = ("_began", "_bytes", "_pieces", "_words")

    def __init__(self) -> None:
        self._began = monotonic()
        self._bytes = 0
        self._pieces: list[Said] = []
        self._words: list[str] = []

    def add(self, piece: Said) -> None:
        self._pieces.append(piece)
        kept = len(self._pieces)
        if kept >= MANY or (kept >= FEW and monotonic() - self._began >= SLOW_AFTER_S):
            self._read()

    def _read(self) -> None:
        if not self._pieces:
            return
        words = "".join(piece.text for piece in self._pieces)
        self._bytes += len(words.encode("utf-8", "surrogatepass"))
        if not self._pieces[-1].is_only_counted:
            self._words.append(words)
        self._pieces.clear()

    @property
    def text(self) -> str:
        """Empty for pieces that are only counted."""
        self._read()
        return "".join(self._words)

    @property
    def tokens(self) -> int:
        """Counted as in ``estimate.text_tokens``."""
        self._read()
        return ceil(self._bytes / BYTES_A_TOKEN)
