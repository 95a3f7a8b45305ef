"""Many users at once over one pool of connections, some of them leaving: nobody gets what is another's."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials.factory import client_for
from llm_credentials.providers import LLMMessage, transport
from llm_credentials.tests.factories import UserCredentialFactory, UserFactory

USERS, CALLS = 12, 300

pytestmark = pytest.mark.django_db(transaction=True)


async def echo(request: web.Request) -> web.Response:
    """Answers with the key that came and the question, after a moment that differs from call to call."""
    body = await request.json()
    key = request.headers["Authorization"].removeprefix("Bearer ")
    await asyncio.sleep(random.random() * 0.02)
    message = {"role": "assistant", "content": f"{key}|{body['messages'][-1]['content']}"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return web.json_response({"id": "x", "object": "chat.completion", "model": "m", "choices": choices})


def test_calls_of_many_users_with_cancels_never_cross(settings: Any) -> None:
    users = [UserFactory() for _ in range(USERS)]
    outcomes: Counter[str] = Counter()

    async def one(user: User, key: str, number: int) -> None:
        question = f"{user.pk}:{number}"
        call = asyncio.ensure_future(client_for(user).complete([LLMMessage.user(question)]))
        if number % 3 == 0:
            await asyncio.sleep(random.random() * 0.02)
            call.cancel()
        try:
            response = await call
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
            return
        outcomes["own" if response.text == f"{key}|{question}" else f"crossed: {response.text}"] += 1

    async def all_() -> None:
        slots = asyncio.Semaphore(40)

        async def bounded(number: int) -> None:
            async with slots:
                await one(users[number % USERS], keys[number % USERS], number)

        await asyncio.gather(*(bounded(number) for number in range(CALLS)))

    async def go() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", echo)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        try:
            await all_()
        finally:
            await transport.close_connections()
            await runner.cleanup()

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        settings.LLM_EGRESS_ALLOW = [f"127.0.0.1:{port}"]
        keys = [f"sk-crossing-{user.pk:06d}-0123456789" for user in users]
        for user, key in zip(users, keys, strict=True):
            UserCredentialFactory(
                user=user, provider="openai_compatible", key=key, model="m", base_url=f"http://127.0.0.1:{port}/v1"
            )
        async_to_sync(go)()
    assert set(outcomes) <= {"own", "cancelled"}, outcomes
    assert sum(outcomes.values()) == CALLS
    assert outcomes["own"] >= CALLS // 2
