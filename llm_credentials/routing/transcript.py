"""What a stream has said so far: needed when it breaks, or when the provider does not count its tokens."""

from __future__ import annotations

from math import ceil
from time import monotonic
from typing import Final, Protocol

from llm_credentials.ledger.estimate import BYTES_A_TOKEN

MANY: Final = 500
"""How many pieces are kept unread: reading their text costs more than passing them on."""
FEW: Final = 16
SLOW_AFTER_S: Final = 10.0
"""After this time only ``FEW`` pieces are kept unread: the stream is slow, and there may be hundreds of them."""


class Said(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def is_only_counted(self) -> bool:
        """Whether nobody will ask for its words, but for how many there were."""


class Transcript:
    """Keeps the pieces of a stream, and once they are many only their text, in a thirtieth of the memory.

    Of pieces that are only counted it keeps the number of bytes: memory does not grow with the length of the stream.
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
        """Of pieces that are only counted, nothing."""
        self._read()
        return "".join(self._words)

    @property
    def tokens(self) -> int:
        """As ``estimate.text_tokens`` counts them."""
        self._read()
        return ceil(self._bytes / BYTES_A_TOKEN)
