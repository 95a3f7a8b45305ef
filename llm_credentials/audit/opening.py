"""The audit event before every opening of a key, or of another sealed value that is used elsewhere."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from django.db import connection, transaction

from llm_credentials import keyring
from llm_credentials.audit.context import circumstances
from llm_credentials.audit.recording import record
from llm_credentials.audit.words import Action, target_of
from llm_credentials.models import EnvironmentCredential, KeyHolder
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers import CredentialUnreadable


def announce_opening(credential: KeyHolder | EnvironmentCredential, user_id: Any = None) -> None:
    """Record that this key is about to be opened for this user (None: the caller).

    Raises CredentialUnreadable without a usable key ring; AuditUnavailable when it cannot be written; RuntimeError
    inside a transaction, whose rollback would remove the event.
    """
    if not announce(Action.KEY_OPEN, subject=_owner_of(credential), target=_target_of(credential), user_id=user_id):
        raise CredentialUnreadable(provider=credential.provider)


def announce(action: Action, *, subject: str, target: str, user_id: Any = None) -> bool:
    """As above for any action. False without a usable key ring. Raises AuditUnavailable and RuntimeError."""
    actor = circumstances().actor or ("" if user_id is None else str(user_id))
    try:
        with transaction.atomic(durable=True) if connection.in_atomic_block else nullcontext():
            record(action=action, actor=actor, subject=subject, target=target)
    except keyring.KeyringError:
        return False
    return True


def _owner_of(credential: KeyHolder | EnvironmentCredential) -> str:
    return "system" if isinstance(credential, EnvironmentCredential) else credential.owner_ref()


def _target_of(credential: KeyHolder | EnvironmentCredential) -> str:
    match credential:
        case EnvironmentCredential():
            return target_of("environment", credential.provider)
        case LLMCredential():
            return target_of("credential", credential.provider, credential.pk)
        case _:
            return target_of("test", credential.provider, credential.pk)
