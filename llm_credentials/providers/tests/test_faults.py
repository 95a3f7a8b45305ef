"""Every fault of the sandbox on every wire, whole and streamed: one table of what comes of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_credentials.providers import (
    EgressPolicy,
    LLMClient,
    LLMError,
    LLMMessage,
    LLMResponse,
    StreamInterrupted,
    ToolDefinition,
    bodies,
    build_client,
    transport,
)
from llm_credentials.providers.sandbox.faults import ALL
from llm_credentials.providers.sandbox.running import running_sandbox
from llm_credentials.providers.sandbox.server import SandboxOptions

KEY = "sbx-good-CANARY-0123456789"
PROVIDERS = ("openai", "azure_openai", "anthropic", "gemini")
ASK = [LLMMessage.user("write 40 words")]
CALL = [LLMMessage.user("call get_weather")]
WEATHER = ToolDefinition(
    name="get_weather",
    description="The weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
HANG_S = 60.0
"""Only so that a call which never ends fails its test."""
LASTING = {"drip", "stall-first", "stall-mid"}
"""Faults that go on until the deadline."""
LASTING_S = 2.0
"""Long enough for what comes before the silence, on a busy machine too."""
ENDLESS_BYTES = 2 * 1024 * 1024
"""Where an answer without end is broken off here, so that its size decides and not who is quicker."""

# What comes of a fault, whole and streamed: the name of an error, or how an answer ended.
Outcome = tuple[str, str]


def both(name: str) -> Outcome:
    return name, name


OUTCOMES: dict[str, Outcome] = {
    **dict.fromkeys(("400", "405", "413", "422"), both("RequestRejected")),
    "401": both("AuthenticationFailed"),
    **dict.fromkeys(("402", "quota"), both("QuotaExhausted")),
    "403": both("PermissionDenied"),
    "404": both("ModelNotFound"),
    "408": both("DeadlineExceeded"),
    **dict.fromkeys(("409", "500", "502", "503", "504", "529", "error-200"), both("ProviderUnavailable")),
    **dict.fromkeys((name for name in ALL if name.startswith("429")), both("RateLimited")),
    "context": both("ContextLengthExceeded"),
    "prompt-refused": both("ContentFiltered"),
    **dict.fromkeys(("204", "301", "302", "303", "307", "308"), both("BadProviderResponse")),
    **dict.fromkeys(("empty", "html", "html-stream", "badjson", "many-headers"), both("BadProviderResponse")),
    **dict.fromkeys(("choices-empty", "choices-null", "gzip-bomb"), both("BadProviderResponse")),
    **dict.fromkeys(("reset", "cut-first"), both("ConnectionFailed")),
    "cut": ("ConnectionFailed", "StreamInterrupted"),
    **dict.fromkeys(("cut-clean", "cut-utf8", "badjson-chunk"), ("BadProviderResponse", "StreamInterrupted")),
    "error-event": ("ProviderUnavailable", "StreamInterrupted"),
    "lying-length": ("ConnectionFailed", "stop"),
    **dict.fromkeys(("stall-first", "drip"), both("DeadlineExceeded")),
    "stall-mid": ("DeadlineExceeded", "StreamInterrupted"),
    "endless": ("BadProviderResponse", "StreamInterrupted"),
    "endless-line": both("BadProviderResponse"),
    **dict.fromkeys(("filter", "refusal"), both("content_filter")),
    "unknown-finish": both("other"),
    **dict.fromkeys(("usage-missing", "usage-nan", "usage-negative", "usage-twice"), both("stop")),
    **dict.fromkeys(("bom", "crlf", "wrong-type", "many-chunks"), both("stop")),
    **dict.fromkeys((name for name in ALL if name.startswith("tool")), both("tool_calls")),
}
EXCEPTIONS: dict[tuple[str, str], Outcome] = {
    # A list of content without blocks is an answer without words there.
    ("anthropic", "choices-empty"): both("stop"),
    # What a 400 is about has no code there.
    ("anthropic", "prompt-refused"): both("RequestRejected"),
    # One event holds a whole call there; 10 MB of it are more than an event may have.
    ("gemini", "toolargs-huge"): ("tool_calls", "BadProviderResponse"),
}
CUT_SHORT_BY_THEMSELVES = {"filter"}
RETRYABLE = {"RateLimited", "ProviderUnavailable", "ConnectionFailed", "BadProviderResponse"}
WAITS_S = {"429": 1.0, "429-past": 0.0, "429-huge": 86_400.0, "429-ms": 1.5}
NO_WAIT = {"429-bare", "429-negative", "429-text"}


@pytest.fixture
async def sandbox() -> AsyncIterator[str]:
    async with running_sandbox(options=SandboxOptions(delay_ms=0, slow_s=0, stall_s=HANG_S)) as url:
        yield url
        await transport.close_connections()


def client_of(provider: str, sandbox: str, fault: str) -> LLMClient:
    return build_client(
        provider,
        api_key=KEY,
        model=f"sandbox-instant~fault={fault}",
        base_url=f"{sandbox}/v1" if provider == "openai" else sandbox,
        egress=EgressPolicy(allow=[sandbox.removeprefix("http://")]),
    )


async def asked(client: LLMClient, fault: str, *, stream: bool) -> LLMResponse | LLMError:
    tools: dict[str, Any] = {"tools": [WEATHER]} if fault.startswith("tool") else {}
    messages, timeout_s = (CALL if tools else ASK), (LASTING_S if fault in LASTING else HANG_S)
    given = ""
    try:
        if not stream:
            return await client.complete(messages, timeout_s=timeout_s, **tools)
        async for chunk in client.stream(messages, timeout_s=timeout_s, **tools):
            given += chunk.text if chunk.type == "delta" else ""
            if chunk.response is not None:
                assert chunk.response.text == given
                return chunk.response
    except StreamInterrupted as error:
        assert error.partial is not None
        assert error.partial.text == given
        return error
    except LLMError as error:
        assert not given, "content had come: only StreamInterrupted may follow it"
        return error
    raise AssertionError("the stream ended without its last chunk")


def outcome(found: LLMResponse | LLMError) -> str:
    return type(found).__name__ if isinstance(found, LLMError) else found.finish_reason


def test_table_has_every_fault() -> None:
    assert OUTCOMES.keys() == ALL
    assert len(ALL) >= 40


@pytest.mark.parametrize("fault", sorted(ALL))
async def test_fault_has_one_outcome_on_every_wire(fault: str, sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault.startswith("endless"):
        monkeypatch.setattr(bodies, "MAX_BODY_BYTES", ENDLESS_BYTES)
    cases = [(provider, stream) for provider in PROVIDERS for stream in (False, True)]
    async with asyncio.timeout(HANG_S):
        found = await asyncio.gather(
            *(asked(client_of(provider, sandbox, fault), fault, stream=stream) for provider, stream in cases)
        )
    expected = {
        (provider, stream): EXCEPTIONS.get((provider, fault), OUTCOMES[fault])[stream] for provider, stream in cases
    }
    assert dict(zip(cases, map(outcome, found), strict=True)) == expected
    for (provider, _), one in zip(cases, found, strict=True):
        if isinstance(one, LLMError):
            check_error(one, provider, fault)
        else:
            check_answer(one, provider, fault)


def check_answer(response: LLMResponse, provider: str, fault: str) -> None:
    """Nothing of it is missing unless its own finish reason says so."""
    if (provider, fault) in EXCEPTIONS or fault in CUT_SHORT_BY_THEMSELVES:
        return
    if fault.startswith("tool"):
        assert response.tool_calls
        assert len({call.id for call in response.tool_calls}) == len(response.tool_calls)
        assert all((call.invalid_arguments is None) is (fault != "toolargs-bad") for call in response.tool_calls) or (
            provider == "gemini"  # arguments are no text there
        )
    else:
        assert len(response.text.split()) == 40
    usage = response.usage
    assert all(count is None or count >= 0 for count in (usage.input_tokens, usage.output_tokens))


def check_error(error: LLMError, provider: str, fault: str) -> None:
    assert error.provider == provider
    assert error.retryable is (type(error).__name__ in RETRYABLE)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "CANARY" not in f"{error} {error!r} {error.args} {vars(error)}"
    if fault in WAITS_S:
        assert error.retry_after_s == WAITS_S[fault]
    if fault in NO_WAIT:
        assert error.retry_after_s is None
