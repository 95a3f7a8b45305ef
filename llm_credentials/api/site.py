"""``/api/settings/ai``: the models and keys that the site itself offers. For staff who may change the site's config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final

from django.http import HttpResponse
from ninja import Body, Router, Schema
from pydantic import Field

from llm_credentials import site_rows, site_settings
from llm_credentials.api.auth import ApiRequest, only, require_proof, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import EDITED, QUEUED, REFUSALS, ApiError, ErrorOut
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.api.preconditions import IfMatch, etag_of_version, held, seen
from llm_credentials.api.schemas import TestOut, connection_test_out
from llm_credentials.api.values import AddressOrNone, Flag, Key, Model, Provider, ProviderOrNone, Tokens
from llm_credentials.policies import may_change_site, may_see_site
from llm_credentials.preferences import MAX_TEMPERATURE
from llm_credentials.site_settings import SiteChoice, SiteSettings, Use
from llm_credentials.tasks import enqueue_connection_test

router = Router()

Temperature = Annotated[float, Field(strict=True, ge=0, le=MAX_TEMPERATURE)]


class ChoiceOut(Schema):
    provider: str | None = Field(description="Null: nothing is settled.")
    api_key_set: bool
    model: str = Field(description="Empty: the provider's default.")
    endpoint: str | None = Field(description="The address of the provider; null: its own.")


class CompletionsOut(ChoiceOut):
    max_tokens: int | None = Field(description="For calls that say nothing else; null: not settled here.")
    temperature: float | None


class EmbeddingsOut(ChoiceOut):
    same_key_as_completions: bool


class SupervisorOut(Schema):
    provider: str | None = Field(description="Null: left to the program.")
    model: str = Field(description="Empty: the provider's default.")


class SiteOut(Schema):
    completions: CompletionsOut
    embeddings: EmbeddingsOut


class KeyIn(StrictSchema):
    api_key: Key | None = Field(None, description="Left out, null or empty: the stored key is meant.")
    endpoint: AddressOrNone | None = Field(
        None, description="Null or empty: the provider's own. A new one needs the key again."
    )


class CompletionsIn(KeyIn):
    provider: Provider
    model: Model | None = Field(None, description="Left out: as it is; with another provider that provider's default.")
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None


class EmbeddingsIn(KeyIn):
    provider: Provider | None = Field(None, description="Left out: as it is.")
    model: Model | None = Field(None, description="Left out: as it is; with another provider that provider's default.")
    same_key_as_completions: Flag | None = Field(None, description="Left out: the key that is in use stays.")


class SupervisorIn(StrictSchema):
    provider: ProviderOrNone | None = Field(None, description="Null or empty: leave it to the program.")
    model: Model = ""


class ModelsIn(KeyIn):
    provider: Provider
    embeddings: Flag = Field(False, description="Only models that make embeddings.")


class TestIn(KeyIn):
    provider: Provider | None = Field(None, description="Left out: the one that is settled.")
    model: Model | None = None
    embeddings: Flag = Field(False, description="Ask for an embedding instead of an answer.")


STORED: Final = TestIn.model_validate({})
"""Of a request without a body."""


class ModelChoice(Schema):
    id: str
    display_name: str


def _may_see(request: ApiRequest) -> None:
    if not may_see_site(request.user):
        raise _forbidden()


def _may_change(request: ApiRequest) -> None:
    if not may_change_site(request.user):
        raise _forbidden()


def _forbidden() -> ApiError:
    return ApiError(403, "not_allowed", "This is for staff who may change the site's configuration.")


CHANGE: Final = only("credentials", also=_may_change)
SETTLED: Final[dict[int, Any]] = {200: SiteOut, **REFUSALS, **EDITED}


def _site_out(found: SiteSettings) -> dict[str, Any]:
    embeddings = _choice_out(found.embeddings) | {"same_key_as_completions": found.same_key}
    return {"completions": _choice_out(found.completions), "embeddings": embeddings}


def _supervisor_out(found: SiteSettings) -> dict[str, Any]:
    return {"provider": found.supervisor.provider or None, "model": found.supervisor.model}


def _tell_etag(response: HttpResponse) -> None:
    response["ETag"] = etag_of_version(site_rows.version())


def _settled(
    request: ApiRequest, response: HttpResponse, if_match: str | None, settle: Callable[..., SiteSettings], **typed: Any
) -> SiteSettings:
    require_proof(request)
    version = seen(if_match, site_rows.version())
    with held(if_match):
        found = settle(seen=version, **typed)
    _tell_etag(response)
    return found


def _choice_out(choice: SiteChoice) -> dict[str, Any]:
    return asdict(choice) | {"provider": choice.provider or None, "endpoint": choice.endpoint or None}


@router.get("", response={200: SiteOut, **REFUSALS}, url_name="site_get", auth=only("read", also=_may_see))
def site_get(request: ApiRequest, response: HttpResponse) -> dict[str, Any]:
    """What the site's completions and embeddings go with. Of keys only whether they are there.

    With an `ETag`, which a later change may send as `If-Match`.
    """
    _tell_etag(response)
    return _site_out(site_settings.read())


@router.put("/completions", response=SETTLED, url_name="site_completions_set", auth=CHANGE)
def site_completions_set(
    request: ApiRequest, payload: CompletionsIn, response: HttpResponse, if_match: IfMatch = None
) -> dict[str, Any]:
    """Settle what answers on the site's key. What is left out stays; another provider clears the model.

    With the header `If-Match` only if all is still as its `ETag` says.
    """
    typed = payload.dict(exclude_unset=True)
    return _site_out(_settled(request, response, if_match, site_settings.completions_set, **typed))


@router.put("/embeddings", response=SETTLED, url_name="site_embeddings_set", auth=CHANGE)
def site_embeddings_set(
    request: ApiRequest, payload: EmbeddingsIn, response: HttpResponse, if_match: IfMatch = None
) -> dict[str, Any]:
    """Settle what makes embeddings, with a key of their own or the completions'.

    With the header `If-Match` only if all is still as its `ETag` says.
    """
    typed = payload.dict(exclude_unset=True)
    return _site_out(_settled(request, response, if_match, site_settings.embeddings_set, **typed))


@router.get(
    "/supervisor",
    response={200: SupervisorOut, **REFUSALS},
    url_name="site_supervisor_get",
    auth=only("read", also=_may_see),
)
def site_supervisor_get(request: ApiRequest, response: HttpResponse) -> dict[str, Any]:
    """What picks the agent for a message."""
    _tell_etag(response)
    return _supervisor_out(site_settings.read())


@router.put(
    "/supervisor", response={200: SupervisorOut, **REFUSALS, **EDITED}, url_name="site_supervisor_set", auth=CHANGE
)
def site_supervisor_set(
    request: ApiRequest, payload: SupervisorIn, response: HttpResponse, if_match: IfMatch = None
) -> dict[str, Any]:
    """Settle what picks the agent for a message. With the header `If-Match` only if all is still as its `ETag` says."""
    typed = {"provider": payload.provider or "", "model": payload.model}
    return _supervisor_out(_settled(request, response, if_match, site_settings.supervisor_set, **typed))


@router.post(
    "/models",
    response={200: list[ModelChoice], **REFUSALS, 409: ErrorOut},
    url_name="site_models",
    auth=CHANGE,
)
def site_models(request: ApiRequest, payload: ModelsIn) -> list[dict[str, str]]:
    """What may be chosen with the site's key or an unsaved one; empty where the provider cannot list its models."""
    found = site_settings.models_for(user=request.user, use=_use(payload), **payload.dict(exclude={"embeddings"}))
    return [{"id": info.id, "display_name": info.label} for info in found]


@router.post(
    "/test",
    response={202: TestOut, **REFUSALS, **QUEUED},
    url_name="site_test",
    auth=CHANGE,
)
def site_test(
    request: ApiRequest,
    response: HttpResponse,
    payload: Annotated[TestIn, Body()] = STORED,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Test the site's key (no body), or an unsaved one. The answer comes at ``status_url``, for whoever asked."""

    def start() -> tuple[int, TestOut]:
        typed = payload.dict(exclude={"embeddings"})
        test = site_settings.test_begin(user=request.user, use=_use(payload), token_id=token_id_of(request), **typed)
        enqueue_connection_test(test)
        return 202, TestOut(**connection_test_out(test))

    return once(request, idempotency_key, response, start)


def _use(payload: ModelsIn | TestIn) -> Use:
    return "embeddings" if payload.embeddings else "completions"
