"""Opens provider keys for calls. Search-service keys are opened in ``search_keys``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from asgiref.sync import sync_to_async

from llm_credentials import client_cache, conf, egress
from llm_credentials.audit.opening import announce_opening
from llm_credentials.live import changes
from llm_credentials.models import EnvironmentCredential, KeyHolder, LLMCredential, SystemCredential, UserCredential
from llm_credentials.providers import LLMClient, build_client


async def open_client(
    credential: KeyHolder | EnvironmentCredential,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    user_id: Any = None,
) -> LLMClient:
    """A client that holds this credential's key. No other code opens a provider key for a call.

    The client is cached for later calls on this event loop with the same version of the credential, for at most
    ``client_cache.CLIENT_KEPT_S``. ``model`` and ``options`` override the stored ones; ``user_id``: on whose behalf it
    is opened. An audit event is committed before the key is opened. Raises CredentialUnreadable, EgressBlocked,
    RequestRejected, UnknownProvider; AuditUnavailable when the event cannot be written; RuntimeError inside a
    transaction.
    """
    name = model or credential.model or credential.spec.default_model
    allowed = await egress.apolicy()
    given = credential.options if options is None else options
    place = _place(credential, name, given, allowed.allow)
    if place is not None and (found := client_cache.find(place)) is not None:
        return found
    mark = changes.mark()
    await sync_to_async(announce_opening)(credential, user_id)
    client = build_client(
        credential.provider,
        api_key=credential.reveal() or None,
        model=name,
        base_url=credential.base_url or None,
        options=given,
        egress=allowed,
    )
    if place is not None and isinstance(credential, UserCredential | SystemCredential | EnvironmentCredential):
        client_cache.keep(place, client, credential, mark)
    return client


def _place(
    credential: KeyHolder | EnvironmentCredential, model: str, options: Mapping[str, Any], allow: Collection[str]
) -> tuple[Any, ...] | None:
    """The cache key; None for a credential without a version, such as an unsaved key under test."""
    if not isinstance(credential, LLMCredential | EnvironmentCredential):
        return None
    site_address = conf.site_address(credential.spec.site_address_setting)
    what = (type(credential).__name__, credential.provider, credential.pk, credential.version, credential.base_url)
    return (*what, model, tuple(sorted(options.items())) if options else (), site_address, allow)
