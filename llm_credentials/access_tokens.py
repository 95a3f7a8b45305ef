"""Creates, authenticates and revokes access tokens; ``token_limits`` validates what they may do."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials.audit import Action, note, target_of
from llm_credentials.live import tokens
from llm_credentials.live.changes import user_changed
from llm_credentials.models import PersonalAccessToken
from llm_credentials.models.tokens import TOKEN_PREFIX
from llm_credentials.notices import Kind, notify
from llm_credentials.token_limits import ALL_SCOPES, token_check


@sensitive_variables()
def token_create(
    *,
    user: AbstractBaseUser,
    name: str = "",
    scopes: Collection[str] = ALL_SCOPES,
    expires_at: datetime | None = None,
    budget_usd: object = None,
    providers: Collection[str] = (),
    parent: PersonalAccessToken | None = None,
) -> tuple[PersonalAccessToken, str]:
    """Returns the row and the secret token, which cannot be read again. For ``parent`` see ``token_check``. Raises
    ValidationError.
    """
    draft = token_check(
        name=name, scopes=scopes, expires_at=expires_at, budget_usd=budget_usd, providers=providers, parent=parent
    )
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        if parent is not None:
            _still_there(parent)
        token = PersonalAccessToken.objects.create(
            user_id=user.pk,
            name=draft.name,
            prefix=secret[: tokens.PREFIX_LENGTH],
            hash=tokens.token_hash(secret),
            scopes=draft.scopes,
            expires_at=draft.expires_at,
            budget_usd=draft.budget_usd,
            providers=draft.providers,
            made_with=None if parent is None else parent.pk,
        )
        note(action=Action.TOKEN_CREATE, subject=str(user.pk), target=target_of("token", token.pk))
        expires = date_format(token.expires_at) if token.expires_at else ""
        notify(user.pk, Kind.TOKEN_MADE, **token_facts(token), scopes=", ".join(token.scopes), expires=expires)
    return token, TOKEN_PREFIX + secret


token_authenticate = tokens.authenticate


def token_revoke(*, user: AbstractBaseUser, token_id: UUID | str) -> None:
    """Also revokes the tokens made with it, because its holder may have them. Idempotent. Raises
    PersonalAccessToken.DoesNotExist.
    """
    try:
        wanted = UUID(str(token_id))
    except ValueError:
        raise PersonalAccessToken.DoesNotExist from None
    found = PersonalAccessToken.objects.for_user(user).filter(pk=wanted)
    with transaction.atomic():
        if found.filter(revoked_at__isnull=True).update(revoked_at=timezone.now()):
            user_changed(user.pk, noted=True)
            note(action=Action.TOKEN_REVOKE, subject=str(user.pk), target=target_of("token", wanted))
            notify(user.pk, Kind.TOKEN_REVOKED, **token_facts(found.get()))
        elif not found.exists():
            raise PersonalAccessToken.DoesNotExist
        made = PersonalAccessToken.objects.for_user(user).filter(made_with=wanted, revoked_at__isnull=True)
        for made_id in made.values_list("pk", flat=True):
            token_revoke(user=user, token_id=made_id)


def _still_there(parent: PersonalAccessToken) -> None:
    """Locks the parent until the new token is committed, so that a concurrent revocation finds both. Raises
    ValidationError.
    """
    rows = PersonalAccessToken.objects.filter(user_id=parent.user_id, pk=parent.pk, revoked_at__isnull=True)
    if rows.select_for_update(no_key=True).first() is None:
        raise ValidationError({"scopes": [_("The token that asks for this one was revoked.")]})


def token_facts(token: PersonalAccessToken) -> dict[str, str]:
    return {"token": TOKEN_PREFIX + token.prefix, "name": token.name}
