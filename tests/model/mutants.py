"""Schedulers that break one rule each, to show that the model would notice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llm_backend.errors import LLMBackendError
from llm_backend.switching import events as ev
from llm_backend.switching.entry import Entry
from llm_backend.switching.eviction import has_room
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import DOWN, State, Trigger


class StartsBeforeTheEndIsProven(Scheduler):
    def _fits(self, entry: Entry) -> bool:  # noqa: ARG002  # the signature of the rule that it breaks
        return True


class IgnoresCapacity(Scheduler):
    def __init__(self, models: Iterable[ev.Needs], rules: ev.Rules) -> None:
        super().__init__(models, replace(rules, capacity={}))


class IgnoresTheQueueLimit(Scheduler):
    def __init__(self, models: Iterable[ev.Needs], rules: ev.Rules) -> None:
        super().__init__(models, replace(rules, queue_limit=1_000_000))


class GrantsWhileDraining(Scheduler):
    class Eager(Entry):
        @property
        def free(self) -> int:
            serving = self.state in {State.AWAKE, State.DRAINING}
            return self.needs.concurrency - self.leases if serving else 0

    def __init__(self, models: Iterable[ev.Needs], rules: ev.Rules) -> None:
        super().__init__(models, rules)
        self.entries = {m: self.Eager(e.needs) for m, e in self.entries.items()}


class IgnoresSeats(Scheduler):
    class Endless(Entry):
        @property
        def free(self) -> int:
            return 1 if self.state is State.AWAKE else 0

    def __init__(self, models: Iterable[ev.Needs], rules: ev.Rules) -> None:
        super().__init__(models, rules)
        self.entries = {m: self.Endless(e.needs) for m, e in self.entries.items()}


class ForgetsThatSomebodyLeft(Scheduler):
    def _left(self, ticket: ev.Ticket) -> None:
        pass


class ForgetsReturnedLeases(Scheduler):
    def _finished(self, entry: Entry) -> None:
        pass


class LetsAHotModelStarveTheRest(Scheduler):
    def _send_away(self, entry: Entry) -> None:
        if not entry.leases:
            super()._send_away(entry)


class LetsTheLineBeOvertaken(Scheduler):
    def _bring_up(self, entry: Entry, ahead: list[ev.Needs]) -> None:  # noqa: ARG002  # the signature of the rule that it breaks
        super()._bring_up(entry, [])


class ServesTheNewestFirst(Scheduler):
    def _line(self) -> Iterable[Entry]:  # type: ignore[override]  # a list does here
        return list(super()._line())[::-1]


class DropsWhoeverWaitedForAFailedStart(Scheduler):
    def _refuse_waiting(self, entry: Entry, error: LLMBackendError) -> None:  # noqa: ARG002  # the signature of the rule that it breaks
        for ticket in list(entry.waiting):
            self._forget(ticket, entry)


class RefusesAgainAndAgain(Scheduler):
    def _refuse_waiting(self, entry: Entry, error: LLMBackendError) -> None:
        self._effects.extend(ev.Refuse(ticket, error) for ticket in entry.waiting)


class DrainsForEver(Scheduler):
    def _drain_deadlines(self) -> None:
        pass


class LeavesRequestsOnADeadEngine(Scheduler):
    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        return [e for e in super().handle(event, now) if not isinstance(e, ev.Cut)]


class SetsNoTimer(Scheduler):
    def _send_away(self, entry: Entry) -> None:
        super()._send_away(entry)
        self._effects = [e for e in self._effects if not isinstance(e, ev.SetTimer)]


class DrainsForNobody(Scheduler):
    def _drain_is_pointless(self, entry: Entry) -> bool:  # noqa: ARG002  # the signature of the rule that it breaks
        return False


class LoadsForNobody(Scheduler):
    def _load_is_unwanted(self, entry: Entry) -> bool:  # noqa: ARG002  # the signature of the rule that it breaks
        return False


class BelievesAnEngineThatItStops(Scheduler):
    def _engine_event(self, event: ev.EngineEvent) -> None:
        entry = self.entries[event.model]
        if isinstance(event, ev.Ready) and entry.state is State.STOPPING:
            entry.state = State.STARTING
        super()._engine_event(event)


class KeepsReplacedSwitches(Scheduler):
    def _drop_intent(self, model: str, why: str) -> None:
        pass


class ForgetsOperators(Scheduler):
    def _reached(self, tickets: list[ev.Ticket]) -> None:
        pass


class ForgetsWhatItKept(Scheduler):
    def _want(self, group: str, model: str | None) -> None:
        if not any(isinstance(e, ev.Moved) and e.state is State.AWAKE for e in self._effects):
            super()._want(group, model)


class ForgetsWhatSleepersTake(Scheduler):
    def _fits(self, entry: Entry) -> bool:
        others = [e for e in self.entries.values() if e is not entry and e.state not in DOWN]
        return has_room(entry.needs, [e.needs for e in others], self.rules.capacity)


class PutsToSleepWhatIsToBeUnloaded(Scheduler):
    def _rung(self, entry: Entry) -> int | None:
        return next(iter(entry.needs.rungs), None)


class KeepsASleeperThatIsToBeUnloaded(Scheduler):
    def _slept(self, entry: Entry) -> None:
        self._move(entry, Trigger.SLEPT)


MUTANTS: list[type[Scheduler]] = [
    mutant
    for mutant in vars().values()
    if isinstance(mutant, type) and mutant.__base__ is Scheduler
]
