"""The one outbound door: egress policy, limits, deadlines, over one aiohttp session per policy and event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_credentials.providers.errors import EgressBlocked, LLMError

if TYPE_CHECKING:
    import httpx2

    from llm_credentials.providers.client import Forwarded


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where a key may travel beyond the public internet.

    ``allow``: ``"host:port"`` or ``"CIDR:port"`` entries that may be private; cloud metadata addresses never.
    """

    allow: Collection[str] = ()


def check_url(url: str, policy: EgressPolicy) -> str:
    """The URL, normalised, if its form is allowed. Raises EgressBlocked."""
    raise NotImplementedError


def http_client(policy: EgressPolicy) -> httpx2.AsyncClient:
    """What an SDK is given as its HTTP client: our session under the running event loop, shared, never to be closed."""
    raise NotImplementedError


async def read_json(response: httpx2.Response) -> Any:
    """The body as parsed JSON. Raises BadProviderResponse, ConnectionFailed."""
    raise NotImplementedError


def read_events(response: httpx2.Response, deadline: float) -> AsyncGenerator[list[tuple[str, bytes]], None]:
    """Server-sent events as they come, in batches of (event name, data). ``deadline`` is loop time."""
    raise NotImplementedError


async def forward(
    policy: EgressPolicy, url: str, headers: Mapping[str, str], body: bytes, *, stream: bool
) -> Forwarded:
    raise NotImplementedError


def refusal(error: BaseException) -> EgressBlocked | None:
    """Our own refusal to dial, looked for in the cause chain of what an SDK raised."""
    raise NotImplementedError


def network_error(error: BaseException) -> LLMError | None:
    """ConnectionFailed, DeadlineExceeded or BadProviderResponse for an error of the HTTP layer; None for anything else."""
    raise NotImplementedError
