"""Tools: typed async functions that a model may call. Django-free.

    @tool
    async def add(a: int, b: int) -> str:
        '''Add two whole numbers.'''
        return str(a + b)

The signature becomes the JSON Schema, the docstring the description. Arguments are validated before the function runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from llm_credentials.providers import ToolDefinition


class ToolError(Exception):
    """Raised by a tool; its text is given to the model, so it says what to do differently."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    definition: ToolDefinition
    function: Callable[..., Awaitable[str]]
    arguments_model: type[BaseModel]

    @property
    def name(self) -> str:
        return self.definition.name

    async def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Raises ToolError for arguments that do not fit."""
        try:
            checked = self.arguments_model.model_validate(arguments)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            raise ToolError(f"The arguments do not fit: {'; '.join(faults)}") from None
        return await self.function(**{name: getattr(checked, name) for name in type(checked).model_fields})


def tool(function: Callable[..., Awaitable[str]]) -> Tool:
    """The Tool for a typed async function. Raises TypeError for one without a docstring or with a parameter untyped."""
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
    return Tool(definition=definition, function=function, arguments_model=model)
