"""The registry of agents: all Agent classes in the modules of ``agents.catalog``."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from agents import catalog
from agents.base import Agent
from llm_credentials.routing import kinds


class UnknownAgent(ValueError):
    """There is no agent with this slug."""


@cache
def agents() -> tuple[type[Agent], ...]:
    """Sorted by ``position``, then title. Raises ValueError if two share a slug."""
    found: dict[str, type[Agent]] = {}
    for module in pkgutil.iter_modules(catalog.__path__, f"{catalog.__name__}."):
        for value in vars(import_module(module.name)).values():
            if not (isinstance(value, type) and issubclass(value, Agent)) or value.__module__ != module.name:
                continue
            if value.slug in found:
                names = f"{found[value.slug].__name__} and {value.__name__}"
                raise ValueError(f"two agents share the slug {value.slug!r}: {names}")
            found[value.slug] = value
    return tuple(sorted(found.values(), key=lambda agent: (agent.position, agent.title)))


def get_agent(slug: str) -> type[Agent]:
    """Raises UnknownAgent."""
    for agent in agents():
        if agent.slug == slug:
            return agent
    raise UnknownAgent(f"There is no agent {slug!r}.")


def register_task_kinds() -> None:
    """Register each agent as a task with the router, so that users may choose a model for it."""
    for agent in agents():
        kinds.register(kinds.TaskKind(slug=agent.slug, label=agent.title, weight=agent.weight, needs=agent.all_needs()))
