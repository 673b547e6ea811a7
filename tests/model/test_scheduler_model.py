"""A model of the world drives the scheduler through every order of events that it can think of.

Each step is one event; `World` checks every promise after it. The second half breaks one rule of
the scheduler at a time and shows that the model notices.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

import pytest
from hypothesis import Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llm_backend.switching import events as ev
from llm_backend.switching.residency import HOST
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import IllegalTransition
from tests.model.mutants import MUTANTS
from tests.model.parts import Violation
from tests.model.world import World

GPU = {"gpu0": 16_000}
SLEEPS = {1: {"gpu0": 400, HOST: 9_000}, 2: {"gpu0": 600}}
SLEEPERS = "models that sleep"
CATALOGS: dict[str, tuple[list[ev.Needs], dict[str, int]]] = {
    "three models, one at a time": (
        [
            ev.Needs("a", "gpu0", 3, {"gpu0": 9_000}),
            ev.Needs("b", "gpu0", 1, {"gpu0": 9_000}),
            ev.Needs("c", "gpu0", 2, {"gpu0": 9_000}),
        ],
        GPU,
    ),
    "small models beside a chat model": (
        [
            ev.Needs("chat", "chat", 3, {"gpu0": 10_000}),
            ev.Needs("code", "chat", 1, {"gpu0": 12_000}),
            ev.Needs("embed", "embed", 2, {"gpu0": 4_000}),
            ev.Needs("rank", "rank", 1, {"gpu0": 4_000}),
        ],
        GPU,
    ),
    SLEEPERS: (
        [
            ev.Needs("a", "gpu0", 3, {"gpu0": 15_000}, rungs={1: {"gpu0": 400, HOST: 9_000}}),
            ev.Needs("b", "gpu0", 1, {"gpu0": 15_000}, rungs=SLEEPS, rung_by_time=True),
            ev.Needs("c", "gpu0", 2, {"gpu0": 14_000}, rungs=SLEEPS, rung_by_time=True),
            ev.Needs("d", "beside", 1, {"gpu0": 1_000}, rungs={2: {"gpu0": 700}}),
        ],
        {**GPU, HOST: 16_000},
    ),
    "one model over two devices": (
        [
            ev.Needs("left", "gpu0", 1, {"gpu0": 9_000}),
            ev.Needs("right", "gpu1", 3, {"gpu1": 9_000}),
            ev.Needs("wide", "gpu0+gpu1", 2, {"gpu0": 14_000, "gpu1": 14_000}),
        ],
        {"gpu0": 16_000, "gpu1": 16_000},
    ),
}


class SchedulerModel(RuleBasedStateMachine):
    """Everything that can happen to a scheduler, in any order."""

    scheduler: type[Scheduler] = Scheduler
    policy: Literal["fifo", "fair"] = "fifo"
    catalogs: tuple[str, ...] = tuple(sorted(CATALOGS))

    @initialize(
        catalog=st.integers(0, 11),
        manual=st.sampled_from([False, False, True]),
        cancel=st.booleans(),
        restore=st.booleans(),
        queue_limit=st.sampled_from([3, 12]),
        left_behind=st.sets(st.integers(0, 2), max_size=2),
    )
    def build(
        self,
        catalog: int,
        manual: bool,
        cancel: bool,
        restore: bool,
        queue_limit: int,
        left_behind: set[int],
    ) -> None:
        models, capacity = CATALOGS[self.catalogs[catalog % len(self.catalogs)]]
        rules = ev.Rules(
            queue_limit=queue_limit,
            queue_reserve=queue_limit // 8,
            mode="manual" if manual else "auto",
            drain_s=30.0,
            unwanted_load="cancel" if cancel else "finish",
            restore_previous=restore,
            capacity=capacity,
            policy=self.policy,
            batch_max_wait_s=300.0,
        )
        self.world = World({needs.model: needs for needs in models}, rules, self.scheduler)
        for number in sorted(left_behind):
            self.world.adopt(models[number].model)

    def pick(self, data: st.DataObject, choices: Iterable[Any]) -> Any:
        return data.draw(st.sampled_from(sorted(choices)))

    def engines(self, **state: bool) -> list[str]:
        """Return the models whose engine is in such a state."""
        return [
            model
            for model, engine in self.world.engines.items()
            if all(getattr(engine, name) is value for name, value in state.items())
        ]

    # Clients

    @rule(data=st.data(), key=st.sampled_from("xyz"), batch=st.booleans())
    def a_request_arrives(self, data: st.DataObject, key: str, batch: bool) -> None:
        self.world.arrive(self.pick(data, self.world.models), key, batch=batch)

    @precondition(lambda self: self.world.engines)
    @rule(data=st.data(), may_switch=st.booleans())
    def a_request_for_a_hot_model_arrives(self, data: st.DataObject, may_switch: bool) -> None:
        self.world.arrive(self.pick(data, self.world.engines), may_switch=may_switch)

    @rule(data=st.data(), times=st.integers(2, 4))
    def many_requests_arrive(self, data: st.DataObject, times: int) -> None:
        model = self.pick(data, self.world.models)
        for _ in range(times):
            self.world.arrive(model)

    @precondition(lambda self: self.world.waits)
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        self.world.leave(self.pick(data, self.world.waits))

    @precondition(lambda self: self.world.waits)
    @rule()
    def everybody_leaves(self) -> None:
        for ticket in list(self.world.waits):
            self.world.leave(ticket)

    @precondition(lambda self: self.world.tickets)
    @rule(data=st.data())
    def somebody_leaves_perhaps_too_late(self, data: st.DataObject) -> None:
        self.world.leave(data.draw(st.integers(1, self.world.tickets)))

    @precondition(lambda self: self.world.leases.total())
    @rule(data=st.data())
    def a_request_finishes(self, data: st.DataObject) -> None:
        self.world.finish(self.pick(data, set(self.world.leases.elements())))

    # Operators

    @rule(data=st.data(), unload=st.sampled_from([False, False, True]))
    def an_operator_acts(self, data: st.DataObject, unload: bool) -> None:
        act = self.world.unload if unload else self.world.switch
        act(self.pick(data, self.world.models))

    # Engines

    @precondition(lambda self: self.engines(ready=False))
    @rule(data=st.data(), rung_lost=st.booleans())
    def an_engine_is_ready(self, data: st.DataObject, rung_lost: bool) -> None:
        self.world.ready(self.pick(data, self.engines(ready=False)), rung_lost=rung_lost)

    def falling_asleep(self) -> list[str]:
        stopping = self.engines(stopping=True)
        return [m for m in stopping if self.world.engines[m].rung is not None]

    @precondition(lambda self: self.falling_asleep())
    @rule(data=st.data())
    def an_engine_has_fallen_asleep(self, data: st.DataObject) -> None:
        self.world.slept(self.pick(data, self.falling_asleep()))

    def waking(self) -> list[str]:
        coming = self.engines(ready=False, stopping=False)
        return [m for m in coming if self.world.engines[m].rung is not None]

    @precondition(lambda self: self.waking())
    @rule(data=st.data())
    def an_engine_finds_no_room_to_wake_up_in(self, data: st.DataObject) -> None:
        self.world.unwoken(self.pick(data, self.waking()))

    @precondition(lambda self: self.engines(stopping=True))
    @rule(data=st.data())
    def an_engine_has_stopped(self, data: st.DataObject) -> None:
        self.world.stopped(self.pick(data, self.engines(stopping=True)))

    @precondition(lambda self: self.world.engines)
    @rule(data=st.data(), hang=st.booleans())
    def an_engine_breaks(self, data: st.DataObject, hang: bool) -> None:
        model = self.pick(data, self.world.engines)
        if hang and model in self.engines(ready=True, hung=False, asleep=False):
            self.world.hang(model)
        else:
            self.world.break_(model)

    # Time

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 29.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.world.timers)
    @rule()
    def a_timer_comes_early(self) -> None:
        self.world.stray_timer()

    def teardown(self) -> None:
        self.world.settle()


IN_CI = os.environ.get("CI") in {"1", "true"}
MODEL = settings(max_examples=300 if IN_CI else 60, stateful_step_count=50, deadline=None)
HUNT = settings(
    MODEL,
    max_examples=1_500,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
)


@pytest.mark.parametrize("policy", ["fifo", "fair"])
def test_every_promise_holds_in_every_order_of_events(policy: Literal["fifo", "fair"]) -> None:
    events = []
    chosen = policy

    class Counted(SchedulerModel):
        policy = chosen

        def teardown(self) -> None:
            super().teardown()
            events.append(self.world.events)

    run_state_machine_as_test(Counted, settings=MODEL)

    assert sum(events) >= (10_000 if IN_CI else 1_000)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_notices_a_broken_rule(mutant: type[Scheduler]) -> None:
    about_sleep = {"catalogs": (SLEEPERS,)} if "Sleep" in mutant.__name__ else {}
    broken = type("Broken", (SchedulerModel,), {"scheduler": mutant, **about_sleep})

    with pytest.raises((Violation, IllegalTransition)):
        run_state_machine_as_test(broken, settings=HUNT)
