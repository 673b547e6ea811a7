"""The books that the world of the model keeps by itself, and what must be true of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from llm_backend.switching import events as ev
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import AT_REST, State
from tests.model.parts import Catalog, Engine, Wait, require


@dataclass
class Books(Catalog):
    """What is so outside one scheduler.

    `engines` that exist, `waits` for an answer, `leases` that are out and how many of them are
    `working` (not cut), what operators want and is not so yet (`switches`, `unloads`), and what
    watchers were told (`states`, `drains` with their beginning).
    """

    make: Callable[[Iterable[ev.Needs], ev.Rules], Scheduler] = Scheduler
    now: float = 0.0
    engines: dict[str, Engine] = field(default_factory=dict)
    waits: dict[ev.Ticket, Wait] = field(default_factory=dict)
    leases: Counter[str] = field(default_factory=Counter)
    working: Counter[str] = field(default_factory=Counter)
    timers: list[float] = field(default_factory=list)
    switches: set[str] = field(default_factory=set)
    unloads: set[str] = field(default_factory=set)
    wanted: dict[str, str | None] = field(default_factory=dict)
    last_awake: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    drains: dict[str, float] = field(default_factory=dict)
    tickets: int = 0
    events: int = 0

    def __post_init__(self) -> None:
        self.scheduler = self.make(self.models.values(), self.rules)
        self.event: ev.Event = ev.Timer()
        self._head: ev.Ticket = 0
        self._starting_before = False

    def _is_in_the_way(self, model: str) -> bool:
        claims = self.switches | {w.model for w in self.waits.values() if w.kind == "request"}
        claims -= {model}
        return any(self.touch(claim, model) for claim in claims)

    def _running(self, model: str) -> Engine:
        require(model in self.engines, f"{model} has an engine")
        require(not self.engines[model].stopping, f"nobody stops {model}")
        return self.engines[model]

    def _reserved(self, model: str) -> ev.Needs:
        engine, needs = self.engines[model], self.models[model]
        if not engine.asleep or engine.rung is None:
            return needs
        return replace(needs, group=f"{model} sleeps", mib=needs.rungs[engine.rung])

    def _is_unwanted(self, model: str) -> bool:
        return (
            self.rules.unwanted_load == "cancel"
            and not self.engines[model].ready
            and model not in self.switches
            and all(w.model != model for w in self.waits.values() if w.kind == "request")
        )

    def check_books(self) -> None:
        running = [self._reserved(m) for m in self.engines if not self.engines[m].stopping]
        groups = [needs.group for needs in running]
        require(len(groups) == len(set(groups)), "one engine a group")
        require(self.fit(running), "what the engines reserve fits")
        require(self.waiting() <= self.rules.queue_limit, "the queue is bounded")
        require(self.scheduler.queue_length == self.waiting(), "the queue is who waits")
        loading = [m for m, e in self.engines.items() if not (e.ready or e.stopping or e.asleep)]
        for model in loading:
            require(not self._is_unwanted(model), f"somebody waits for {model}")
        if not loading and not self.switches and self.rules.policy == "fifo":
            self._check_the_way_of_the_head()
        for model, since in self.drains.items():
            cause = model in self.unloads or self._is_in_the_way(model)
            require(cause, f"{model} drains for somebody")
            require(self.now <= since + self.rules.drain_s, f"the drain of {model} ends in time")
        for model in +self.working:
            self._running(model)
        for wait in self.waits.values():
            awake = self.states.get(wait.model) is State.AWAKE
            require(wait.may_switch or awake, f"nobody who may not switch waits for {wait.model}")
        for model, entry in self.scheduler.entries.items():
            require((model in self.engines) is (entry.state not in AT_REST), f"engine of {model}")
            require(entry.leases == self.leases[model], f"leases out on {model}")

    def _check_the_way_of_the_head(self) -> None:
        head = next((w for w in self.waits.values() if w.kind == "request"), None)
        if head is None or self._is_up(head.model):
            return
        stay = [m for m in self.engines if self.states[m] is State.AWAKE]
        in_the_way = [m for m in stay if self.conflict(head.model, m)]
        require(not in_the_way, f"{in_the_way} drain for the first in line")

    def _is_up(self, model: str) -> bool:
        return model in self.engines and not self.engines[model].asleep

    def waiting(self) -> int:
        return sum(w.kind == "request" for w in self.waits.values())
