"""The local sandbox: available as a provider only if the site sets its address."""

from __future__ import annotations

from llm_credentials.providers.sandbox.models import MODELS
from llm_credentials.providers.spec import EMBEDS, THINKS, ProviderSpec

SPECS = (
    ProviderSpec(
        slug="sandbox",
        label="Sandbox",
        client="llm_credentials.providers.adapters._chat.client:ChatCompletionsClient",
        base_url=None,
        site_address_setting="SANDBOX_URL",
        base_url_editable=False,
        description="A local server that speaks like a provider and costs nothing. No model stands behind it.",
        best_for="Trying Keyswitch, tests and demonstrations",
        cost="free_tier",
        speed="very_fast",
        free_tier=True,
        key_hint="sbx-good-…",
        key_prefixes=("sbx-",),
        self_hosted=True,
        models=MODELS,
        default_model="sandbox-chat",
        cheapest_model="sandbox-fast",
        default_embedding_model="sandbox-embed",
        capabilities=THINKS | EMBEDS,
        hue=45,
        dialect={"embedding_models": ("sandbox-embed",)},
    ),
)
