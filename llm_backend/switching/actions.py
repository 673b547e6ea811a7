"""What a scheduler does once it has decided: it keeps its books, and notes down the effects."""

from __future__ import annotations

from collections.abc import Iterable

from llm_backend.errors import LLMBackendError, SwitchSuperseded
from llm_backend.switching import events as ev
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.refusals import not_awake
from llm_backend.switching.states import AT_REST, State, Trigger, next_state


class Actions:
    """The books of a scheduler, and every way to change them.

    Args:
        models: All models of the catalog that this set-up can run.
        rules: The settings that decide.
        now: The time at which it begins: nobody used a model before.
    """

    def __init__(self, models: Iterable[ev.Needs], rules: ev.Rules, now: float) -> None:
        self.entries = {n.model: Entry(n, last_used=now) for n in models}
        self.rules = rules
        self.wanted: dict[str, str | None] = {}
        self.intents: dict[str, list[ev.Ticket]] = {}
        self.unloads: dict[str, list[ev.Ticket]] = {}
        self._tickets: dict[ev.Ticket, str] = {}
        self._previous: dict[str, str] = {}
        self._effects: list[ev.Effect] = []
        self._now = now

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
