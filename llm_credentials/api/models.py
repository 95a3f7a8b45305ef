"""``/api/user/llm-credentials/available-models``: which models a key may use."""

from __future__ import annotations

from typing import Any

from ninja import Router, Schema
from pydantic import Field

from llm_credentials import connection_tests
from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.errors import REFUSALS, ErrorOut
from llm_credentials.api.schemas import CredentialFields
from llm_credentials.api.values import KeyName, Provider
from llm_credentials.connection_tests import ModelList
from llm_credentials.services import Draft

router = Router()


class AvailableModelOut(Schema):
    id: str
    label: str
    context_window: int | None
    capabilities: list[str]


class ModelListOut(Schema):
    items: list[AvailableModelOut]
    count: int
    source: str = Field(description="`provider`, or `catalogue` where the provider could not be asked.")


@router.get(
    "/available-models/{provider}", response={200: ModelListOut, **REFUSALS}, url_name="model_list", auth=only("read")
)
def model_list(request: ApiRequest, provider: Provider, name: KeyName = "default") -> dict[str, Any]:
    """What the stored key may use, as its provider lists it; without a stored key, what the catalogue knows."""
    return _models_out(connection_tests.models_available(user=request.user, provider=provider, name=name))


@router.post(
    "/available-models/{provider}",
    response={200: ModelListOut, **REFUSALS, 409: ErrorOut},
    url_name="model_list_unsaved",
    auth=only("credentials"),
)
def model_list_unsaved(
    request: ApiRequest, provider: Provider, payload: CredentialFields, name: KeyName = "default"
) -> dict[str, Any]:
    """The same for a key that is not saved: it goes in the body, for no address holds a key, and is kept nowhere."""
    return _models_out(
        connection_tests.models_available(
            user=request.user, provider=provider, name=name, unsaved=Draft(**payload.dict())
        )
    )


def _models_out(found: ModelList) -> dict[str, Any]:
    items = [
        {
            "id": info.id,
            "label": info.label,
            "context_window": info.context_window,
            "capabilities": sorted(info.capabilities),
        }
        for info in found.models
    ]
    return {"items": items, "count": len(items), "source": found.source}
