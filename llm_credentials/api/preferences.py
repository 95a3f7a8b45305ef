"""``/api/user/llm-settings``, ``…/task-overrides``, ``…/llm-routes``: what the caller settled, and where it leads."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from django.http import Http404, HttpResponse
from ninja import Query, Router, Schema
from pydantic import Field

from llm_credentials import services
from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError, ErrorOut
from llm_credentials.api.preconditions import IfMatch, etag_of_version, held, seen
from llm_credentials.api.values import Budget, Flag, KeyName, Model, ProviderOrNone, Task, Tokens
from llm_credentials.factory import explain_routes
from llm_credentials.models import LLMSettings, TaskOverride, UserCredential
from llm_credentials.routing import kinds
from llm_credentials.routing.values import Candidate, Dropped, Key, Route

router = Router()

Temperature = Annotated[float, Field(strict=True, ge=0, le=2)]
Strategy = Literal["priority", "cheapest", "fastest", "balanced"]


# Settings


class SettingsOut(Schema):
    default_provider: str = Field(description="Empty: the first of the caller's own keys, else the site's.")
    fallback_to_system: bool = Field(description="Whether the site's keys may stand behind the caller's own.")
    temperature: float | None
    max_tokens: int | None
    strategy: Strategy
    monthly_budget_usd: Decimal | None = Field(description="For the caller's own keys; null: none.")
    run_budget_usd: Decimal | None = Field(description="What one background run may cost at most; null: no limit.")
    budget_stops: bool = Field(description="Whether calls end when the budget is used up.")
    alerts: bool = Field(description="Whether the caller is told by mail of keys that go bad.")


def _unset(schema: dict[str, Any]) -> None:
    """The document says of no default what it would not take."""
    schema.pop("default", None)


class SettingsIn(StrictSchema):
    """What is left out stays as it is; null sets back what may be unset."""

    default_provider: ProviderOrNone | None = Field(None, max_length=40)
    fallback_to_system: Flag = Field(True, json_schema_extra=_unset)
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    strategy: Strategy = Field("priority", json_schema_extra=_unset)
    monthly_budget_usd: Budget | None = None
    run_budget_usd: Budget | None = None
    budget_stops: Flag = Field(True, json_schema_extra=_unset)
    alerts: Flag = Field(True, json_schema_extra=_unset)


@router.get("/llm-settings", response={200: SettingsOut, **REFUSALS}, url_name="settings_get", auth=only("read"))
def settings_get(request: ApiRequest, response: HttpResponse) -> LLMSettings:
    """With an `ETag`, which a later change may send as `If-Match`."""
    return _told(response, LLMSettings.of(request.user))


def _told(response: HttpResponse, settings: LLMSettings) -> LLMSettings:
    response["ETag"] = etag_of_version(services.version_of(settings))
    return settings


@router.patch(
    "/llm-settings",
    response={200: SettingsOut, **REFUSALS, 412: ErrorOut},
    url_name="settings_change",
    auth=only("credentials"),
)
def settings_change(
    request: ApiRequest, payload: SettingsIn, response: HttpResponse, if_match: IfMatch = None
) -> LLMSettings:
    """Change the settings that are named; with the header `If-Match` only if they are still those of its `ETag`."""
    version = seen(if_match, services.version_of(LLMSettings.of(request.user)))
    with held(if_match):
        changed = services.settings_update(user=request.user, seen=version, **payload.dict(exclude_unset=True))
    return _told(response, changed)


# Overrides


class OverrideFields(StrictSchema):
    provider: ProviderOrNone = Field("", max_length=40, description="Empty: as otherwise settled.")
    name: KeyName | None = Field(None, description="One key of the provider; null: any of them.")
    model: Model = Field("", max_length=200)
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    fallback_to_system: Flag | None = Field(None, description="Null: as the settings say.")


class OverrideOut(Schema):
    task: str
    provider: str = Field("", description="Empty: as otherwise settled.")
    name: str | None = None
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    fallback_to_system: bool | None = None


class OverrideList(Schema):
    items: list[OverrideOut]
    count: int


def _override_out(task: str, row: TaskOverride | None) -> dict[str, Any]:
    if row is None:
        return {"task": task}
    key = row.credential
    return {
        "task": task,
        "provider": key.provider if key else row.provider,
        "name": key.name if key else None,
        "model": row.model,
        "temperature": row.temperature,
        "max_tokens": row.max_tokens,
        "fallback_to_system": row.fallback_to_system,
    }


def _stored(request: ApiRequest, task: str) -> TaskOverride | None:
    rows = TaskOverride.objects.for_user(request.user).select_related("credential")
    # A NUL is in no row, but a database may refuse to look for it.
    return rows.filter(task=task).first() if kinds.get(task) else None


def _override(request: ApiRequest, task: str) -> TaskOverride:
    found = _stored(request, task)
    if found is None:
        raise Http404
    return found


def _tell_override(response: HttpResponse, row: TaskOverride | None) -> None:
    response["ETag"] = etag_of_version(services.version_of(row))


@router.get(
    "/task-overrides", response={200: OverrideList, **REFUSALS}, url_name="task_override_list", auth=only("read")
)
def task_override_list(request: ApiRequest) -> dict[str, Any]:
    """The tasks for which something is settled of their own."""
    rows = TaskOverride.objects.for_user(request.user).select_related("credential").order_by("task")
    items = [_override_out(row.task, row) for row in rows]
    return {"items": items, "count": len(items)}


@router.get(
    "/task-overrides/{task}", response={200: OverrideOut, **REFUSALS}, url_name="task_override_get", auth=only("read")
)
def task_override_get(request: ApiRequest, task: str, response: HttpResponse) -> dict[str, Any]:
    """With an `ETag`, which a later change may send as `If-Match`."""
    row = _override(request, task)
    _tell_override(response, row)
    return _override_out(task, row)


@router.put(
    "/task-overrides/{task}",
    response={200: OverrideOut, **REFUSALS, 412: ErrorOut},
    url_name="task_override_set",
    auth=only("credentials"),
)
def task_override_set(
    request: ApiRequest, task: str, payload: OverrideFields, response: HttpResponse, if_match: IfMatch = None
) -> dict[str, Any]:
    """Settle the task as a whole: what is left out is as otherwise settled. One that says nothing is none.

    With the header `If-Match` only if it is still the one of its `ETag`.
    """
    if kinds.get(task) is None:
        raise Http404
    before = _stored(request, task)
    version = seen(if_match, services.version_of(before), is_there=before is not None)
    typed = payload.dict()
    name = typed.pop("name")
    credential = None
    if name is not None:
        credential = _key_named(request, typed["provider"], name)
        typed["provider"] = ""
    with held(if_match):
        row = services.task_override_set(user=request.user, task=task, credential=credential, seen=version, **typed)
    _tell_override(response, row)
    return _override_out(task, row)


def _key_named(request: ApiRequest, provider: str, name: str) -> UUID:
    keys = UserCredential.objects.for_user(request.user)
    found = keys.filter(provider=provider, name=name).first() if "\0" not in provider + name else None
    if found is None:
        raise ApiError(404, "not_found", "You have no such key.", "body.name")
    return found.pk


@router.delete(
    "/task-overrides/{task}",
    response={204: None, **REFUSALS, 412: ErrorOut},
    url_name="task_override_delete",
    auth=only("credentials"),
)
def task_override_delete(request: ApiRequest, task: str, if_match: IfMatch = None) -> Any:
    """The task is settled as all others again; with the header `If-Match` only if it is still the one of its `ETag`."""
    version = seen(if_match, services.version_of(_override(request, task)))
    with held(if_match):
        services.task_override_delete(user=request.user, task=task, seen=version)
    return HttpResponse(status=204)


# Routes


class RouteStep(Schema):
    provider: str
    name: str = Field(description="Of the key.")
    key_owner: Literal["user", "system"]
    model: str = Field(description="Empty: there is none.")


class RouteCandidate(RouteStep):
    reason: str = Field(description="Why it is in the chain.")
    temperature: float | None = Field(description="Null: the caller's or the task's own default holds.")
    max_tokens: int | None


class RouteDropped(RouteStep):
    why: str = Field(description="For programs, such as `not_allowed`, `inactive` or `cooling_down`.")
    reason: str = Field(description="The same for people.")
    retry_after_s: float | None


class RouteOut(Schema):
    task: str | None = Field(description="Null: a call of no kind.")
    label: str | None
    weight: Literal["light", "normal", "heavy"]
    needs: list[str]
    problem: str = Field(description="Why there is no route at all; empty otherwise.")
    candidates: list[RouteCandidate] = Field(description="In the order in which they are asked.")
    dropped: list[RouteDropped] = Field(description="What is left out, and why.")


class RouteList(Schema):
    items: list[RouteOut]
    count: int


class RoutesIn(Schema):
    task: Task | None = Field(None, max_length=60, description="Only this kind of task.")
    without: str | None = Field(
        None, max_length=100, description="As if this had failed: a provider, `provider:name`, or `system`."
    )


ANY: Final = kinds.TaskKind("", "")
"""Of a call that names no task."""


@router.get("/llm-routes", response={200: RouteList, **REFUSALS}, url_name="route_list", auth=only("read"))
def route_list(request: ApiRequest, where: Query[RoutesIn]) -> dict[str, Any]:
    """Where calls would go now: for each kind of task, and for those of none. Calls nothing and opens no key."""
    if where.task is not None and kinds.get(where.task) is None:
        raise ApiError(422, "invalid_value", "There is no such task.", "query.task")
    tasks: list[str | None] = [where.task] if where.task else [None, *(kind.slug for kind in kinds.all())]
    without = [] if where.without is None else [where.without]
    loaded, routes = explain_routes(request.user, tasks, without=without)
    if not all(loaded.snapshot.refs(named) for named in without):
        raise ApiError(404, "not_found", "You have no such key.", "query.without")
    items = [_route_out(task, route) for task, route in routes.items()]
    return {"items": items, "count": len(items)}


def _route_out(task: str | None, route: Route) -> dict[str, Any]:
    kind = (kinds.get(task) if task else None) or ANY
    return {
        "task": task,
        "label": kind.label or None,
        "weight": kind.weight,
        "needs": sorted(kind.needs),
        "problem": route.problem,
        "candidates": [_candidate_out(each) for each in route.candidates],
        "dropped": [_dropped_out(each) for each in route.dropped],
    }


def _step_out(key: Key, model: str) -> dict[str, Any]:
    return {"provider": key.provider, "name": key.name, "key_owner": key.owner, "model": model}


def _candidate_out(each: Candidate) -> dict[str, Any]:
    settled = {"reason": each.reason, "temperature": each.temperature, "max_tokens": each.max_tokens}
    return _step_out(each.key, each.model) | settled


def _dropped_out(each: Dropped) -> dict[str, Any]:
    reason = {"why": each.why, "reason": each.words, "retry_after_s": each.retry_after_s}
    return _step_out(each.key, each.model) | reason
