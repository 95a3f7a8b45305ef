"""Tools: typed async functions that a model may call. Django-free.

    @tool
    async def add(a: int, b: int) -> str:
        '''Add two whole numbers.'''
        return str(a + b)

    @tool(access="writes")
    async def note(text: str) -> str: ...

The signature becomes the JSON Schema, the docstring the description. Arguments are validated before the function runs.
A tool that writes, or has ``approve=True`` because it spends, is called only after the user has approved that call.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from llm_credentials.providers import ToolDefinition

Access: TypeAlias = Literal["reads", "writes", "network"]
"""Effect of a tool: reads the user's own data, changes something, or accesses the network."""


class ToolError(Exception):
    """Raised by a tool; the text goes to the model, so it should say what to do differently."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    definition: ToolDefinition
    function: Callable[..., Awaitable[str]]
    arguments_model: type[BaseModel] | None = None
    """None: the function validates its arguments itself."""
    access: Access = "reads"
    approve: bool = False

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def needs_approval(self) -> bool:
        return self.approve or self.access == "writes"

    def fits(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments would reach the function."""
        try:
            self._checked(arguments)
        except ToolError:
            return False
        return True

    async def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Raises ToolError for invalid arguments."""
        return await self.function(**self._checked(arguments))

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self.arguments_model is None:
            return dict(arguments)
        try:
            checked = self.arguments_model.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(f"The arguments do not fit: {faults(error)}") from None
        return {name: getattr(checked, name) for name in type(checked).model_fields}


@overload
def tool(function: Callable[..., Awaitable[str]], /) -> Tool: ...
@overload
def tool(*, access: Access = "reads", approve: bool = False) -> Callable[[Callable[..., Awaitable[str]]], Tool]: ...
def tool(
    function: Callable[..., Awaitable[str]] | None = None, /, *, access: Access = "reads", approve: bool = False
) -> Tool | Callable[[Callable[..., Awaitable[str]]], Tool]:
    """Make a Tool from a typed async function. Raises TypeError without a docstring or with an untyped parameter."""
    if function is not None:
        return _tool(function, access, approve)
    return lambda decorated: _tool(decorated, access, approve)


def _tool(function: Callable[..., Awaitable[str]], access: Access, approve: bool) -> Tool:
    name = function.__name__
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"the tool {name} must be an async function")
    description = inspect.getdoc(function)
    if not description:
        raise TypeError(f"the tool {name} needs a docstring: it tells the model when to use it")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints:
            raise TypeError(f"the parameter {parameter.name} of the tool {name} needs a type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    model = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    schema = model.model_json_schema()
    schema.pop("title", None)
    definition = ToolDefinition(name=name, description=description, parameters=schema)
    return Tool(definition=definition, function=function, arguments_model=model, access=access, approve=approve)


def faults(error: ValidationError) -> str:
    """Which fields are invalid and why, without their values."""
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}" for fault in error.errors())
