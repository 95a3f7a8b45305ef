"""No client shows a key, or takes one from the environment."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    LLMError,
    ProviderUnavailable,
    build_client,
    get_spec,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_json
from llm_credentials.providers.tests.clients import CHAT, HELLO, KEY, SLUGS


def frames_of(error: BaseException) -> str:
    """Everything that a debugger or an error tracker would show of it."""
    shown, link = [], error.__traceback__
    while link is not None:
        shown.append(repr(link.tb_frame.f_code.co_filename) + repr(dict(link.tb_frame.f_locals)))
        link = link.tb_next
    return "".join(shown) + str(error) + repr(error) + repr(vars(error)) + "".join(traceback.format_exception(error))


FAILURES: list[tuple[Answer, type[LLMError]]] = [
    (
        of_json({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}, 401),
        AuthenticationFailed,
    ),
    (of_json({"error": {"message": KEY}}, 500), ProviderUnavailable),
    (Answer([], 200, {}, cut=True), LLMError),
    (Answer([b"HTTP"], 302, {"location": "http://169.254.169.254/"}), LLMError),
    (Answer([KEY.encode()], 200, {}), LLMError),
    (Answer([b'{"choices": 7}'], 200, {}), LLMError),
]


@pytest.mark.parametrize(("answer", "kind"), FAILURES)
@pytest.mark.parametrize("slug", ["openai", "anthropic", "gemini", "azure_openai"])
async def test_failed_call_leaves_no_key_anywhere(slug: str, answer: Answer, kind: type[LLMError]) -> None:
    async with answering(answer) as server:
        client = server.client(slug, key=KEY)
        for streamed in (False, True):
            try:
                if streamed:
                    [chunk async for chunk in client.stream(HELLO)]
                else:
                    await client.complete(HELLO)
            except kind as error:
                assert error.__cause__ is None
                assert error.__context__ is None
                assert KEY not in frames_of(error.with_traceback(_below_this_test(error)))
                assert type(pickle.loads(pickle.dumps(error))) is type(error)
            else:
                raise AssertionError("it did not fail")


def _below_this_test(error: BaseException) -> Any:
    assert error.__traceback__ is not None
    return error.__traceback__.tb_next


async def test_caller_that_is_handling_an_error_keeps_it_as_context_alone() -> None:
    async with answering(of_json({"error": {}}, 500)) as server:
        try:
            raise KeyError("mine")
        except KeyError:
            with pytest.raises(ProviderUnavailable) as caught:
                await server.client("openai").complete(HELLO)
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, KeyError)


# The environment

DECOYS = {
    "OPENAI_API_KEY": "sk-decoy",
    "OPENAI_ADMIN_KEY": "sk-decoy",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/decoy",
    "OPENAI_ORG_ID": "org-decoy",
    "OPENAI_PROJECT_ID": "proj-decoy",
    "OPENAI_WEBHOOK_SECRET": "decoy",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer decoy\nX-Decoy: decoy\napi-key: decoy",
    "OPENAI_API_VERSION": "decoy",
    "AZURE_OPENAI_API_KEY": "decoy",
    "AZURE_OPENAI_AD_TOKEN": "decoy",
    "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9/decoy",
    "ANTHROPIC_API_KEY": "decoy",
    "ANTHROPIC_AUTH_TOKEN": "decoy",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9/decoy",
    "ANTHROPIC_CUSTOM_HEADERS": "x-api-key: decoy\nAuthorization: Bearer decoy\nX-Decoy: decoy",
    "GOOGLE_API_KEY": "decoy",
    "GEMINI_API_KEY": "decoy",
    "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9/decoy",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_CLOUD_PROJECT": "decoy",
    "GOOGLE_CLOUD_LOCATION": "decoy",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "all_proxy": "http://127.0.0.1:9",
}


@pytest.mark.parametrize("slug", SLUGS)
async def test_no_provider_reads_the_environment(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DECOYS.items():
        monkeypatch.setenv(name, value)
    async with answering(of_json(CHAT)) as server:
        client = server.client(slug, key=KEY)
        calls = [client.complete(HELLO), client.list_models(), client.embed(["a"])]
        for call in calls:
            with contextlib.suppress(LLMError):  # the answer is not in everyone's words; what counts is what was asked
                await call
        assert server.asked
        for asked in server.asked:
            sent = repr((asked.path, asked.query, dict(asked.headers)))
            assert "decoy" not in sent.lower()
            assert KEY in sent


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if not get_spec(slug).key_required])
async def test_keyless_provider_borrows_no_key(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DECOYS.items():
        monkeypatch.setenv(name, value)
    async with answering(of_json(CHAT)) as server:
        client = build_client(slug, api_key=None, model="m", base_url=server.url, egress=server.egress)
        await client.complete(HELLO)
        sent = repr((server.asked[0].path, dict(server.asked[0].headers))).lower()
        assert "decoy" not in sent
        assert "authorization" not in sent


def test_no_sdk_is_imported_before_its_first_use() -> None:
    script = (
        "import sys; from llm_credentials.providers import build_client, specs, EgressPolicy;"
        "[build_client(s.slug, api_key='k', model='m', base_url='https://llm.example.com') for s in specs()];"
        "print([name for name in ('openai', 'anthropic', 'google.genai', 'django') if name in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip() == "[]"
