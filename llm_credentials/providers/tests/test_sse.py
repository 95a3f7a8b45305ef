"""Server-sent events, cut wherever a network may cut them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_credentials.providers import BadProviderResponse
from llm_credentials.providers.sse import MAX_EVENT_BYTES, Event, EventParser


def parse(data: bytes, cuts: list[int] | None = None) -> list[Event]:
    parser = EventParser()
    events: list[Event] = []
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts or []}), len(data)]
    for start, end in pairwise(edges):
        events += parser.feed(data[start:end])
    return events + parser.finish()


def by_the_book(data: bytes) -> list[Event]:
    """The standard's algorithm, line by line; the last event counts although no blank line closes it."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    name, lines = "", []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if lines:
                events.append((name, b"\n".join(lines)))
            name, lines = "", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return events


LINES = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data:  three",
        b"data",
        b"data:",
        "data: gr\u00fc\u00dfe \U0001f600".encode(),
        b'data: {"a":"b: c"}',
        b"event: error",
        b"event:ping",
        b"event",
        b": comment",
        b":",
        b"id: 7",
        b"retry: 10",
        b"unknown: x",
        b"dataset: x",
        b"",
        b"",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=12))
    if draw(st.booleans()):  # as a rule a server keeps to one kind of line end
        end = draw(ENDS)
        lines = [(line, end) for line, _ in lines]
    data = b"".join(line + end for line, end in lines)
    data = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + data + draw(st.sampled_from([b"", b"data: last"]))
    return data, draw(st.lists(st.integers(0, len(data)), max_size=20))


@given(streams())
def test_parser_gives_the_same_events_however_the_bytes_are_cut(stream: tuple[bytes, list[int]]) -> None:
    data, cuts = stream
    expected = by_the_book(data)
    assert parse(data) == expected
    assert parse(data, cuts) == expected
    assert parse(data, list(range(len(data)))) == expected


def test_parser_gives_an_event_as_soon_as_its_blank_line_has_come() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        assert EventParser().feed(b"data: x" + end + end) == [("", b"x")]


def test_parser_keeps_the_name_of_an_event_for_that_event_alone() -> None:
    assert parse(b"event: error\ndata: 1\n\ndata: 2\n\n") == [("error", b"1"), ("", b"2")]


def test_parser_joins_the_lines_of_one_event() -> None:
    assert parse(b"data: {\ndata: }\n\n") == [("", b"{\n}")]


def test_parser_refuses_a_line_without_an_end() -> None:
    parser = EventParser()
    parser.feed(b"data: ")
    with pytest.raises(BadProviderResponse):
        for _ in range(MAX_EVENT_BYTES // 65536 + 1):
            parser.feed(b"x" * 65536)


def test_parser_refuses_an_event_without_an_end() -> None:
    parser = EventParser()
    with pytest.raises(BadProviderResponse):
        for _ in range(MAX_EVENT_BYTES):
            parser.feed(b"data:\n" * 1000)


def test_parser_reads_a_long_event_sent_in_small_pieces() -> None:
    payload = b"x" * 1_000_000
    parser = EventParser()
    events = []
    for start in range(0, len(payload), 7):
        events += parser.feed((b"data: " if start == 0 else b"") + payload[start : start + 7])
    assert events + parser.feed(b"\n\n") == [("", payload)]


def test_parser_passes_over_any_number_of_blank_lines() -> None:
    parser = EventParser()
    events = parser.feed(b"event: x\ndata: 1\n" + b"\n" * 1_000_001 + b"data: 2\n\n\n" + b"\n" * 7 + b"data: 3\n\n")
    assert events == [("x", b"1"), ("", b"2"), ("", b"3")]
