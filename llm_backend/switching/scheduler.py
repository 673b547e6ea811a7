"""Decides which model holds the device. Pure: event and `now` in, effects out.

1. An operator's switch goes before every request; a later one that excludes it replaces it.
2. Models stand in line; in which order, says the policy.
3. An awake model grants its waiting requests while it has leases to give. When a model becomes
   awake, all who wait for it join, whatever else waits: a load is never thrown away unserved.
4. A model that is not awake starts once everything in its way has left. What is in its way
   drains from the moment that it is first in line and the policy keeps nobody any longer, so
   that no stream of requests for the awake model can starve it; if the interest goes away
   meanwhile, the drain is called off.
5. Nobody overtakes: whoever would not fit beside the models earlier in line waits.

The invariant, after every event: at most one engine per exclusivity group, and what the engines
reserve fits their devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import inf

from llm_backend.errors import LLMBackendError
from llm_backend.switching import events as ev
from llm_backend.switching.actions import Actions
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.estimates import CAREFUL, USUAL, Durations, Pace
from llm_backend.switching.eviction import Occupant, fits_beside, has_room, make_room
from llm_backend.switching.fair import Fair
from llm_backend.switching.forecast import NO_STEPS, Forecast, Steps
from llm_backend.switching.policies import Fifo, Policy
from llm_backend.switching.refusals import (
    not_active,
    pinned,
    queue_full,
    switched_away,
)
from llm_backend.switching.states import AT_REST, DOWN, State, Trigger


class Scheduler(Actions):
    """Owns the state of every model; see the module for what it decides.

    Args:
        models: All models of the catalog that this set-up can run; each fits its devices alone.
        rules: The settings that decide, the policy among them.
        durations: Measured stage times by model, a live view.
        now: The time at which it begins.
    """

    def __init__(
        self,
        models: Iterable[ev.Needs],
        rules: ev.Rules,
        durations: Mapping[str, Durations] | None = None,
        now: float = 0.0,
    ) -> None:
        super().__init__(models, rules, now, durations if durations is not None else {})
        self._policy: Policy = (
            Fair(self.entries, self.intents, self.rules, self._durations)
            if rules.policy == "fair"
            else Fifo(self.entries, self.intents, self.rules)
        )
        self._leaving: set[str] = set()
        self._alarm = inf

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take in one event; return what is to be done, in this order."""
        self._now = now
        self._effects = []
        self._take_in(event)
        self._advance()
        if isinstance(event, ev.Timer):
            self._alarm = inf
            self._unload_idle()
        self._set_alarm()
        return self._effects

    def grant_at_once(self, model: str, now: float) -> bool:
        """Grant a lease as `Arrived` would; return False where it would have more to decide."""
        entry = self.entries[model]
        if self._tickets or entry.free <= 0:
            return False
        entry.expect(now)
        entry.lend(now)
        return True

    def finish_at_once(self, model: str, now: float) -> bool:
        """Take a lease back as `Finished` would; return False where that has consequences."""
        entry = self.entries[model]
        if self._tickets or self.intents or entry.state is not State.AWAKE:
            return False
        if entry.needs.idle_ttl_s is not None and entry.leases == 1:
            return False
        entry.take_back(now)
        return True

    def forecast(self, now: float, pace: Pace = USUAL, steps: Steps = NO_STEPS) -> Forecast:
        """Return a look ahead from now on, by what was measured."""
        facts = (self.entries, self.intents, self._policy, self.rules, self._durations)
        return Forecast(*facts, now, pace, steps)

    # Taking in

    def _take_in(self, event: ev.Event) -> None:
        match event:
            case ev.Arrived(ticket, model, key, batch, may_switch):
                claim = Claim(self._now, key, batch, may_switch)
                self._arrived(ticket, self.entries[model], claim)
            case ev.Finished(model):
                self._finished(self.entries[model])
            case ev.Left(ticket):
                self._left(ticket)
            case ev.SwitchAsked(ticket, model):
                self._switch_asked(ticket, self.entries[model])
            case ev.UnloadAsked(ticket, model):
                self._unload_asked(ticket, self.entries[model])
            case ev.LeaseTaken() | ev.LeaseGiven():
                self._lease_event(event)
            case ev.Timer():
                self._drain_deadlines()
            case _:
                self._engine_event(event)

    def _engine_event(self, event: ev.EngineEvent) -> None:
        entry = self.entries[event.model]
        match event:
            case ev.Stopped():
                self._stopped(entry)
            case ev.Slept():
                self._slept(entry)
            case _ if entry.state is State.STOPPING:
                return  # it crossed our `Stop`; the end is still to be proven
            case ev.Adopted():
                self._adopted(entry)
            case ev.Ready(_, rung_lost):
                self._ready(entry, rung_lost=rung_lost)
            case _:
                self._failure_event(entry, event)

    def _arrived(self, ticket: ev.Ticket, entry: Entry, claim: Claim) -> None:
        entry.expect(self._now)
        self._line_up(ticket, entry, claim)
        if entry.state is State.AWAKE:
            self._settle(entry)
        elif not claim.may_switch:
            self._refuse_guests(entry)
        if ticket in entry.waiting and not self._policy.has_place(claim, self.queue_length):
            self._forget(ticket, entry)
            wait_s = self.forecast(self._now, CAREFUL).back_s(entry.needs.model, claim)
            self._effects.append(ev.Refuse(ticket, queue_full(self.queue_length, wait_s)))

    def _finished(self, entry: Entry) -> None:
        entry.take_back(self._now)
        if entry.state is State.DRAINING and entry.leases == 0:
            self._leave(entry)

    def _left(self, ticket: ev.Ticket) -> None:
        model = self._tickets.pop(ticket, None)
        if model is not None:
            del self.entries[model].waiting[ticket]
            return
        # An operator who hangs up does not call the switch, the unload or the lease off.
        self.leases.forget(ticket)
        for tickets in [*self.intents.values(), *self.unloads.values()]:
            if ticket in tickets:
                tickets.remove(ticket)

    def _switch_asked(self, ticket: ev.Ticket, entry: Entry) -> None:
        self._want(entry.needs.group, entry.needs.model)
        why = f"A later switch to {entry.needs.model} replaced this one."
        is_kept_out = self.leases.keeping_out(entry.needs) is not None
        for other in [self.entries[m] for m in self.intents if m != entry.needs.model]:
            if not (is_kept_out or fits_beside(entry.needs, [other.needs], self.rules.capacity)):
                self._drop_intent(other.needs.model, why)
                self._want_no_more(other)
        self.intents.setdefault(entry.needs.model, []).append(ticket)

    def _unload_asked(self, ticket: ev.Ticket, entry: Entry) -> None:
        model = entry.needs.model
        entry.kept_until = 0.0
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
            self._displace(entry)

    def _ready(self, entry: Entry, *, rung_lost: bool) -> None:
        if rung_lost:
            entry.lose_rung(self._now)
        self._move(entry, Trigger.READY)
        self._settle(entry)

    def _slept(self, entry: Entry) -> None:
        self._move(entry, Trigger.SLEPT)
        if entry.needs.model in self.unloads:
            self._stop(entry)

    def _stopped(self, entry: Entry) -> None:
        if entry.hung is None:
            entry.lose_rung(self._now)
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
            self._leave(entry)

    # Deciding

    def _advance(self) -> None:
        self._leaving = self._make_way_for_leases()
        self._policy.begin(self._now)
        done: set[str] = set()
        ahead: list[ev.Needs] = []
        while entry := next((e for e in self._line() if e.needs.model not in done), None):
            place = self._place(entry)
            self._serve(entry, ahead)
            if place == self._place(entry):  # else somebody was served: it may stand further back
                done.add(entry.needs.model)
                if self._policy.goes_before(entry):
                    ahead.append(entry.needs)
        for entry in self.entries.values():
            if self._drain_is_pointless(entry):
                self._keep(entry)
            elif self._load_is_unwanted(entry):
                self._stop(entry)

    def _line(self) -> Iterator[Entry]:
        return self._policy.line()

    def _place(self, entry: Entry) -> tuple[bool, ev.Ticket | None]:
        return entry.needs.model in self.intents, next(iter(entry.waiting), None)

    def _serve(self, entry: Entry, ahead: list[ev.Needs]) -> None:
        if self._drain_is_pointless(entry):
            self._keep(entry)
        if entry.state is State.AWAKE:
            self._settle(entry)
        elif refusal := self._refusal(entry):
            self._refuse_waiting(entry, refusal)
        elif entry.state in DOWN:
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
        by = next((e.needs.model for e in self._pinned() if self._excludes(e, entry)), None)
        return entry.resting(self._now) if by is None else pinned(model, by)

    def _pinned(self) -> Iterator[Entry]:
        """Yield the pinned models that have an engine, unless an operator sends it away."""
        for entry in self.entries.values():
            if entry.needs.pinned and entry.state in {State.STARTING, State.AWAKE}:
                yield entry

    def _excludes(self, one: Entry, other: Entry) -> bool:
        return one is not other and not fits_beside(other.needs, [one.needs], self.rules.capacity)

    def _bring_up(self, entry: Entry, ahead: list[ev.Needs]) -> None:
        victims = self._victims(entry, ahead)
        if victims is None:
            return
        self._want(entry.needs.group, entry.needs.model)
        self._leaving.update(victims)
        for victim in [self.entries[model] for model in victims]:
            victim.yields_to = entry.needs.model
            self._want_no_more(victim)
            self._send_away(victim)
        if self._fits(entry):
            self._move(entry, Trigger.START)
            self._effects.append(ev.Start(entry.needs.model))

    def _victims(self, entry: Entry, ahead: list[ev.Needs]) -> list[str] | None:
        """Return who leaves now so that a model fits; None while it has to wait."""
        resting = AT_REST | {State.STOPPING}
        others = [e for e in self.entries.values() if e is not entry and e.state not in resting]
        occupants = [self._occupant(other, entry, ahead) for other in others]
        victims = make_room(entry.needs, occupants, self.rules.capacity, ahead)
        kept = {e.needs.model: self._policy.kept_until(e, entry) for e in others}
        kept = {model: until for model, until in kept.items() if until > self._now}
        if victims is None or kept.keys().isdisjoint(victims):
            return victims
        occupants = [replace(o, fixed=o.fixed or o.needs.model in kept) for o in occupants]
        instead = make_room(entry.needs, occupants, self.rules.capacity, ahead)
        if instead is None:
            self._policy.wait_until(min(kept[v] for v in victims if v in kept), entry)
        return instead

    def _occupant(self, entry: Entry, wanted: Entry, ahead: list[ev.Needs]) -> Occupant:
        by_request = wanted.needs.model not in self.intents
        stays = entry.needs.pinned and entry.state is not State.ASLEEP
        stays = stays or self._policy.must_finish(entry)
        return Occupant(
            entry.reserved,
            busy=entry.leases,
            last_used=entry.last_used,
            fixed=(by_request and stays) or entry.needs in ahead,
        )

    def _fits(self, entry: Entry) -> bool:
        running = [
            e.reserved for e in self.entries.values() if e is not entry and e.state not in AT_REST
        ]
        return has_room(entry.needs, running, self.rules.capacity)

    def _settle(self, entry: Entry) -> None:
        """Give an awake model's operators and waiting requests what they wait for."""
        if entry.needs.model in self.intents:
            self._reached(self.intents.pop(entry.needs.model))
            entry.kept_until = self._now + self._policy.turn_s(entry)
        while entry.free > 0 and (ticket := self._policy.call_up(entry)) is not None:
            self._forget(ticket, entry)
            self._grant(ticket, entry)

    # The time

    def _unload_idle(self) -> None:
        for entry in self.entries.values():
            if self._idle_until(entry) <= self._now:
                self._want_no_more(entry)
                self._send_away(entry)

    def _idle_until(self, entry: Entry) -> float:
        """Return when a model will have been idle for too long; `inf` if it is not idle."""
        ttl_s = entry.needs.idle_ttl_s
        if ttl_s is None or entry.state is not State.AWAKE or entry.leases or entry.waiting:
            return inf
        return max(entry.idle_since + ttl_s, entry.kept_until)

    def _set_alarm(self) -> None:
        """Ask for a timer, unless one is set that comes early enough to ask again then."""
        idle = [at for e in self.entries.values() if (at := self._idle_until(e)) > self._now]
        at = min([self._policy.wake_at, *idle])
        if at < self._alarm:
            self._alarm = at
            self._effects.append(ev.SetTimer(at))
