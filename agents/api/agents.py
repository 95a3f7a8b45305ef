"""``/api/agents``: what there is, and a run of one of them."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse
from ninja import Router, Schema
from pydantic import Field

from agents import attachments, runs, supervisor
from agents.api.runs import begin
from agents.api.shared import ACTING, READING, WORKING, RunIn, RunOut, caller, in_words, run_out
from agents.base import Agent
from agents.registry import UnknownAgent, agents, get_agent
from agents.services import MAX_MESSAGE_CHARS, checked_text
from agents.views.answers import admit_run
from llm_credentials import limits
from llm_credentials.api.auth import ApiRequest, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.providers import LLMError, NotConfigured

router = Router()


class OptionOut(Schema):
    name: str
    label: str
    help: str
    required: bool
    initial: Any
    choices: list[str] | None = Field(description="The values that it takes; `null`: any.")


class AgentOut(Schema):
    slug: str
    title: str
    description: str
    examples: list[str]
    needs: list[str] = Field(description="What a model must be able to do.")
    weight: str
    options: list[OptionOut] = Field(description="What may be chosen beside the task.")


class AgentList(Schema):
    items: list[AgentOut]
    count: int


@router.get("", response={200: AgentList, **REFUSALS}, url_name="agent_list", auth=READING)
def agent_list(request: ApiRequest) -> dict[str, Any]:
    items = [_agent_out(agent) for agent in agents()]
    return {"items": items, "count": len(items)}


def _agent_out(agent: type[Agent]) -> AgentOut:
    plain = {name: getattr(agent, name) for name in ("slug", "title", "description", "weight")}
    fields = agent.form.base_fields if agent.form else {}
    options = [_option_out(name, field) for name, field in fields.items()]
    return AgentOut(**plain, examples=list(agent.examples), needs=sorted(agent.all_needs()), options=options)


def _option_out(name: str, field: Any) -> OptionOut:
    choices = getattr(field, "choices", None)
    return OptionOut(
        name=name,
        label=str(field.label or name),
        help=str(field.help_text),
        required=field.required,
        initial=field.initial,
        choices=None if choices is None else [str(value) for value, _label in choices],
    )


class PickIn(StrictSchema):
    text: str = Field(min_length=1, max_length=MAX_MESSAGE_CHARS)


class PickOut(Schema):
    agent: str
    title: str
    why: str = Field(description="Empty where the model could not decide.")
    receipt: dict[str, Any] | None


@router.post("/pick", response={200: PickOut, **WORKING}, url_name="agent_pick", auth=ACTING)
def agent_pick(
    request: ApiRequest, payload: PickIn, response: HttpResponse, idempotency_key: IdempotencyKey = None
) -> Any:
    """Which agent fits what you want to do, by a fast, cheap model. Nothing is started."""
    return once(request, idempotency_key, response, lambda: (200, _picked(request, payload)))


def _picked(request: ApiRequest, payload: PickIn) -> PickOut:
    text = checked_text(payload.text, field="text", user=caller(request))
    limits.admit("chat", request.user, token_id=token_id_of(request))
    try:
        picked = async_to_sync(supervisor.pick)(caller(request), text, token=request.token)
    except NotConfigured as error:
        raise ApiError(409, "not_configured", str(error)) from None
    except LLMError as error:
        raise ApiError(409, "not_answered", error.user_message) from None
    receipt = None if picked.receipt is None else picked.receipt.as_json()
    return PickOut(agent=picked.agent.slug, title=picked.agent.title, why=picked.why, receipt=receipt)


@router.post("/{agent}/runs", response={202: RunOut, **WORKING}, url_name="run_create", auth=ACTING)
def run_create(
    request: ApiRequest, agent: str, payload: RunIn, response: HttpResponse, idempotency_key: IdempotencyKey = None
) -> Any:
    """Start it in the background. A token's budget and providers hold for the run, and it ends with the token."""
    try:
        get_agent(agent)
    except UnknownAgent:
        raise Http404 from None

    def start() -> tuple[int, RunOut]:
        admit_run(caller(request), agent, payload.provider, payload.model)
        run = runs.run_create(
            user=caller(request),
            agent=agent,
            text=payload.input,
            conversation_id=payload.conversation,
            token_id=token_id_of(request),
            files=attachments.find(caller(request), payload.attachments),
            **payload.dict(include=set(runs.HOW)),
        )
        return 202, run_out(begin(run, is_new=True))

    with in_words():
        return once(request, idempotency_key, response, start)
