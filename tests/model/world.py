"""A world for the scheduler to decide about: engines, clients and operators, all simulated.

The world believes nothing that the scheduler says of itself: it carries out effects, keeps its own
books, and raises `Violation` as soon as a promise is broken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_backend.errors import (
    DeviceBusy,
    EngineGone,
    EngineStartFailed,
    Overloaded,
    SwitchSuperseded,
)
from llm_backend.switching import events as ev
from llm_backend.switching.states import State
from tests.model.books import Books
from tests.model.parts import Engine, Wait, require
from tests.model.twins import state_after, state_of


@dataclass
class World(Books):
    """Everything around one scheduler."""

    # What happens

    def arrive(
        self, model: str, key: str = "", *, batch: bool = False, may_switch: bool = True
    ) -> None:
        self.tickets += 1
        self.waits[self.tickets] = Wait("request", model, may_switch)
        at_once = state_after(self.scheduler, lambda twin: twin.grant_at_once(model, self.now))
        effects = self._tell(ev.Arrived(self.tickets, model, key, batch, may_switch))
        same = (effects, state_of(self.scheduler)) == ([ev.Grant(self.tickets, model)], at_once)
        require(at_once is None or same, "a quick grant is what the event would have done")

    def leave(self, ticket: ev.Ticket) -> None:
        """Somebody hangs up, perhaps after the answer was sent."""
        self.waits.pop(ticket, None)
        self._tell(ev.Left(ticket))

    def finish(self, model: str) -> None:
        self.leases[model] -= 1
        self.working[model] = min(self.working[model], self.leases[model])
        at_once = state_after(self.scheduler, lambda twin: twin.finish_at_once(model, self.now))
        effects = self._tell(ev.Finished(model))
        same = (effects, state_of(self.scheduler)) == ([], at_once)
        require(at_once is None or same, "a quick end is what the event would have done")

    def switch(self, model: str) -> None:
        self.tickets += 1
        self.waits[self.tickets] = Wait("switch", model)
        self.switches = {m for m in self.switches if not self.conflict(m, model)} | {model}
        self._tell(ev.SwitchAsked(self.tickets, model))

    def unload(self, model: str) -> None:
        self.tickets += 1
        self.waits[self.tickets] = Wait("unload", model)
        self.switches.discard(model)
        if model in self.engines:
            self.unloads.add(model)
        if self.last_awake.get(self.models[model].group) == model:
            del self.last_awake[self.models[model].group]
        self._tell(ev.UnloadAsked(self.tickets, model))

    def adopt(self, model: str) -> None:
        self.engines[model] = Engine(ready=True)
        self._tell(ev.Adopted(model))

    def ready(self, model: str, *, rung_lost: bool = False) -> None:
        """An engine says that it can serve; perhaps too late, when it is being stopped."""
        engine = self.engines[model]
        if not engine.stopping:
            engine.ready = True
        self._tell(ev.Ready(model, rung_lost=rung_lost and engine.rung is not None))

    def break_(self, model: str) -> None:
        """An engine ends by itself; if it is being stopped anyway, `Stopped` is still to come."""
        engine = self.engines[model]
        if not engine.stopping:
            del self.engines[model]
            self.unloads.discard(model)
            self._start_failed(model, engine)
        error = EngineGone if engine.ready else EngineStartFailed
        self._tell(ev.Broke(model, error(f"{model} exited with status 1.")))

    def _start_failed(self, model: str, engine: Engine) -> None:
        if engine.ready or model not in self.switches:
            return
        self.switches.discard(model)
        previous = self.last_awake.get(self.models[model].group, model)
        if self.rules.restore_previous and previous != model:
            self.switches.add(previous)

    def hang(self, model: str) -> None:
        self.engines[model].hung = True
        self._tell(ev.Hung(model, EngineGone(f"{model} hung.")))

    def stopped(self, model: str) -> None:
        del self.engines[model]
        self.unloads.discard(model)
        self._tell(ev.Stopped(model))

    def unwoken(self, model: str) -> None:
        """A device has no room for an engine to wake up in; it sleeps on."""
        engine = self.engines[model]
        if not engine.stopping:
            self._start_failed(model, engine)
            engine.ready = engine.asleep = True
        self._tell(ev.Unwoken(model, DeviceBusy(f"{model} finds no room.")))

    def slept(self, model: str) -> None:
        engine = self.engines[model]
        engine.stopping, engine.asleep = False, True
        self._tell(ev.Slept(model))

    def pass_time(self, seconds: float) -> None:
        """Time passes; timers that are due fire, each at its time."""
        until = self.now + seconds
        while due := [at for at in self.timers if at <= until]:
            self.now = min(due)
            self.timers.remove(self.now)
            self._tell(ev.Timer())
        self.now = until
        self.check_books()

    def stray_timer(self) -> None:
        self._tell(ev.Timer())

    # What the scheduler does about it

    def _tell(self, event: ev.Event) -> list[ev.Effect]:
        self.event = event
        self.events += 1
        self._head = min((t for t, w in self.waits.items() if w.kind == "request"), default=0)
        self._starting_before = any(not e.ready for e in self.engines.values())
        effects = self.scheduler.handle(event, self.now)
        for effect in effects:
            self._perform(effect)
        self.check_books()
        return effects

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Grant(ticket, model):
                self._grant(ticket, model)
            case ev.Reached(ticket):
                self._reached(ticket)
            case ev.Refuse(ticket, error):
                self._refuse(ticket, error)
            case ev.Want(group, wanted):
                require(self.wanted.get(group) != wanted, "Want tells of a change")
                self.wanted[group] = wanted
            case ev.SetTimer(at):
                require(at >= self.now, "timers lie in the future")
                self.timers.append(at)
            case _:
                self._perform_on_engine(effect)

    def _perform_on_engine(self, effect: ev.Start | ev.Stop | ev.Sleep | ev.Cut | ev.Moved) -> None:
        match effect:
            case ev.Start(model):
                self._start(model)
            case ev.Stop(model):
                self._stop(model)
            case ev.Sleep(model, rung):
                self._sleep(model, rung)
            case ev.Cut(model, _):
                self._cut(model)
            case ev.Moved(model, previous, state):
                self._moved(model, previous, state)

    def _answered(self, ticket: ev.Ticket) -> Wait:
        require(ticket in self.waits, f"ticket {ticket} has its answer, or left, or never was")
        return self.waits.pop(ticket)

    def _grant(self, ticket: ev.Ticket, model: str) -> None:
        wait = self._answered(ticket)
        require((wait.kind, wait.model) == ("request", model), "the grant is what was asked for")
        engine = self._running(model)
        require(engine.ready, f"{model} is ready for requests")
        require(self.states[model] is State.AWAKE, "an engine that drains gets no request")
        self.leases[model] += 1
        self.working[model] += 1
        limit = self.models[model].concurrency
        require(self.leases[model] <= limit, f"at most {limit} leases are out")
        self._no_grant_past_the_head(ticket, model)

    def _no_grant_past_the_head(self, ticket: ev.Ticket, model: str) -> None:
        """What is in the way of the first in line drains; who waits when it gets awake may join.

        Under `fair`, whoever is kept in its turn goes on granting: tests/model/test_bound.py.
        """
        head = self.waits.get(self._head)
        joining = self.event in {ev.Ready(model), ev.Adopted(model)}
        by_operator = self.switches or isinstance(self.event, ev.SwitchAsked)
        fair = self.rules.policy == "fair"
        if fair or joining or by_operator or head is None or self._starting_before:
            return
        if self._is_up(head.model):
            return  # its own engine has to end first
        require(
            ticket < self._head or not self.conflict(head.model, model),
            f"{model} drains for the first in line, {self._head}, and grants nothing to {ticket}",
        )

    def _reached(self, ticket: ev.Ticket) -> None:
        wait = self._answered(ticket)
        require(wait.kind in {"switch", "unload"}, "only operators reach what they want")
        engine = self.engines.get(wait.model)
        awake = engine is not None and engine.ready and not (engine.stopping or engine.asleep)
        is_so = engine is None if wait.kind == "unload" else awake
        require(is_so, f"the {wait.kind} of {wait.model} is done")
        if wait.kind == "switch":
            self.switches.discard(wait.model)

    def _refuse(self, ticket: ev.Ticket, error: Exception) -> None:
        wait = self._answered(ticket)
        if isinstance(error, Overloaded):
            limit = self.rules.queue_limit
            reserve = self.rules.queue_reserve if self.rules.policy == "fair" else 0
            require(self.waiting() >= limit - reserve, "only a full queue is overloaded")
        if isinstance(error, SwitchSuperseded):
            require(wait.kind == "switch", "only a switch is superseded")

    def _start(self, model: str) -> None:
        needs = self.models[model]
        others = [self._reserved(m) for m in self.engines if m != model]
        engine = self.engines.get(model, Engine(asleep=True))
        require(engine.asleep, f"{model} has no engine yet, or it sleeps")
        require(all(o.group != needs.group for o in others), f"one engine in {needs.group}")
        require(self.fit([needs, *others]), "what the engines reserve fits")
        elders = [t for t, w in self.waits.items() if w == Wait("request", model)]
        require(elders or model in self.switches, f"somebody waits for {model}")
        if model not in self.switches and self.rules.policy == "fifo":
            self._no_start_past_elders(model, min(elders))
        self.engines[model] = Engine(rung=engine.rung)

    def _no_start_past_elders(self, model: str, ticket: ev.Ticket) -> None:
        overtaken = [
            t
            for t, w in self.waits.items()
            if w.kind == "request" and t < ticket and self.conflict(w.model, model)
        ]
        require(not overtaken, f"the start of {model} for {ticket} overtakes {overtaken}")

    def _stop(self, model: str) -> None:
        engine = self._running(model)
        engine.rung = None
        cause = model in self.unloads or engine.hung or self._is_in_the_way(model)
        adopted_in_vain = self.event == ev.Adopted(model)
        require(
            cause or adopted_in_vain or self._is_unwanted(model), f"{model} is stopped for a reason"
        )
        engine.stopping = True

    def _sleep(self, model: str, rung: int) -> None:
        engine = self._running(model)
        require(engine.ready and not engine.asleep, f"{model} is awake before it falls asleep")
        require(self._is_in_the_way(model), f"{model} is put to sleep for another model")
        require(model not in self.unloads, f"{model} is to be unloaded whole")
        require(rung in self.models[model].rungs, f"{model} may sleep so deep")
        require(self.working[model] == 0, f"nobody works with {model} any more")
        engine.stopping, engine.rung = True, rung

    def _overdue(self, model: str) -> bool:
        return self.now >= self.drains.get(model, self.now) + self.rules.drain_s

    def _cut(self, model: str) -> None:
        overdue = self._overdue(model)
        ended = isinstance(self.event, ev.Broke | ev.Hung) and self.event.model == model
        require(ended or overdue, f"requests on {model} are cut for a reason")
        self.working[model] = 0

    def _moved(self, model: str, previous: State, state: State) -> None:
        require(self.states.get(model, State.STOPPED) is previous, "no move is left out")
        self.states[model] = state
        if state is State.AWAKE:
            self._awake(model)
        if state is State.DRAINING:
            self.drains[model] = self.now
        else:
            self.drains.pop(model, None)

    def _awake(self, model: str) -> None:
        engine = self.engines[model]
        require(engine.ready and not engine.stopping, f"{model} is awake")
        self.last_awake[self.models[model].group] = model
        self.switches.discard(model)

    # The end

    def settle(self) -> None:
        """Let everything come to its end: whoever waits must get an answer within bounded steps."""
        for step in range(30 + 10 * len(self.waits)):
            acted = self._act(finishing=step % 3 == 2)
            self.pass_time(self.rules.drain_s)
            if not (acted or self.waits or self.leases.total()):
                break
        require(not self.waits, f"everybody is answered in the end, {self.waits} wait")
        for model in [m for m, e in self.engines.items() if not e.asleep]:
            require(self.wanted.get(self.models[model].group) == model, f"{model} is kept wanted")

    def _act(self, *, finishing: bool) -> bool:
        """Every engine, and every client if `finishing`, does what is due; tell whether any did."""
        due: list[tuple[Callable[[str], None], str]] = []
        for model, engine in self.engines.items():
            if engine.stopping:
                due.append((self.stopped if engine.rung is None else self.slept, model))
            elif not (engine.ready or engine.asleep):
                due.append((self.ready, model))
        due += [(self.finish, model) for model in self.leases.elements()] if finishing else []
        for act, model in due:
            act(model)
        return bool(due)
