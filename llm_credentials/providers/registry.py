"""Finds all providers: each module of ``adapters`` may define a tuple ``SPECS``; nothing else lists providers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, cast

from llm_credentials.providers.spec import ProviderSpec

if TYPE_CHECKING:
    from llm_credentials.providers.client import LLMClient


class UnknownProvider(ValueError):
    """No provider of this site has this slug."""


def _no_site_address(setting: str) -> str:
    return ""


_site_address: Callable[[str], str] = _no_site_address


def use_site_addresses(lookup: Callable[[str], str]) -> None:
    """Set how the registry reads the setting for a provider whose address the site defines."""
    global _site_address
    _site_address = lookup


def site_address(spec: ProviderSpec) -> str:
    return _site_address(spec.site_address_setting) if spec.site_address_setting else ""


def collect(modules: Iterable[ModuleType]) -> MappingProxyType[str, ProviderSpec]:
    """The specs of these modules by slug. Raises ValueError if two share a slug."""
    found: dict[str, ProviderSpec] = {}
    for module in modules:
        for spec in cast("tuple[ProviderSpec, ...]", getattr(module, "SPECS", ())):
            if spec.slug in found:
                raise ValueError(f"two providers call themselves {spec.slug!r}")
            found[spec.slug] = spec
    return MappingProxyType(found)


@cache
def _all() -> MappingProxyType[str, ProviderSpec]:
    from llm_credentials.providers import adapters

    names = sorted(name for _, name, _ in pkgutil.iter_modules(adapters.__path__))
    return collect(importlib.import_module(f"{adapters.__name__}.{name}") for name in names)


def all_specs() -> tuple[ProviderSpec, ...]:
    """Every provider in the code, including those whose address this site has not set, ordered by label."""
    return tuple(sorted(_all().values(), key=lambda spec: spec.label.lower()))


def specs() -> tuple[ProviderSpec, ...]:
    """The providers of this site."""
    return tuple(spec for spec in all_specs() if not spec.site_address_setting or site_address(spec))


def get_spec(slug: str, *, address: str | None = None) -> ProviderSpec:
    """Raises UnknownProvider; also for a provider whose address the site has not set, unless ``address`` is given."""
    spec = _all().get(slug)
    if spec is None or (spec.site_address_setting and not (address or site_address(spec))):
        raise UnknownProvider(f"There is no provider called {str(slug)[:40]!r}.")
    return spec


def spec_or_none(slug: str) -> ProviderSpec | None:
    """As ``get_spec``; None for a provider that this site does not have, or no longer has."""
    try:
        return get_spec(slug)
    except UnknownProvider:
        return None


def label_of(slug: str) -> str:
    """The provider's name; the slug for one that this site does not have."""
    spec = spec_or_none(slug)
    return spec.label if spec else slug


def recognise(api_key: str) -> tuple[ProviderSpec, ...]:
    """The providers of this site whose key prefixes match; several if they share a prefix."""
    fits = [(len(shape), spec) for spec in specs() for shape in spec.key_shapes if api_key.startswith(shape)]
    longest = max((length for length, _ in fits), default=0)
    return tuple(spec for length, spec in fits if length == longest)


def provider_choices() -> list[tuple[str, str]]:
    return [(spec.slug, spec.label) for spec in specs()]


@cache
def client_class(path: str) -> type[LLMClient]:
    module, _, name = path.partition(":")
    return cast("type[LLMClient]", getattr(importlib.import_module(module), name))
