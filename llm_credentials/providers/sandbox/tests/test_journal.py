import asyncio
import hashlib

import pytest

from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

WIRES = ["chat", "messages", "generate"]


async def until_entry(door: Door, **wanted: bool) -> dict[str, object]:
    """Wait until the last request has these values in the journal."""
    async with asyncio.timeout(5):
        while True:
            entry = (await door.entries())[-1]
            if all(entry[name] == value for name, value in wanted.items()):
                return entry
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_journal_has_each_request_with_what_it_would_have_cost(door: Door, wire: str, stream: bool) -> None:
    async with door.post(wire, "sandbox-chat", stream=stream, text="What is 17 * 23?") as response:
        await response.read()
    (entry,) = await door.entries()
    assert (entry["wire"], entry["operation"], entry["model"]) == (wire, "chat", "sandbox-chat")
    assert (entry["status"], entry["stream"], entry["open"], entry["client_gone"]) == (200, stream, False, False)
    assert entry["output_tokens"] == 6 and entry["prompt_tokens"] > 0
    assert entry["started"] <= entry["ended"]


async def test_journal_knows_keys_by_fingerprint_and_last_four(door: Door) -> None:
    async with door.post("chat", "sandbox-chat") as response:
        await response.read()
    for path in ("requests", "counts"):
        async with door.session.get(f"{door.url}/_sandbox/{path}") as response:
            assert KEY not in await response.text()
    (entry,) = await door.entries()
    assert entry["key"] == hashlib.sha256(KEY.encode()).hexdigest()[:12]
    assert entry["key_last4"] == KEY[-4:]


async def test_journal_shows_no_ends_of_short_keys(door: Door) -> None:
    async with door.post("chat", "sandbox-chat", key="sbx-good-1") as response:
        await response.read()
    (entry,) = await door.entries()
    assert entry["key_last4"] == ""


async def test_journal_sums_by_status_model_and_key(door: Door) -> None:
    for model, key in (("sandbox-chat", KEY), ("sandbox-chat", "sbx-bad-1"), ("sandbox-fast", KEY)):
        async with door.post("chat", model, key=key, text="2 + 2") as response:
            await response.read()
    counts = await door.counts()
    assert (counts["requests"], counts["open"], counts["output_tokens"]) == (3, 0, 12)
    assert counts["by_status"] == {"200": 2, "401": 1}
    assert counts["by_model"]["sandbox-chat"]["requests"] == 2
    assert counts["by_model"]["sandbox-fast"]["output_tokens"] == 6
    assert sorted(sums["requests"] for sums in counts["by_key"].values()) == [1, 2]


async def test_journal_is_filtered_and_forgotten_on_request(door: Door) -> None:
    for model in ("sandbox-chat", "sandbox-fast", "sandbox-fast"):
        async with door.post("chat", model) as response:
            await response.read()
    assert len(await door.entries(model="sandbox-fast", status="200", open="false")) == 2
    async with door.session.delete(f"{door.url}/_sandbox/requests") as response:
        assert response.status == 204
    assert await door.entries() == []
    assert (await door.counts())["requests"] == 0


@pytest.mark.parametrize("wire", WIRES)
async def test_journal_notices_a_client_that_leaves_a_stream(door: Door, wire: str) -> None:
    async with door.post(wire, "sandbox-chat~delay=20", stream=True, text="count to 5000") as response:
        await response.content.readany()
        assert (await door.counts())["open"] == 1
        response.close()
    entry = await until_entry(door, client_gone=True, open=False)
    assert entry["prompt_tokens"] > 0  # type: ignore[operator]
    assert entry["output_tokens"] < 5_000  # type: ignore[operator]
    assert (await door.counts())["client_gone"] == 1


async def test_journal_notices_a_client_that_leaves_before_the_answer(door: Door) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), door.post("chat", "sandbox-chat~wait=60") as response:
            await response.read()
    entry = await until_entry(door, client_gone=True)
    assert entry["output_tokens"] == 0


async def test_journal_bills_a_cut_stream_up_to_the_cut(door: Door) -> None:
    async with door.post("chat", "sandbox-chat~fault=cut-clean,after=3", stream=True, text="count to 50") as response:
        await response.read()
    (entry,) = await door.entries()
    assert (entry["output_tokens"], entry["fault"]) == (3, "cut-clean")


async def test_journal_bills_nothing_for_errors(door: Door) -> None:
    async with door.post("chat", "sandbox-chat~fault=500") as response:
        await response.read()
    (entry,) = await door.entries()
    assert (entry["status"], entry["prompt_tokens"], entry["output_tokens"]) == (500, 0, 0)


async def test_journal_does_not_list_those_who_read_it(door: Door) -> None:
    await door.counts()
    for path in ("/", "/healthz", "/_sandbox", "/_sandbox/nothing"):
        async with door.session.get(door.url + path) as response:
            assert response.headers["x-keyswitch-sandbox"] == "1"
            assert response.status == (404 if path.endswith("nothing") else 200)
    assert await door.entries() == []


async def test_journal_bills_exact_chunks_and_cached_tokens_on_request(door: Door) -> None:
    model = "sandbox-instant~chunks=200~cached=5"
    async with door.post("chat", model, stream=True) as response:
        text = await response.text()
    assert text.count('"content":" sandbox"') == 200
    (entry,) = await door.entries()
    assert (entry["output_tokens"], entry["cached_tokens"], entry["model"]) == (200, 5, model)
