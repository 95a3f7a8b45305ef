"""Django's command, which also collects texts from data: agents, tasks, providers, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.commands import makemessages

from agents.registry import agents
from agents.search.services import LOCAL_ONLY
from agents.templatetags.agents import outcome_in_words
from llm_credentials.providers import LLMError, registry
from llm_credentials.providers.search import SEARCH_SPECS
from llm_credentials.routing import kinds
from project.env import BASE_DIR

COLLECTED = BASE_DIR / "texts_in_data.py"
"""Exists while the command runs; pages show its texts through the filter ``translated``."""


class Command(makemessages.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        lines = [f"gettext({text!r})" for text in sorted(set(texts_in_data()))]
        COLLECTED.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            super().handle(*args, **options)
        finally:
            COLLECTED.unlink()


def texts_in_data() -> Iterator[str]:
    for agent in agents():
        yield from (agent.title, agent.description, *agent.examples)
    for kind in kinds.all():
        yield kind.label
    for spec in registry.all_specs():
        yield from filter(None, (spec.description, spec.best_for, spec.base_url_help))
        for option in spec.options:
            yield from filter(None, (option.label, option.help_text))
    for service in SEARCH_SPECS.values():
        yield service.key_hint
    yield LOCAL_ONLY
    yield from (LLMError.user_message, outcome_in_words(LLMError.__name__))
    for error in _below(LLMError):
        yield from (error.user_message, outcome_in_words(error.__name__))


def _below(error: type[LLMError]) -> Iterator[type[LLMError]]:
    for each in error.__subclasses__():
        yield each
        yield from _below(each)
