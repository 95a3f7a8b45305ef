"""Requests and answers, in types common to the three wire formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Finish: TypeAlias = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "unknown"]
JSON: TypeAlias = dict[str, Any]


class Refused(Exception):
    """A request that is answered with an error.

    `kind` names the row of the error table (`failures.py`), which each wire format renders in its own shape.
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
    """Size of the decoded image; None for a link: links are never fetched."""


@dataclass(slots=True)
class ToolResult:
    name: str
    content: str
    is_error: bool = False


@dataclass(slots=True)
class Ask:
    """A parsed chat request."""

    model: str
    stream: bool = False
    answers: int = 1
    """Chat completions only: the number of choices."""
    include_usage: bool = True
    """Chat completions only: whether a stream ends with a usage chunk."""
    system: str = ""
    turns: list[str] = field(default_factory=list)
    """The user's messages, oldest first; the last one is answered unless tool results follow it."""
    results: list[ToolResult] = field(default_factory=list)
    """Tool results at the end of the conversation."""
    images: list[Image] = field(default_factory=list)
    """Of the turn to answer."""
    total_images: int = 0
    """Of the whole request."""
    tools: list[Tool] = field(default_factory=list)
    choice: str = "auto"
    """auto, none, required, or the name of a tool."""
    parallel: bool = True
    schema: JSON | None = None
    """The answer must be JSON that is valid against it; `{}`: any JSON object."""
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    thinking: bool = False
    show_thinking: bool = True
    """Hidden thinking is billed all the same."""
    prompt_tokens: int = 0
    """All prompt tokens, including cached ones."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    prefix: list[tuple[int, int]] = field(default_factory=list)
    """(hash, tokens) of each message, so that a repeated prefix can be billed as cached."""
    cache_upto: int | None = None
    """Messages format: how many items of `prefix` are marked for caching; None: no marks."""

    @property
    def said(self) -> str:
        """The user's last message."""
        return self.turns[-1] if self.turns else ""


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str
    """JSON, or invalid JSON under a fault."""


@dataclass(slots=True)
class Usage:
    """Token counts in the sandbox's terms: totals include their parts."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    """Including reasoning."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(slots=True)
class Reply:
    """One answer, in the pieces of a stream; a piece is a token."""

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
    """A stream as encoded server-sent events."""

    head: list[bytes]
    """Before the first content."""
    content: list[bytes]
    tail: list[bytes]
    """The regular end: finish reason, usage, end marker."""
    usage: list[int] = field(default_factory=list)
    """The indexes of the tail's items that contain usage."""
