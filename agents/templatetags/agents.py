"""Formats answers, receipts and runs. ``{% load agents %}``."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django import template
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from agents import markdown as rendering
from agents.attachments import size_words
from agents.forms import WEEKDAYS
from agents.models import AgentRun, MessageState, RunState, StoredMessage
from agents.patching.files import fence_for
from agents.registry import UnknownAgent, get_agent
from agents.schedules import ScheduledRun
from agents.turns import Choice
from llm_credentials.providers import label_of, spec_or_none

register = template.Library()

OUTCOMES = {"ok": gettext_noop("answered"), "cancelled": gettext_noop("stopped")}
RUN_LOOK = {
    RunState.QUEUED: ("idle", gettext_noop("Queued")),
    RunState.RUNNING: ("active", gettext_noop("Running")),
    RunState.WAITING: ("attention", gettext_noop("Waits for you")),
    RunState.DONE: ("valid", gettext_noop("Done")),
    RunState.FAILED: ("broken", gettext_noop("Failed")),
    RunState.CANCELLED: ("idle", gettext_noop("Cancelled")),
}


@register.filter
def as_diff(text: str) -> str:
    """A diff as Markdown, for syntax highlighting."""
    fence = fence_for(text)
    return f"{fence}diff\n{text.removesuffix(chr(10))}\n{fence}"


@register.filter
def markdown(text: str) -> SafeString:
    return rendering.render(text)


@register.filter
def file_size(size_bytes: int) -> str:
    return size_words(size_bytes)


register.filter("provider_spec", spec_or_none)
register.filter("provider_label", label_of)


@register.filter
def agent_title(slug: str) -> str:
    try:
        return _(get_agent(slug).title)
    except UnknownAgent:
        return slug


@register.filter
def agent_icon(slug: str) -> str:
    try:
        return get_agent(slug).icon
    except UnknownAgent:
        return "agents"


@register.filter
def key_owner_words(owner: str | None) -> str:
    return {"user": _("your key"), "system": _("the organisation's key")}.get(owner or "", "")


@register.filter
def outcome_words(outcome: str) -> str:
    """``RateLimited`` → "rate limited"; the description of the error class."""
    if outcome in OUTCOMES:
        return _(OUTCOMES[outcome])
    return _(outcome_in_words(outcome))


def outcome_in_words(name: str) -> str:
    """``RateLimited`` → "rate limited"."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


@register.filter
def offered(choices: Iterable[Choice], answer: StoredMessage) -> list[Choice]:
    """Choices for another answer; preselects another provider than this answer's, else another model, if possible."""
    every = list(choices)
    gone = {(answer.receipt or {}).get("provider"), (answer.error or {}).get("provider")} - {None}
    first = next((one for one in every if one.value and one.value.partition(":")[0] not in gone), None)
    model = (answer.receipt or {}).get("model")
    if first is None:
        first = next((one for one in every if one.value and one.value.partition(":")[2] != model), None)
    if first is None or not gone or (answer.state == MessageState.STOPPED):
        return every
    return [replace(one, is_chosen=one is first) for one in every]


@register.filter
def total_tokens(receipt: dict[str, Any]) -> int | None:
    """Input and output together; None if the provider reported neither."""
    usage = receipt.get("usage") or {}
    known = [usage[name] for name in ("input_tokens", "output_tokens") if usage.get(name) is not None]
    return sum(known) if known else None


@register.filter
def run_look(run: AgentRun) -> tuple[str, str]:
    """Style and label of the state pill."""
    meaning, words = RUN_LOOK[RunState(run.state)]
    return meaning, _(words)


@register.filter
def wants_settings(error: dict[str, Any]) -> bool:
    """Whether the user can fix this error on the page with their keys."""
    return error["class"] in {
        "NotConfigured",
        "CredentialUnreadable",
        "AuthenticationFailed",
        "QuotaExhausted",
        "EgressBlocked",
    }


@register.filter
def argument_words(value: Any) -> str:
    """A tool call's argument in full, without invisible or direction-changing characters, for users to check."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(_visible(letter) for letter in text)


def _visible(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs", "Cn") and letter not in "\n\t"
    return f"\\u{ord(letter):04x}" if hidden else letter


@register.filter
def weekday_words(schedule: ScheduledRun) -> str:
    return str(dict(WEEKDAYS)[schedule.weekday])
