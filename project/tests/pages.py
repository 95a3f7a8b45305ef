"""Somebody with a bit of everything, and the addresses of the site: for tests that look at every page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP
from allauth.mfa.webauthn.internal.auth import WebAuthn
from allauth.usersessions.models import UserSession
from cryptography.hazmat.primitives.asymmetric import ec
from django.contrib.auth.models import User
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

from agents import attachments
from agents.expenses.models import Expense
from agents.expenses.services import expense_create
from agents.models import AgentRun, Conversation, MessageState, RunState
from agents.services import TURN
from llm_credentials import services
from llm_credentials.models import Alert, ConnectionTest, LLMSettings, TaskOverride, UserCredential, Webhook
from llm_credentials.providers import TextPart, ToolCall, ToolResult
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory

STILL_UNDOABLE = timedelta(minutes=10)
"""A removed key stays that long, lest pages change while a test looks at them."""
NOTHING = "00000000-0000-0000-0000-000000000000"
NOT_PAGES = ("admin/", "api/", "healthz", "readyz", "words.js")
"""How addresses begin that are no pages of ours."""
WRITTEN = (
    *("alice@example.com", "laptop", "Phone", "work", "cdef", "llama3", "gpt-5-mini", "claude-haiku-4-5", "calculate"),
    *("What is 17 * 23, and is it a prime?", "Is 391 a prime?", "Let me work it out.", "And 391 * 3?", "It is 11"),
    *("Café Luna", "Hardware Depot", "SBB", "EUR", "CHF", "USD"),
    *("17 * 23 is", ". It is not a prime: 17 and 23 divide it."),
)
"""What the user or a model has written, as pages show it."""
QUESTION = "What is 17 * 23, and is it a prime?"
ANSWER = "17 * 23 is **391**. It is not a prime: 17 and 23 divide it.\n\n```python\nprint(17 * 23)\n```"
RECEIPT: Mapping[str, Any] = {
    "provider": "openai",
    "model": "gpt-5-mini",
    "key_owner": "user",
    "finish_reason": "stop",
    "steps": 1,
    "usage": {"input_tokens": 1180, "output_tokens": 60, "cache_read_tokens": None, "cache_write_tokens": None},
    "cost_usd": "0.0042",
    "price_source": "genai-prices",
    "reason": "the default provider",
    "estimated": False,
    "attempts": [
        {
            "provider": "anthropic",
            "model": "claude-haiku-4-5",
            "key_owner": "user",
            "outcome": "RateLimited",
            "latency_ms": 90,
        },
        {"provider": "openai", "model": "gpt-5-mini", "key_owner": "user", "outcome": "ok", "latency_ms": 810},
    ],
}
ERROR = {
    "class": "ProviderUnavailable",
    "message": "",
    "user_message": "The provider is not available just now.",
    "provider": "mistral",
    "status_code": 503,
    "request_id": None,
    "retry_after_s": 4.0,
    "retryable": True,
}


# Addresses


@dataclass(frozen=True)
class Route:
    name: str
    """With its namespace."""
    pattern: str

    def __str__(self) -> str:
        return f"{self.name} {self.pattern}"


def routes(patterns: Any = None, prefix: str = "", namespace: str = "") -> Iterator[Route]:
    """Every address of the site, from its URLconf."""
    for entry in get_resolver().url_patterns if patterns is None else patterns:
        pattern = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from routes(entry.url_patterns, pattern, inner)
        elif isinstance(entry, URLPattern):
            yield Route(namespace + (entry.name or "?"), pattern)


def address(pattern: str, arguments: Mapping[str, str]) -> str:
    """The address with these arguments in it; what is not among them is there nowhere."""

    def argument(found: re.Match[str]) -> str:
        return arguments.get(found["name"], NOTHING)

    plain = re.sub(r"\(\?P<(?P<name>\w+)>(?:[^()]|\([^()]*\))*\)", argument, pattern)
    plain = re.sub(r"<(?:\w+:)?(?P<name>\w+)>", argument, plain)
    return "/" + plain.replace("^", "").replace("$", "")


def page_addresses(arguments: Mapping[str, str]) -> dict[str, str]:
    """Name of the route → its address, of whatever may be a page for people."""
    ours = [route for route in routes() if not route.pattern.startswith(NOT_PAGES)]
    return {route.name: address(route.pattern, arguments) for route in ours}


def is_page(response: Any) -> bool:
    """Whether this is a whole page or a part of one, rather than a refusal, a redirect, a file or a stream."""
    return response.status_code == 200 and not response.streaming and "text/html" in response.headers["Content-Type"]


# Things


def furnish(user: User) -> dict[str, str]:
    """Give the user a bit of everything; the arguments for addresses of it."""
    credentials = _keys(user)
    _settled(user)
    _used(user, credentials)
    conversation, message = _talked(user)
    run = _ran(user)
    token, _ = services.token_create(user=user, name="laptop")
    EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=True)
    UserSession.objects.create(user=user, session_key="other", ip="192.0.2.7", user_agent="Mozilla/5.0 (Linux) Firefox")
    arguments = {
        "conversation_id": conversation.pk,
        "message_id": message,
        "run_id": run.pk,
        "test_id": ConnectionTest.objects.filter(user=user).latest("created_at").pk,
        "token_id": token.pk,
        "alert_id": Alert.objects.filter(user=user).latest("at").pk,
        "credential_id": credentials["groq"].pk,
        "pk": "0",
        "attachment_id": attachments.store_bytes(user, "prices.csv", b"month,usd\nMay,12\n").pk,
        "provider": "openai",
        "agent": "conversation",
        "expense_id": _spent(user).pk,
        "task": "code",
        "key": "no-key",
        "uidb36": "1",
    }
    return {name: str(value) for name, value in arguments.items()}


def add_second_factor(user: User) -> int:
    """A program for codes, recovery codes, and a passkey, whose primary key is given."""
    TOTP.activate(user, "JBSWY3DPEHPK3PXP")
    RecoveryCodes.activate(user)
    return WebAuthn.add(user, "Phone", _passkey()).instance.pk


def _passkey() -> dict[str, Any]:
    """What a browser sends when it has made one."""
    public_key = ES256.from_cryptography_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    attested = AttestedCredentialData.create(bytes(16), b"a-passkey", public_key)
    flags = AuthenticatorData.FLAG.UP | AuthenticatorData.FLAG.UV | AuthenticatorData.FLAG.AT
    made = AuthenticatorData.create(sha256(b"localhost").digest(), flags, 0, attested)
    client = CollectedClientData.create("webauthn.create", b"challenge", "http://localhost")
    return {
        "id": websafe_encode(b"a-passkey"),
        "rawId": websafe_encode(b"a-passkey"),
        "type": "public-key",
        "response": {
            "clientDataJSON": websafe_encode(client),
            "attestationObject": websafe_encode(AttestationObject.create("none", made, {})),
        },
        "clientExtensionResults": {"credProps": {"rk": True}},
    }


def _keys(user: User) -> dict[str, UserCredential]:
    now = timezone.now()
    status = UserCredential.Status
    refused = "Anthropic refused this key (401). Mistyped or revoked? Make a new one on its key page."
    rows: list[dict[str, Any]] = [
        {"provider": "openai", "status": status.VALID, "request_count": 1240, "last_used_at": now},
        {"provider": "anthropic", "status": status.INVALID, "status_detail": refused},
        {"provider": "openai", "name": "work", "status": status.UNVERIFIED},
        {"provider": "mistral", "is_active": False, "status": status.VALID},
        {"provider": "ollama", "base_url": "http://ollama.lan:11434/v1", "model": "llama3", "key": None},
        {"provider": "groq", "removed_at": now + STILL_UNDOABLE},
    ]
    found = {}
    for priority, row in enumerate(rows):
        tested = now - timedelta(minutes=2 + 60 * priority)
        credential = UserCredentialFactory(user=user, priority=priority, tested_at=tested, **row)
        found.setdefault(credential.provider, credential)
    finished: dict[str, Any] = {"user": user, "created_at": now, "finished_at": now}
    for provider, state, detail in (
        ("openai", ConnectionTest.State.VALID, "Key accepted. gpt-5-mini answered in 0.8 s."),
        ("anthropic", ConnectionTest.State.INVALID, refused),
    ):
        ConnectionTest.objects.create(
            provider=provider, credential=found[provider], state=state, detail=detail, **finished
        )
    Alert.objects.create(user=user, kind="key_refused", credential=found["anthropic"], detail=refused, at=now)
    Alert.objects.create(user=user, kind="webhook_off", detail="20 messages in a row could not be delivered.", at=now)
    return found


def _settled(user: User) -> None:
    LLMSettings.objects.create(
        user=user, default_provider="openai", monthly_budget_usd=Decimal(20), strategy="priority"
    )
    TaskOverride.objects.create(user=user, task="code", provider="anthropic", temperature=0.2)
    webhook = Webhook(user=user, url="https://hooks.example.com/keys", failures=0)
    webhook.seal("whsec-0123456789abcdef0123456789abcdef")
    webhook.save()
    delivered = timezone.now() - timedelta(hours=3)
    for state, code in (("delivered", 200), ("given_up", 503), ("waiting", None)):
        webhook.deliveries.create(
            kind="key_refused", body="{}", state=state, status_code=code, attempts=1, created_at=delivered
        )


def _used(user: User, credentials: Mapping[str, UserCredential]) -> None:
    now = timezone.now()
    for day in range(24):
        for provider, model, cents in (("openai", "gpt-5-mini", 31), ("anthropic", "claude-haiku-4-5", 17)):
            UsageRecordFactory(
                user=user,
                provider=provider,
                model=model,
                task="conversation" if day % 3 else "code",
                credential_id=credentials[provider].pk,
                input_tokens=1200 + 90 * day,
                output_tokens=240 + 17 * day,
                cost_usd=Decimal(cents * (1 + day % 5)) / 100,
                latency_ms=640 + 20 * day,
                at=now - timedelta(days=day),
            )
    UsageRecordFactory(user=user, provider="mistral", key_owner="system", cost_usd=None, price_source="", at=now)


def _talked(user: User) -> tuple[Conversation, Any]:
    """The conversation, and the id of its last message."""
    conversation = Conversation.objects.create(user=user, agent="conversation", title="Is 391 a prime?")
    Conversation.objects.create(user=user, agent="conversation", title="")
    call = ToolCall(id="call-1", name="calculate", arguments={"expression": "17 * 23"})
    said: list[tuple[int, str, tuple[TextPart | ToolCall | ToolResult, ...], dict[str, Any]]] = [
        (0, "user", (TextPart(text=QUESTION),), {}),
        (1, "assistant", (TextPart(text="Let me work it out."), call), {}),
        (2, "tool", (ToolResult(call_id="call-1", name="calculate", content="391"),), {}),
        (TURN - 1, "assistant", (TextPart(text=ANSWER),), {"receipt": dict(RECEIPT)}),
        (TURN, "user", (TextPart(text="And 391 * 3?"),), {}),
        (2 * TURN - 1, "assistant", (TextPart(text="It is 11"),), {"state": MessageState.INCOMPLETE, "error": ERROR}),
    ]
    message = None
    for position, role, parts, rest in said:
        message = conversation.messages.create(position=position, role=role, parts=parts, **rest)
    return conversation, message.pk if message else None


def _spent(user: User) -> Expense:
    """The last of three expenses, with lines."""
    paid: list[dict[str, Any]] = [
        {"vendor": "SBB", "total": "-41", "currency": "CHF", "category": "travel", "date": "2024-10-09"},
        {"vendor": "Hardware Depot", "total": "123.41", "currency": "USD", "category": "hardware"},
        {"vendor": "Café Luna", "total": "6.70", "currency": "EUR", "category": "meals", "tax": "1.25"},
    ]
    lines = [{"description": "Espresso", "quantity": "2", "unit_price": "1.60", "amount": "3.20"}]
    found = [expense_create(user=user, **{"date": "2024-11-03", **each}) for each in paid[:2]]
    toast = {"description": "Toast", "amount": "3.50"}
    return [*found, expense_create(user=user, date="2024-11-03", lines=[*lines, toast], **paid[2])][-1]


def _ran(user: User) -> AgentRun:
    """One in each state; the one that is done."""
    now = timezone.now()
    asked: dict[str, Any] = {"user": user, "agent": "conversation", "input": QUESTION, "started_at": now}
    for state in RunState:
        ended = None if state in (RunState.QUEUED, RunState.RUNNING) else now + timedelta(seconds=4)
        error = ERROR if state == RunState.FAILED else None
        AgentRun.objects.create(**asked, state=state, finished_at=ended, error=error, heartbeat_at=now)
    done = AgentRun.objects.get(user=user, state=RunState.DONE)
    AgentRun.objects.filter(pk=done.pk).update(output=ANSWER, receipt=dict(RECEIPT))
    return done
