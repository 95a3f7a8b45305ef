from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import genai_prices
import pytest

from llm_credentials.ledger import prices
from llm_credentials.providers import ProviderSpec, Usage, specs

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _spec(price_provider: str = "anthropic", self_hosted: bool = False) -> ProviderSpec:
    return ProviderSpec(
        slug="some", label="Some", client="", base_url="", price_provider=price_provider, self_hosted=self_hosted
    )


def _usd(usage: Usage, model: str = "claude-sonnet-5-5") -> Decimal | None:
    return prices.cost(_spec(), model, usage, NOW).usd


def test_price_counts_input_and_output() -> None:
    """$2 and $10 a million tokens."""
    price = prices.cost(_spec(), "claude-sonnet-5-5", Usage(input_tokens=1000, output_tokens=500), NOW)
    assert price.usd == Decimal("0.007")
    assert price.source.startswith("genai-prices ")


def test_price_counts_cached_tokens_once() -> None:
    """1000 of input: 400 read from the cache at $0.10, 100 written to it at $2.50, the other 500 at $2 a million."""
    usage = Usage(input_tokens=1000, output_tokens=0, cache_read_tokens=400, cache_write_tokens=100)
    assert _usd(usage) == Decimal("0.00004") + Decimal("0.00025") + Decimal("0.001")


def test_price_counts_reasoning_as_output_and_once() -> None:
    usage = Usage(input_tokens=0, output_tokens=1000, reasoning_tokens=900)
    assert _usd(usage) == _usd(Usage(input_tokens=0, output_tokens=1000)) == Decimal("0.01")


def test_price_holds_when_the_cache_is_counted_beside_the_input() -> None:
    usage = Usage(input_tokens=10, output_tokens=0, cache_read_tokens=50)
    assert _usd(usage) == Decimal("0.000005")


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(input_tokens=10),
        Usage(output_tokens=10),
    ],
)
def test_price_of_unknown_tokens_is_unknown(usage: Usage) -> None:
    assert prices.cost(_spec(), "claude-sonnet-5-5", usage, NOW) == prices.UNKNOWN


@pytest.mark.parametrize("model", ["claude-nobody-knows", "", "ft:claude-sonnet-5-5:mine"])
def test_price_of_an_unknown_model_is_unknown(model: str) -> None:
    assert _usd(Usage(input_tokens=10, output_tokens=10), model) is None


def test_price_of_a_provider_without_prices_is_unknown() -> None:
    usage = Usage(input_tokens=10, output_tokens=10)
    assert prices.cost(_spec(price_provider=""), "gpt-4o", usage, NOW) == prices.UNKNOWN


def test_price_of_what_the_site_hosts_is_nothing() -> None:
    price = prices.cost(_spec("", self_hosted=True), "llama", Usage(input_tokens=10, output_tokens=10), NOW)
    assert price == prices.Price(Decimal(0), "self-hosted")


def test_price_has_tiers() -> None:
    """Past a threshold of input tokens the whole call costs more a token."""
    spec = _spec("openai")
    small = prices.cost(spec, "gpt-6.1-terra", Usage(input_tokens=100_000, output_tokens=0), NOW).usd
    large = prices.cost(spec, "gpt-6.1-terra", Usage(input_tokens=1_000_000, output_tokens=0), NOW).usd
    assert small is not None and large is not None
    assert large > small * 10


def test_price_is_that_of_its_day() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    before = prices.cost(_spec("openai"), "o3", usage, datetime(2025, 5, 1, tzinfo=UTC)).usd
    after = prices.cost(_spec("openai"), "o3", usage, NOW).usd
    assert (before, after) == (Decimal(10), Decimal(2))


def test_worst_case_is_never_below_the_cost() -> None:
    spec = _spec()
    worst = prices.worst(spec, "claude-sonnet-5-5", 1000, 500, NOW).usd
    assert worst == Decimal("0.0075"), "all of the input written to the cache"
    for read in (0, 1000):
        usage = Usage(input_tokens=1000, output_tokens=500, cache_read_tokens=read)
        actual = prices.cost(spec, "claude-sonnet-5-5", usage, NOW).usd
        assert actual is not None and actual <= worst


def test_price_of_every_default_model_is_known_where_the_provider_has_prices() -> None:
    today = date(2026, 11, 1).toordinal()
    unknown = [
        (spec.slug, model)
        for spec in specs()
        for model in (spec.default_model, spec.cheapest_model)
        if spec.price_provider and model and prices.per_million_usd(spec, model, today) is None
    ]
    # Azure's model names are deployments: whoever made them chose them.
    assert [pair for pair in unknown if pair[0] != "azure_openai"] == []


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("anthropic", "claude-sonnet-5-5"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("google", "gemini-2.5-flash"),
        ("deepseek", "deepseek-chat"),
        ("mistral", "mistral-large-latest"),
        ("groq", "llama-3.3-70b-versatile"),
    ],
)
@pytest.mark.parametrize("hour", [3, 17])
def test_price_is_what_the_library_says_at_every_size(provider: str, model: str, hour: int) -> None:
    """Rates are taken from it once a minute and tier; around a tier's edge and far above it they must still hold."""
    at = NOW.replace(hour=hour)
    for tokens in (0, 1, 127_999, 128_000, 128_001, 199_999, 200_000, 200_001, 272_000, 272_001, 900_000):
        for cached in (0, tokens // 3):
            usage = Usage(
                input_tokens=tokens, output_tokens=777, cache_read_tokens=cached, cache_write_tokens=tokens // 5
            )
            asked = genai_prices.Usage(
                input_tokens=tokens, output_tokens=777, cache_read_tokens=cached, cache_write_tokens=tokens // 5
            )
            said = genai_prices.calc_price(asked, model, provider_id=provider, genai_request_timestamp=at)
            assert prices.cost(_spec(provider), model, usage, at).usd == said.total_price.quantize(Decimal("1e-8"))
