"""The event that stands before every opening of a key."""

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
    """Write that this key is about to be opened for this user (None: for whoever calls).

    Raises CredentialUnreadable without a usable key ring; AuditUnavailable when it cannot be written;
    RuntimeError inside a transaction, which might take the event back.
    """
    actor = circumstances().actor or ("" if user_id is None else str(user_id))
    signed = True
    try:
        with transaction.atomic(durable=True) if connection.in_atomic_block else nullcontext():
            record(action=Action.KEY_OPEN, actor=actor, subject=_owner_of(credential), target=_target_of(credential))
    except keyring.KeyringError:
        signed = False
    # Raised after the handler, so that nothing hangs on the error as its context.
    if not signed:
        raise CredentialUnreadable(provider=credential.provider)


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
