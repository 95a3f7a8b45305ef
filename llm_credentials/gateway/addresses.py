"""Paths under ``/v1``, in the variants that clients send."""

from __future__ import annotations

from collections.abc import Collection

ONE_MODEL = "/v1/models/"
"""Precedes a model's name, which may contain slashes."""
_NOT_SPOKEN = {
    "/v1/responses": "The Responses API is not spoken here. Use POST /v1/chat/completions: with OpenAI's SDK "
    "client.chat.completions.",
    "/v1/completions": "Completions of a prompt are not spoken here. Use POST /v1/chat/completions with messages.",
    "/v1/complete": "Completions of a prompt are not spoken here. Use POST /v1/messages.",
    "/v1/messages/batches": "Batches are not spoken here. Send each of the messages to POST /v1/messages.",
    "/v1/batches": "Batches are not spoken here. Send each of the requests to POST /v1/chat/completions.",
    "/v1/files": "Files are not kept here. Send what is in them along, in the messages of POST /v1/chat/completions or "
    "POST /v1/messages.",
    **dict.fromkeys(
        ("/v1/assistants", "/v1/threads", "/v1/conversations"),
        "Conversations are not kept here. Send the whole of one to POST /v1/chat/completions.",
    ),
    **dict.fromkeys(
        ("/v1/images", "/v1/audio", "/v1/videos", "/v1/realtime"),
        "Pictures, sound and video are not made here, only texts. Use POST /v1/chat/completions.",
    ),
    **dict.fromkeys(
        ("/v1/moderations", "/v1/fine_tuning", "/v1/vector_stores", "/v1/rerank"),
        "This is not spoken here. What is: POST /v1/chat/completions, /v1/messages and /v1/embeddings, GET /v1/models.",
    ),
}


def mended(path: str) -> str:
    """Without extra slashes, and without the ``/v1`` that a client appends to a base URL that already has one."""
    pieces = [piece for piece in path.split("/") if piece]
    while pieces[1:2] == ["v1"]:
        del pieces[1]
    return "/" + "/".join(pieces)


def unknown(path: str, known: Collection[str]) -> str:
    """The error message for an unknown path."""
    for begin, words in _NOT_SPOKEN.items():
        if path == begin or path.startswith(f"{begin}/"):
            return words
    return f"There is no such address here. There are: {', '.join(known)}."
