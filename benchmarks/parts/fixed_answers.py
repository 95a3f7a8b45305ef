"""A local server that answers in every wire format with precomputed bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

CHUNKS = 200
"""Per stream."""
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-6", "gemini": "gemini-3.5-flash"}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_WORDS = [f" word{n}" for n in range(CHUNKS)]
_WHOLE: dict[str, Any] = {
    "openai": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODELS["openai"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there, how are you?", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 12,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    },
    "anthropic": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODELS["anthropic"],
        "content": [{"type": "text", "text": "Hello there, how are you?"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "output_tokens": 12,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        },
    },
    "gemini": {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "Hello there, how are you?"}]},
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 12, "totalTokenCount": 21},
        "modelVersion": MODELS["gemini"],
        "responseId": "r1",
    },
}


def _openai_events() -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODELS["openai"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + _json({**head, "choices": [choice], "usage": None}) + b"\n\n"

    last = {**head, "choices": [], "usage": _WHOLE["openai"]["usage"]}
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": word}) for word in _WORDS),
        chunk({}, "stop"),
        b"data: " + _json(last) + b"\n\n",
        b"data: [DONE]\n\n",
    ]


def _anthropic_events() -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: ".encode() + _json({"type": kind, **fields}) + b"\n\n"

    start = {**_WHOLE["anthropic"], "content": [], "stop_reason": None}
    deltas = (event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in _WORDS)
    return [
        event("message_start", message=start),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *deltas,
        event("content_block_stop", index=0),
        event(
            "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": CHUNKS}
        ),
        event("message_stop"),
    ]


def _gemini_events() -> list[bytes]:
    def chunk(word: str, finish: str | None = None) -> bytes:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": word}]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        value = {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 21}}
        return b"data: " + _json({**value, "modelVersion": MODELS["gemini"], "responseId": "r1"}) + b"\r\n\r\n"

    return [*(chunk(word) for word in _WORDS[:-1]), chunk(_WORDS[-1], "STOP")]


_EVENTS = {"openai": _openai_events(), "anthropic": _anthropic_events(), "gemini": _gemini_events()}


class _Stub(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as these clients need it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, mark, body = self.received.partition(b"\r\n\r\n")
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        length = int(lowered[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if not mark or len(body) < length:
            return
        self.received = b""
        path = head.split(b" ", 2)[1]
        wire = "anthropic" if b"/messages" in path else "gemini" if b"/models/" in path else "openai"
        if b"treamGenerateContent" in path or b'"stream":true' in body.replace(b" ", b""):
            self.streaming = asyncio.ensure_future(self._stream(_EVENTS[wire]))
        else:
            content = _json(_WHOLE[wire])
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
                + content
            )

    async def _stream(self, events: list[bytes]) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in events:
            self.transport.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
