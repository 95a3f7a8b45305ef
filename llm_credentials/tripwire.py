"""Detects the user's and the site's stored keys in outgoing text: prompts, tool arguments, messages.

Decrypts nothing. For each key the database stores the last four characters and a keyed fingerprint. Every candidate
that ends in those four characters and starts where a key can start is put through the HMAC; only the key itself has
that fingerprint.

Found: a key in prose, code, JSON, URLs and headers, wrapped over lines, and inside base64. Not found: a key that is
shorter than twelve characters, truncated, spelled out with blanks, encrypted, compressed, or escaped character by
character; and keys of other users, whose fingerprints are not checked (a match would reveal whose key a text is).
"""

from __future__ import annotations

import asyncio
import base64
import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, TypeAlias, assert_never

import orjson
from django.utils.translation import gettext as _

from llm_credentials.models import EnvironmentCredential, SearchCredential, SystemCredential, UserCredential
from llm_credentials.models.tokens import TOKEN_PREFIX
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    ReasoningPart,
    SecretInRequest,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.messages import Part

Row: TypeAlias = UserCredential | SearchCredential | SystemCredential | EnvironmentCredential

KEY_MIN: Final = 12
"""The last characters of shorter keys are not stored."""
KEY_MAX: Final = 512
STARTS_MAX: Final = 64
"""Start positions tried for one key and one ending."""
TRIES_MAX: Final = 10_000
"""Per text, over all keys. Only a text made of a key's last characters needs more; without the limit it would keep a
process busy for minutes.
"""
BESIDE_CHARS: Final = 500_000
BASE64_MIN: Final = 20
BASE64_LONG: Final = 4096
WRAP_MAX: Final = 80
"""Maximum length of a line end with the indentation after it."""
CLEAN_MAX: Final = 4096
"""Number of texts cached as containing no key."""

# Characters that cannot occur in a key: blanks, quotes, brackets, commas and backslashes.
_BREAKS = b" \t\r\n\"'`\\()[]{}<>,;|"
_MASK = bytes(32 if byte in _BREAKS or byte < 33 or byte > 126 else 97 for byte in range(256))
_BLANKS = b" \t\r\n\\"
_WRAP = re.compile(rb"\\?\r?\n[ \t]*")
_START = re.compile(rb"(?<![A-Za-z0-9_-])(?=[\x21-\x7e])")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{%d,}" % BASE64_MIN)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_TOKEN = re.compile(re.escape(TOKEN_PREFIX.encode()) + rb"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Trap:
    """One key to look for."""

    words: str
    """The key's description in messages: "your OpenAI key ending in 4f2a"."""
    ending: bytes
    prefixes: tuple[bytes, ...]
    is_key: Callable[[str], bool] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    words: str
    start: int
    end: int


class Tripwire:
    """The traps of one user and of the site; cheap to keep, useless without the key ring."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.traps = tuple(trap for row in rows if (trap := _trap(row)) is not None)
        self._clean: OrderedDict[tuple[int, int], None] = OrderedDict()

    def find(self, text: str | bytes) -> Found | None:
        """The first key or access token in the text."""
        place = (hash(text), len(text))
        if place in self._clean:
            return None
        found = next(self.find_all(text), None)
        if found is None:
            # Cached by hash, so that users' texts do not stay in memory.
            self._clean[place] = None
            if len(self._clean) > CLEAN_MAX:
                self._clean.popitem(last=False)
        return found

    def find_all(self, text: str | bytes) -> Iterator[Found]:
        """Grouped by kind of match, not sorted by position. Positions are those of ``text``."""
        raw = text.encode("ascii", "replace") if isinstance(text, str) else text
        tries = _Tries()
        for token in _TOKEN.finditer(raw):
            yield Found(_("an access token of this site"), token.start(), token.end())
        # Most texts end here: even without line breaks they contain none of the endings.
        squeezed = raw.translate(None, _BLANKS)
        near = [trap for trap in self.traps if trap.ending in squeezed]
        for run in _runs(raw, KEY_MIN) if near else ():
            if tries.left <= 0:
                break
            for trap in near:
                for start, end in _stretches(run.text, run.heads, trap, tries):
                    yield Found(trap.words, run.place(start), run.place(end - 1) + 1)
        for run in _runs(raw, BASE64_MIN) if self.traps else ():
            # Text in a single case, like most identifiers, is not base64.
            if not run.text.islower() and not run.text.isupper():
                yield from self._in_base64(run, tries)

    def name_in(self, text: str) -> str | None:
        """The description of the first key in the text; None when there is none."""
        found = self.find(text)
        return found.words if found else None

    def refuse(self, texts: Iterable[str | bytes]) -> None:
        """Raises SecretInRequest when an outgoing text contains a key."""
        for text in texts:
            if text and (found := self.find(text)):
                raise SecretInRequest(
                    _(
                        "This request contains %(words)s; it was not sent. Remove it from the message, file, "
                        "tool or history that goes along, and try again."
                    )
                    % {"words": found.words}
                )

    def redacted(self, text: str) -> str:
        """The text with each key replaced by its description."""
        for found in sorted(self.find_all(text), key=lambda found: found.start, reverse=True):
            text = f"{text[: found.start]}[{found.words} was removed here]{text[found.end :]}"
        return text

    def _in_base64(self, run: _Run, tries: _Tries) -> Iterator[Found]:
        for match in _BASE64.finditer(run.text):
            letters = match[0].translate(_URL_SAFE)
            # Long base64 starts at a clear boundary, such as after the comma of a data URL.
            shifts = range(4 if len(letters) <= BASE64_LONG else 1)
            # Joined with a blank, so that no match spans two decodings.
            data = b" ".join(_decoded(letters[shift:]) for shift in shifts)
            for trap in self.traps:
                if trap.ending in data and any(_is_in(piece, trap, tries) for piece in data.split(b" ")):
                    yield Found(trap.words, run.place(match.start()), run.place(match.end() - 1) + 1)


def _decoded(letters: bytes) -> bytes:
    """Decodes as much as is complete."""
    over = len(letters) % 4
    if over == 1:
        letters = letters[:-1]
    return base64.b64decode(letters + b"==" if over in (2, 3) else letters)


def _is_in(data: bytes, trap: Trap, tries: _Tries) -> bool:
    return next(_stretches(data, lambda: (0,), trap, tries), None) is not None


class _Tries:
    """The tries left for one text."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = TRIES_MAX


@dataclass(frozen=True, slots=True)
class _Run:
    """A stretch of key characters, joined over line ends."""

    text: bytes
    pieces: Sequence[tuple[int, int]]
    """(start, end) of each of its lines in the whole text."""

    def place(self, index: int) -> int:
        """The position of this byte in the whole text."""
        for start, end in self.pieces:
            if index < end - start:
                return start + index
            index -= end - start
        raise IndexError(index)

    def heads(self) -> list[int]:
        """Offsets at which its lines start, in order. Includes 1, because a line that starts with the JSON escape in
        "\\nsk-…" may still have the escape's letter.
        """
        first, *others = accumulate((end - start for start, end in self.pieces[:-1]), initial=0)
        return [first, 1, *others]


def _runs(raw: bytes, size: int) -> Iterator[_Run]:
    """The runs with at least one line of this size."""
    mask, wanted = raw.translate(_MASK), b"a" * size
    at = mask.find(wanted)
    while at >= 0:
        start, end = at, _end(mask, at)
        if (start and raw[start - 1] in b"\n \t") or raw[end : end + 2].startswith((b"\n", b"\r\n", b"\\\n")):
            run, end = _wrapped(raw, mask, start, end)
            yield run
        else:
            yield _Run(raw[start:end], [(start, end)])
        at = mask.find(wanted, end)


def _end(mask: bytes, start: int) -> int:
    end = mask.find(b" ", start)
    return len(mask) if end < 0 else end


def _wrapped(raw: bytes, mask: bytes, start: int, end: int) -> tuple[_Run, int]:
    """The run joined with its neighbouring lines, including a short one before it, and its end."""
    pieces = [(start, end)]
    before = mask.rfind(b"a", max(0, start - WRAP_MAX), start)
    if before >= 0 and _WRAP.fullmatch(raw, before + 1, start):
        pieces.insert(0, (mask.rfind(b" ", 0, before) + 1, before + 1))
    while (gap := _WRAP.match(raw, end)) and mask[gap.end() : gap.end() + 1] == b"a":
        start, end = gap.end(), _end(mask, gap.end())
        pieces.append((start, end))
    return _Run(b"".join(raw[start:end] for start, end in pieces), pieces), end


def _stretches(text: bytes, heads: Callable[[], Sequence[int]], trap: Trap, tries: _Tries) -> Iterator[tuple[int, int]]:
    """(start, end) of each match of the key. ``heads`` must be sorted."""
    ending = text.find(trap.ending)
    known = heads() if ending >= 0 else ()
    while ending >= 0 and tries.left > 0:
        tries.left -= 1
        end = ending + len(trap.ending)
        for start in _starts(text, end, known, trap.prefixes):
            tries.left -= 1
            if trap.is_key(text[start:end].decode("latin-1")):
                yield start, end
                break
        ending = text.find(trap.ending, ending + 1)


def _starts(text: bytes, end: int, heads: Sequence[int], prefixes: tuple[bytes, ...]) -> list[int]:
    """Possible start positions of a key that ends there, nearest first."""
    begin = max(0, end - KEY_MAX)
    starts = set(heads[bisect_left(heads, begin) : bisect_right(heads, end)])
    starts.update(match.start() for match in _START.finditer(text, begin, end))
    for prefix in prefixes:
        place = text.rfind(prefix, begin, end)
        if place >= 0:
            starts.add(place)
    return sorted((start for start in starts if end - start >= KEY_MIN), reverse=True)[:STARTS_MAX]


def _trap(row: Row) -> Trap | None:
    """None for a row without a key, with a short one, or one whose encryption key is not on the ring."""
    if not row.last4 or not row.has_key or row.is_lost:
        return None
    whose = _("your own") if isinstance(row, UserCredential | SearchCredential) else _("this site's")
    spec = row.spec_or_none
    prefixes = tuple(prefix.encode() for prefix in spec.key_prefixes) if spec else ()
    return Trap(
        _("%(whose)s %(provider_label)s key ending in %(last4)s")
        % {"whose": whose, "provider_label": row.provider_label, "last4": row.last4},
        row.last4.encode(),
        prefixes,
        row.is_key,
    )


async def refuse_secrets(tripwire: Tripwire, texts: Iterable[str | bytes]) -> None:
    """As ``Tripwire.refuse``; long texts are searched off the event loop."""
    if isinstance(texts, tuple) and sum(map(len, texts)) > BESIDE_CHARS:
        await asyncio.to_thread(tripwire.refuse, texts)
    else:
        tripwire.refuse(texts)


def texts_of(messages: Iterable[LLMMessage], tools: Iterable[ToolDefinition] = ()) -> Iterator[str | bytes]:
    """All texts of a request that may contain a key."""
    for message in messages:
        # Joined, because a key may be split between neighbouring parts.
        yield "\n".join(part.text for part in message.parts if isinstance(part, TextPart | ReasoningPart))
        for part in message.parts:
            yield from _other_texts(part)
    for tool in tools:
        yield f"{tool.name}\n{tool.description}\n{_json(tool.parameters)}"


def _other_texts(part: Part) -> Iterator[str | bytes]:
    match part:
        case TextPart() | ReasoningPart():
            if part.details:
                yield _json(part.details)
        case ImagePart():
            yield part.data or part.url or ""
        case ToolCall():
            yield f"{part.name}\n{part.invalid_arguments or ''}\n{_json(part.arguments)}"
        case ToolResult():
            yield part.content
            yield from (image.data or image.url or "" for image in part.images)
        case _:
            assert_never(part)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str).decode()
    except TypeError:
        # Integers beyond 64 bits, lone surrogates, and whatever else models put into arguments.
        return str(value)
