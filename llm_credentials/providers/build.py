"""Builds a client from a key, a model and an address; what cannot be sent is rejected before anything is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from llm_credentials.providers import registry, transport
from llm_credentials.providers.errors import RequestRejected
from llm_credentials.providers.transport import EgressPolicy

if TYPE_CHECKING:
    from llm_credentials.providers.client import LLMClient
    from llm_credentials.providers.spec import ProviderSpec

MAX_KEY_LENGTH: Final = 8192


def build_client(
    provider: str,
    *,
    api_key: str | None,
    model: str,
    base_url: str | None = None,
    options: Mapping[str, Any] = {},
    egress: EgressPolicy = EgressPolicy(),  # noqa: B008 (a value)
) -> LLMClient:
    """A client for this key at this address. Does no I/O and reads no environment.

    Raises UnknownProvider for an unknown slug, RequestRejected for a missing or invalid key, address or option,
    EgressBlocked for an address whose form the policy refuses (names are resolved and checked when connecting).
    """
    spec = registry.get_spec(provider, address=base_url)
    key = (api_key or "").strip()
    if not key and spec.key_required:
        raise RequestRejected(f"{spec.label} needs a key.", provider=provider)
    if len(key) > MAX_KEY_LENGTH or any(not "!" <= character <= "~" for character in key):
        # Rejected here, because HTTP libraries quote a header that they cannot send in their error message.
        raise RequestRejected("The key has characters that no key has, or is too long.", provider=provider)
    address = base_url or registry.site_address(spec) or spec.base_url
    if not address:
        raise RequestRejected(f"{spec.label} needs an address.", provider=provider)
    client = registry.client_class(spec.client)
    checked = _checked_options(spec, options)
    return client(
        spec=spec,
        api_key=key or None,
        model=model,
        base_url=transport.check_url(client.normalise_base_url(address), egress),
        options=checked,
        egress=egress,
    )


def _checked_options(spec: ProviderSpec, options: Mapping[str, Any]) -> dict[str, str]:
    """A value for each field that the spec declares, "" if not given."""
    declared = {field.name: field for field in spec.options}
    if unknown := sorted(set(options) - set(declared)):
        raise RequestRejected(f"{spec.label} has no option {unknown[0][:40]!r}.", provider=spec.slug)
    checked = {name: str(options.get(name) or "").strip() or field.default for name, field in declared.items()}
    for name, value in checked.items():
        if declared[name].required and not value:
            raise RequestRejected(f"{spec.label} needs its {declared[name].label}.", provider=spec.slug)
    return checked
