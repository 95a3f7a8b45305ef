"""A conversation as its page shows it: turns of question, tool traffic and answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from agents.models import Conversation, StoredMessage
from agents.services import TURN
from llm_credentials.factory import Route, explain_route
from llm_credentials.models import UserCredential
from llm_credentials.policies import allows_own_key, policy_of
from llm_credentials.providers import ToolCall, ToolResult, UnknownProvider, get_spec

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True)
class ToolUse:
    call: ToolCall
    result: ToolResult | None


@dataclass(frozen=True)
class ShownStep:
    """What was said and called on the way to an answer."""

    text: str
    tools: list[ToolUse]


@dataclass
class ShownTurn:
    question: StoredMessage | None = None
    steps: list[ShownStep] = field(default_factory=list)
    answer: StoredMessage | None = None
    is_last: bool = False
    """Only the last answer can be asked for again."""


def shown_turns(messages: Iterable[StoredMessage]) -> list[ShownTurn]:
    turns: list[ShownTurn] = []
    rows = list(messages)
    for index, row in enumerate(rows):
        if row.role == "user" or not turns:
            turns.append(ShownTurn())
        turn = turns[-1]
        if row.role == "user":
            turn.question = row
        elif row.message.tool_calls:
            results = rows[index + 1].message.tool_results if index + 1 < len(rows) else ()
            turn.steps.append(_shown_step(row, results))
        elif row.role == "assistant":
            turn.answer = row
    if turns:
        turns[-1].is_last = True
    return turns


def _shown_step(row: StoredMessage, results: Iterable[ToolResult]) -> ShownStep:
    by_call = {result.call_id: result for result in results}
    return ShownStep(row.text, [ToolUse(call, by_call.get(call.id)) for call in row.message.tool_calls])


def turn_of(answer: StoredMessage) -> ShownTurn:
    """The turn that ends with this answer."""
    begin = answer.position - answer.position % TURN
    rows = answer.conversation.messages.filter(position__gte=begin, position__lte=answer.position).in_order()
    return shown_turns(rows)[-1]


@dataclass(frozen=True)
class Choice:
    """Who may answer, as an option of the composer."""

    value: str
    label: str
    is_chosen: bool


def choice_value(provider: str, model: str) -> str:
    return f"{provider}:{model}" if provider else ""


def choice_parts(value: str) -> tuple[str, str]:
    """Provider and model of a ``choice_value``; two empty ones for "automatic"."""
    provider, _, model = value.partition(":")
    return provider, model


def choices_for(user: User, conversation: Conversation | None = None) -> list[Choice]:
    """Their order, then each of their active keys with its model and its provider's usual ones, as far as the
    organisation's policy allows; the conversation's choice even if its key is gone."""
    policy = policy_of(user)
    chosen = choice_value(conversation.provider, conversation.model) if conversation else ""
    labels = {"": _("Automatic")}
    for credential in UserCredential.objects.for_user(user).active().in_order():
        try:
            spec = get_spec(credential.provider)
        except UnknownProvider:
            continue
        if not allows_own_key(policy, spec, base_url=credential.base_url):
            continue
        usual = dict.fromkeys([credential.model or spec.default_model, spec.default_model, spec.cheapest_model])
        for model in [name for name in usual if name] or [""]:
            if policy.allows_model(spec.slug, model) or not model:
                labels.setdefault(choice_value(spec.slug, model), f"{spec.label} · {model}" if model else spec.label)
    labels.setdefault(chosen, chosen.replace(":", " · ", 1))
    return [Choice(value, label, value == chosen) for value, label in labels.items()]


def route_of(user: User, conversation: Conversation) -> Route:
    """Where the next message would go; calls nothing."""
    return explain_route(
        user,
        task=conversation.agent,
        provider=conversation.provider or None,
        model=conversation.model or None,
    )
