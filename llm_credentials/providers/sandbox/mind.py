"""Generates the sandbox's answers: short, helpful, deterministic, and never posing as a real model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import orjson

from llm_credentials.providers.sandbox.arithmetic import find_expression, solve
from llm_credentials.providers.sandbox.asks import Ask, Call, Reply, Tool, ToolResult
from llm_credentials.providers.sandbox.instances import Hints, instance

Wanted: TypeAlias = tuple[Tool, dict[str, Any] | None]
"""A tool and its arguments, if the text contains them."""

MAX_WORDS = 20_000
QUOTE_LIMIT = 400
RESULT_LIMIT = 4_000
SEARCH_LIMIT = 20_000
"""How many characters of the last message are searched."""

_PIECE = re.compile(r"\s*\S+|\s+")
_GREETING = re.compile(r"^\W*(?:hi|hello|hey|hallo|good (?:morning|afternoon|evening)|ping)\b[\w ,]{0,30}\W*$", re.I)
_WRITE_WORDS = re.compile(r"\b(\d{1,6})[ -]words?\b", re.I)
_COUNT_TO = re.compile(r"\bcount (?:up )?(?:from 1 )?to (\d{1,6})\b", re.I)
_REPEAT = re.compile(
    r"^\W*(?:repeat(?: after me)?|say|echo"
    r"|(?:reply|answer|respond) with(?: (?:just|only|exactly))?(?: the (?:single )?word)?)\b\s*:?\s*(.+)$",
    re.I | re.S,
)
_LIST_TOOLS = re.compile(r"\b(?:what|which|list|show)\b.{0,30}\b(?:tools?|functions?)\b", re.I)
_EARLIER = re.compile(r"\bwhat did i (?:just )?(?:say|ask|write|tell)\b", re.I)
_INSTRUCTIONS = re.compile(r"\b(?:your (?:system )?instructions|system prompt)\b", re.I)
_WHO = re.compile(r"\b(?:who|what) are you\b", re.I)
_MARKDOWN = re.compile(r"\bmarkdown\b", re.I)
_USE = re.compile(r"^\s*use\s+([\w.-]{1,128})(?:\s+with\s+(\{.*\}))?\s*\.?\s*$", re.I | re.M)
_CALL = re.compile(r"\bcall\s+((?:[\w.-]+)(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)[\w.-]+)*)", re.I)

_MARKDOWN_SAMPLE = """Sandbox: a little of everything that Markdown has.

## A list

- one **bold** item
- one with `code` and a [link](https://example.com/)

| fruit | pieces |
|---|---|
| apples | 3 |
| pears | 5 |

```python
def greet(name: str) -> str:
    return f"Hello, {name}"
```

> A quotation closes the page."""

_FILLER_TEXT = (
    "The sandbox writes these words so that a long answer can be watched, stopped and measured without paying anyone. "
    "Nothing in them was thought by a model; they come round again until enough of them stand here. "
)
_FILLER = _FILLER_TEXT.split()


def answer(ask: Ask, call_ids: Callable[[], str]) -> Reply:
    """Answer a request. A piece counts as a token; the request's limit and stop words apply."""
    reply = Reply(calls=_calls(ask, call_ids))
    if ask.thinking:
        reply.reasoning = pieces_of(_reasoning(ask))
    if reply.calls:
        reply.finish = "tool_calls"
    else:
        reply.pieces = pieces_of(_text(ask))
        _stop(reply, ask.stop)
    _limit(reply, ask.max_tokens)
    count(ask, reply)
    return reply


def count(ask: Ask, reply: Reply) -> None:
    """Set an answer's usage."""
    usage = reply.usage
    usage.prompt_tokens = ask.prompt_tokens
    usage.cached_tokens = ask.cached_tokens
    usage.cache_write_tokens = ask.cache_write_tokens
    usage.reasoning_tokens = len(reply.reasoning) * ask.answers
    called = sum(5 + len(call.arguments) // 4 for call in reply.calls)
    usage.output_tokens = (len(reply.reasoning) + len(reply.pieces) + called) * ask.answers


def pieces_of(text: str) -> list[str]:
    """`text` split into words, each with its preceding space; joined they are `text`."""
    return _PIECE.findall(text)


def _reasoning(ask: Ask) -> str:
    expression = find_expression(ask.said)
    if expression and (value := solve(expression)):
        return f"The sandbox works out {expression}. That makes {value}."
    return "The sandbox does not think. It looks for a sum, a tool or a greeting in the last message and answers that."


def _stop(reply: Reply, stop: list[str]) -> None:
    text = reply.text
    cuts = [(place, word) for word in stop if word and (place := text.find(word)) >= 0]
    if cuts:
        place, word = min(cuts)
        reply.pieces, reply.finish, reply.stop_sequence = pieces_of(text[:place]), "stop_sequence", word


def _limit(reply: Reply, max_tokens: int | None) -> None:
    """Truncate an answer after `max_tokens`; a tool call that does not fit is dropped whole."""
    if max_tokens is None:
        return
    needed = len(reply.reasoning) + len(reply.pieces) + sum(5 + len(call.arguments) // 4 for call in reply.calls)
    if needed <= max_tokens:
        return
    reply.reasoning = reply.reasoning[:max_tokens]
    reply.pieces = reply.pieces[: max_tokens - len(reply.reasoning)]
    reply.calls, reply.finish, reply.stop_sequence = [], "length", None


def _calls(ask: Ask, call_ids: Callable[[], str]) -> list[Call]:
    if not ask.tools or ask.choice == "none":
        return []
    by_name = {tool.name: tool for tool in ask.tools}
    wanted: list[Wanted]
    if ask.choice in by_name:
        named = [pair for pair in _named(ask, by_name) if pair[0].name == ask.choice]
        wanted = named or [(by_name[ask.choice], None)]
    else:
        wanted = [] if ask.results and ask.choice != "required" else _named(ask, by_name)
        if not wanted and ask.choice == "required":
            wanted = [(ask.tools[0], None)]
    if not ask.parallel:
        wanted = wanted[:1]
    return [
        Call(call_ids(), tool.name, orjson.dumps(_arguments(tool, ask) if given is None else given).decode())
        for tool, given in wanted
    ]


def _named(ask: Ask, by_name: dict[str, Tool]) -> list[Wanted]:
    """The tools that the user's last message asks for, with the arguments in it."""
    said = ask.said[:SEARCH_LIMIT]
    lines = [(name, given) for name, given in _USE.findall(said) if name in by_name]
    if lines:
        return [(by_name[name], _object(given)) for name, given in lines]
    if call := _CALL.search(said):
        names = [name for name in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", call[1]) if name in by_name]
        if names:
            return [(by_name[name], None) for name in names]
    if _LIST_TOOLS.search(said):
        return []
    named: list[Wanted] = [(tool, None) for tool in ask.tools if Hints(said).names(tool.name)]
    return named[:1]


def _object(given: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(given)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _arguments(tool: Tool, ask: Ask) -> Any:
    """Arguments that are valid by the tool's schema, from the user's words where they fit."""
    said = ask.said[:SEARCH_LIMIT]
    names = "|".join(re.escape(other.name) for other in ask.tools)
    rest = re.sub(rf"\b(?:please|call|use|run|with|tool|the|for|and|{names})\b", " ", said, flags=re.I)
    hints = Hints(said, find_expression(said) or " ".join(rest.split()).strip(" .:?!,"))
    made = instance(tool.schema or {"type": "object"}, hints)
    return made if isinstance(made, dict) else {}


def _text(ask: Ask) -> str:
    if ask.schema is not None:
        if not ask.schema:
            return orjson.dumps({"sandbox": True, "answer": _quote(ask.said)}).decode()
        hints = Hints(f"{ask.said}\n" + "\n".join(result.content for result in ask.results), _quote(ask.said))
        return orjson.dumps(instance(ask.schema, hints)).decode()
    if ask.results:
        return "\n\n".join(map(_result, ask.results))
    if ask.images:
        return _images(ask)
    return _small_talk(ask)


def _result(result: ToolResult) -> str:
    content = result.content[:RESULT_LIMIT]
    name = result.name or "the tool"
    return f"Sandbox: {name} failed: {content}" if result.is_error else f"Sandbox: {name} answered: {content}"


def _images(ask: Ask) -> str:
    seen = [
        f"{image.media_type or 'an unknown type'}, "
        + ("linked, which I do not fetch" if image.size_bytes is None else f"{image.size_bytes:,} bytes")
        for image in ask.images
    ]
    number = len(seen)
    about = f" You asked about {'it' if number == 1 else 'them'}: {_quote(ask.said)}" if ask.said else ""
    return f"Sandbox: I was given {number} image{'s' if number > 1 else ''} ({'; '.join(seen)}).{about}"


def _small_talk(ask: Ask) -> str:
    said = ask.said.strip()[:SEARCH_LIMIT]
    if not said:
        return "Sandbox: there was nothing to answer. Write a message and I will say something about it."
    if count_to := _COUNT_TO.search(said):
        return "Sandbox: " + " ".join(map(str, range(1, min(int(count_to[1]), MAX_WORDS) + 1)))
    if words := _WRITE_WORDS.search(said):
        number = max(1, min(int(words[1]), MAX_WORDS))
        return " ".join((["Sandbox:"] + [_FILLER[i % len(_FILLER)] for i in range(number - 1)])[:number])
    if repeat := _REPEAT.match(said):
        return f"Sandbox: {repeat[1].strip()}"
    for pattern, say in _TALK:
        if pattern.search(said):
            return say(ask)
    expression = find_expression(said)
    if expression and (value := solve(expression)):
        return f"Sandbox: {expression} = {value}."
    kind = "You asked" if said.endswith("?") else "You wrote"
    return f"Sandbox: no real model is behind me, so I can only say this much. {kind}: {_quote(said)}"


def _greet(ask: Ask) -> str:
    return "Hello. I am the sandbox: I cost nothing, I am no real model, and I can do small sums and use your tools."


def _tools(ask: Ask) -> str:
    if not ask.tools:
        return "Sandbox: I was given no tools."
    lines = [f"- `{tool.name}`: {tool.description or 'no description'}" for tool in ask.tools]
    return "Sandbox: I was given these tools.\n\n" + "\n".join(lines)


def _earlier(ask: Ask) -> str:
    return f"Sandbox: before this you wrote: {_quote(ask.turns[-2])}" if len(ask.turns) > 1 else (
        "Sandbox: this is the first thing that you wrote."
    )  # fmt: skip


def _instructions(ask: Ask) -> str:
    return f"Sandbox: my instructions are: {ask.system[:RESULT_LIMIT]}" if ask.system else "Sandbox: I have none."


_TALK: tuple[tuple[re.Pattern[str], Callable[[Ask], str]], ...] = (
    (_GREETING, _greet),
    (_WHO, _greet),
    (_LIST_TOOLS, _tools),
    (_EARLIER, _earlier),
    (_INSTRUCTIONS, _instructions),
    (_MARKDOWN, lambda ask: _MARKDOWN_SAMPLE),
)


def _quote(text: str) -> str:
    text = text.strip()
    return text if len(text) <= QUOTE_LIMIT else text[:QUOTE_LIMIT] + "…"
