"""Decides which model holds the device. Pure: event and `now` in, effects out.

The policy is first come, first served, with joining:

1. An operator's switch goes before every request; a later one that excludes it replaces it.
2. Models stand in line by the oldest request that waits for them.
3. An awake model grants its waiting requests while it has leases to give. When a model becomes
   awake, all who wait for it join, whatever else waits: a load is never thrown away unserved.
4. A model that is not awake starts once everything in its way has left. What is in its way
   drains from the moment that it is first in line, so that no stream of requests for the awake
   model can starve it; if the interest goes away meanwhile, the drain is called off.
5. Nobody overtakes: whoever would not fit beside the models earlier in line waits.

The invariant, after every event: at most one engine per exclusivity group, and what the engines
reserve fits their devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from llm_backend.errors import LLMBackendError, SwitchSuperseded
from llm_backend.switching import events as ev
from llm_backend.switching.entry import Entry
from llm_backend.switching.estimates import Durations, switch_s
from llm_backend.switching.eviction import Occupant, fits_beside, has_room, make_room
from llm_backend.switching.refusals import not_active, queue_full, switched_away
from llm_backend.switching.states import AT_REST, SERVING, State, Trigger, next_state


class Scheduler:
    """Owns the state of every model; see the module for what it decides.

    Args:
        models: All models of the catalog that this set-up can run; each fits its devices alone.
        rules: The settings that decide.
        durations: Measured stage times by model, a live view; only for `Retry-After`.
    """

    def __init__(
        self,
        models: Iterable[ev.Needs],
        rules: ev.Rules,
        durations: Mapping[str, Durations] | None = None,
    ) -> None:
        self.entries: dict[str, Entry] = {n.model: Entry(n) for n in models}
        self.rules = rules
        self.wanted: dict[str, str | None] = {}
        self.intents: dict[str, list[ev.Ticket]] = {}
        self.unloads: dict[str, list[ev.Ticket]] = {}
        self._durations = durations if durations is not None else {}
        self._tickets: dict[ev.Ticket, str] = {}
        self._previous: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._effects: list[ev.Effect] = []
        self._now = 0.0

    @property
    def queue_length(self) -> int:
        """Requests that wait, over all models."""
        return len(self._tickets)

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take in one event; return what is to be done, in this order."""
        self._now = now
        self._effects = []
        self._take_in(event)
        self._advance()
        return self._effects

    def grant_at_once(self, model: str, now: float) -> bool:
        """Grant a lease as `Arrived` would; return False where it would have more to decide."""
        entry = self.entries[model]
        if entry.waiting or entry.free <= 0:
            return False
        entry.lend(now)
        return True

    def finish_at_once(self, model: str, now: float) -> bool:
        """Take a lease back as `Finished` would; return False where that has consequences."""
        entry = self.entries[model]
        if self._tickets or self.intents or entry.state is not State.AWAKE:
            return False
        entry.take_back(now)
        return True

    def expected_wait_s(self, model: str) -> float:
        """Return about how many seconds a request for this model would wait if it came now."""
        wait = 0.0
        line = {e.needs.model: e for e in [*self._line(), self.entries[model]]}
        for entry in line.values():
            if entry.state is not State.AWAKE:
                in_the_way = [
                    self._durations.get(o.needs.model, {})
                    for o in self.entries.values()
                    if o is not entry and o.state not in AT_REST
                ]
                wait += switch_s(in_the_way, self._durations.get(entry.needs.model, {}))
            if entry.needs.model == model:
                break
        return wait

    # Taking in

    def _take_in(self, event: ev.Event) -> None:
        match event:
            case ev.Arrived(ticket, model):
                self._arrived(ticket, self.entries[model])
            case ev.Finished(model):
                self._finished(self.entries[model])
            case ev.Left(ticket):
                self._left(ticket)
            case ev.SwitchAsked(ticket, model):
                self._switch_asked(ticket, self.entries[model])
            case ev.UnloadAsked(ticket, model):
                self._unload_asked(ticket, self.entries[model])
            case ev.Timer():
                self._drain_deadlines()
            case _:
                self._engine_event(event)

    def _engine_event(self, event: ev.Adopted | ev.Ready | ev.Broke | ev.Hung | ev.Stopped) -> None:
        entry = self.entries[event.model]
        match event:
            case ev.Stopped():
                self._stopped(entry)
            case _ if entry.state is State.STOPPING:
                return  # it crossed our `Stop`; the end is still to be proven
            case ev.Adopted():
                self._adopted(entry)
            case ev.Ready():
                self._move(entry, Trigger.READY)
                self._settle(entry)
            case ev.Broke(_, error):
                self._broke(entry, error)
            case ev.Hung(_, error):
                self._hung(entry, error)

    def _arrived(self, ticket: ev.Ticket, entry: Entry) -> None:
        if entry.free > 0 and not entry.waiting:
            self._grant(ticket, entry)
        elif self.queue_length >= self.rules.queue_limit:
            wait_s = self.expected_wait_s(entry.needs.model)
            self._effects.append(ev.Refuse(ticket, queue_full(self.queue_length, wait_s)))
        else:
            entry.waiting[ticket] = None
            self._tickets[ticket] = entry.needs.model

    def _finished(self, entry: Entry) -> None:
        entry.take_back(self._now)
        if entry.state is State.DRAINING and entry.leases == 0:
            self._stop(entry)

    def _left(self, ticket: ev.Ticket) -> None:
        model = self._tickets.pop(ticket, None)
        if model is not None:
            del self.entries[model].waiting[ticket]
            return
        # An operator who hangs up does not call the switch or the unload off.
        for tickets in [*self.intents.values(), *self.unloads.values()]:
            if ticket in tickets:
                tickets.remove(ticket)

    def _switch_asked(self, ticket: ev.Ticket, entry: Entry) -> None:
        self._want(entry.needs.group, entry.needs.model)
        why = f"A later switch to {entry.needs.model} replaced this one."
        for other in [self.entries[m] for m in self.intents if m != entry.needs.model]:
            if not fits_beside(entry.needs, [other.needs], self.rules.capacity):
                self._drop_intent(other.needs.model, why)
                self._want_no_more(other)
        self.intents.setdefault(entry.needs.model, []).append(ticket)

    def _unload_asked(self, ticket: ev.Ticket, entry: Entry) -> None:
        model = entry.needs.model
        self._drop_intent(model, f"{model} was unloaded before the switch was done.")
        self._want_no_more(entry)
        if self._previous.get(entry.needs.group) == model:
            del self._previous[entry.needs.group]
        self.unloads.setdefault(model, []).append(ticket)
        self._send_away(entry)
        self._unloaded(entry)

    def _adopted(self, entry: Entry) -> None:
        if self._fits(entry):
            self._move(entry, Trigger.ADOPT)
            self._want(entry.needs.group, entry.needs.model)
            self._settle(entry)
        else:  # the catalog or its devices changed between two gateways
            self._stop(entry)

    def _broke(self, entry: Entry, error: LLMBackendError) -> None:
        before = entry.state
        self._move(entry, Trigger.BROKE)
        entry.remember_failure(error, self._now)
        if before is State.STARTING:
            self._refuse_waiting(entry, error)
            self._intent_failed(entry, error)
        else:
            self._effects.append(ev.Cut(entry.needs.model, error))
        self._unloaded(entry)

    def _hung(self, entry: Entry, error: LLMBackendError) -> None:
        if entry.state in SERVING:
            entry.hung = error
            self._effects.append(ev.Cut(entry.needs.model, error))
            self._stop(entry)

    def _stopped(self, entry: Entry) -> None:
        if entry.hung is None:
            self._move(entry, Trigger.STOPPED)
        else:
            self._move(entry, Trigger.BROKE)
            entry.remember_failure(entry.hung, self._now)
            entry.hung = None
        self._unloaded(entry)

    def _drain_deadlines(self) -> None:
        for entry in [e for e in self.entries.values() if e.state is State.DRAINING]:
            if self._now < entry.drain_until:  # early, or from a drain that was called off
                self._effects.append(ev.SetTimer(entry.drain_until))
                continue
            error = switched_away(entry.needs.model, self.rules.drain_s)
            self._effects.append(ev.Cut(entry.needs.model, error))
            self._stop(entry)

    # Deciding

    def _advance(self) -> None:
        self._leaving = set()
        ahead: list[ev.Needs] = []
        while entry := next((e for e in self._line() if e.needs not in ahead), None):
            place = self._place(entry)
            self._serve(entry, ahead)
            if place == self._place(entry):  # else somebody was served: it stands further back now
                ahead.append(entry.needs)
        for entry in self.entries.values():
            if self._drain_is_pointless(entry):
                self._keep(entry)
            elif self._load_is_unwanted(entry):
                self._stop(entry)

    def _line(self) -> Iterator[Entry]:
        """Yield the models that someone waits for: operators' first, then by oldest ticket."""
        yield from [self.entries[model] for model in self.intents]
        requested = [e for e in self.entries.values() if e.waiting]
        requested.sort(key=lambda e: next(iter(e.waiting)))
        yield from [e for e in requested if e.needs.model not in self.intents]

    def _place(self, entry: Entry) -> tuple[bool, ev.Ticket | None]:
        return entry.needs.model in self.intents, next(iter(entry.waiting), None)

    def _serve(self, entry: Entry, ahead: list[ev.Needs]) -> None:
        if self._drain_is_pointless(entry):
            self._keep(entry)
        if entry.state is State.AWAKE:
            self._settle(entry)
        elif refusal := self._refusal(entry):
            self._refuse_waiting(entry, refusal)
        elif entry.state in AT_REST:
            self._bring_up(entry, ahead)

    def _drain_is_pointless(self, entry: Entry) -> bool:
        doomed = self._leaving | self.unloads.keys()
        return entry.state is State.DRAINING and entry.needs.model not in doomed

    def _load_is_unwanted(self, entry: Entry) -> bool:
        return (
            self.rules.unwanted_load == "cancel"
            and entry.state is State.STARTING
            and not entry.waiting
            and entry.needs.model not in self.intents
        )

    def _refusal(self, entry: Entry) -> LLMBackendError | None:
        model = entry.needs.model
        if model in self.intents or entry.state is State.STARTING:
            return None
        if self.rules.mode == "manual" and self.wanted.get(entry.needs.group) != model:
            return not_active(model)
        return entry.resting(self._now)

    def _bring_up(self, entry: Entry, ahead: list[ev.Needs]) -> None:
        occupants = [
            self._occupant(other, entry, ahead)
            for other in self.entries.values()
            if other.state not in AT_REST | {State.STOPPING}
        ]
        victims = make_room(entry.needs, occupants, self.rules.capacity, ahead)
        if victims is None:
            return
        self._want(entry.needs.group, entry.needs.model)
        self._leaving.update(victims)
        for model in victims:
            self._want_no_more(self.entries[model])
            self._send_away(self.entries[model])
        if self._fits(entry):
            self._move(entry, Trigger.START)
            self._effects.append(ev.Start(entry.needs.model))

    def _occupant(self, entry: Entry, wanted: Entry, ahead: list[ev.Needs]) -> Occupant:
        must_finish = (
            entry.state is State.STARTING
            and wanted.needs.model not in self.intents
            and (bool(entry.waiting) or self.rules.unwanted_load == "finish")
        )
        return Occupant(
            entry.needs,
            busy=entry.leases,
            last_used=entry.last_used,
            fixed=must_finish or entry.needs in ahead,
        )

    def _fits(self, entry: Entry) -> bool:
        running = [e.needs for e in self.entries.values() if e.state not in AT_REST]
        return has_room(entry.needs, running, self.rules.capacity)

    # Doing

    def _move(self, entry: Entry, trigger: Trigger) -> None:
        previous, entry.state = entry.state, next_state(entry.state, trigger)
        entry.since = self._now
        self._effects.append(ev.Moved(entry.needs.model, previous, entry.state))
        if entry.state is State.AWAKE:
            entry.error = None
            self._previous[entry.needs.group] = entry.needs.model

    def _want(self, group: str, model: str | None) -> None:
        if self.wanted.get(group) != model:
            self.wanted[group] = model
            self._effects.append(ev.Want(group, model))

    def _want_no_more(self, entry: Entry) -> None:
        group = entry.needs.group
        if self.wanted.get(group) == entry.needs.model:
            rivals = [e for e in self.entries.values() if e is not entry and e.needs.group == group]
            awake = (e.needs.model for e in rivals if e.state is State.AWAKE)
            self._want(group, next(awake, None))

    def _settle(self, entry: Entry) -> None:
        """Give an awake model's operators and waiting requests what they wait for."""
        self._reached(self.intents.pop(entry.needs.model, []))
        while entry.waiting and entry.free > 0:
            ticket = next(iter(entry.waiting))
            self._forget(ticket, entry)
            self._grant(ticket, entry)

    def _grant(self, ticket: ev.Ticket, entry: Entry) -> None:
        entry.lend(self._now)
        self._effects.append(ev.Grant(ticket, entry.needs.model))

    def _forget(self, ticket: ev.Ticket, entry: Entry) -> None:
        del entry.waiting[ticket]
        del self._tickets[ticket]

    def _send_away(self, entry: Entry) -> None:
        if entry.state is State.AWAKE and entry.leases > 0:
            self._move(entry, Trigger.DRAIN)
            entry.drain_until = self._now + self.rules.drain_s
            self._effects.append(ev.SetTimer(entry.drain_until))
        elif entry.state in {State.STARTING, State.AWAKE}:
            self._stop(entry)

    def _keep(self, entry: Entry) -> None:
        self._move(entry, Trigger.KEEP)
        self._want(entry.needs.group, entry.needs.model)

    def _stop(self, entry: Entry) -> None:
        self._move(entry, Trigger.STOP)
        self._effects.append(ev.Stop(entry.needs.model))

    def _unloaded(self, entry: Entry) -> None:
        if entry.state in AT_REST:
            self._reached(self.unloads.pop(entry.needs.model, []))

    def _reached(self, tickets: list[ev.Ticket]) -> None:
        self._effects.extend(ev.Reached(ticket) for ticket in tickets)

    def _refuse_waiting(self, entry: Entry, error: LLMBackendError) -> None:
        for ticket in list(entry.waiting):
            self._forget(ticket, entry)
            self._effects.append(ev.Refuse(ticket, error))

    def _drop_intent(self, model: str, why: str) -> None:
        tickets = self.intents.pop(model, [])
        self._effects.extend(ev.Refuse(ticket, SwitchSuperseded(why)) for ticket in tickets)

    def _intent_failed(self, entry: Entry, error: LLMBackendError) -> None:
        tickets = self.intents.pop(entry.needs.model, None)
        if tickets is None:
            return
        self._effects.extend(ev.Refuse(ticket, error) for ticket in tickets)
        previous = self._previous.get(entry.needs.group)
        if self.rules.restore_previous and previous and previous != entry.needs.model:
            self.intents.setdefault(previous, [])
