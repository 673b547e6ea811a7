"""Random schedules for the policy `fair`, and a watch over the bound on everybody's wait.

A schedule is a crowd of requests made to hurt: bursts that no seat is free for, programs in a
loop, whole batches, answers that never end, people who leave. The engines take their time, but
never longer than the scheduler was told that they do.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from llm_backend.switching import events as ev
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import State
from tests.model.parts import require

Make = Callable[[Iterable[ev.Needs], ev.Rules], Scheduler]

INSTANT_S = 0.1
"""For the sums of many times."""


@dataclass
class Request:
    """One that a client sends, and what it does with the answer."""

    at: float
    model: str
    key: str
    seconds: float
    batch: bool = False
    again: int = 0
    patience: float = 1e9


@dataclass
class Schedule:
    """One run; `Violation` where somebody waits for longer than was promised."""

    seed: int
    make: Make = Scheduler
    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0
    waiting: dict[ev.Ticket, Request] = field(default_factory=dict)
    running: dict[str, set[ev.Ticket]] = field(default_factory=dict)
    limits: dict[ev.Ticket, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.luck = luck = random.Random(self.seed)  # noqa: S311  # no secret
        self.models = "abcd"[: luck.choice((2, 3, 4))]
        self.start_s, self.stop_s = luck.uniform(1, 20), luck.uniform(0.1, 3)
        self.rules = ev.Rules(
            max_wait_s=luck.choice((10.0, 60.0)),
            batch_max_wait_s=luck.choice((50.0, 300.0)),
            drain_s=luck.choice((5.0, 30.0)),
            quantum=luck.choice((0.5, 5.0)),
            linger=luck.choice((0.06, 5.0)),
        )
        self.seats = luck.choice((1, 2, 100))
        needs = [ev.Needs(model, "gpu", self.seats) for model in self.models]
        self.scheduler = self.make(needs, self.rules)
        self.running = {model: set() for model in self.models}

    def run(self) -> int:
        """Let everything happen; return how many requests there were."""
        for request in [*self._crowd()]:
            self._at(request.at, partial(self._arrive, request))
        while self.due:
            self.now, _, act = heapq.heappop(self.due)
            act()
            self._watch()
        require(not self.waiting, "everybody is served in the end")
        return self.count

    def _crowd(self) -> Iterator[Request]:
        luck = self.luck
        for number in range(luck.randint(2, 5)):
            model, key, begin = luck.choice(self.models), f"key-{number}", luck.uniform(0, 30)
            seconds = luck.choice((0.5, 5.0, 50.0))
            draw = partial(Request, begin, model, key)
            match luck.choice(("burst", "loop", "batch", "few", "few")):
                case "burst":
                    yield from [draw(luck.uniform(0, seconds)) for _ in range(20)]
                case "loop":
                    yield draw(seconds / 5, again=20)
                case "batch":
                    yield from [draw(luck.uniform(0, seconds), batch=True) for _ in range(10)]
                case "few":
                    for _ in range(3):
                        at, patience = luck.uniform(0, 200), luck.choice((5.0, 1e9))
                        yield Request(at, model, key, luck.uniform(0, seconds), patience=patience)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.due, (max(when, self.now), self.count, act))

    # Clients

    def _arrive(self, request: Request) -> None:
        self.count += 1
        ticket, request.at = self.count, self.now
        self.waiting[ticket] = request
        self._at(self.now + request.patience, partial(self._leave, ticket))
        self._tell(ev.Arrived(ticket, request.model, request.key, request.batch))

    def _leave(self, ticket: ev.Ticket) -> None:
        if self.waiting.pop(ticket, None):
            self._tell(ev.Left(ticket))

    def _grant(self, ticket: ev.Ticket) -> None:
        request = self.waiting.pop(ticket)
        self.running[request.model].add(ticket)
        self._at(self.now + request.seconds, partial(self._finish, ticket, request))

    def _finish(self, ticket: ev.Ticket, request: Request) -> None:
        if ticket not in self.running[request.model]:
            return  # it was cut before
        self.running[request.model].remove(ticket)
        if request.again:
            request.again -= 1
            self._at(self.now + self.luck.uniform(0, 2), partial(self._arrive, request))
        self._tell(ev.Finished(request.model))

    # Engines

    def _tell(self, event: ev.Event) -> None:
        for effect in self.scheduler.handle(event, self.now):
            match effect:
                case ev.Grant(ticket):
                    self._grant(ticket)
                case ev.SetTimer(at):
                    require(at > self.now, "a timer moves the clock")
                    self._at(at, partial(self._tell, ev.Timer()))
                case _:
                    self._perform_on_engine(effect)

    def _perform_on_engine(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Moved(model, _, State.AWAKE):
                self._turn(model)
            case ev.Start(model):
                seconds = self.start_s * self.luck.uniform(0.1, 1)
                self._at(self.now + seconds, partial(self._ready, model))
            case ev.Stop(model):
                seconds = self.stop_s * self.luck.uniform(0.1, 1)
                self._at(self.now + seconds, partial(self._tell, ev.Stopped(model)))
            case ev.Cut(model):
                for _ in range(len(self.running[model])):
                    self._at(self.now, partial(self._tell, ev.Finished(model)))
                self.running[model].clear()

    def _ready(self, model: str) -> None:
        if self._state(model) is State.STARTING:
            self._tell(ev.Ready(model))

    def _state(self, model: str) -> State:
        return self.scheduler.entries[model].state

    # The bound

    def _watch(self) -> None:
        """Hold every request to the bound.

        Whoever waits is served when its model has its turn, or comes among the seats of a later
        one; so the promise is one about turns: so long after the request came, or after the last
        turn of its model ended, the next one begins.
        """
        waiting = {t: r for t, r in self.waiting.items() if self._waits_for_a_turn(r)}
        models = {r.model for r in waiting.values()}
        self.limits = {t: limit for t, limit in self.limits.items() if t in waiting}
        switch_s = self.rules.drain_s + self.stop_s + self.start_s
        for ticket, request in waiting.items():
            # The formula of docs/explanation/switching.md: all who wait now may go before it.
            limit = self.now + self.rules.max_wait_s + len(models) * switch_s
            late_s = self.now - self.limits.setdefault(ticket, limit)
            require(late_s <= INSTANT_S, f"{request.model} has its turn {late_s:.1f} s late")

    def _waits_for_a_turn(self, request: Request) -> bool:
        if self._state(request.model) is State.AWAKE:
            return False
        promoted_at = request.at + self.rules.batch_max_wait_s + INSTANT_S
        return not request.batch or self.now >= promoted_at

    def _turn(self, model: str) -> None:
        """A turn begins, however short it may be: the limits of all who wait are kept."""
        for ticket, request in self.waiting.items():
            if request.model == model:
                self.limits.pop(ticket, None)
