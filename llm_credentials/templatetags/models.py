"""The list of models to choose from. ``{% load models %}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.connection_tests import ModelList
from llm_credentials.providers import ModelInfo, ProviderSpec
from llm_credentials.providers.spec import Cost, Speed
from llm_credentials.views.comparison import tokens_words

register = template.Library()

COST_LABELS: Final[Mapping[Cost, str]] = {
    "free_tier": gettext_noop("free tier"),
    "very_low": gettext_noop("very low cost"),
    "low": gettext_noop("low cost"),
    "medium": gettext_noop("medium cost"),
    "high": gettext_noop("high cost"),
}
SPEED_LABELS: Final[Mapping[Speed, str]] = {
    "very_fast": gettext_noop("very fast"),
    "fast": gettext_noop("fast"),
    "medium": gettext_noop("medium speed"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    id: str
    label: str
    badges: tuple[str, ...]
    """Cost, speed and context window, where known."""

    @property
    def search(self) -> str:
        """The searchable text."""
        return " ".join((self.id, self.label, *self.badges)).lower()


@register.simple_tag
def model_lines(models: ModelList | None, spec: ProviderSpec) -> list[Line]:
    return [_line(info, spec) for info in models.models] if models is not None else []


def _line(info: ModelInfo, spec: ProviderSpec) -> Line:
    facts = spec.model_facts(info.id)
    badges = [_(COST_LABELS[facts.cost]), _(SPEED_LABELS[facts.speed])] if facts is not None else []
    window = info.context_window or (facts.context_window if facts is not None else None)
    if window:
        badges.append(_("%(count)s tokens") % {"count": tokens_words(window)})
    return Line(id=info.id, label="" if info.label == info.id else info.label, badges=tuple(badges))


@register.simple_tag
def cost_words(cost: Cost) -> str:
    return _(COST_LABELS[cost])


@register.simple_tag
def speed_words(speed: Speed) -> str:
    return _(SPEED_LABELS[speed])
