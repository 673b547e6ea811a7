"""The servers behind one engine: which are up, which are left alone for a while, who is next.

Synchronous throughout, so that nothing happens between a choice and its being counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from llm_backend.runtimes.base import Engine

EJECT_AFTER: Final = 3
"""Requests in a row that a server fails before it is left alone."""
FIRST_PAUSE_S: Final = 5.0
"""How long it is left alone then; each time in a row twice as long."""
LONGEST_PAUSE_S: Final = 300.0


@dataclass(slots=True, eq=False)
class _Standing:
    """What is known of one server.

    Attributes:
        server: The server.
        trouble: Why it cannot serve; None where it can.
        busy: Requests that it works on.
        failures: Requests in a row that it failed.
        pauses: Times in a row that it was left alone.
        alone_until: When that ends.
        turn: When it was taken last, counted in requests.
    """

    server: Engine
    trouble: str | None = "it was not asked yet"
    busy: int = 0
    failures: int = 0
    pauses: int = 0
    alone_until: float = 0.0
    turn: int = 0


class ReplicaSet:
    """Chooses a server for each request; see `runtimes.base.Replicas`.

    The fewest requests count, and between equals who had none the longest. A server that is down,
    or failed some requests in a row, comes last: where all are so, one of them is tried all the
    same, for what is known of them may be old.

    Args:
        servers: All of them.
        clock: Monotonic seconds.
    """

    def __init__(self, servers: Sequence[Engine], clock: Callable[[], float]) -> None:
        self._standings = {server: _Standing(server) for server in servers}
        self._clock = clock
        self._turns = 0

    @property
    def up(self) -> bool:
        """Whether any server says that it can serve."""
        return any(each.trouble is None for each in self._standings.values())

    @property
    def servers(self) -> Sequence[Engine]:
        """All of them, as the catalog lists them."""
        return list(self._standings)

    @property
    def troubles(self) -> dict[Engine, str]:
        """Why servers cannot serve; those that can are left out."""
        return {s: each.trouble for s, each in self._standings.items() if each.trouble is not None}

    def take(self, other_than: Sequence[Engine] = ()) -> Engine | None:
        """Return the server for a request; None where those were all that can serve."""
        now = self._clock()
        left = [e for e in self._standings.values() if e.server not in other_than]
        if other_than:  # a second try is not for what is known to fail
            left = [e for e in left if e.trouble is None and e.alone_until <= now]
        if not left:
            return None
        best = min(left, key=lambda e: (e.trouble is not None, e.alone_until > now, e.busy, e.turn))
        self._turns += 1
        best.turn = self._turns
        best.busy += 1
        return best.server

    def give_back(self, server: Engine, *, failed: bool | None) -> None:
        """End a request on a server; tell whether it failed by the server's fault."""
        standing = self._standings[server]
        standing.busy -= 1
        if failed:
            self._blame(standing)
        elif failed is False:
            standing.failures = standing.pauses = 0
            standing.alone_until = 0.0

    def note(self, server: Engine, trouble: str | None) -> bool:
        """Take in what a server says of itself; return whether that is news."""
        standing = self._standings[server]
        is_news = standing.trouble != trouble
        standing.trouble = trouble
        return is_news

    def _blame(self, standing: _Standing) -> None:
        now = self._clock()
        standing.failures += 1
        # Requests that were under way when it was left alone tell nothing new.
        if standing.failures >= EJECT_AFTER and standing.alone_until <= now:
            pause_s = min(FIRST_PAUSE_S * 2**standing.pauses, LONGEST_PAUSE_S)
            standing.alone_until = now + pause_s
            standing.pauses += 1
