"""A conversation as its page shows it: turns of question, tool calls and answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from agents.models import Conversation, StoredMessage
from agents.services import TURN, is_last_turn
from agents.versions import Versions, asked_in, turn_rows, versions_of
from llm_credentials.factory import Route, explain_route
from llm_credentials.models import UserCredential
from llm_credentials.policies import allows_own_key, policy_of
from llm_credentials.providers import ToolCall, ToolResult, spec_or_none

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True)
class ToolUse:
    call: ToolCall
    result: ToolResult | None


@dataclass(frozen=True)
class ShownStep:
    """An intermediate message with its tool calls."""

    text: str
    tools: list[ToolUse]


@dataclass
class ShownAnswer:
    answer: StoredMessage
    steps: list[ShownStep] = field(default_factory=list)
    is_last: bool = False
    """Only an answer of the last turn can be retried, continued or chosen."""
    is_alone: bool = True
    """Whether its question has no other answer."""


@dataclass
class ShownTurn:
    begin: int
    """Position of its question."""
    question: StoredMessage | None = None
    answers: list[ShownAnswer] = field(default_factory=list)
    is_last: bool = False
    is_aside: bool = False
    """Whether its question, or an earlier one, was edited since."""
    versions: Versions | None = None
    """Set if its question has several versions."""

    @property
    def shown(self) -> list[ShownAnswer]:
        """All answers while the user has to choose one, later the chosen one."""
        if self.is_last or self.is_aside:
            return self.answers
        return [one for one in self.answers if not one.answer.is_aside]

    @property
    def folded(self) -> list[ShownAnswer]:
        return [one for one in self.answers if one not in self.shown]


def conversation_turns(conversation: Conversation, most: int | None = None) -> tuple[list[ShownTurn], bool]:
    """The newest ``most`` active turns, and whether earlier ones are left out."""
    asked = asked_in(conversation)
    begins = [one.position for one in asked if not one.is_aside]
    shown = begins[-most:] if most else begins
    rows = turn_rows(conversation, shown).in_order()
    return shown_turns(rows, versions_of(asked)), len(shown) < len(begins)


def shown_turns(messages: Iterable[StoredMessage], versions: Mapping[int, Versions] = {}) -> list[ShownTurn]:
    turns: dict[int, ShownTurn] = {}
    steps: dict[tuple[int, int], list[ShownStep]] = {}
    rows = list(messages)
    results = {
        (row.position, row.variant): row.message.tool_results for row in rows if row.role not in ("user", "assistant")
    }
    for row in rows:
        begin = row.position - row.position % TURN
        turn = turns.setdefault(begin, ShownTurn(begin=begin))
        if row.position == begin:
            turn.question, turn.is_aside, turn.versions = row, row.is_aside, versions.get(begin)
        elif row.position == begin + TURN - 1:
            turn.answers.append(ShownAnswer(answer=row, steps=steps.get((begin, row.variant), [])))
        elif row.message.tool_calls:
            step = _shown_step(row, results.get((row.position + 1, row.variant), ()))
            steps.setdefault((begin, row.variant), []).append(step)
    found = [turns[begin] for begin in sorted(turns)]
    if found:
        found[-1].is_last = True
    for turn in found:
        for one in turn.answers:
            one.is_last, one.is_alone = turn.is_last, len(turn.answers) == 1
    return found


def _shown_step(row: StoredMessage, results: Iterable[ToolResult]) -> ShownStep:
    by_call = {result.call_id: result for result in results}
    return ShownStep(row.text, [ToolUse(call, by_call.get(call.id)) for call in row.message.tool_calls])


def turn_of(message: StoredMessage) -> ShownTurn:
    """The turn that this message belongs to."""
    begin = message.position - message.position % TURN
    rows = message.conversation.messages.filter(position__gte=begin, position__lt=begin + TURN).in_order()
    turn = shown_turns(rows, versions_of(asked_in(message.conversation)))[0]
    turn.is_last = is_last_turn(message)
    for one in turn.answers:
        one.is_last = turn.is_last
    return turn


def answer_of(message: StoredMessage) -> ShownAnswer:
    return next(one for one in turn_of(message).answers if one.answer.pk == message.pk)


@dataclass(frozen=True)
class Choice:
    """A provider and model, as an option of the composer."""

    value: str
    label: str
    is_chosen: bool


def choice_value(provider: str, model: str) -> str:
    return f"{provider}:{model}" if provider else ""


def choice_parts(value: str) -> tuple[str, str]:
    """Provider and model of a ``choice_value``; both empty for "automatic"."""
    provider, _, model = value.partition(":")
    return provider, model


def choices_for(user: User, conversation: Conversation | None = None) -> list[Choice]:
    """The user's order, then each active key with its model and the provider's usual ones, as far as the organisation's
    policy allows; also the conversation's choice, even if its key is gone.
    """
    policy = policy_of(user)
    chosen = choice_value(conversation.provider, conversation.model) if conversation else ""
    labels = {"": _("Automatic")}
    for credential in UserCredential.objects.for_user(user).active().in_order():
        spec = spec_or_none(credential.provider)
        if spec is None or not allows_own_key(policy, spec, base_url=credential.base_url):
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
