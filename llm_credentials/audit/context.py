"""The actor, origin and request or job of each event, kept in a context variable."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from allauth.account.adapter import get_adapter
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    actor: str = ""
    ip: str = ""
    request_id: str = ""
    channel: str = "python"
    token_id: UUID | None = None
    """Id of the access token used."""


@dataclass(frozen=True, slots=True)
class _OfRequest:
    """Evaluated when an event is written: by then the user is known, from session or token."""

    request: HttpRequest
    request_id: str

    def now(self) -> Circumstances:
        user: Any = getattr(self.request, "user", None)
        return Circumstances(
            actor=str(user.pk) if user is not None and user.is_authenticated else "",
            ip=network_of(self.request),
            request_id=self.request_id,
            channel="api" if self.request.path.startswith("/api/") else "page",
            token_id=self.token_id,
        )

    @property
    def token_id(self) -> UUID | None:
        token = getattr(self.request, "token", None)
        return None if token is None else token.pk


Source: TypeAlias = Circumstances | _OfRequest
# The bridge copies variables with this prefix to its own loop.
_source: ContextVar[Source | None] = ContextVar("audit_source", default=None)
_NOBODY = Circumstances()


def circumstances() -> Circumstances:
    source = _source.get()
    return source.now() if isinstance(source, _OfRequest) else source or _NOBODY


def token_id() -> UUID | None:
    """The access token in use; None without one."""
    source = _source.get()
    return None if source is None else source.token_id


def begin_request(request: HttpRequest, request_id: str) -> Token[Source | None]:
    return _source.set(_OfRequest(request, request_id[:64]))


def end_request(token: Token[Source | None]) -> None:
    _source.reset(token)


def begin_job(job_id: str) -> None:
    _source.set(Circumstances(request_id=job_id[:64], channel="job"))


def begin_call(*, actor: str, token_id: UUID, request_id: str) -> None:
    """For gateway requests. Each runs in a task of its own, so nothing needs to be reset."""
    _source.set(Circumstances(actor=actor, request_id=request_id[:64], channel="api", token_id=token_id))


def end_job() -> None:
    _source.set(None)


def address_now() -> str:
    """The caller's full address, shown to the owner and never stored in a row; empty outside requests."""
    source = _source.get()
    return _address_of(source.request) if isinstance(source, _OfRequest) else ""


@contextmanager
def acting(*, actor: str = "", ip: str = "", request_id: str = "", channel: str = "python") -> Iterator[None]:
    """For work that enters neither through Django's middleware nor as a Celery task."""
    token = _source.set(Circumstances(actor=actor, ip=network(ip), request_id=request_id[:64], channel=channel))
    try:
        yield
    finally:
        _source.reset(token)


def network_of(request: HttpRequest) -> str:
    return network(_address_of(request))


def _address_of(request: HttpRequest) -> str:
    try:
        return str(get_adapter().get_client_ip(request))
    except (PermissionDenied, ImproperlyConfigured):
        return ""


def network(ip: str) -> str:
    """``203.0.113.0/24``, ``2001:db8:1::/48``: tells locations apart without identifying a person. Empty for an invalid
    address.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))
