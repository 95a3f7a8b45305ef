"""Ollama: models on the user's own machine, over the chat-completions wire format and without a key."""

from __future__ import annotations

from datetime import date

from llm_credentials.providers.adapters._chat.client import ChatCompletionsClient
from llm_credentials.providers.spec import EMBEDS, THINKS, ModelFacts, ProviderSpec

_LIBRARY = "https://ollama.com/library"
_AS_OF = date(2026, 11, 21)


class OllamaClient(ChatCompletionsClient):
    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        """Users paste the root that ``ollama serve`` prints; the API is under ``/v1``."""
        address = super().normalise_base_url(address)
        address = address.removesuffix("/api")
        return address if "/" in address.partition("://")[2] else f"{address}/v1"


SPECS = (
    ProviderSpec(
        slug="ollama",
        label="Ollama",
        client="llm_credentials.providers.adapters.ollama:OllamaClient",
        base_url="http://localhost:11434/v1",
        base_url_help="Where Ollama listens. The operator of this site must have allowed that address.",
        description="Open models on a machine of your own: no key, no bill, nothing leaves your network.",
        best_for="Privacy, and work without a connection",
        cost="free_tier",
        speed="medium",
        free_tier=True,
        docs_url="https://docs.ollama.com/api/openai-compatibility",
        key_required=False,
        self_hosted=True,
        models=(
            ModelFacts(
                id="gpt-oss:20b",
                label="gpt-oss 20B",
                capabilities=frozenset({"chat", "stream", "tools", "json", "reasoning"}),
                context_window=131_072,
                cost="free_tier",
                source=_LIBRARY,
                as_of=_AS_OF,
            ),
            ModelFacts(
                id="llama3.2",
                label="Llama 3.2 3B",
                context_window=131_072,
                cost="free_tier",
                source=_LIBRARY,
                as_of=_AS_OF,
            ),
            ModelFacts(
                id="nomic-embed-text",
                label="Nomic Embed Text",
                capabilities=EMBEDS,
                context_window=8192,
                cost="free_tier",
                embedding_dimensions=768,
                source=_LIBRARY,
                as_of=_AS_OF,
            ),
        ),
        default_model="gpt-oss:20b",
        cheapest_model="llama3.2",
        default_embedding_model="nomic-embed-text",
        capabilities=THINKS | EMBEDS,
        hue=20,
        env_prefix="OLLAMA",
        dialect={
            "image_urls": False,
            "several_answers": False,
            "embedding_models": ("nomic-embed", "mxbai-embed", "all-minilm", "bge-"),
        },
    ),
)
