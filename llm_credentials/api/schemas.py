"""Credentials and their connection tests, as the API takes and gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.urls import reverse
from ninja import Schema
from pydantic import ConfigDict, Field

from llm_credentials.api.body import StrictSchema
from llm_credentials.api.values import (
    KEY_NAME,
    AddressOrNone,
    Flag,
    Key,
    Model,
    Options,
    Priority,
    Provider,
    Version,
)
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.providers.registry import specs


def _keyless() -> list[str]:
    return [spec.slug for spec in specs() if not spec.key_required]


def _needs_key(schema: dict[str, Any], name: str, unless: list[Any]) -> None:
    """Let the document say that a key goes along unless the field has one of these values."""
    key = {"type": "string", "pattern": "^[A-Za-z0-9][!-~]{7,199}$"}
    free = {"properties": {name: {"enum": unless}}}
    schema["anyOf"] = [free, {"required": ["api_key"], "properties": {"api_key": key}}]


class CredentialFields(StrictSchema):
    api_key: Key | None = Field(None, description="Left out or empty: the stored key stays.")
    model: Model | None = Field(None, max_length=200)
    base_url: AddressOrNone | None = None
    options: Options | None = None


class CredentialIn(CredentialFields):
    model_config = ConfigDict(json_schema_extra=lambda schema: _needs_key(schema, "provider", _keyless()))

    provider: Provider
    name: str = Field("default", json_schema_extra={"pattern": KEY_NAME})
    is_active: Flag | None = None
    priority: Priority | None = None


class CredentialChange(CredentialFields):
    model_config = ConfigDict(json_schema_extra=lambda schema: _needs_key(schema, "test_first", [False]))

    is_active: Flag | None = None
    priority: Priority | None = None
    version: Version | None = Field(None, description="Change it only if it is still this version; else 409.")
    test_first: Flag = Field(
        False,
        description="With a new `api_key`: test it, and put it with model, address and options into the place of the "
        "stored one only if it works. The answer is 202; `replacement` at its `status_url` says what became of it.",
    )


class CredentialOut(Schema):
    provider: str
    name: str
    last4: str
    model: str
    base_url: str
    is_active: bool
    is_default: bool
    priority: int
    status: str
    status_detail: str
    tested_at: datetime | None
    last_used_at: datetime | None
    request_count: int
    version: int


class CredentialList(Schema):
    items: list[CredentialOut]
    count: int


class AbilitiesOut(Schema):
    """What a key that works was found able to do, by asking its provider for it."""

    model: str = Field(description="With which this was tried.")
    results: dict[str, Literal["yes", "no", "unknown"]] = Field(
        description="Of auth, list, chat, stream, tools, json, vision and embeddings."
    )
    dimension: int | None = Field(description="Of its vectors; null: it has none.")


class TestOut(Schema):
    id: UUID
    provider: str
    name: str
    state: str
    steps: list[dict[str, str]]
    detail: str
    created_at: datetime
    finished_at: datetime | None
    abilities: AbilitiesOut | None = Field(None, description="What the key can do; null: it does not work, or not yet.")
    status_url: str
    replacement: str = Field(
        description="Of a new key for a stored one: `waiting`; `done`: it is in use; `kept`: it did not work, the old "
        "one stays; `conflict`: it works, but the stored key was changed meanwhile. Else empty."
    )
    save_url: str | None = Field(
        None, description="POST here to use the new key all the same, within 60 seconds after the test."
    )


class CredentialSaved(CredentialOut):
    test: TestOut | None = Field(None, description="The test that saving a new key started, if it could be started.")


def credential_out(credential: UserCredential, default: UserCredential | None) -> dict[str, Any]:
    names = [name for name in CredentialOut.model_fields if name not in ("is_default", "status", "status_detail")]
    return {name: getattr(credential, name) for name in names} | {
        "is_default": credential == default,
        "status": credential.shown_status,
        "status_detail": credential.shown_detail,
    }


def connection_test_out(test: ConnectionTest) -> dict[str, Any]:
    names = [name for name in TestOut.model_fields if not name.endswith("_url")]
    where = {"test_id": test.pk}
    return {name: getattr(test, name) for name in names} | {
        "abilities": test.abilities or None,
        "status_url": reverse("api:connection_test_get", kwargs=where),
        "save_url": reverse("api:replacement_save", kwargs=where) if test.can_be_saved else None,
    }
