"""What a request asks and what is answered, in words that none of the three wire formats owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Finish: TypeAlias = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "unknown"]
JSON: TypeAlias = dict[str, Any]


class Refused(Exception):
    """A request that gets an error for an answer.

    `kind` names the row of the error table (`failures.py`) that each wire format renders in its own shape.
    """

    def __init__(
        self, kind: str, message: str = "", *, param: str | None = None, retry_after: str | None = None
    ) -> None:
        super().__init__(message or kind)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after = retry_after


@dataclass(slots=True)
class Tool:
    name: str
    description: str
    schema: JSON


@dataclass(slots=True)
class Image:
    media_type: str
    size_bytes: int | None
    """Of the decoded picture; None for one that is only linked: links are never fetched."""


@dataclass(slots=True)
class ToolResult:
    name: str
    content: str
    is_error: bool = False


@dataclass(slots=True)
class Ask:
    """One chat request, read."""

    model: str
    stream: bool = False
    answers: int = 1
    """Chat completions only: how many choices."""
    include_usage: bool = True
    """Chat completions only: whether a stream ends with a usage chunk."""
    system: str = ""
    turns: list[str] = field(default_factory=list)
    """What the user said, oldest first; the last one is to be answered unless tool results follow it."""
    results: list[ToolResult] = field(default_factory=list)
    """Tool results that nothing but this answer follows."""
    images: list[Image] = field(default_factory=list)
    """Of the turn to be answered."""
    total_images: int = 0
    """Of the whole request."""
    tools: list[Tool] = field(default_factory=list)
    choice: str = "auto"
    """auto, none, required, or the name of a tool."""
    parallel: bool = True
    schema: JSON | None = None
    """The answer must be JSON valid against it; `{}`: any JSON object."""
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    thinking: bool = False
    show_thinking: bool = True
    """Thinking that is not shown is billed all the same."""
    prompt_tokens: int = 0
    """All of them, cached ones included."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    prefix: list[tuple[int, int]] = field(default_factory=list)
    """(hash, tokens) of each message, so that a repeated beginning can be billed as cached."""
    cache_upto: int | None = None
    """Messages format: how many items of `prefix` are marked for the cache; None: none of them."""

    @property
    def said(self) -> str:
        """The user's last words."""
        return self.turns[-1] if self.turns else ""


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str
    """JSON, or, with a fault, what should have been JSON."""


@dataclass(slots=True)
class Usage:
    """Tokens in the vocabulary of the sandbox: parts are included in their whole."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    """Reasoning included."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(slots=True)
class Reply:
    """One answer, in the pieces in which it is spoken; a piece is a token."""

    pieces: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finish: Finish = "stop"
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Frames:
    """A stream as server-sent events, each already bytes."""

    head: list[bytes]
    """Before the first content."""
    content: list[bytes]
    tail: list[bytes]
    """The proper end: finish reason, usage, end marker."""
    usage: list[int] = field(default_factory=list)
    """Which items of the tail carry the usage."""
