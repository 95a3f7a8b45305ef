"""Embeddings without a model: words and their trigrams are hashed into a unit vector.

Equal texts have equal vectors; texts that share words have similar ones.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from hashlib import blake2b

_WORD = re.compile(r"\w+", re.UNICODE)


def embed(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends only on the text and the number of dimensions."""
    vector = [0.0] * dimensions
    words = _WORD.findall(text.lower()) or [text]
    for word in words:
        _add(vector, word, 1.0)
        padded = f"^{word}$"
        for start in range(len(padded) - 2):
            _add(vector, padded[start : start + 3], 0.4)
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0.0:
        vector[0] = length = 1.0
    return [value / length for value in vector]


def _add(vector: list[float], piece: str, weight: float) -> None:
    size = len(vector)
    for number in _places(piece):
        vector[(number >> 1) % size] += weight if number & 1 else -weight


@lru_cache(maxsize=8192)
def _places(piece: str) -> tuple[int, ...]:
    digest = blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    return tuple(int.from_bytes(digest[start : start + 4], "big") for start in range(0, 32, 4))
