"""Runs a trace through the scheduler of the gateway, with engines and clients made of numbers.

The scheduler is the one that the gateway runs, told of the same events. Time is a number: it jumps
from one event to the next, so that a night takes a second. Nothing is left to chance: a seed
decides how far starts and stops are off, and the n-th start of a model takes equally long under
every policy.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from llm_backend.replay.profile import Profile
from llm_backend.replay.result import (
    End,
    Outcome,
    Result,
    Span,
    Use,
    Waits,
    count_ends,
    estimate_error,
    waits,
    waits_by_key,
)
from llm_backend.replay.trace import Arrival, Trace
from llm_backend.switching import events as ev
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import SERVING, State

QUEUE_TIMEOUT_S = 900.0
"""The default of `limits.queue_timeout_s`."""

DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a simulation goes by besides trace and profile.

    Attributes:
        rules: Of the scheduler, its policy among them.
        queue_timeout_s: Longest wait in line; `batch_max_wait_s` more for the class `batch`.
        seed: Decides how far starts and stops are off.
    """

    rules: ev.Rules = field(default_factory=ev.Rules)
    queue_timeout_s: float = QUEUE_TIMEOUT_S
    seed: int = 0


def simulate(trace: Trace, profile: Profile, conditions: Conditions) -> Result:
    """Return how a trace fares.

    Raises:
        SetupError: the profile lacks the costs of a model.
    """
    profile.require(trace.models)
    return _Simulation(trace, profile, conditions).run()


@dataclass(slots=True)
class _Request:
    """One request on its way."""

    arrival: Arrival
    outcome: Outcome
    ticket: ev.Ticket


@dataclass(slots=True)
class _Engine:
    """From `Start` until `Stopped`; what it still had to tell when it was stopped is void."""

    begun_at: float
    stopping: bool = False


@dataclass(slots=True)
class _Clock:
    """The time, what is to happen, and what the device did until now."""

    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def at(self, when: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.due, (max(when, self.now), self.count, act))

    def next(self, doing: str) -> Callable[[], None]:
        if not self.due:
            raise AssertionError("requests wait, and nothing will ever happen")
        when, _, act = heapq.heappop(self.due)
        self.spent[doing] += when - self.now
        self.now = when
        return act


class _Simulation:
    """One run; the scheduler's effects on one side, engines and clients on the other."""

    def __init__(self, trace: Trace, profile: Profile, conditions: Conditions) -> None:
        self._trace = trace
        self._profile = profile
        self._conditions = conditions
        self._durations: dict[str, dict[str, list[float]]] = defaultdict(
            lambda: {"start": [], "stop": []}
        )
        needs = [
            ev.Needs(model, DEVICE, costs.concurrency) for model, costs in profile.models.items()
        ]
        self._scheduler = Scheduler(needs, conditions.rules, self._durations)
        self._clock = _Clock()
        self._luck = {m: random.Random(f"{conditions.seed} {m}") for m in profile.models}  # noqa: S311  # no secret
        self._engines: dict[str, _Engine] = {}
        self._timers: set[float] = set()
        self._waiting: dict[ev.Ticket, _Request] = {}
        self._running: dict[str, dict[ev.Ticket, _Request]] = defaultdict(dict)
        self._busy = 0
        self._outcomes: list[Outcome] = []
        self._open = len(trace.arrivals)
        self._later: dict[str, list[Arrival]] = defaultdict(list)
        self._loads: list[str] = []
        self._spans: list[Span] = []
        self._awake_since: dict[str, float] = {}

    def run(self) -> Result:
        """Let everything happen until the last request is over."""
        for arrival in self._trace.arrivals:
            if arrival.think_s is None:
                self._clock.at(arrival.at_s, partial(self._arrive, arrival))
            else:
                self._later[arrival.client].append(arrival)
        for arrivals in self._later.values():
            arrivals.reverse()  # the next one is the last
        while self._open:
            self._clock.next(self._doing())()
        return self._result()

    def _doing(self) -> str:
        if self._busy:
            return "serving"
        loading = any(m not in self._awake_since for m in self._engines)
        return "switching" if loading else "idle"

    def _result(self) -> Result:
        seconds = self._clock.now
        for model, since in self._awake_since.items():
            self._spans.append(Span(model, since, seconds))
        shares = [self._clock.spent[k] / (seconds or 1) for k in ("serving", "switching", "idle")]
        outcomes = self._outcomes
        return Result(
            trace=self._trace.name,
            policy=self._conditions.rules.policy,
            profile=self._profile.name,
            seconds=seconds,
            requests=len(outcomes),
            ends=count_ends(outcomes),
            loads=len(self._loads),
            switches=sum(a != b for a, b in zip(self._loads, self._loads[1:], strict=False)),
            interactive=Waits.of(waits(o for o in outcomes if not o.batch)),
            batch=Waits.of(waits(o for o in outcomes if o.batch)),
            keys=waits_by_key(outcomes),
            use=Use(*shares),
            estimate_error=estimate_error(outcomes),
            spans=tuple(self._spans),
        )

    # Clients

    def _arrive(self, arrival: Arrival) -> None:
        now = self._clock.now
        outcome = Outcome(arrival.model, arrival.key, arrival.batch, now)
        self._outcomes.append(outcome)
        request = _Request(arrival, outcome, ticket=len(self._outcomes))
        if self._scheduler.grant_at_once(arrival.model, now):
            self._grant(request)
            return
        self._waiting[request.ticket] = request
        self._tell(ev.Arrived(request.ticket, arrival.model, arrival.key, arrival.batch))
        if request.ticket in self._waiting:
            outlook = self._scheduler.forecast(now).waiting(arrival.model, request.ticket)
            outcome.expected_s = outlook.wait_s
            self._set_patience(request)

    def _set_patience(self, request: _Request) -> None:
        timeout_s, patience_s = self._conditions.queue_timeout_s, request.arrival.patience_s
        if request.arrival.batch:
            timeout_s += self._conditions.rules.batch_max_wait_s
        limits: list[tuple[float, End]] = [(timeout_s, "timed_out")]
        if patience_s is not None:
            limits.append((patience_s, "left"))
        seconds, end = min(limits)
        self._clock.at(self._clock.now + seconds, partial(self._give_up, request, end))

    def _give_up(self, request: _Request, end: End) -> None:
        if self._waiting.pop(request.ticket, None) is None:
            return
        request.outcome.waited_s = self._clock.now - request.outcome.sent_at
        self._over(request, end)
        self._tell(ev.Left(request.ticket))

    def _over(self, request: _Request, end: End) -> None:
        """A request has its answer, or none: its client goes on."""
        request.outcome.end = end
        self._open -= 1
        if mine := self._later.get(request.arrival.client):
            following = mine.pop()
            when = max(following.at_s, self._clock.now + (following.think_s or 0.0))
            self._clock.at(when, partial(self._arrive, following))

    # The scheduler and what it wants done

    def _tell(self, event: ev.Event) -> None:
        for effect in self._scheduler.handle(event, self._clock.now):
            self._perform(effect)

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Grant(ticket):
                self._grant(self._waiting.pop(ticket))
            case ev.Refuse(ticket):
                self._over(self._waiting.pop(ticket), "refused")
            case ev.Start(model):
                self._start(model)
            case ev.Stop(model):
                self._stop(model)
            case ev.Cut(model):
                self._cut(model)
            case ev.SetTimer(at) if at not in self._timers:
                self._timers.add(at)
                self._clock.at(at, partial(self._timer, at))
            case ev.Moved(model, previous, state):
                self._moved(model, previous, state)

    def _timer(self, at: float) -> None:
        self._timers.remove(at)
        self._tell(ev.Timer())

    # Answers

    def _grant(self, request: _Request) -> None:
        arrival, now = request.arrival, self._clock.now
        request.outcome.waited_s = now - request.outcome.sent_at
        running = self._running[arrival.model]
        running[request.ticket] = request
        self._busy += 1
        costs = self._profile.models[arrival.model]
        seconds = costs.answer_s(arrival.prompt_tokens, arrival.completion_tokens, len(running))
        self._clock.at(now + seconds, partial(self._finish, request, "served"))

    def _finish(self, request: _Request, end: End) -> None:
        model = request.arrival.model
        if self._running[model].pop(request.ticket, None) is None:
            return  # it was cut before
        self._busy -= 1
        self._over(request, end)
        if not self._scheduler.finish_at_once(model, self._clock.now):
            self._tell(ev.Finished(model))

    def _cut(self, model: str) -> None:
        for request in self._running[model].values():
            self._clock.at(self._clock.now, partial(self._finish, request, "cut"))

    # Engines

    def _start(self, model: str) -> None:
        self._loads.append(model)
        engine = self._engines[model] = _Engine(self._clock.now)
        when = self._clock.now + self._with_luck(model, self._profile.models[model].start_s)
        self._clock.at(when, partial(self._ready, model, engine))

    def _ready(self, model: str, engine: _Engine) -> None:
        if not engine.stopping:
            self._durations[model]["start"].append(self._clock.now - engine.begun_at)
            self._tell(ev.Ready(model))

    def _stop(self, model: str) -> None:
        self._engines[model].stopping = True
        seconds = self._with_luck(model, self._profile.models[model].stop_s)
        self._clock.at(self._clock.now + seconds, partial(self._stopped, model, seconds))

    def _stopped(self, model: str, seconds: float) -> None:
        self._durations[model]["stop"].append(seconds)
        del self._engines[model]
        self._tell(ev.Stopped(model))

    def _with_luck(self, model: str, seconds: float) -> float:
        spread = self._profile.models[model].spread
        return seconds * self._luck[model].uniform(1 - spread, 1 + spread)

    def _moved(self, model: str, previous: State, state: State) -> None:
        if state in SERVING and previous not in SERVING:
            self._awake_since[model] = self._clock.now
        elif previous in SERVING and state not in SERVING:
            self._spans.append(Span(model, self._awake_since.pop(model), self._clock.now))
