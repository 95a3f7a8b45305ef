"""Faults that change the answer: the reply before it is rendered, or the rendered body or events."""

from __future__ import annotations

from typing import Any

import orjson

from llm_credentials.providers.sandbox.asks import JSON, Ask, Call, Frames, Reply
from llm_credentials.providers.sandbox.failures import FAILURES
from llm_credentials.providers.sandbox.modifiers import Fault
from llm_credentials.providers.sandbox.wires.base import Stamp, Wire

HUGE_MB = 10
EVENTS_BEFORE_ERROR = 5
NEEDS_TWO_CALLS = frozenset({"tool-noindex", "tool-index0", "tool-interleaved", "tool-sameid"})
_FINISHES = {"unknown-finish": "unknown", "filter": "content_filter", "refusal": "refusal"}


def twist_ask(fault: Fault, ask: Ask) -> None:
    """Faults in tool calls need tool calls: offered tools are called, whatever the user said."""
    if not fault.name.startswith("tool") or not ask.tools or ask.results:
        return
    if ask.choice == "auto":
        ask.choice = "required"
    if fault.name in NEEDS_TWO_CALLS:
        names = [tool.name for tool in ask.tools[:2]] * 2
        ask.parallel, ask.choice = True, "required"
        ask.turns.append(f"{ask.said}\nuse {names[0]}\nuse {names[1]}")


def twist_reply(fault: Fault, reply: Reply) -> None:
    """Changes a reply's finish reason or calls."""
    if fault.name in _FINISHES:
        reply.finish = _FINISHES[fault.name]  # type: ignore[assignment]
        if fault.name == "filter":
            reply.pieces = reply.pieces[: len(reply.pieces) // 2]
    for call in reply.calls:
        _twist_call(fault, call, reply.calls[0])


def _twist_call(fault: Fault, call: Call, first: Call) -> None:
    match fault.name:
        case "toolargs-bad":
            call.arguments = '{"city": "Par'
        case "toolargs-huge":
            call.arguments = orjson.dumps({"text": "x" * int(fault.number("mb", HUGE_MB) * 1_000_000)}).decode()
        case "tool-noid":
            call.id = ""
        case "tool-sameid":
            call.id = first.id
        case "tool-unknown":
            call.name = "no_such_tool"


def twist_body(fault: Fault, body: JSON) -> bytes:
    """The complete answer, changed."""
    match fault.name:
        case "badjson":
            return orjson.dumps(body)[:-7]
        case "badjson-chunk":
            return b"{not json}"
        case "choices-empty" | "choices-null":
            body[_choices(body)] = [] if fault.name == "choices-empty" else None
        case "usage-missing" | "usage-negative" | "usage-nan" | "usage-twice":
            return _twist_usage(fault.name, body)
        case "tool-noid":
            return orjson.dumps(without_ids(body))
        case "bom":
            return b"\xef\xbb\xbf" + orjson.dumps(body)
        case "crlf":
            return orjson.dumps(body, option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n")
    return orjson.dumps(body)


def without_ids(value: Any) -> Any:
    """JSON without empty ids."""
    if isinstance(value, dict):
        return {key: without_ids(one) for key, one in value.items() if not (key == "id" and one == "")}
    return [without_ids(one) for one in value] if isinstance(value, list) else value


def _choices(body: JSON) -> str:
    return next(name for name in ("choices", "content", "candidates") if name in body)


def _usage(body: JSON) -> str:
    return "usageMetadata" if "usageMetadata" in body else "usage"


def _negative(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _negative(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_negative(one) for one in value]
    return -abs(value) - 1 if isinstance(value, int) else value


def _twist_usage(name: str, body: JSON) -> bytes:
    key = _usage(body)
    if key not in body or not isinstance(body[key], dict):
        return orjson.dumps(body)
    if name == "usage-missing":
        del body[key]
    elif name == "usage-negative":
        body[key] = _negative(body[key])
    elif name == "usage-nan":
        number = next(field for field, value in body[key].items() if isinstance(value, int))
        return orjson.dumps({**body, key: {**body[key], number: "@nan@"}}).replace(b'"@nan@"', b"NaN")
    else:  # the same key twice in one object
        raw = orjson.dumps(body)
        return raw[:-1] + b',"%s":' % key.encode() + orjson.dumps(body[key]) + b"}"
    return orjson.dumps(body)


def twist_frames(fault: Fault, frames: Frames, wire: Wire, reply: Reply, stamp: Stamp) -> None:
    """Changes the events of a stream in place."""
    content = frames.content
    middle = min(len(content), max(1, len(content) // 2))
    match fault.name:
        case "badjson":
            frames.content = [frame.replace(b"}\n\n", b"\n\n") for frame in content]
        case "badjson-chunk":
            content.insert(middle, b"data: {not json}\n\n")
        case "choices-empty" | "choices-null":
            _empty_choices(fault.name, frames)
        case "error-event":
            del content[EVENTS_BEFORE_ERROR:]
            kind = fault.params.get("status", "500")
            frames.tail = [wire.failure_frame(FAILURES[kind if kind in FAILURES else "500"], stamp)]
            frames.usage = []
        case "usage-missing" | "usage-negative" | "usage-nan":
            _twist_usage_frames(fault.name, frames)
        case "usage-twice":
            for place in reversed(frames.usage):
                frames.tail.insert(place, frames.tail[place])
        case "bom":
            first = frames.head or content
            first[0] = b"\xef\xbb\xbf" + first[0]
        case "crlf":
            frames.head = [frame.replace(b"\n", b"\r\n") for frame in frames.head]
            frames.content = [
                frame.replace(b"\n", (b"\r\n", b"\n", b"\r")[number % 3]) for number, frame in enumerate(content)
            ]
            frames.tail = [frame.replace(b"\n", b"\r\n") for frame in frames.tail]
        case "toolargs-split" | "tool-noid" | "tool-noindex" | "tool-index0" | "tool-interleaved":
            _twist_tool_frames(fault.name, frames)


def split(frame: bytes) -> tuple[bytes, JSON | None]:
    """What precedes the data of an event, and the data if it is JSON."""
    before, _, data = frame.partition(b"data: ")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return before, None
    return before, value if isinstance(value, dict) else None


def joined(before: bytes, value: JSON) -> bytes:
    return before + b"data: " + orjson.dumps(value) + b"\n\n"


def _empty_choices(name: str, frames: Frames) -> None:
    """Empties every choice of the stream; in the messages format, which has none, the deltas."""
    nothing: Any = [] if name == "choices-empty" else None
    for part in (frames.head, frames.content, frames.tail):
        for place, frame in enumerate(part):
            before, value = split(frame)
            if value is None:
                continue
            for key in ("choices", "candidates"):
                if key in value:
                    part[place] = joined(before, {**value, key: nothing})
            if value.get("type") == "content_block_delta":
                part[place] = joined(before, {**value, "delta": None if nothing is None else {}})


def _twist_usage_frames(name: str, frames: Frames) -> None:
    for part in (frames.head, frames.content, frames.tail):
        for place, frame in enumerate(part):
            before, value = split(frame)
            if value is None:
                continue
            holder = value["message"] if isinstance(value.get("message"), dict) else value
            if not isinstance(holder.get(_usage(holder)), dict):
                continue
            if holder is not value:
                value["message"] = orjson.loads(_twist_usage(name if name != "usage-nan" else "", holder))
                part[place] = joined(before, value)
            else:
                part[place] = before + b"data: " + _twist_usage(name, value) + b"\n\n"


def _calls_in(value: JSON) -> list[JSON]:
    """The tool calls of a chat-completions chunk."""
    choices = value.get("choices")
    if not choices:
        return []
    calls = choices[0]["delta"].get("tool_calls") or []
    return calls if isinstance(calls, list) else []


def _twist_tool_frames(name: str, frames: Frames) -> None:
    """Tool calls without id or index, all with index 0, in single characters, or interleaved."""
    if name == "tool-interleaved":
        frames.content = _interleaved(frames.content)
        return
    made: list[bytes] = []
    for frame in frames.content:
        before, value = split(frame)
        if value is None:
            made.append(frame)
        elif name == "toolargs-split":
            made += [joined(before, one) for one in _characters(value)]
        else:
            for call in _calls_in(value):
                if name == "tool-noindex":
                    call.pop("index", None)
                elif name == "tool-index0":
                    call["index"] = 0
            made.append(joined(before, without_ids(value) if name == "tool-noid" else value))
    frames.content = made


def _characters(value: JSON) -> list[JSON]:
    """One chunk of arguments as many chunks of one character."""
    calls = _calls_in(value)
    if calls and calls[0]["function"].get("arguments") and "id" not in calls[0]:
        texts = [orjson.loads(orjson.dumps(value)) for _ in calls[0]["function"]["arguments"]]
        for one, character in zip(texts, calls[0]["function"]["arguments"], strict=True):
            one["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] = character
        return texts
    delta = value.get("delta")
    if isinstance(delta, dict) and delta.get("partial_json"):
        return [{**value, "delta": {**delta, "partial_json": character}} for character in delta["partial_json"]]
    return [value]


def _interleaved(content: list[bytes]) -> list[bytes]:
    """Interleaves the pieces of the first call with those of the others; what belongs to no call stays in front."""
    front: list[bytes] = []
    by_call: dict[Any, list[bytes]] = {}
    for frame in content:
        _, value = split(frame)
        calls = _calls_in(value) if value else []
        place = calls[0].get("index") if calls else (value or {}).get("index")
        if place is None:
            front.append(frame)
        else:
            by_call.setdefault(place, []).append(frame)
    queues = [list(reversed(frames)) for frames in by_call.values()]
    made = front
    while any(queues):
        made += [queue.pop() for queue in queues if queue]
    return made
