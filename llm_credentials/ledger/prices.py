"""Computes the cost of calls from the dated, tiered prices of genai-prices; no network, no database.

An unknown price is None, never zero. A self-hosted model costs nothing per call.
"""

from __future__ import annotations

from bisect import bisect_left
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
"""The precision of the ledger's columns."""


@dataclass(frozen=True, slots=True)
class Price:
    usd: Decimal | None
    source: str = ""
    """Where the price comes from; empty if unknown."""


UNKNOWN = Price(None)


def cost(spec: ProviderSpec, model: str, usage: Usage, at: datetime) -> Price:
    """The price of this usage at that time. Unknown if the model is, or if a token count is missing.

    Input includes cached tokens and output includes reasoning: each token is priced once.
    """
    if usage.input_tokens is None or usage.output_tokens is None:
        return UNKNOWN
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return _price(
        spec.price_provider,
        spec.self_hosted,
        model,
        at,
        # If a provider counts cached tokens beside the input, their sum exceeds the input.
        input_tokens=max(usage.input_tokens, cached),
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def worst(spec: ProviderSpec, model: str, input_tokens: int, output_tokens: int, at: datetime) -> Price:
    """The most that a call may cost: no cache reads, and all input written to the cache if that costs more."""
    return _price(
        spec.price_provider,
        spec.self_hosted,
        model,
        at,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        all_written=True,
    )


def per_million_usd(spec: ProviderSpec, model: str, day: int) -> Decimal | None:
    """Blends three parts input and one part output, to compare models. ``day``: its ordinal, since prices are dated."""
    return _per_million_usd(spec.slug, spec.price_provider, spec.self_hosted, model, day)


@lru_cache(maxsize=2048)
def _per_million_usd(slug: str, price_provider: str, self_hosted: bool, model: str, day: int) -> Decimal | None:
    at = datetime.fromordinal(day).replace(hour=12, tzinfo=UTC)
    return _price(price_provider, self_hosted, model, at, input_tokens=750_000, output_tokens=250_000).usd


def listed_usd(spec: ProviderSpec, model: str, day: int) -> tuple[Decimal | None, Decimal | None]:
    """USD per million (input tokens, output tokens), at the rates for short prompts."""
    at = datetime.fromordinal(day).replace(hour=12, tzinfo=UTC)
    where = spec.price_provider, spec.self_hosted, model, at
    asked, answered = (_price(*where, input_tokens=tokens, output_tokens=1000 - tokens).usd for tokens in (1000, 0))
    return (None if asked is None else asked * 1000), (None if answered is None else answered * 1000)


def _price(
    price_provider: str,
    self_hosted: bool,
    model: str,
    at: datetime,
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read_tokens: int | None = None,
    cache_write_tokens: int | None = None,
    all_written: bool = False,
) -> Price:
    """``all_written``: price the input as cache writes if that costs more."""
    if self_hosted:
        return Price(Decimal(0), SELF_HOSTED)
    if not price_provider:
        return UNKNOWN
    tariff = _tariff(price_provider, model, int(at.timestamp()) // 60)
    if tariff is None:
        return UNKNOWN
    rates = tariff.rates[bisect_left(tariff.starts, input_tokens)]
    read, written = cache_read_tokens or 0, cache_write_tokens or 0
    if all_written and rates.cache_write > rates.input:
        written = input_tokens
    total = rates.input * (input_tokens - read - written) + rates.output * output_tokens
    if read or written:
        total += rates.cache_read * read + rates.cache_write * written
    return Price(total.quantize(_PLACES), tariff.source)


@dataclass(frozen=True, slots=True)
class _Rates:
    """USD per token."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal


@dataclass(frozen=True, slots=True)
class _Tariff:
    starts: tuple[int, ...]
    """Input token counts above which the next rates apply."""
    rates: tuple[_Rates, ...]
    source: str


@lru_cache(maxsize=4096)
def _tariff(price_provider: str, model: str, minute: int) -> _Tariff | None:
    """A model's prices in that minute since the epoch; None if unknown.

    Looking up a price takes longer than the rest of the ledger's work; within a tier the price per token is constant.
    """
    # Loading the prices is slow, and the settings pages need none.
    import genai_prices
    from genai_prices.types import TieredPrices

    at = datetime.fromtimestamp(minute * 60, UTC)

    def usd(**tokens: int) -> Decimal:
        usage: PricedUsage = genai_prices.Usage(**tokens)
        found = genai_prices.calc_price(usage, model, provider_id=price_provider, genai_request_timestamp=at)
        return Decimal(found.total_price)

    def rates(many: int) -> _Rates:
        """The rates for this many input tokens."""
        plain = usd(input_tokens=many, output_tokens=0)
        return _Rates(
            input=plain / many,
            output=(usd(input_tokens=many, output_tokens=many) - plain) / many,
            cache_read=usd(input_tokens=many, output_tokens=0, cache_read_tokens=many) / many,
            cache_write=usd(input_tokens=many, output_tokens=0, cache_write_tokens=many) / many,
        )

    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1, output_tokens=1),
            model,
            provider_id=price_provider,
            genai_request_timestamp=at,
        )
        tiered = [price for price in vars(found.model_price).values() if isinstance(price, TieredPrices)]
        starts = tuple(sorted({tier.start for price in tiered for tier in price.tiers} - {0}))
        each = tuple(rates(many) for many in (*starts, (starts[-1] if starts else 0) + 1_000_000))
    except (LookupError, ValueError):
        return None
    return _Tariff(starts, each, f"genai-prices {genai_prices.__version__}")
