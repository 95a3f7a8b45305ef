"""A request in our types, whatever its wire format, and the errors for malformed requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError

from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    RequestRejected,
    ToolDefinition,
    ToolResult,
    UnsupportedContent,
)

Shape = TypeVar("Shape", bound="WireShape")


class InvalidRequest(RequestRejected):
    """The request is malformed. ``param`` is the path to the fault, such as ``messages.0.role``."""

    def __init__(self, message: str = "", *, param: str | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.param = param


class Unspoken(UnsupportedContent):
    """The request uses a feature of its wire format that the provider's format lacks. ``param``: the feature."""

    def __init__(self, message: str = "", *, param: str | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.param = param


class WireShape(BaseModel):
    """A part of a request as its wire has it. What we do not know is left alone: wires grow."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


OTHER: Final = "other"


def by_type(*known: str) -> Discriminator:
    """Chooses a shape by ``type``; ``OTHER`` for an unknown type, which a provider of this format may know."""

    def kind(value: object) -> str | None:
        found = value.get("type") if isinstance(value, Mapping) else None
        return (found if found in known else OTHER) if isinstance(found, str) else None

    return Discriminator(kind, custom_error_type="no_type", custom_error_message="Say of what type this is")


def read(shape: type[Shape], data: object) -> Shape:
    """Raises InvalidRequest, which names the fault and echoes no input."""
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        # For a union, report the error of the alternative that matched most deeply.
        worst = max(error.errors(include_input=False, include_url=False), key=lambda each: len(each["loc"]))
        path = _path(worst["loc"], data)
        raise InvalidRequest(f"{path or 'The body'}: {worst['msg']}.", param=path or None) from None


def _path(location: Sequence[int | str], data: object) -> str:
    """The parts of the location that exist in the request; pydantic's location also names the shapes it tried."""
    pieces = []
    for place, piece in enumerate(location):
        try:
            data = data[piece]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            # A missing field is the last part.
            if not isinstance(data, Mapping) or place < len(location) - 1:
                continue
        pieces.append(str(piece))
    return ".".join(pieces)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request to a model. ``None``: not specified."""

    messages: Sequence[LLMMessage]
    tools: Sequence[ToolDefinition] | None = None
    tool_choice: str | None = None
    response_schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] | None = None
    seed: int | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``complete()`` and ``stream()``, except the messages."""
        return {name: getattr(self, name) for name in _ARGUMENTS}


_ARGUMENTS = tuple(name for name in Asked.__slots__ if name != "messages")


@dataclass(slots=True)
class Conversation:
    """Collects messages; consecutive tool results become one message, as in our types."""

    messages: list[LLMMessage] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    """Tool names by call id."""

    def add(self, message: LLMMessage) -> None:
        self._names |= {call.id: call.name for call in message.tool_calls}
        last = self.messages[-1] if self.messages else None
        if message.role == "tool" and last is not None and last.role == "tool":
            self.messages[-1] = LLMMessage.tool((*last.tool_results, *message.tool_results))
        else:
            self.messages.append(message)

    def result(
        self, call_id: str, content: str, *, images: Iterable[ImagePart] = (), is_error: bool = False
    ) -> ToolResult:
        name = self._names.get(call_id, "")
        return ToolResult(call_id=call_id, name=name, content=content, is_error=is_error, images=tuple(images))
