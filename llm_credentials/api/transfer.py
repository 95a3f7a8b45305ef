"""``/api/user/llm-transfer``: what the caller settled, out and in as a document; and keys in from a ``.env`` text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ninja import Router, Schema
from pydantic import Field

from llm_credentials import env_keys, transfer
from llm_credentials.api.auth import ApiRequest, only, require_proof
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.credentials import start_test
from llm_credentials.api.errors import REFUSALS
from llm_credentials.env_keys import MAX_CHARS, MAX_KEYS, EnvKey, Wish
from llm_credentials.models import UserCredential
from llm_credentials.transfer import Document

router = Router()

DryRun = Annotated[bool, Field(strict=True, description="Say what would become of it, and change nothing.")]


class SettingsImport(StrictSchema):
    document: Document
    dry_run: DryRun = False


class LineOut(Schema):
    what: str
    outcome: Literal["changed", "same", "missing", "refused"] = Field(
        description="`missing`: it is said of a key that the caller does not have."
    )
    words: str


class ImportOut(Schema):
    items: list[LineOut]
    count: int


@router.get("", response={200: Document, **REFUSALS}, url_name="settings_export", auth=only("read"))
def settings_export(request: ApiRequest) -> Document:
    """Settings, overrides of tasks, and what is said of each key; no key, and no id of this site."""
    return transfer.settings_export(request.user)


@router.post("", response={200: ImportOut, **REFUSALS}, url_name="settings_import", auth=only("credentials"))
def settings_import(request: ApiRequest, payload: SettingsImport) -> dict[str, Any]:
    """Settle what the document says, as far as it can be, and say of each thing what became of it."""
    lines = transfer.settings_import(user=request.user, document=payload.document, dry_run=payload.dry_run)
    items = [{"what": line.what, "outcome": line.outcome, "words": line.words} for line in lines]
    return {"items": items, "count": len(items)}


class Take(StrictSchema):
    variable: str = Field(max_length=100)
    provider: str = Field("", max_length=40, description="Empty: as its name or shape tells.")
    name: str = Field("", max_length=40, description="Empty: as proposed.")


class KeysImport(StrictSchema):
    text: str = Field(max_length=MAX_CHARS, description="As it stands in a `.env` file. It is kept nowhere.")
    dry_run: DryRun = False
    take: list[Take] | None = Field(
        None, max_length=MAX_KEYS, description="Null: every key that takes no other's place and is plainly somebody's."
    )


class EnvKeyOut(Schema):
    variable: str
    last4: str
    provider: str | None = Field(description="Null: its shape fits several, which are in `choices`.")
    name: str
    model: str
    base_url: str
    outcome: Literal["add", "replace", "same", "choose", "refused", "saved"]
    words: str
    choices: list[str]


class EnvKeyList(Schema):
    items: list[EnvKeyOut]
    count: int
    ignored: int = Field(description="Other variables in the text.")


@router.post("/keys", response={200: EnvKeyList, **REFUSALS}, url_name="keys_import", auth=only("credentials"))
def keys_import(request: ApiRequest, payload: KeysImport) -> dict[str, Any]:
    """Store keys out of the text, each by itself, and test them; or say what each would become."""
    wishes = None
    if payload.take is not None:
        wishes = {each.variable: Wish(provider=each.provider, name=each.name) for each in payload.take}
    if payload.dry_run:
        plan = env_keys.env_plan(user=request.user, text=payload.text, wishes=wishes)
    else:
        require_proof(request)
        plan = env_keys.env_import(user=request.user, text=payload.text, take=wishes)
        _test(request, plan.keys)
    return {"items": [_key_out(key) for key in plan.keys], "count": len(plan.keys), "ignored": plan.ignored}


def _test(request: ApiRequest, keys: tuple[EnvKey, ...]) -> None:
    stored = {(row.provider, row.name): row for row in UserCredential.objects.for_user(request.user)}
    for key in keys:
        if key.outcome == "saved" and key.spec is not None:
            start_test(request, stored[key.spec.slug, key.name])


def _key_out(key: EnvKey) -> dict[str, Any]:
    return {
        "variable": key.variable,
        "last4": key.masked.rpartition(" ")[2] if " " in key.masked else "",
        "provider": key.spec.slug if key.spec is not None else None,
        "name": key.name,
        "model": key.model,
        "base_url": key.base_url,
        "outcome": key.outcome,
        "words": key.words,
        "choices": [spec.slug for spec in key.choices],
    }
