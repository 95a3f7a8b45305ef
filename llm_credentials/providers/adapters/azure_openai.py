"""Azure OpenAI: chat completions with the deployment in the path, an API version and an ``api-key`` header."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from llm_credentials.providers import wire
from llm_credentials.providers.adapters._chat.client import ChatCompletionsClient
from llm_credentials.providers.errors import RequestRejected
from llm_credentials.providers.spec import EMBEDS, THINKS, OptionField, ProviderSpec
from llm_credentials.providers.transport import HttpClient

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_API_VERSION = "2024-10-21"
_DEPLOYED = frozenset({"/chat/completions", "/embeddings"})


class AzureOpenAIClient(ChatCompletionsClient):
    """``base_url`` is the resource's root; without a deployment option, the key's model is the deployment."""

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        root, found, _ = address.strip().partition("/openai/deployments/")
        address = root if found else super().normalise_base_url(address)
        return wire.strip_suffixes(address, ("/openai/v1", "/openai"))

    def path_of(self, path: str, model: str) -> str:
        # The option names the deployment of the key's own model, not of another model that a call requests.
        deployment: str = (self.options["deployment"] if model == self.model else "") or model
        if path not in _DEPLOYED:
            return path
        if "/" in deployment or deployment in (".", ".."):
            raise RequestRejected("The name of a deployment has no slash.", provider=self.provider)
        return f"/deployments/{quote(deployment, safe='')}{path}"

    def build_sdk(self, http: HttpClient) -> AsyncOpenAI:
        from openai import AsyncAzureOpenAI

        return AsyncAzureOpenAI(
            api_key=self._api_key,
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=f"{self.base_url}/openai",
            api_version=self.options["api_version"],
            max_retries=0,
            timeout=None,
            http_client=http,
        )

    def forward_url(self, path: str) -> str:
        version = quote(self.options["api_version"], safe="")
        return f"{self.base_url}/openai{self.path_of(self._endpoint(path), self.model)}?api-version={version}"

    def forward_headers(self) -> dict[str, str]:
        return {"api-key": self._api_key or "", "content-type": "application/json"}


SPECS = (
    ProviderSpec(
        slug="azure_openai",
        label="Azure OpenAI",
        client="llm_credentials.providers.adapters.azure_openai:AzureOpenAIClient",
        base_url=None,
        base_url_help="The endpoint of your resource, such as https://your-resource.openai.azure.com",
        description="OpenAI's models in your own Azure subscription and region.",
        best_for="Companies that keep data and billing inside Azure",
        cost="medium",
        speed="fast",
        docs_url="https://learn.microsoft.com/azure/ai-services/openai/reference",
        key_url="https://portal.azure.com/",
        key_hint="32 or 84 letters and digits",
        options=(
            OptionField(
                name="api_version",
                label="API version",
                placeholder=DEFAULT_API_VERSION,
                default=DEFAULT_API_VERSION,
                help_text="Leave it as it is unless a model asks for a newer one.",
            ),
            OptionField(
                name="deployment",
                label="deployment",
                placeholder="my-gpt",
                help_text="The name of your deployment, if it differs from the model's.",
            ),
        ),
        capabilities=THINKS | EMBEDS,
        hue=205,
        env_key_names=("AZURE_OPENAI_API_KEY",),
        env_prefix="AZURE_OPENAI",
        price_provider="azure",
        dialect={
            "max_tokens": "max_completion_tokens",
            "developer": True,
            "reasoning_taken": (),
            "raw_arguments": True,
            "loose_schema": "chat_object",
            "embedding_format": "base64",
            "embeds_tokens": True,
            "fixed_sampling_models": ("o1", "o3", "o4", "gpt-5", "gpt-6"),
            "other_models": ("whisper", "tts", "dall-e", "gpt-image", "sora", "gpt-realtime", "gpt-audio"),
            "embedding_models": ("text-embedding", "ada", "text-similarity"),
        },
    ),
)
