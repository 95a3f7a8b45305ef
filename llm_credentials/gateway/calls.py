"""The handler of each path of the gateway."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from asgiref.sync import sync_to_async

from llm_credentials.gateway import naming
from llm_credentials.gateway.addresses import ONE_MODEL
from llm_credentials.gateway.callers import Caller, client_of
from llm_credentials.gateway.errors import Refused
from llm_credentials.gateway.http import Answer, Request, told
from llm_credentials.gateway.naming import Named, read_model
from llm_credentials.gateway.relay import Relay, counted
from llm_credentials.gateway.wires import chat, messages
from llm_credentials.ids import new_id
from llm_credentials.ledger import estimate
from llm_credentials.providers import get_spec
from llm_credentials.providers.messages import Embedded
from llm_credentials.routing import kinds, snapshot_cache
from llm_credentials.routing.policy import Policy
from llm_credentials.routing.values import Candidate

MAX_TEXTS = 2048


async def chat_completions(caller: Caller, request: Request) -> Answer:
    return await Relay(caller, chat, request).answer()


async def anthropic_messages(caller: Caller, request: Request) -> Answer:
    most = request.data.get("max_tokens")
    if type(most) is not int or most < 1:
        message = "max_tokens: Say how many tokens the answer may have at most."
        raise Refused(400, "invalid_request", message, param="max_tokens")
    return await Relay(caller, messages, request).answer()


async def count_tokens(caller: Caller, request: Request) -> Answer:
    """An estimate on the high side; calls no provider and costs nothing."""
    tokens = counted(lambda: messages.read_request({"max_tokens": 1, **request.data}), request.data)
    return Answer(orjson.dumps({"input_tokens": tokens}))


async def embeddings(caller: Caller, request: Request) -> Answer:
    data = request.data
    named = read_model(data.get("model"))
    texts, encoding, dimensions = _texts(data.get("input")), data.get("encoding_format"), data.get("dimensions")
    if encoding not in (None, "float", "base64"):
        raise Refused(400, "invalid_request", "encoding_format: One of float and base64.", param="encoding_format")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise Refused(400, "invalid_request", "dimensions: A whole number above 0.", param="dimensions")
    client = client_of(caller, named)
    found = await client.embed(texts, dimensions=dimensions)
    vectors: Sequence[Any] = found.vectors if encoding != "base64" else [_packed(vector) for vector in found.vectors]
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    # Clients require a number, and some providers report none: then it is the estimate that the ledger has.
    used = found.usage.input_tokens
    used = estimate.embedded_tokens(texts) if used is None else used
    usage = {"prompt_tokens": used, "total_tokens": used}
    # OpenAI's own response has no id, but clients of compatible servers require one.
    answer = {"id": f"embd-{new_id().hex}", "object": "list", "data": rows, "model": found.model, "usage": usage}
    paid_by = found.receipt.answered_by
    headers = told(
        provider=found.provider,
        key_owner=paid_by.key_owner if paid_by else None,
        attempts=len(found.receipt.attempts),
        cost_usd=found.receipt.cost_usd,
    )
    return Answer(orjson.dumps(answer), headers=headers)


def _texts(given: object) -> Embedded:
    """One text or several, or the tokens of one or of several."""
    is_one = isinstance(given, str) or (isinstance(given, list) and given and all(type(each) is int for each in given))
    texts = [given] if is_one else given
    if not isinstance(texts, list) or not texts or any(not isinstance(text, str | list) or not text for text in texts):
        raise Refused(400, "invalid_request", "input: A text or a list of texts, none of them empty.", param="input")
    if len(texts) > MAX_TEXTS:
        raise Refused(400, "invalid_request", f"input: At most {MAX_TEXTS} texts at once.", param="input")
    return texts


def _packed(vector: Iterable[float]) -> str:
    """Base64 of little-endian 32-bit floats, which clients request by default."""
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


async def models(caller: Caller, request: Request) -> Answer:
    """What may be sent as ``model``: the user's own order, tasks, and the models of every key that would be tried.

    Each row has the fields of both APIs.
    """
    rows = await _rows(caller)
    listed = {"object": "list", "data": rows, "has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]}
    return Answer(orjson.dumps(listed))


async def model(caller: Caller, request: Request) -> Answer:
    """A single model by name, with or without its provider's prefix."""
    name = request.scope["path"].removeprefix(ONE_MODEL)
    found = next((row for row in await _rows(caller) if row["id"] == name or _bare(row["id"]) == name), None)
    if found is None:
        raise Refused(404, "model_not_found", "None of your keys knows this model. GET /v1/models lists them.")
    return Answer(orjson.dumps({**found, "id": name}))


def _bare(name: str) -> str:
    return name.partition("/")[2]


async def _rows(caller: Caller) -> list[dict[str, Any]]:
    route = await client_of(caller, Named()).route()
    loaded = snapshot_cache.find(caller.user) or await sync_to_async(snapshot_cache.load)(caller.user)
    rows = [_row(name, "keyswitch") for name in (naming.AUTO, *(f"task:{kind.slug}" for kind in kinds.all()))]
    names = dict.fromkeys(name for candidate in route.candidates for name in _names(candidate, loaded.snapshot.policy))
    return rows + [_row(name, name.partition("/")[0]) for name in names]


def _names(candidate: Candidate, policy: Policy) -> Iterator[str]:
    key = candidate.key
    yield f"{key.provider}/{candidate.model}"
    for facts in get_spec(key.provider, address=key.base_url or None).models:
        if policy.allows_model(key.provider, facts.id):
            yield f"{key.provider}/{facts.id}"


def _row(name: str, owner: str) -> dict[str, Any]:
    both = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    return {**both, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
