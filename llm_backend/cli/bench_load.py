"""The load of a model benchmark: its prompts, and the requests that are measured."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from llm_backend.cli.bench_figures import Line, Sample, line_of
from llm_backend.client import ChatChunk, LLMClient, image_message
from llm_backend.errors import LLMBackendError
from llm_backend.wire import JSONObject

SHORT, LONG, IMAGE = "short", "long", "image"
LONG_WORDS: Final = 1200
"""Words of a long prompt, where the model takes as many."""
PIXELS: Final = 224
"""Sides of the picture."""

_NO_CACHE: Final = {"cache-control": "no-store"}
_OWN_TURN: Final = "all places are taken"
"""How the gateway says that a request waits for others of its own model."""
_TASK: Final = "Tell a story about a lighthouse keeper, a ship and a storm. Do not stop early."
_WORDS: Final = ("the", "old", "ship", "came", "slowly", "through", "dark", "water", "and", "rain")


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes prompts, no two alike: an engine that knows the beginning of one would skip it.

    Attributes:
        max_model_len: Tokens that the model takes, prompt and answer together; None if unknown.
        max_tokens: Tokens that an answer may have.
    """

    max_model_len: int | None
    max_tokens: int

    def message(self, kind: str, number: int) -> JSONObject:
        """Return a message of this kind."""
        text = f"{number}. {_TASK}"
        if kind == IMAGE:
            return image_message(f"{number}. Describe this picture.", [picture(number)])
        if kind == LONG:
            text = f"{number}. {' '.join(self._padding())}. {_TASK}"
        return {"role": "user", "content": text}

    def _padding(self) -> Iterator[str]:
        # A word is a token or two; the rest is for the task and what the engine puts around it.
        room = (self.max_model_len or 8 * LONG_WORDS) - self.max_tokens
        return itertools.islice(itertools.cycle(_WORDS), max(0, min(LONG_WORDS, room // 2 - 64)))


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured.

    Attributes:
        requests: How many requests a line has at most.
        seconds: How long new ones are sent; those under way then get as long again to finish.
    """

    requests: int
    seconds: float


class Load:
    """Sends requests to one model and measures them.

    Args:
        client: Whom to ask; it sends nothing again, which would hide a failure in the times.
        model: Whom to measure.
        prompts: What to ask.
        max_tokens: The longest answer.
        clock: Reads seconds, monotonic.
    """

    def __init__(
        self,
        client: LLMClient,
        model: str,
        prompts: Prompts,
        max_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._model = model
        self._prompts = prompts
        self._params = {
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream_options": {"include_usage": True},
        }
        self._clock = clock
        self._numbers = itertools.count(time.time_ns() // 1000 % 10**9)

    async def warm_up(self, client: LLMClient, kind: str, on_wait: Callable[[str], None]) -> None:
        """Ask once without measuring: the model is switched to, its engine has woken up.

        Args:
            client: Whom to ask; it may send again what failed.
            kind: What prompt.
            on_wait: Told what is waited for.

        Raises:
            LLMBackendError: what the gateway said.
        """
        message = self._prompts.message(kind, next(self._numbers))
        stream = client.stream(
            [message], self._model, on_wait=on_wait, extra_headers=_NO_CACHE, **self._params
        )
        async with stream as chunks:
            async for _ in chunks:
                pass

    async def measure(
        self,
        kind: str,
        concurrency: int,
        effort: Effort,
        lines: list[Line],
        on_sample: Callable[[int], None],
    ) -> None:
        """Measure one line of the table.

        Args:
            kind: What prompts it has.
            concurrency: Requests at once.
            effort: How long it is measured.
            lines: Gets the line, also where this is cancelled: then of what was complete.
            on_sample: Told how many requests are done.
        """
        samples: list[Sample] = []
        begin = self._clock()
        places = iter(range(effort.requests))

        async def work() -> None:
            for _ in places:  # shared: whoever is free takes the next one
                spent = self._clock() - begin
                if spent >= effort.seconds:
                    return
                samples.append(await self._sample(kind, 2 * effort.seconds - spent))
                on_sample(len(samples))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, effort.requests)):
                    group.create_task(work())
        finally:
            if samples:
                lines.append(line_of(kind, concurrency, samples, self._clock() - begin))

    async def _sample(self, kind: str, patience_s: float) -> Sample:
        message = self._prompts.message(kind, next(self._numbers))
        watch = _Watch(self._clock)
        failure = None
        try:
            async with asyncio.timeout(patience_s):
                await self._ask(message, watch)
        except TimeoutError:
            failure = f"the answer was not whole after {patience_s:.0f} s"
        except LLMBackendError as error:
            failure = error.message
        return watch.sample(failure)

    async def _ask(self, message: JSONObject, watch: _Watch) -> None:
        stream = self._client.stream(
            [message], self._model, on_wait=watch.wait, extra_headers=_NO_CACHE, **self._params
        )
        async with stream as chunks:
            async for chunk in chunks:
                watch.take(chunk)


class _Watch:
    """Notes what comes of one request, and when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begin = clock()
        self._first: float | None = None
        self._last = self._begin
        self._pieces = 0
        self._counted: int | None = None
        self._away: str | None = None

    def wait(self, text: str) -> None:
        """Take in what the request waits for."""
        if _OWN_TURN not in text:
            self._away = self._away or text

    def take(self, chunk: ChatChunk) -> None:
        """Take in a chunk."""
        if any(choice.delta.content or choice.delta.reasoning for choice in chunk.choices):
            self._last = self._clock()
            self._first = self._last if self._first is None else self._first
            self._pieces += 1
        if chunk.usage is not None:
            self._counted = chunk.usage.completion_tokens

    def sample(self, failure: str | None) -> Sample:
        """Return what was measured; an answer of nothing is a failure."""
        if failure is None and self._first is None:
            failure = "the model answered nothing"
        first_s = None if self._first is None else self._first - self._begin
        # Engines may put several tokens into a chunk; where they count, their figure holds.
        tokens = self._counted or self._pieces
        return Sample(first_s, self._last - self._begin, tokens, failure, self._away)


def picture(number: int) -> bytes:
    """Return a PNG with a colour gradient, another one for each number."""
    shade = number % 256
    rows = (
        b"\0" + b"".join(bytes((x, y, (shade + x) % 256)) for x in range(PIXELS))
        for y in range(PIXELS)
    )
    header = struct.pack(">IIBBBBB", PIXELS, PIXELS, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*part) for part in parts)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
