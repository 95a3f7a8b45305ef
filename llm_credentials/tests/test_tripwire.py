"""Keys that would leave in a prompt, a file, a tool's arguments or its answer."""

from __future__ import annotations

import base64
import json
import textwrap
from typing import Any

import pytest
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st

from llm_credentials import rotation
from llm_credentials.models import UserCredential
from llm_credentials.models.credentials import EnvironmentCredential
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    ReasoningPart,
    SecretInRequest,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory
from llm_credentials.tripwire import TRIES_MAX, Tripwire, texts_of

KEY = "sk-proj-Abc0_def1-GHI2jklMNO3pqrSTU4vwxYZ567890abCDefGhijkL4f2a"
PLAIN = "0f5e9c7a1b3d8e6f4a2c0b9d7e5f3a1c8d6b4f2a"
"""Without a beginning by which its provider is known."""

pytestmark = pytest.mark.django_db


@pytest.fixture
def wire(alice: User) -> Tripwire:
    return Tripwire(
        [UserCredentialFactory(user=alice, key=KEY), UserCredentialFactory(user=alice, name="2", key=PLAIN)]
    )


FORMS = {
    "alone": "{key}",
    "in a sentence": "My key is {key}, please check it.",
    "at its end": "Is this right: {key}.",
    "on a line of its own": "Here it is\n{key}\nthanks",
    "assigned": "OPENAI_API_KEY={key}",
    "exported with quotes": "export KEY='{key}'; run",
    "in a header": "Authorization: Bearer {key}",
    "in a URL": "https://example.com/v1/models?key={key}&x=1",
    "in a URL's user": "https://user:{key}@example.com/",
    "in Markdown": "`{key}`",
    "in a call": 'OpenAI(api_key="{key}")',
    "in JSON": '{{"api_key": "{key}", "n": 1}}',
    "in JSON inside JSON": '{{"text": "{{\\"api_key\\": \\"{key}\\"}}"}}',
    "behind an escaped line end": '{{"text": "hello\\n{key}\\nbye"}}',
    "between umlauts": "Schlüssel: „{key}“",
    "behind an emoji": "🔑{key}",
}


@pytest.mark.parametrize("key", [KEY, PLAIN])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_key_is_found_and_nothing_else_is_removed(wire: Tripwire, form: str, key: str) -> None:
    text = form.format(key=key)
    found = wire.find(text)
    assert found is not None
    assert found.words == "your own OpenAI key ending in 4f2a"
    assert text[found.start : found.end].strip("\n") == key
    assert wire.redacted(text) == text.replace(key, f"[{found.words} was removed here]")


@pytest.mark.parametrize("key", [KEY, PLAIN])
@pytest.mark.parametrize("width", [12, 16, 20, 37])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n    ", "\\\n"])
def test_key_is_found_over_line_ends(wire: Tripwire, key: str, width: int, end: str) -> None:
    wrapped = end.join(textwrap.wrap(key, width, break_on_hyphens=False))
    text = f"before\n{wrapped}\nafter"
    assert wire.find(text) is not None
    assert key[:width] not in wire.redacted(text)
    assert key[-4:] not in wire.redacted(text).replace("ending in 4f2a", "")


@pytest.mark.parametrize("key", [KEY, PLAIN])
@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_key_is_found_in_base64(wire: Tripwire, key: str, shift: int, encode: Any) -> None:
    inner = b"x" * shift + b'{"key":"' + key.encode() + b'"}' + b"tail" * 30
    text = f"data:application/json;base64,{encode(inner).decode()} end"
    assert wire.find(text) is not None
    redacted = wire.redacted(text)
    assert encode(inner).decode()[40:70] not in redacted
    assert redacted.startswith("data:application/json;base64,")


@given(st.text(max_size=300), st.text(max_size=300))
def test_key_is_found_in_any_surroundings(before: str, after: str) -> None:
    """Whatever stands around it, if a blank keeps it apart."""
    wire = Tripwire([_Row(PLAIN)])
    assert wire.find(f"{before} {PLAIN} {after}") is not None


@given(st.text(max_size=500))
def test_anything_may_be_searched(text: str) -> None:
    wire = Tripwire([_Row(PLAIN)])
    assert wire.redacted(text) == text
    assert wire.find(text.encode("utf-16", "surrogatepass")) is None


class _Row(EnvironmentCredential):
    def __init__(self, key: str) -> None:
        super().__init__(provider="openai", _key=key)


@pytest.mark.parametrize(
    "text",
    [
        KEY[:-1],
        KEY[1:],
        KEY[:-4] + "4F2A",
        "the key ending in 4f2a",
        "sk-proj-•••• 4f2a",
        "4f2a" * 50,
        "sk-proj-4f2a " * 50,
    ],
)
def test_what_only_resembles_the_key_passes(wire: Tripwire, text: str) -> None:
    assert wire.find(text) is None
    assert wire.redacted(text) == text


@pytest.mark.parametrize("unit", ["=4f2a", "4f2a", "sk-aaaaaaaaaaaa4f2a ", "aaaaaaaaaaaa4f2a\n"])
def test_text_made_of_endings_keeps_nobody_waiting(wire: Tripwire, unit: str) -> None:
    tries: list[int] = []
    for trap in wire.traps:
        object.__setattr__(trap, "is_key", lambda text, known=trap.is_key: tries.append(1) or known(text))
    assert wire.find(unit * 50_000) is None
    assert len(tries) <= TRIES_MAX
    assert wire.find(f"{KEY} {unit * 50_000}") is not None, "what comes first is found all the same"


def test_texts_known_to_be_clean_are_not_kept(wire: Tripwire) -> None:
    secret = "a very private sentence with averylongwordinside"
    assert wire.find(secret) is None
    assert wire.find(secret) is None
    assert all(isinstance(part, int) for place in wire._clean for part in place)


# Whose keys


def test_keys_of_the_site_are_found(alice: User) -> None:
    stored = SystemCredentialFactory(provider="anthropic", key="sk-ant-api03-0123456789abcdefXYZ9")
    environment = EnvironmentCredential(provider="groq", _key="gsk_0123456789abcdefghijKLMN")
    wire = Tripwire([stored, environment])
    assert wire.name_in("x sk-ant-api03-0123456789abcdefXYZ9") == "this site's Anthropic key ending in XYZ9"
    assert wire.name_in("x gsk_0123456789abcdefghijKLMN") == "this site's Groq key ending in KLMN"


def test_keys_of_others_tell_nothing(alice: User, bob: User) -> None:
    """To say that a text is some other user's key would tell whoever tries texts which keys are stored here."""
    UserCredentialFactory(user=bob, key=KEY)
    assert Tripwire([UserCredentialFactory(user=alice, key=PLAIN)]).find(KEY) is None


def test_access_tokens_are_found_by_their_shape() -> None:
    token = "ksw_" + "aB3_-" * 8 + "xyz"
    wire = Tripwire([])
    assert wire.name_in(f"curl -H 'Authorization: Bearer {token}'") == "an access token of this site"
    assert wire.name_in("ksw_abc") is None


def test_keys_under_every_key_of_the_ring_are_found(alice: User, settings: Any) -> None:
    old = UserCredentialFactory(user=alice, name="old", key=PLAIN)
    settings.CREDENTIAL_KEYS = f"t2:{base64.b64encode(b'2' * 31 + b'x').decode()},{settings.CREDENTIAL_KEYS}"
    new = UserCredentialFactory(user=alice, name="new", key=KEY)
    assert (old.api_key.key_id, new.api_key.key_id) == ("t1", "t2")
    wire = Tripwire([old, new])
    assert wire.find(PLAIN)
    assert wire.find(KEY)
    rotation.rotate(batch=10)
    moved = Tripwire(UserCredential.objects.for_user(alice))
    assert moved.find(PLAIN)
    assert moved.find(KEY)


def test_rows_that_cannot_be_known_are_passed_over(alice: User, settings: Any) -> None:
    short = UserCredentialFactory(user=alice, name="short", key="shortkey")
    none = UserCredentialFactory(user=alice, provider="ollama", key=None)
    lost = UserCredentialFactory(user=alice, name="lost", key=KEY)
    settings.CREDENTIAL_KEYS = f"t2:{base64.b64encode(b'2' * 31 + b'x').decode()}"
    assert Tripwire([short, none, lost]).traps == ()
    settings.CREDENTIAL_KEYS = ""
    assert Tripwire([lost]).traps == ()


def test_ring_that_goes_meanwhile_fails_nothing(wire: Tripwire, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = ""
    assert wire.find(KEY) is None


# Where


PLACES: dict[str, LLMMessage] = {
    "system prompt": LLMMessage.system(f"Use {KEY}."),
    "message": LLMMessage.user(f"Use {KEY}."),
    "parts": LLMMessage.user((TextPart(text=KEY[:20]), TextPart(text=KEY[20:]))),
    "answer": LLMMessage.assistant(f"It is {KEY}."),
    "reasoning": LLMMessage(role="assistant", parts=(ReasoningPart(text=f"Hm, {KEY}"),)),
    "details": LLMMessage(role="assistant", parts=(TextPart(text="", details={"openai": {"signature": KEY}}),)),
    "tool arguments": LLMMessage.assistant((ToolCall(id="1", name="f", arguments={"a": [{"b": KEY}]}),)),
    "invalid arguments": LLMMessage.assistant(
        (ToolCall(id="1", name="f", arguments={}, invalid_arguments=f'{{"a": "{KEY}"'),)
    ),
    "tool result": LLMMessage.tool([ToolResult(call_id="1", name="f", content=json.dumps({"env": KEY}))]),
    "tool result's image": LLMMessage.tool(
        [ToolResult(call_id="1", name="f", content="", images=(ImagePart(url=f"https://x.example/?k={KEY}"),))]
    ),
    "image": LLMMessage.user(
        (ImagePart(data=b"\x89PNG\0\0tEXtComment\0" + KEY.encode() + b"\0IEND", media_type="image/png"),)
    ),
    "image address": LLMMessage.user((ImagePart(url=f"https://x.example/?k={KEY}", media_type="image/png"),)),
}


@pytest.mark.parametrize("message", PLACES.values(), ids=PLACES.keys())
def test_request_with_the_key_anywhere_is_refused(wire: Tripwire, message: LLMMessage) -> None:
    harmless = [LLMMessage.system("Be brief."), LLMMessage.user("Hello")]
    wire.refuse(texts_of(harmless))
    with pytest.raises(SecretInRequest, match="your own OpenAI key ending in 4f2a; it was not sent") as caught:
        wire.refuse(texts_of([*harmless, message]))
    assert KEY[:12] not in str(caught.value)


def test_request_with_the_key_in_a_tool_is_refused(wire: Tripwire) -> None:
    tool = ToolDefinition(name="f", description="d", parameters={"properties": {"a": {"default": KEY}}})
    with pytest.raises(SecretInRequest):
        wire.refuse(texts_of([], [tool]))


def test_odd_arguments_are_searched_all_the_same(wire: Tripwire) -> None:
    call = ToolCall(id="1", name="f", arguments={"n": 10**30, "s": "\ud800", "k": KEY})
    with pytest.raises(SecretInRequest):
        wire.refuse(texts_of([LLMMessage.assistant((call,))]))
