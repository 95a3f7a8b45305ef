"""Parses server-sent events from arbitrarily split bytes. No I/O."""

from __future__ import annotations

from typing import TypeAlias

from llm_credentials.providers.errors import BadProviderResponse

Event: TypeAlias = tuple[str, bytes]
"""The event's name ("" if none) and its data, lines joined by a newline."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventParser:
    """Takes bytes and returns the events that they complete.

    Lines may end in LF, CRLF or CR. Only the last, incomplete line is kept, in pieces that are joined once, so that a
    long line received byte by byte takes linear time.
    """

    __slots__ = ("_begun", "_data", "_data_bytes", "_name", "_piece_bytes", "_pieces", "_swallow_lf", "saw_field")

    def __init__(self) -> None:
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._swallow_lf = False
        self._begun = False
        self.saw_field = False
        """Whether anything has arrived that only an event stream has."""

    def feed(self, data: bytes) -> list[Event]:
        """Raises BadProviderResponse for an event larger than ``MAX_EVENT_BYTES``."""
        if not self._begun:
            data = self._begin(data)
        if self._swallow_lf or b"\r" in data:
            data = self._plain_ends(data)
        if b"\n" not in data:
            self._hold(data)
            return []
        while b"\n\n\n\n" in data:
            data = data.replace(b"\n\n\n\n", b"\n\n")  # extra blank lines mean nothing, and there may be millions
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._piece_bytes = 0
        events: list[Event] = []
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            # The two most common forms of an event; b"\n" in the block would be another field.
            if not self._data and block[:6] == b"data: " and b"\n" not in block and not self._name:
                events.append(("", block[6:]))
                self.saw_field = True
                continue
            for line in block.split(b"\n"):
                self._line(line, events)
            self._dispatch(events)
        lines = rest.split(b"\n")
        last = lines.pop()
        for line in lines:
            self._line(line, events)
        self._hold(last)
        return events

    def finish(self) -> list[Event]:
        """The last event if no blank line ended it."""
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            self._pieces = [b"".join(self._pieces).removeprefix(_BOM)]
        if self._pieces:
            self._line(b"".join(self._pieces), events)
            self._pieces.clear()
        self._dispatch(events)
        return events

    def _begin(self, data: bytes) -> bytes:
        data = b"".join((*self._pieces, data))
        self._pieces.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._pieces.append(data)
            return b""
        self._begun = True
        return data.removeprefix(_BOM)

    def _plain_ends(self, data: bytes) -> bytes:
        if self._swallow_lf and data:
            self._swallow_lf = False
            if data[:1] == b"\n":
                data = data[1:]
        if b"\r" not in data:
            return data
        # A CR ends its line at once; if the LF of a CRLF arrives with the next bytes, it is dropped then.
        self._swallow_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _hold(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._piece_bytes += len(data)
            self._check_size()

    def _check_size(self) -> None:
        if self._data_bytes + self._piece_bytes > MAX_EVENT_BYTES:
            raise BadProviderResponse("The provider sent an event without an end.")

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            self._check_size()
            self.saw_field = True
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
            self.saw_field = True
        elif field in (b"", b"id", b"retry"):
            self.saw_field = True

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append((self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
            self._data.clear()
            self._data_bytes = 0
        self._name = ""
