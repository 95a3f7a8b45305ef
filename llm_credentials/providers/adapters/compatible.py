"""Other providers of the chat-completions wire format: one spec each."""

from __future__ import annotations

import re
from datetime import date

from llm_credentials.providers.spec import CHAT, EMBEDS, SEES, THINKS, Cost, ModelFacts, ProviderSpec, Speed
from llm_credentials.providers.wire import IdRule

_CLIENT = "llm_credentials.providers.adapters._chat.client:ChatCompletionsClient"
_AS_OF = date(2026, 11, 21)
_REASONS = CHAT | {"reasoning"}

_DEEPSEEK = "https://api-docs.deepseek.com/quick_start/pricing"
_DIGITALOCEAN = "https://docs.digitalocean.com/products/inference/details/models/"
_GROQ = "https://console.groq.com/docs/models"
_TOGETHER = "https://docs.together.ai/docs/serverless-models"
_MISTRAL = "https://docs.mistral.ai/getting-started/models"


def _model(
    id_: str, label: str, capabilities: frozenset[str], window: int | None, cost: Cost, speed: Speed, source: str
) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=capabilities,
        context_window=window,
        cost=cost,
        speed=speed,
        source=source,
        as_of=_AS_OF,
    )


def _retired(
    source: str, successor: str, id_: str, label: str, window: int, cost: Cost, speed: Speed = "fast"
) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        context_window=window,
        cost=cost,
        speed=speed,
        retired=True,
        successor=successor,
        source=source,
        as_of=_AS_OF,
    )


SPECS = (
    ProviderSpec(
        slug="deepseek",
        label="DeepSeek",
        client=_CLIENT,
        base_url="https://api.deepseek.com/v1",
        description="Open-weight models that reason well for little money.",
        best_for="Code, mathematics and long reasoning on a small budget",
        cost="very_low",
        speed="medium",
        docs_url=_DEEPSEEK,
        key_url="https://platform.deepseek.com/api_keys",
        key_hint="sk-…",
        models=(
            _model("deepseek-flash", "DeepSeek V4.1 Flash", THINKS, 1_000_000, "very_low", "fast", _DEEPSEEK),
            _model("deepseek-v4-pro", "DeepSeek V4 Pro", _REASONS, 1_000_000, "low", "medium", _DEEPSEEK),
            _retired(_DEEPSEEK, "deepseek-flash", "deepseek-v4-flash", "DeepSeek V4 Flash", 1_000_000, "very_low"),
            _retired(_DEEPSEEK, "deepseek-flash", "deepseek-chat", "DeepSeek Chat", 128_000, "very_low"),
            _retired(_DEEPSEEK, "deepseek-flash", "deepseek-reasoner", "DeepSeek Reasoner", 128_000, "very_low"),
            _retired(_DEEPSEEK, "deepseek-flash", "deepseek-coder", "DeepSeek Coder", 128_000, "very_low"),
        ),
        default_model="deepseek-flash",
        cheapest_model="deepseek-flash",
        capabilities=THINKS,
        hue=230,
        env_key_names=("DEEPSEEK_API_KEY",),
        env_prefix="DEEPSEEK",
        price_provider="deepseek",
        dialect={
            "schema": "json_object",
            "reasoning_field": "reasoning_content",
            "reasoning_taken": ("reasoning_content",),
            "several_answers": False,
        },
    ),
    ProviderSpec(
        slug="digitalocean",
        label="DigitalOcean",
        client=_CLIENT,
        base_url="https://inference.do-ai.run/v1",
        description="Open and commercial models on DigitalOcean's serverless inference, on one bill.",
        best_for="Teams that already host with DigitalOcean",
        cost="low",
        speed="fast",
        docs_url=_DIGITALOCEAN,
        key_url="https://cloud.digitalocean.com/model-studio/manage-keys",
        key_hint="sk-do-… or doo_v1_…",
        key_prefixes=("sk-do-", "doo_v1_"),
        models=(
            _model("openai-gpt-oss-120b", "gpt-oss 120B", _REASONS, 131_072, "very_low", "fast", _DIGITALOCEAN),
            _model("openai-gpt-oss-20b", "gpt-oss 20B", _REASONS, 131_072, "very_low", "very_fast", _DIGITALOCEAN),
            _model("llama3.3-70b-instruct", "Llama 3.3 70B", CHAT, 128_000, "low", "fast", _DIGITALOCEAN),
            _retired(_DIGITALOCEAN, "openai-gpt-oss-20b", "gpt-4o-mini", "GPT-4o mini", 128_000, "very_low"),
            _retired(_DIGITALOCEAN, "openai-gpt-oss-120b", "gpt-4o", "GPT-4o", 128_000, "medium"),
        ),
        default_model="openai-gpt-oss-120b",
        cheapest_model="openai-gpt-oss-20b",
        capabilities=THINKS | EMBEDS,
        hue=215,
        env_key_names=("DIGITALOCEAN_API_KEY",),
        env_prefix="DIGITALOCEAN",
        dialect={"fixed_sampling_models": ("openai-o1", "openai-o3", "openai-gpt-5", "openai-gpt-6")},
    ),
    ProviderSpec(
        slug="groq",
        label="Groq",
        client=_CLIENT,
        base_url="https://api.groq.com/openai/v1",
        description="Open models on chips of Groq's own, which answer faster than any other.",
        best_for="Answers without a wait: chat, voice, routing",
        cost="free_tier",
        speed="very_fast",
        free_tier=True,
        docs_url=_GROQ,
        key_url="https://console.groq.com/keys",
        key_hint="gsk_…",
        key_prefixes=("gsk_",),
        models=(
            _model("openai/gpt-oss-120b", "gpt-oss 120B", _REASONS, 131_072, "very_low", "very_fast", _GROQ),
            _model("openai/gpt-oss-20b", "gpt-oss 20B", _REASONS, 131_072, "very_low", "very_fast", _GROQ),
            _model("qwen/qwen3.8-27b", "Qwen 3.8 27B", _REASONS, 131_072, "medium", "very_fast", _GROQ),
            *(
                _retired(_GROQ, "openai/gpt-oss-120b", id_, label, window, "low", "very_fast")
                for id_, label, window in (
                    ("llama-3.3-70b-versatile", "Llama 3.3 70B", 131_072),
                    ("llama-3.1-70b-versatile", "Llama 3.1 70B", 131_072),
                    ("mixtral-8x7b-32768", "Mixtral 8x7B", 32_768),
                )
            ),
            _retired(
                _GROQ, "openai/gpt-oss-20b", "llama-3.1-8b-instant", "Llama 3.1 8B", 131_072, "very_low", "very_fast"
            ),
        ),
        default_model="openai/gpt-oss-120b",
        cheapest_model="openai/gpt-oss-20b",
        capabilities=THINKS,
        hue=15,
        env_key_names=("GROQ_API_KEY",),
        env_prefix="GROQ",
        price_provider="groq",
        dialect={
            "max_tokens": "max_completion_tokens",
            "loose_schema_models": ("llama", "mixtral", "gemma", "qwen"),
            "strict_models": ("gpt-oss",),
            "loose_schema": "chat_object",
            "reasoning_taken": ("reasoning",),
            "several_answers": False,
            "other_models": ("whisper", "orpheus", "playai-tts", "distil-whisper", "llama-guard", "llama-prompt-guard"),
        },
    ),
    ProviderSpec(
        slug="together",
        label="Together",
        client=_CLIENT,
        base_url="https://api.together.ai/v1",
        description="A wide choice of open models, and fine-tunes of your own.",
        best_for="Trying many open models behind one key",
        cost="low",
        speed="fast",
        docs_url=_TOGETHER,
        key_url="https://api.together.ai/settings/api-keys",
        key_hint="tgp_v1_… or 64 hexadecimal digits",
        key_prefixes=("tgp_v1_",),
        models=(
            _model("openai/gpt-oss-120b", "gpt-oss 120B", _REASONS, 131_072, "very_low", "fast", _TOGETHER),
            _model("Qwen/Qwen3.5-9B", "Qwen 3.5 9B", CHAT, 262_144, "very_low", "very_fast", _TOGETHER),
            _model("zai-org/GLM-5.3", "GLM-5.3", _REASONS, 1_048_575, "medium", "fast", _TOGETHER),
            _model(
                "deepseek-ai/DeepSeek-V4.1-Flash", "DeepSeek V4.1 Flash", THINKS, 1_000_000, "low", "fast", _TOGETHER
            ),
            _model("meta-llama/Llama-3.3-70B-Instruct-Turbo", "Llama 3.3 70B", CHAT, 131_072, "low", "fast", _TOGETHER),
            _retired(
                _TOGETHER,
                "meta-llama/Llama-3.3-70B-Instruct-Turbo",
                "meta-llama/Llama-3-70b-chat-hf",
                "Llama 3 70B",
                8_192,
                "low",
            ),
            _retired(
                _TOGETHER,
                "Qwen/Qwen3.5-9B",
                "meta-llama/Llama-3-8b-chat-hf",
                "Llama 3 8B",
                8_192,
                "very_low",
                "very_fast",
            ),
        ),
        default_model="openai/gpt-oss-120b",
        cheapest_model="Qwen/Qwen3.5-9B",
        default_embedding_model="intfloat/multilingual-e5-large-instruct",
        capabilities=THINKS | EMBEDS,
        hue=250,
        env_key_names=("TOGETHER_API_KEY",),
        env_prefix="TOGETHER",
        price_provider="together",
        dialect={"dimensions": ""},
    ),
    ProviderSpec(
        slug="mistral",
        label="Mistral",
        client=_CLIENT,
        base_url="https://api.mistral.ai/v1",
        description="Models from Europe's best-known laboratory, hosted in Europe.",
        best_for="European languages and data that should stay in Europe",
        cost="low",
        speed="fast",
        free_tier=True,
        docs_url=_MISTRAL,
        key_url="https://console.mistral.ai/api-keys",
        key_hint="32 letters and digits",
        models=(
            _model("mistral-medium-latest", "Mistral Medium 3.5", THINKS, 262_144, "medium", "fast", _MISTRAL),
            _model("mistral-large-4", "Mistral Large 4", SEES, 1_048_576, "medium", "medium", _MISTRAL),
            _model("mistral-small-latest", "Mistral Small 4", THINKS, 262_144, "very_low", "very_fast", _MISTRAL),
            _model("ministral-8b-latest", "Ministral 3 8B", SEES, 262_144, "very_low", "very_fast", _MISTRAL),
            _model("codestral-2508", "Codestral", CHAT, 256_000, "low", "very_fast", _MISTRAL),
            ModelFacts(
                id="mistral-embed",
                label="Mistral Embed",
                capabilities=EMBEDS,
                context_window=8192,
                cost="very_low",
                speed="very_fast",
                embedding_dimensions=1024,
                source=_MISTRAL,
                as_of=_AS_OF,
            ),
        ),
        default_model="mistral-medium-latest",
        cheapest_model="mistral-small-latest",
        default_embedding_model="mistral-embed",
        capabilities=THINKS | EMBEDS,
        hue=30,
        env_key_names=("MISTRAL_API_KEY",),
        env_prefix="MISTRAL",
        price_provider="mistral",
        dialect={
            "max_temperature": 1.5,
            "seed": "random_seed",
            "required_tool": "any",
            "stream_usage": False,
            "ids": IdRule(pattern=re.compile(r"[a-zA-Z0-9]{9}"), length=9, prefix=""),
            "named_results": True,
            "results_answered": True,
            "reasoning_taken": (),
            "drops": ("user", "store", "logit_bias", "service_tier"),
            "dimensions": "output_dimension",
            "embedding_models": ("mistral-embed", "codestral-embed"),
            "other_models": ("mistral-ocr", "mistral-moderation", "voxtral"),
        },
    ),
    ProviderSpec(
        slug="openai_compatible",
        label="OpenAI-compatible",
        client=_CLIENT,
        base_url=None,
        base_url_help="The address that goes before /chat/completions, such as https://openrouter.ai/api/v1",
        description="Any other service or server that speaks OpenAI's chat completions.",
        best_for="OpenRouter, vLLM, LM Studio, or a gateway of your own",
        cost="low",
        speed="medium",
        docs_url="https://developers.openai.com/api/reference/resources/chat",
        key_hint="what that service gave you",
        key_required=False,
        capabilities=THINKS | EMBEDS,
        hue=285,
        env_key_names=("OPENAI_COMPATIBLE_API_KEY",),
        env_prefix="OPENAI_COMPATIBLE",
        dialect={
            "fixed_sampling_models": ("o1", "o3", "o4", "gpt-5", "gpt-6"),
            "embedding_models": ("text-embedding",),
        },
    ),
)
