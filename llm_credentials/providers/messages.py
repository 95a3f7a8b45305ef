"""The types in which every provider is spoken to.

Pure values: two messages with the same content are equal; identity is a storage concern. ``details`` maps a provider
slug to JSON that only this provider understands (signatures, reasoning items); it is sent back only to that provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from llm_credentials.providers.usage import Usage

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "other"]
ToolChoice: TypeAlias = str
"""``"auto"``, ``"none"``, ``"required"`` or the name of one tool."""
Embedded: TypeAlias = Sequence[str] | Sequence[Sequence[int]]
"""Texts; or the tokens of each, for providers that accept tokens."""
Details: TypeAlias = Mapping[str, Any]
Response = TypeVar("Response", bound="LLMResponse")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    text: str
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePart:
    """An image for the model: ``data``, the file's bytes, or ``url``, which the provider fetches, not we."""

    data: bytes | None = None
    url: str | None = None
    media_type: str | None = None
    """Such as ``image/png``; required with ``data``."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise ValueError("an image is given either as data or as a url")
        if self.data is not None and not self.media_type:
            raise ValueError("image data needs its media_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningPart:
    """The model's reasoning, if the provider shows it; its signature is in ``details``."""

    text: str
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]
    invalid_arguments: str | None = None
    """The model's arguments as text if they were not a JSON object; ``arguments`` is ``{}`` then."""
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    call_id: str
    name: str
    content: str
    is_error: bool = False
    images: tuple[ImagePart, ...] = ()
    """Images that the tool returned beside its text."""


Part: TypeAlias = TextPart | ImagePart | ReasoningPart | ToolCall | ToolResult


def _parts(content: str | Iterable[Part]) -> tuple[Part, ...]:
    return (TextPart(text=content),) if isinstance(content, str) else tuple(content)


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMMessage:
    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def system(cls, text: str) -> Self:
        return cls(role="system", parts=_parts(text))

    @classmethod
    def user(cls, content: str | Iterable[Part]) -> Self:
        return cls(role="user", parts=_parts(content))

    @classmethod
    def assistant(cls, content: str | Iterable[Part]) -> Self:
        return cls(role="assistant", parts=_parts(content))

    @classmethod
    def tool(cls, results: ToolResult | Iterable[ToolResult]) -> Self:
        return cls(role="tool", parts=(results,) if isinstance(results, ToolResult) else tuple(results))

    @property
    def text(self) -> str:
        """The text parts, joined; without reasoning, tool calls and results."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def reasoning(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, ReasoningPart))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolResult))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolDefinition:
    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments, an object schema."""


@dataclass(frozen=True, kw_only=True)
class LLMResponse:
    message: LLMMessage
    finish_reason: FinishReason
    usage: Usage
    provider: str
    model: str
    """The model that answered, as named by the provider; the requested one if it did not say."""
    request_id: str | None = None
    details: Details = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def reasoning(self) -> str:
        return self.message.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls


def widened(response: LLMResponse, kind: type[Response], **more: Any) -> Response:
    """The response converted to a subclass ``kind`` that has these additional fields."""
    made = object.__new__(kind)
    vars(made).update(vars(response), **more)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMStreamChunk:
    type: Literal["delta", "reasoning", "tool_call", "done"]
    text: str = ""
    """The new text, for ``delta`` and ``reasoning``."""
    tool_call: ToolCall | None = None
    """A complete, parsed call, for ``tool_call``."""
    response: LLMResponse | None = None
    """The complete answer, for ``done``, the last chunk."""

    is_only_counted: ClassVar[bool] = False
    """False: its text is kept, for the partial answer of a broken stream."""

    @property
    def has_content(self) -> bool:
        """Whether it contains something for the reader; before that, another candidate may still answer."""
        return bool(self.text or self.tool_call)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    vectors: list[list[float]]
    usage: Usage
    provider: str
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    id: str
    label: str
    context_window: int | None = None
    """Tokens; ``None`` if neither the provider nor the catalogue says."""
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A validated request in our types, before an adapter encodes it."""

    model: str
    messages: tuple[LLMMessage, ...]
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice | None = None
    response_schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


def system_text(messages: Sequence[LLMMessage]) -> str:
    """All system messages as one text, for wire formats that keep it apart from the conversation."""
    return "\n\n".join(message.text for message in messages if message.role == "system")
