"""Runs the steps in order: the address, the key, the model, a reply. The first failure gives the reason."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from llm_credentials import probing
from llm_credentials.connection_tests.verdicts import verdict, words
from llm_credentials.factory import open_client
from llm_credentials.live.changes import user_changed
from llm_credentials.models import ConnectionTest
from llm_credentials.models.credentials import EnvironmentCredential
from llm_credentials.models.sealed import KeyHolder
from llm_credentials.providers import (
    AuthenticationFailed,
    ConnectionFailed,
    DeadlineExceeded,
    EgressBlocked,
    LLMClient,
    LLMError,
    LLMMessage,
    ModelInfo,
)

log = structlog.get_logger(__name__)

STEPS = ("address", "key", "model", "reply")
EMBEDDINGS_ROLE = "embeddings"
"""Name of a test of the site's embeddings: it requests a vector instead of an answer."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    state: str
    detail: str
    status: str | None
    """The stored credential's new status; None: unchanged."""
    steps: list[dict[str, str]]
    abilities: dict[str, Any] = field(default_factory=dict)
    """What the key can do (``probing.probe``); empty: not probed."""


async def examine(test: ConnectionTest, subject: KeyHolder | EnvironmentCredential) -> Outcome:
    """Run all steps within ``LLM_TEST_TIMEOUT_S``, then probe abilities. LLM errors and timeouts become outcomes."""
    steps = _Steps(test)
    model = test.model
    try:
        async with asyncio.timeout(settings.LLM_TEST_TIMEOUT_S):
            client = await open_client(subject, model=test.model or None, options=test.options, user_id=test.user_id)
            model = client.model
            lists = await _ask(client, steps)
    except LLMError as error:
        return _failed(error, test, model, steps)
    except TimeoutError:
        return _failed(DeadlineExceeded(provider=test.provider), test, model, steps)
    return Outcome(
        state=ConnectionTest.State.VALID,
        detail=steps.rows[-1]["text"],
        status="valid",
        steps=steps.rows,
        # A site key is only tested for its configured use.
        abilities={} if test.for_site else await probing.probe(client, lists=lists),
    )


async def _ask(client: LLMClient, steps: _Steps) -> bool:
    """Whether the provider could list its models."""
    listed = await _listed(client)
    if listed is not None:
        await steps.passed("address", _("The provider answered."))
        await steps.passed("key", _("Key accepted."))
        await steps.passed("model", _about_model(client.model, listed))
    started = time.monotonic()
    if steps.test.for_site and steps.test.name == EMBEDDINGS_ROLE:
        await client.embed(["OK"], model=client.model)
    else:
        await client.complete([LLMMessage.user("Reply with the word OK.")], max_tokens=16)
    seconds = time.monotonic() - started
    if listed is None:
        await steps.passed("address", _("The provider answered."))
        await steps.passed("key", _("Key accepted."))
        await steps.passed("model", _("%(model)s exists.") % {"model": client.model})
    await steps.passed(
        "reply", _("Key accepted. %(model)s answered in %(about)s.") % {"model": client.model, "about": _about(seconds)}
    )
    return listed is not None


def _about(seconds: float) -> str:
    if seconds < 0.1:
        return _("under 0.1 s")
    return _("%(number)s s") % {"number": number_format(seconds, decimal_pos=1)}


async def _listed(client: LLMClient) -> list[ModelInfo] | None:
    """The provider's models; None where it has no list, which says nothing about the key."""
    try:
        return await client.list_models()
    except LLMError as error:
        if isinstance(error, AuthenticationFailed | ConnectionFailed | DeadlineExceeded | EgressBlocked):
            raise
        return None


def _about_model(model: str, listed: list[ModelInfo]) -> str:
    if any(model in (info.id, info.id.removeprefix("models/")) for info in listed):
        return _("%(model)s is in the provider's list.") % {"model": model}
    return _("%(model)s is not in the provider's list.") % {"model": model}


class _Steps:
    """Passed steps, written to the row so that readers see progress."""

    def __init__(self, test: ConnectionTest) -> None:
        self.test = test
        self.rows: list[dict[str, str]] = []

    async def passed(self, name: str, text: str) -> None:
        self.rows.append({"name": name, "state": "ok", "text": text})
        await ConnectionTest.objects.filter(pk=self.test.pk, state=ConnectionTest.State.RUNNING).aupdate(
            steps=self.rows
        )
        await sync_to_async(user_changed)(self.test.user_id)

    def broken(self, failed: str, text: str, *, answered: bool) -> list[dict[str, str]]:
        """All steps: those that passed, the failed one with its reason, the rest as skipped.

        ``answered``: the provider itself refused the failed step, so the steps before it passed.
        """
        seen = {row["name"]: row for row in self.rows}
        before = "ok" if answered else "skipped"
        rows = []
        for name in STEPS:
            if name == failed:
                rows.append({"name": name, "state": "failed", "text": text})
                before = "skipped"
            else:
                rows.append(seen.get(name, {"name": name, "state": before, "text": ""}))
        return rows


def _failed(error: LLMError, test: ConnectionTest, model: str, steps: _Steps) -> Outcome:
    step, state, status = verdict(error, {row["name"] for row in steps.rows})
    detail = words(error, test.spec, model)
    log.info("connection_test_failed", provider=test.provider, test=str(test.pk), error=type(error).__name__)
    return Outcome(
        state=state,
        detail=detail,
        status=status,
        steps=steps.broken(step, detail, answered=error.status_code is not None),
    )
