"""Blog writing over the real loop: outline, yes or no, article."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from pydantic import ValidationError

from agents.base import AgentResult
from agents.catalog.blog_writing import BlogArticle, BlogWritingAgent
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tests.wires import WIRES, scripted

TEXT = (
    "It matters.\n\n## Why keys\n\n"
    + "Words that say something. " * 12
    + "\n\n```\n## no heading\n# nor this\n```\n\n## What next\n\nDo it."
)
OUTLINE = Answer(calls=[call("propose_outline", title="Keep your keys", headings=["Why keys", "What next"])])


def article(**changes: Any) -> str:
    values = {
        "title": "Keep your own keys",
        "slug": "keep-your-own-keys",
        "meta_description": "Why a small team should keep its own API keys, and how to begin this week.",
        "markdown": TEXT,
    }
    return json.dumps(values | changes)


def written(result: AgentResult) -> BlogArticle:
    assert isinstance(result.output, BlogArticle), result.stopped
    return result.output


@pytest.mark.parametrize("wire", WIRES)
async def test_blog_writing_waits_for_the_outline_and_then_writes(wire: str, sandbox_server: str) -> None:
    with scripted(sandbox_server, OUTLINE, article()) as script:
        client = script.client(wire)
        agent = BlogWritingAgent(User(), client=client, options={"length": "short", "audience": "leads"})
        paused = await agent.run("Why teams should keep their keys")
        assert paused.stopped == "approval"
        (pending,) = paused.pending
        assert pending.call.arguments["headings"] == ["Why keys", "What next"]
        result = await agent.resume(paused, {pending.call.id: True})
        await client.aclose()
        assert "About 500 words. For: leads." in script.asked[0].turns[-1]
    output = written(result)
    assert (output.slug, output.headings) == ("keep-your-own-keys", ["Why keys", "What next"])
    assert "<h3>Why keys</h3>" in output.html


async def test_blog_writing_tells_the_model_of_a_no() -> None:
    client = ScriptedClient(OUTLINE, article())
    agent = BlogWritingAgent(User(), client=client)
    paused = await agent.run("Keys")
    await agent.resume(paused, {paused.pending[0].call.id: False})
    (answered,) = [part for message in client.asked[1] if message.role == "tool" for part in message.parts]
    assert answered.is_error
    assert "agrees" not in answered.content


async def test_blog_writing_with_ones_own_outline_asks_nothing() -> None:
    client = ScriptedClient(article())
    options = {"outline": "## Why keys\n\n- What next\n"}
    result = await BlogWritingAgent(User(), client=client, options=options).run("Keys")
    assert written(result).title == "Keep your own keys"
    assert not client.tools[0]
    assert "use exactly these headings:\n- Why keys\n- What next" in client.asked[0][-1].text


@pytest.mark.parametrize(
    "changes",
    [
        {"slug": "Keep Your Keys"},
        {"slug": "../admin"},
        {"meta_description": "short"},
        {"meta_description": "x" * 161},
        {"title": ""},
        {"markdown": "# Keep your own keys\n\n" + TEXT},
        {"markdown": "too short"},
    ],
)
async def test_blog_writing_sends_back_what_a_blog_cannot_use(changes: dict[str, str]) -> None:
    client = ScriptedClient(article(**changes), article())
    options = {"outline": "Why keys"}
    result = await BlogWritingAgent(User(), client=client, options=options).run("Keys")
    assert written(result).slug == "keep-your-own-keys"
    assert next(iter(changes)) in client.asked[1][-1].text
    with pytest.raises(ValidationError):
        BlogArticle.model_validate_json(article(**changes))


def test_blog_article_holds_no_markup_of_strangers() -> None:
    output = BlogArticle.model_validate_json(
        article(markdown=TEXT + "\n\n<script>alert(1)</script> [x](javascript:alert(1))")
    )
    assert "<script" not in output.html
    assert 'href="javascript' not in output.html
    page = render_to_string("agents/blog_writing/result.html", {"output": output.model_dump(mode="json")})
    assert "<script" not in page
    assert "keep-your-own-keys" in page
