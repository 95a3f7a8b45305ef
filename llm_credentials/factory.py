"""The provider factory: gives agents and other callers a client for a user. It is their only access to keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID

from llm_credentials.models import PersonalAccessToken
from llm_credentials.opening import open_client
from llm_credentials.routed_client import RoutedClient, look
from llm_credentials.routing import health, kinds, snapshot_cache
from llm_credentials.routing.receipt import Attempt, Receipt, RoutedEmbeddings, RoutedResponse
from llm_credentials.routing.snapshot import Loaded, Person
from llm_credentials.routing.values import Request, Route
from llm_credentials.tripwire import Tripwire

__all__ = [
    "Attempt",
    "Receipt",
    "Route",
    "RoutedClient",
    "RoutedEmbeddings",
    "RoutedResponse",
    "client_for",
    "explain_route",
    "explain_routes",
    "open_client",
    "tripwire_for",
]


def client_for(
    user: Person,
    *,
    task: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    credential: UUID | None = None,
    needs: Collection[str] = (),
    fallback: bool = True,
    token: PersonalAccessToken | None = None,
) -> RoutedClient:
    """A client that calls with this user's keys, in the order of their settings. Does no I/O before its first await.

    ``needs``: any of tools, vision, json, embeddings. Without ``fallback`` only the named key or provider is tried
    (else the task's override, else the default provider). ``token``: the caller's access token; it limits providers and
    budget.
    """
    request = _request(task, provider, model, credential, needs, fallback)
    if token is not None and token.providers:
        request = replace(request, providers=frozenset(token.providers))
    return RoutedClient(user, request, token=token)


def explain_route(
    user: Person,
    *,
    task: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    needs: Collection[str] = (),
    without: Collection[str] = (),
) -> Route:
    """The route that a call would take now, and why each other key is excluded. Synchronous; decrypts nothing.

    ``without``: keys to treat as failed: ``system``, a provider, or ``provider:name``.
    """
    snapshot = snapshot_cache.load(user).snapshot if without else None
    failed = frozenset(ref for named in without for ref in snapshot.refs(named)) if snapshot else frozenset()
    _, route = look(user, replace(_request(task, provider, model, None, needs, True), without=failed))
    return route


def explain_routes(
    user: Person, tasks: Sequence[str | None], *, without: Collection[str] = ()
) -> tuple[Loaded, dict[str | None, Route]]:
    """Routes for several tasks (``None``: a call without a task), computed from the one snapshot that is returned with
    them.

    ``without``: keys to treat as failed, as ``Snapshot.refs`` names them; names without a key are ignored. Synchronous;
    decrypts nothing.
    """
    loaded = snapshot_cache.load(user)
    cooling = health.cooling(loaded.targets)
    failed = frozenset(ref for named in without for ref in loaded.snapshot.refs(named))
    requests = {task: replace(_request(task, None, None, None, (), True), without=failed) for task in tasks}
    return loaded, {task: loaded.route(request, cooling) for task, request in requests.items()}


def tripwire_for(user: Person) -> Tripwire:
    """Detects this user's and the site's keys in texts. Synchronous; decrypts nothing."""
    return snapshot_cache.load(user).tripwire


def _request(
    task: str | None,
    provider: str | None,
    model: str | None,
    credential: UUID | None,
    needs: Collection[str],
    fallback: bool,
) -> Request:
    kinds.check_needs(needs)
    kind = kinds.get(task) if task else None
    return Request(
        task=task,
        provider=provider or None,
        model=model or None,
        credential=UUID(credential) if isinstance(credential, str) else credential,
        needs=frozenset(needs) | frozenset(kind.needs if kind else ()),
        fallback=fallback,
        weight=kind.weight if kind else "normal",
    )
