"""Validates the limits of an access token, for page, API and command alike."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials.models import PersonalAccessToken
from llm_credentials.preferences import clean_budget
from llm_credentials.providers.registry import specs
from llm_credentials.validation import clean_provider

ALL_SCOPES: Final[tuple[str, ...]] = tuple(PersonalAccessToken.Scope.values)
NAME_LENGTH: Final = 100
LINE: Final = "^[^\\x00-\\x1f\\x7f-\\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"
"""A single-line name without invisible characters or ones that change text direction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDraft:
    """A validated token that is not created yet."""

    name: str
    scopes: list[str]
    expires_at: datetime | None
    budget_usd: Decimal | None
    providers: list[str]


def token_check(
    *,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None,
    budget_usd: object,
    providers: Collection[str],
    parent: PersonalAccessToken | None,
) -> TokenDraft:
    """``parent``: the token that requests the new one, whose limits the new one may not exceed; limits that are not
    given are taken from it. Raises ValidationError of ``{field: [text]}``.
    """
    if parent is not None:
        expires_at = expires_at or parent.expires_at
        budget_usd = parent.budget_usd if budget_usd is None else budget_usd
        providers = providers or parent.providers
    errors: dict[str, list[str]] = {}
    wanted = set() if isinstance(scopes, str) else set(scopes)
    if not wanted or not wanted <= set(ALL_SCOPES):
        errors["scopes"] = [_("Choose at least one of: %(value)s.") % {"value": ", ".join(ALL_SCOPES)}]
    if len(name) > NAME_LENGTH or not re.fullmatch(LINE, name):
        errors["name"] = [_("A name has at most %(length)s characters on one line.") % {"length": NAME_LENGTH}]
    if expires_at is not None and expires_at <= timezone.now():
        errors["expires_at"] = [_("The last day of a token lies in the future.")]
    budget, slugs = None, list[str]()
    try:
        budget = clean_budget(budget_usd)
    except ValidationError as error:
        errors["budget_usd"] = error.messages
    try:
        slugs = _known(providers)
    except ValidationError as error:
        errors["providers"] = error.messages
    draft = TokenDraft(
        name=name.strip(),
        scopes=[scope for scope in ALL_SCOPES if scope in wanted],
        expires_at=expires_at,
        budget_usd=budget,
        providers=slugs,
    )
    if parent is not None and not errors:
        errors = _beyond(draft, parent)
    if errors:
        raise ValidationError(errors)
    return draft


def _known(providers: Collection[str]) -> list[str]:
    """The known slugs, each once, in catalogue order."""
    wanted = {clean_provider(slug).slug for slug in providers}
    return [spec.slug for spec in specs() if spec.slug in wanted]


def _beyond(draft: TokenDraft, parent: PersonalAccessToken) -> dict[str, list[str]]:
    """Errors for each limit that exceeds the parent's."""
    errors: dict[str, list[str]] = {}
    if missing := [scope for scope in draft.scopes if not parent.allows(scope)]:
        errors["scopes"] = [_("This token has no scope %(value)s to hand on.") % {"value": ", ".join(missing)}]
    if foreign := [slug for slug in draft.providers if not parent.allows_provider(slug)]:
        errors["providers"] = [_("This token may not call %(value)s itself.") % {"value": ", ".join(foreign)}]
    if parent.budget_usd is not None and (draft.budget_usd is None or draft.budget_usd > parent.budget_usd):
        errors["budget_usd"] = [
            _("This token itself may spend $%(budget_usd)s a month.") % {"budget_usd": parent.budget_usd}
        ]
    if parent.expires_at is not None and (draft.expires_at is None or draft.expires_at > parent.expires_at):
        errors["expires_at"] = [_("This token itself expires before that.")]
    return errors


def limits_of(token: PersonalAccessToken) -> dict[str, Any]:
    """Its limits, as pages and the API show them."""
    return {name: getattr(token, name) for name in ("scopes", "providers", "budget_usd", "expires_at")}
