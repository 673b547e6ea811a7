"""Tests of the scheduler as a dialogue: an event in, the effects out, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_backend.errors import EngineGone, EngineStartFailed, LLMBackendError
from llm_backend.switching import events as ev
from llm_backend.switching.estimates import Durations
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import State

NOT_READY = EngineStartFailed("exited with status 1 before it was ready")
CRASH = EngineGone("killed by SIGSEGV")
HANG = EngineGone("no token within 15 s")


def model(name: str, *, group: str = "gpu", seats: int = 10, **mib: int) -> ev.Needs:
    return ev.Needs(name, group, seats, mib)


@dataclass(frozen=True)
class _Like:
    kind: type[LLMBackendError]
    words: str

    def __eq__(self, other: object) -> bool:
        return type(other) is self.kind and self.words in str(other)

    __hash__ = None  # type: ignore[assignment]  # equal to many


def like(kind: type[LLMBackendError], words: str = "") -> Any:
    """Return what equals every error of this class whose text has these words."""
    return _Like(kind, words)


class Playbook:
    """A scheduler, the time, and what is said.

    Calling it sends an event and returns the effects without `Moved`, which the tests of the
    states look at. The clock stands still until `later`.
    """

    def __init__(
        self,
        *models: ev.Needs,
        durations: Mapping[str, Durations] | None = None,
        **rules: Any,
    ) -> None:
        self.scheduler = Scheduler(models, ev.Rules(**{"policy": "fifo", **rules}), durations)
        self.now = 100.0
        self.moves: list[tuple[str, State]] = []

    def __call__(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.scheduler.handle(event, self.now)
        self.moves += [(e.model, e.state) for e in effects if isinstance(e, ev.Moved)]
        return [e for e in effects if not isinstance(e, ev.Moved)]

    def later(self, seconds: float) -> None:
        self.now += seconds

    def awake(self, *names: str) -> Playbook:
        """Begin with these models awake."""
        for name in names:
            self(ev.Adopted(name))
        return self

    def busy(self, name: str, *tickets: ev.Ticket) -> Playbook:
        """Begin with these requests on a model that is awake."""
        for ticket in tickets:
            assert self(ev.Arrived(ticket, name)) == [ev.Grant(ticket, name)]
        return self

    def states(self) -> dict[str, State]:
        return {name: entry.state for name, entry in self.scheduler.entries.items()}
