"""Device leases come and go in any order with everything else; what they reserve always fits.

The second half breaks one rule at a time and shows that the model notices.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from llm_backend.errors import DeviceBusy
from llm_backend.switching import events as ev
from llm_backend.switching.device_lease import DeviceLeases
from llm_backend.switching.entry import Entry
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import SERVING, IllegalTransition, State
from tests.model.parts import Violation, Wait, require
from tests.model.test_scheduler_model import CATALOGS, HUNT, MODEL, SchedulerModel
from tests.model.world import World


@dataclass
class LeaseWorld(World):
    """A world in which other programs want the devices too.

    Its own books: the leases, and those of them whose device was said to be clear.
    """

    held: dict[str, ev.DeviceLease] = field(default_factory=dict)
    clear: set[str] = field(default_factory=set)
    _counted: set[str] | None = None

    # What happens

    def take(self, device: str, mib: int | None) -> None:
        self.tickets += 1
        ident = f"lease {self.tickets}"
        self.waits[self.tickets] = Wait("lease", ident)
        self.held[ident] = ev.DeviceLease(ident, device, mib, "a game", self.now + 60.0)
        self._tell(ev.LeaseTaken(self.tickets, self.held[ident]))

    def give(self, ident: str) -> None:
        before = set(self.switches)
        del self.held[ident]
        self.clear.discard(ident)
        self.switches |= {m for m in self.wanted.values() if m and self._may_come_back(m)}
        self._tell(ev.LeaseGiven(ident))
        self.switches &= before | self.scheduler.intents.keys()

    def switch(self, model: str) -> None:
        if not self.kept_out(model):
            super().switch(model)
            return
        self.tickets += 1
        self.waits[self.tickets] = Wait("switch", model)
        self._tell(ev.SwitchAsked(self.tickets, model))

    def settle(self) -> None:
        for ident in list(self.held):
            self.give(ident)
        super().settle()

    # What must be so

    def kept_out(self, model: str) -> bool:
        return not self.fit([self.models[model]])

    def _may_come_back(self, model: str) -> bool:
        return not self.kept_out(model) and self.states.get(model) not in SERVING

    def fit(self, models: list[ev.Needs]) -> bool:
        if not super().fit(models):
            return False
        counted = set(self.held) if self._counted is None else self._counted
        return all(self._fit_beside(self.held[ident], counted, models) for ident in counted)

    def _fit_beside(self, lease: ev.DeviceLease, counted: set[str], models: list[ev.Needs]) -> bool:
        theirs = [needs.mib[lease.device] for needs in models if lease.device in needs.mib]
        leases = [self.held[i].mib for i in counted if self.held[i].device == lease.device]
        if not theirs or None in leases:
            return not theirs
        return sum(theirs) + sum(m or 0 for m in leases) <= self.rules.capacity[lease.device]

    def _reached(self, ticket: ev.Ticket) -> None:
        if self.waits.get(ticket, Wait("", "")).kind != "lease":
            super()._reached(ticket)
            return
        ident = self._answered(ticket).model
        everybody = [self._reserved(m) for m in self.engines]
        require(
            self._fit_beside(self.held[ident], set(self.held), everybody),
            f"nothing is in the place of {ident}",
        )
        self.clear.add(ident)

    def _refuse(self, ticket: ev.Ticket, error: Exception) -> None:
        wait = self.waits.get(ticket)
        if isinstance(error, DeviceBusy) and wait is not None:
            require(self.kept_out(wait.model), f"a lease keeps {wait.model} out")
        super()._refuse(ticket, error)

    def _is_in_the_way(self, model: str) -> bool:
        leased = {lease.device for lease in self.held.values()}
        return bool(leased & self.models[model].mib.keys()) or super()._is_in_the_way(model)

    def check_books(self) -> None:
        self.switches = {m for m in self.switches if not self.kept_out(m)}
        for wait in self.waits.values():
            known = wait.kind != "request" or not self.kept_out(wait.model)
            require(known, f"whoever waits for {wait.model} is told that it is leased out")
        awake = [m for m, state in self.states.items() if state is State.AWAKE]
        require(not any(map(self.kept_out, awake)), "whoever a lease keeps out leaves")
        self._counted = self.clear
        try:
            super().check_books()
        finally:
            self._counted = None


class LeaseModel(SchedulerModel):
    """Everything that can happen to a scheduler whose devices are lent, in any order."""

    world: LeaseWorld

    @initialize(
        catalog=st.sampled_from(sorted(CATALOGS)),
        restore=st.booleans(),
        left_behind=st.sets(st.integers(0, 2), max_size=2),
    )
    def build(self, catalog: str, restore: bool, left_behind: set[int]) -> None:
        models, capacity = CATALOGS[catalog]
        rules = ev.Rules(
            queue_limit=12,
            drain_s=30.0,
            restore_previous=restore,
            capacity=capacity,
            policy=self.policy,
            batch_max_wait_s=300.0,
        )
        self.world = LeaseWorld({needs.model: needs for needs in models}, rules, self.scheduler)
        for number in sorted(left_behind):
            self.world.adopt(models[number].model)

    @precondition(lambda self: len(self.world.held) < 3)
    @rule(data=st.data(), mib=st.sampled_from([None, 1_000, 5_000, 15_500]))
    def somebody_takes_a_device(self, data: st.DataObject, mib: int | None) -> None:
        devices = [d for d in self.world.rules.capacity if d.startswith("gpu")]
        self.world.take(self.pick(data, devices), mib)

    @precondition(lambda self: self.world.held)
    @rule(data=st.data())
    def somebody_gives_it_back(self, data: st.DataObject) -> None:
        self.world.give(self.pick(data, self.world.held))


@pytest.mark.parametrize("policy", ["fifo", "fair"])
def test_what_is_lent_fits_in_every_order_of_events(policy: Literal["fifo", "fair"]) -> None:
    chosen = policy

    class Chosen(LeaseModel):
        policy = chosen

    run_state_machine_as_test(Chosen, settings=MODEL)


class SaysThatItIsClearAtOnce(DeviceLeases):
    def cleared(self, entries: object) -> list[ev.Ticket]:  # noqa: ARG002  # the signature of the rule that it breaks
        tickets = list(self._tickets.values())
        self._tickets.clear()
        return tickets


class TakesNothingFromTheCapacity(DeviceLeases):
    def _count(self, device: str) -> None:
        pass


class ForgetsTheOtherLeases(DeviceLeases):
    def give(self, ident: str) -> ev.Ticket | None:
        device = self.held[ident].device
        ticket = super().give(ident)
        self.capacity[device] = self._whole[device]
        return ticket


class SendsNobodyAway(DeviceLeases):
    def leaving(self, entries: object) -> list[Entry]:  # noqa: ARG002  # the signature of the rule that it breaks
        return []


class ForgetsWhoWaits(DeviceLeases):
    def give(self, ident: str) -> ev.Ticket | None:
        super().give(ident)
        return None


MUTANTS = (
    SaysThatItIsClearAtOnce,
    TakesNothingFromTheCapacity,
    ForgetsTheOtherLeases,
    SendsNobodyAway,
    ForgetsWhoWaits,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_notices_a_broken_rule(mutant: type[DeviceLeases]) -> None:
    class Broken(Scheduler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # whatever a scheduler is made of
            self.leases = mutant(self.leases.capacity)
            self.rules = replace(self.rules, capacity=self.leases.capacity)

    broken = type("Broken", (LeaseModel,), {"scheduler": Broken})

    with pytest.raises((Violation, IllegalTransition)):
        run_state_machine_as_test(broken, settings=HUNT)
