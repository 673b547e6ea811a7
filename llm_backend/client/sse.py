"""Server-sent events, comments included: the gateway tells in them what a request waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from llm_backend.errors import EngineBroke

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """The data of one event."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that is no event, without its colon."""

    text: str


@dataclass(slots=True)
class EventDecoder:
    r"""Splits a byte stream into events and comments.

    Lines end in LF or CRLF. (Splitting text would not do: U+2028 may stand in JSON unescaped.)

    Example:
        >>> decoder = EventDecoder()
        >>> list(decoder.feed(b": loading\n\ndata: {"))
        [Comment(text='loading')]
        >>> list(decoder.feed(b"}\n\n"))
        [Event(data=b'{}')]
    """

    _line: list[bytes] = field(default_factory=list)
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0
    """Bytes of the lines of data that are whole."""
    _pending: int = 0
    """Bytes of the line that is not."""

    def feed(self, part: bytes) -> Iterator[Event | Comment]:
        """Yield what `part` completes.

        Raises:
            EngineBroke: an event is over MAX_EVENT_BYTES.
        """
        *ended, rest = part.split(b"\n")
        for end in ended:
            line = b"".join((*self._line, end)).removesuffix(b"\r")
            self._line.clear()
            self._pending = 0
            yield from self._take(line)
        self._line.append(rest)
        self._pending += len(rest)
        self._check()

    def _take(self, line: bytes) -> Iterator[Event | Comment]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            yield from self._dispatch()
        elif not name:
            yield Comment(value.decode("utf-8", "replace"))
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
            self._check()

    def _dispatch(self) -> Iterator[Event]:
        self._size = 0
        if self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            yield Event(data)

    def _check(self) -> None:
        if self._size + self._pending > MAX_EVENT_BYTES:
            raise EngineBroke(f"An event of the stream is over {MAX_EVENT_BYTES} bytes.")
