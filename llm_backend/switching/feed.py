"""What happens to the engines, told to whoever listens: state changes, steps, load progress."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

NoticeKind = Literal["state", "step", "progress", "lease", "switch"]
Listener = Callable[["Notice"], None]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened.

    Attributes:
        kind: `state` (a model came into another state), `step` (a switch came one step
            further), `progress` (a load told how far it is), `lease` (a device was lent to
            another program, or came back) or `switch` (one began, or ended).
        data: The JSON object that `/events` sends.
    """

    kind: NoticeKind
    data: dict[str, Any]


class Subscription:
    """A reader of the feed that may be slow: it keeps the newest notices only.

    Attributes:
        lost: Notices dropped because the reader was too slow.
    """

    def __init__(self, keep: int) -> None:
        self._notices: deque[Notice] = deque(maxlen=keep)
        self._more = asyncio.Event()
        self.lost = 0

    def put(self, notice: Notice) -> None:
        """Add a notice; the oldest unread one goes when there is no room."""
        self.lost += len(self._notices) == self._notices.maxlen
        self._notices.append(notice)
        self._more.set()

    async def next(self, timeout_s: float) -> Notice | None:
        """Return the next notice; None when none came within `timeout_s` seconds."""
        if not self._notices:
            self._more.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._more.wait()
            except TimeoutError:
                return None
        return self._notices.popleft()

    async def __aiter__(self) -> AsyncIterator[Notice]:
        while True:
            notice = await self.next(timeout_s=3600)
            if notice is not None:
                yield notice


class Feed:
    """Hands each notice to every listener, on the event loop, in order.

    Attributes:
        switches: By model, the id of the switch that it takes part in.
        readers: How many read in their own time.
    """

    def __init__(self) -> None:
        self.switches: dict[str, str] = {}
        self.readers = 0
        self._listeners: list[Listener] = []

    def publish(self, kind: NoticeKind, **data: Any) -> None:
        """Tell everybody; listeners must be quick and must not raise.

        What is told of a model gets the id of its switch, as `switch`; None where there is none.
        """
        model = data.get("model")
        if model is not None:
            data["switch"] = self.switches.get(model)
        notice = Notice(kind, data)
        for listener in tuple(self._listeners):
            listener(notice)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call `listener` with every notice while the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def subscribed(self, keep: int = 256) -> Iterator[Subscription]:
        """Collect notices for a reader that takes its time."""
        subscription = Subscription(keep)
        self.readers += 1
        try:
            with self.listening(subscription.put):
                yield subscription
        finally:
            self.readers -= 1
