from __future__ import annotations

import asyncio

import pytest

from llm_credentials.live.news import Reader


async def test_reader_whose_client_leaves_as_news_comes_ends() -> None:
    reader = Reader(1)
    waiting = asyncio.create_task(reader.wait(60))
    await asyncio.sleep(0)
    reader.tell()
    await asyncio.sleep(0)  # the news is there, and the reader has not yet run
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_reader_is_told_once_of_what_came_before_it_waited() -> None:
    reader = Reader(1)
    reader.tell()
    assert await reader.wait(60) is True
    assert await reader.wait(0) is False
