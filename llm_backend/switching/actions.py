"""What a scheduler does once it has decided: it keeps its books, and notes down the effects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from llm_backend.errors import LLMBackendError, SwitchSuperseded
from llm_backend.switching import events as ev
from llm_backend.switching.device_lease import DeviceLeases
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.estimates import Durations
from llm_backend.switching.eviction import overcommitted
from llm_backend.switching.refusals import lease_over, leased, not_awake
from llm_backend.switching.residency import Rung, choose
from llm_backend.switching.states import AT_REST, SERVING, State, Trigger, next_state

UP: Final = frozenset({State.STARTING, State.AWAKE})
"""States of a model that is there, or will be."""


class Actions:
    """The books of a scheduler, and every way to change them.

    Args:
        models: All models of the catalog that this set-up can run.
        rules: The settings that decide; what devices are leased takes from their capacity.
        now: The time at which it begins: nobody used a model before.
        durations: Measured stage times by model, a live view.
    """

    def __init__(
        self,
        models: Iterable[ev.Needs],
        rules: ev.Rules,
        now: float,
        durations: Mapping[str, Durations],
    ) -> None:
        self.entries = {n.model: Entry(n, last_used=now) for n in models}
        self.leases = DeviceLeases(rules.capacity)
        self.rules = replace(rules, capacity=self.leases.capacity)
        self.wanted: dict[str, str | None] = {}
        self.intents: dict[str, list[ev.Ticket]] = {}
        self.unloads: dict[str, list[ev.Ticket]] = {}
        self._tickets: dict[ev.Ticket, str] = {}
        self._previous: dict[str, str] = {}
        self._effects: list[ev.Effect] = []
        self._now = now
        self._durations = durations

    @property
    def queue_length(self) -> int:
        """Requests that wait, over all models."""
        return len(self._tickets)

    def _move(self, entry: Entry, trigger: Trigger) -> None:
        previous = entry.state
        entry.enter(next_state(previous, trigger), self._now)
        self._effects.append(ev.Moved(entry.needs.model, previous, entry.state))
        if entry.state is State.AWAKE:
            self._previous[entry.needs.group] = entry.needs.model
        elif previous is State.AWAKE:
            self._refuse_guests(entry)

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

    def _grant(self, ticket: ev.Ticket, entry: Entry) -> None:
        entry.lend(self._now)
        self._effects.append(ev.Grant(ticket, entry.needs.model))

    def _line_up(self, ticket: ev.Ticket, entry: Entry, claim: Claim) -> None:
        entry.waiting[ticket] = claim
        self._tickets[ticket] = entry.needs.model

    def _forget(self, ticket: ev.Ticket, entry: Entry) -> None:
        del entry.waiting[ticket]
        del self._tickets[ticket]

    def _send_away(self, entry: Entry) -> None:
        if entry.state is State.AWAKE and entry.leases > 0:
            self._move(entry, Trigger.DRAIN)
            entry.drain_until = self._now + self.rules.drain_s
            self._effects.append(ev.SetTimer(entry.drain_until))
        elif entry.state is State.AWAKE:
            self._leave(entry)
        elif entry.state in {State.STARTING, State.ASLEEP}:
            self._stop(entry)

    def _keep(self, entry: Entry) -> None:
        self._move(entry, Trigger.KEEP)
        self._want(entry.needs.group, entry.needs.model)

    def _leave(self, entry: Entry) -> None:
        """Have an idle engine leave the device, as far as it needs to."""
        rung = self._rung(entry)
        if rung is None:
            self._stop(entry)
            return
        entry.rung = rung
        self._move(entry, Trigger.STOP)
        self._effects.append(ev.Sleep(entry.needs.model, rung))

    def _rung(self, entry: Entry) -> Rung | None:
        needs, wanted = entry.needs, entry.yields_to
        if wanted is None or needs.model in self.unloads:
            return None  # no model takes its place: it is to give back all that it has
        others = [self.entries[wanted].needs]
        others += [
            e.reserved
            for e in self.entries.values()
            if e.state not in AT_REST and e.needs.model not in {needs.model, wanted}
        ]
        room = [
            rung
            for rung in entry.rungs_left(self._now)
            if not overcommitted([entry.asleep(rung), *others], self.rules.capacity)
        ]
        durations = self._durations.get(needs.model, {})
        return choose(room, durations, measured=needs.rung_by_time)

    def _stop(self, entry: Entry) -> None:
        entry.rung = None
        self._move(entry, Trigger.STOP)
        self._effects.append(ev.Stop(entry.needs.model))

    def _unloaded(self, entry: Entry) -> None:
        if entry.state in AT_REST:
            self._reached(self.unloads.pop(entry.needs.model, []))

    def _reached(self, tickets: list[ev.Ticket]) -> None:
        self._effects.extend(ev.Reached(ticket) for ticket in tickets)

    def _refuse(self, ticket: ev.Ticket, entry: Entry, error: LLMBackendError) -> None:
        self._forget(ticket, entry)
        self._effects.append(ev.Refuse(ticket, error))

    def _refuse_waiting(self, entry: Entry, error: LLMBackendError) -> None:
        for ticket in list(entry.waiting):
            self._refuse(ticket, entry, error)

    def _refuse_guests(self, entry: Entry) -> None:
        """Refuse who may not wait for a model that is not awake."""
        for ticket in [t for t, claim in entry.waiting.items() if not claim.may_switch]:
            self._refuse(ticket, entry, not_awake(entry.needs.model))

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

    # Engines that fail

    def _failure_event(self, entry: Entry, event: ev.Broke | ev.Hung | ev.Unwoken) -> None:
        match event:
            case ev.Broke(_, error):
                self._broke(entry, error)
            case ev.Hung(_, error):
                self._hung(entry, error)
            case ev.Unwoken(_, error):
                self._unwoken(entry, error)

    def _broke(self, entry: Entry, error: LLMBackendError) -> None:
        before = entry.state
        self._move(entry, Trigger.BROKE)
        entry.remember_failure(error, self._now)
        if before is State.STARTING:
            self._not_up(entry, error)
        else:
            self._effects.append(ev.Cut(entry.needs.model, error))
        self._unloaded(entry)

    def _unwoken(self, entry: Entry, error: LLMBackendError) -> None:
        self._move(entry, Trigger.SLEPT)
        entry.remember_failure(error, self._now)
        self._not_up(entry, error)

    def _not_up(self, entry: Entry, error: LLMBackendError) -> None:
        self._refuse_waiting(entry, error)
        self._intent_failed(entry, error)

    def _hung(self, entry: Entry, error: LLMBackendError) -> None:
        if entry.state in SERVING:
            entry.hung = error
            self._effects.append(ev.Cut(entry.needs.model, error))
            self._stop(entry)

    # Device leases

    def _lease_event(self, event: ev.LeaseTaken | ev.LeaseGiven) -> None:
        match event:
            case ev.LeaseTaken(ticket, lease):
                self.leases.take(ticket, lease)
            case ev.LeaseGiven(ident):
                waiting = self.leases.give(ident)
                if waiting is not None:
                    self._effects.append(ev.Refuse(waiting, lease_over(ident)))
                self._bring_back()

    def _bring_back(self) -> None:
        """Make the models awake again that had to leave and are still the ones to have."""
        for model in sorted(self.leases.displaced):
            entry = self.entries[model]
            if self.leases.keeping_out(entry.needs) is not None:
                continue
            self.leases.displaced.discard(model)
            if self.wanted.get(entry.needs.group) == model and entry.state not in SERVING:
                self.intents.setdefault(model, [])
                entry.was_lent = True
        for needs in [e.needs for e in self.entries.values() if e.state in UP]:
            if self.wanted.get(needs.group) is None:  # replaced by a switch that has room beside it
                self._want(needs.group, needs.model)

    def _make_way_for_leases(self) -> set[str]:
        """Send away who is in the place of a device lease; return those that have to leave."""
        if not self.leases.held:
            return set()
        leaving = self.leases.leaving(self.entries.values())
        for entry in leaving:
            entry.yields_to = None
            self.leases.displaced.add(entry.needs.model)
            self._send_away(entry)
        for entry in self.entries.values():
            self._turn_away(entry)
        self._reached(self.leases.cleared(self.entries.values()))
        return {entry.needs.model for entry in leaving}

    def _turn_away(self, entry: Entry) -> None:
        """Refuse whoever waits for a model that a device lease keeps out."""
        lease = self.leases.keeping_out(entry.needs)
        if lease is None:
            return
        error = leased(entry.needs.model, lease, self._now)
        self._refuse_waiting(entry, error)
        tickets = self.intents.pop(entry.needs.model, None)
        if tickets is None:
            return
        self._effects.extend(ev.Refuse(ticket, error) for ticket in tickets)
        self._displace(entry)

    def _displace(self, entry: Entry) -> None:
        """Let a model that a device lease keeps out be what comes up after it.

        Where another one of its group runs, that one is and stays the model to have.
        """
        if self.leases.keeping_out(entry.needs) is None:
            return
        group = entry.needs.group
        rivals = [e for e in self.entries.values() if e.needs.group == group and e.state in UP]
        if rivals:
            self._want(group, rivals[0].needs.model)
        else:
            self._want(group, entry.needs.model)
            self.leases.displaced.add(entry.needs.model)
