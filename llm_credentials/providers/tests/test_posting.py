"""Small requests, which go past aiohttp's session, beside large ones, which do not."""

from __future__ import annotations

import aiohttp
import pytest

from llm_credentials.providers import BadProviderResponse, ConnectionFailed, transport
from llm_credentials.providers.door import door_of
from llm_credentials.providers.posting import SMALL_BYTES, Pattern
from llm_credentials.providers.tests.serving import Served, failure, serving, sized

HEADERS = {"authorization": "Bearer key-of-alice", "x-odd": "é"}


def _said(head: bytes) -> dict[str, str]:
    first, *lines = head.decode().split("\r\n")[:-2]
    return {"": first, **{name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}}


async def _post(served: Served, body: bytes) -> None:
    found = await transport.forward(served.policy, transport.forwarding(f"{served.url}/a?b=c%2Fd", HEADERS), body)
    assert b"".join([piece async for piece in found.body]) == b"{}"


async def test_small_request_says_what_a_large_one_says() -> None:
    heads = []
    for size in (0, 2, SMALL_BYTES, SMALL_BYTES + 1):
        async with serving(sized(b"{}")) as served:
            await _post(served, b"x" * size)
            said = _said(served.heads[0])
            assert said.pop("content-length") == str(size)
            assert said.pop("host") == f"127.0.0.1:{served.port}"
            heads.append(said)
    assert heads[0][""] == "POST /a?b=c%2Fd HTTP/1.1"
    assert heads[0]["authorization"] == "Bearer key-of-alice"
    assert all(head == heads[0] for head in heads)


async def test_header_that_would_begin_another_is_not_sent() -> None:
    async with serving(sized(b"{}")) as served:
        pattern = transport.forwarding(served.url, {"x-a": "b\r\nx-c: d"})
        assert isinstance(await failure(transport.forward(served.policy, pattern, b"{}")), ConnectionFailed)
        assert served.heads == []


async def test_error_of_the_wire_holds_no_key() -> None:
    async with serving(b"no HTTP at all\r\n\r\n") as served:
        pattern = Pattern("POST", served.url, HEADERS)
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await door_of(served.policy).send(pattern, b"{}")
        assert "authorization" not in caught.value.request_info.headers
        assert isinstance(await failure(transport.forward(served.policy, pattern, b"{}")), BadProviderResponse)


async def test_closed_client_forgets_what_it_forwarded_with() -> None:
    from llm_credentials.providers.tests.answering import answering, of_json

    async with answering(of_json({})) as server:
        client = server.client("openai")
        for _ in range(2):
            await (await client.forward(b"{}", path="/chat/completions", stream=False)).aclose()
        assert len(client._forwarding) == 1
        await client.aclose()
        assert not client._forwarding
