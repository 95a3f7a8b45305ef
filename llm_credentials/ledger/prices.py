"""What a call costs, by the dated and tiered prices of genai-prices; no network, no database.

An unknown price is None and never zero. What a site hosts itself costs nothing per call.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from llm_credentials.providers import ProviderSpec, Usage

if TYPE_CHECKING:
    from genai_prices import Usage as PricedUsage

SELF_HOSTED = "self-hosted"
_PLACES = Decimal("0.00000001")
"""What the ledger's columns hold."""


@dataclass(frozen=True, slots=True)
class Price:
    usd: Decimal | None
    source: str = ""
    """Where the price comes from; empty when it is unknown."""


UNKNOWN = Price(None)


def cost(spec: ProviderSpec, model: str, usage: Usage, at: datetime) -> Price:
    """The price of this usage at that time. Unknown when the model is, or when a token count is missing.

    Cached tokens are a part of the input and reasoning is a part of the output: each token is priced once.
    """
    if usage.input_tokens is None or usage.output_tokens is None:
        return UNKNOWN
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return _price(
        spec.price_provider,
        spec.self_hosted,
        model,
        at,
        # A provider that counts its cache beside the input says so by a sum that is too large.
        input_tokens=max(usage.input_tokens, cached),
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def worst(spec: ProviderSpec, model: str, input_tokens: int, output_tokens: int, at: datetime) -> Price:
    """The most that a call may cost: nothing read from the cache, everything written to it where that costs more."""
    where = spec.price_provider, spec.self_hosted
    plain = _price(*where, model, at, input_tokens=input_tokens, output_tokens=output_tokens)
    if not plain.usd:
        return plain
    written = _price(
        *where, model, at, input_tokens=input_tokens, output_tokens=output_tokens, cache_write_tokens=input_tokens
    )
    return written if written.usd is not None and written.usd > plain.usd else plain


def per_million_usd(spec: ProviderSpec, model: str, day: int) -> Decimal | None:
    """Of three parts input and one part output, for comparing models. ``day``: its ordinal, since prices are dated."""
    return _per_million_usd(spec.slug, spec.price_provider, spec.self_hosted, model, day)


@lru_cache(maxsize=2048)
def _per_million_usd(slug: str, price_provider: str, self_hosted: bool, model: str, day: int) -> Decimal | None:
    at = datetime.fromordinal(day).replace(hour=12, tzinfo=UTC)
    return _price(price_provider, self_hosted, model, at, input_tokens=750_000, output_tokens=250_000).usd


def _price(price_provider: str, self_hosted: bool, model: str, at: datetime, **tokens: int | None) -> Price:
    if self_hosted:
        return Price(Decimal(0), SELF_HOSTED)
    if not price_provider:
        return UNKNOWN
    # Loading the prices takes a moment, and the settings pages need none.
    import genai_prices

    usage: PricedUsage = genai_prices.Usage(**tokens)
    try:
        found = genai_prices.calc_price(usage, model, provider_id=price_provider, genai_request_timestamp=at)
    except (LookupError, ValueError):
        return UNKNOWN
    return Price(found.total_price.quantize(_PLACES), f"genai-prices {genai_prices.__version__}")
