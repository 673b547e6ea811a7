"""The owner of all engine state: applies events to the scheduler and runs its effects.

Everything here happens on one event loop. `_apply` is synchronous, so no one can see or change
anything between a decision and its consequences; what takes long runs in the one task of its
model and comes back as an event.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from llm_backend.errors import LLMBackendError
from llm_backend.switching import events as ev
from llm_backend.switching.engine_tasks import EngineTasks
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.estimates import USUAL, Durations, Outlook, Pace
from llm_backend.switching.feed import Feed
from llm_backend.switching.forecast import Forecast
from llm_backend.switching.history import WantedFile
from llm_backend.switching.keeper import EngineKeeper, Launch, Tools
from llm_backend.switching.lease import ORDINARY, Lease, Terms
from llm_backend.switching.lending import Lending, LoanFile
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.needs import needs_of
from llm_backend.switching.refusals import shutting_down
from llm_backend.switching.relaunching import Relaunching
from llm_backend.switching.residency import Rung
from llm_backend.switching.scheduler import Scheduler
from llm_backend.switching.states import AT_REST, State
from llm_backend.switching.switches import Move, Switches
from llm_backend.switching.warming import Warming


class Switcher:
    """Grants leases on engines and switches between them; see the module.

    Args:
        launches: How each model is launched, for all models that this set-up can run.
        concurrency: Leases that may be out at once, by model.
        rules: What the scheduler goes by.
        tools: What keepers share.
        wanted: The file that says what a restart must reach.
        loans: The file that keeps device leases over a restart.
        preload: The model to have awake when nothing else is wanted.

    Attributes:
        lending: Lends devices to programs that are not engines.
        relaunching: Starts engines with other launch options.
    """

    def __init__(
        self,
        launches: Iterable[Launch],
        *,
        concurrency: Mapping[str, int],
        rules: ev.Rules,
        tools: Tools,
        wanted: WantedFile,
        loans: LoanFile,
        preload: str | None = None,
    ) -> None:
        self._keepers = {x.spec.id: EngineKeeper(x, tools) for x in launches}
        self._scheduler = Scheduler(
            [
                needs_of(k.launch.spec, k.launch.kind, concurrency[k.model])
                for k in self._keepers.values()
            ],
            rules,
            tools.history.durations,
            asyncio.get_running_loop().time(),
        )
        self._tools = tools
        self._switches = Switches(tools.feed, self.estimate_s)
        files = {model: keeper.launch.files for model, keeper in self._keepers.items()}
        self._warming = Warming(files, self._scheduler.entries)
        self._wanted = wanted
        self._preload = preload
        self._tickets = itertools.count(1)
        self._lines: dict[ev.Ticket, Lease] = {}
        self._leases: dict[str, set[Lease]] = {model: set() for model in self._keepers}
        self._operators: dict[ev.Ticket, asyncio.Future[None]] = {}
        self._tasks = EngineTasks(
            self._keepers, self._scheduler.entries, self._apply, tools.history
        )
        self._timers: set[asyncio.TimerHandle] = set()
        self._closing = False
        self.lending = Lending(
            self._apply, self._ask, tools.gate, tools.feed, loans, rules.capacity
        )
        self.relaunching = Relaunching(self._keepers, self.switch, self._unload)

    # For those who want an engine

    def lease(self, model: str, terms: Terms = ORDINARY) -> Lease:
        """Return a lease on a model, to be used as a context manager."""
        return Lease(self, model, next(self._tickets), asyncio.get_running_loop().time(), terms)

    def is_up(self, model: str) -> bool:
        """Return whether the model's engine runs, or is on its way up or down."""
        return self._scheduler.entries[model].state not in AT_REST

    async def check(self, model: str) -> None:
        """Find out whether a start can work, before another engine is ended for it.

        Raises:
            LLMBackendError: weights, an interpreter or a file is missing.
        """
        if not self.is_up(model):
            await self._keepers[model].plan()

    async def switch(self, model: str) -> None:
        """Make a model awake, by an operator's wish; return when it is.

        Hanging up does not call the switch off.

        Raises:
            SwitchSuperseded: a later switch replaced this one.
            LLMBackendError: the engine could not be brought up.
        """
        await self._ask(lambda ticket: ev.SwitchAsked(ticket, model))

    def begin_switch(self, model: str) -> None:
        """Make a model awake, without waiting for it.

        Raises:
            ShuttingDown: nothing is begun any more.
        """
        if self._closing:
            raise shutting_down()
        self._apply(ev.SwitchAsked(next(self._tickets), model))

    async def unload(self, models: Sequence[str]) -> list[str]:
        """End the engines of these models after draining them; return those that had one."""
        is_up = {m: self.entries[m].state not in AT_REST for m in models}
        running = [m for m in models if self._keepers[m].engine or is_up[m]]
        await asyncio.gather(*(self._unload(model) for model in models))
        return running

    async def _unload(self, model: str) -> None:
        await self._ask(lambda ticket: ev.UnloadAsked(ticket, model))

    # For those who look

    @property
    def feed(self) -> Feed:
        """What happens, as it happens."""
        return self._tools.feed

    @property
    def memory(self) -> MemoryGate:
        """What is free on the devices, and who holds the rest."""
        return self._tools.gate

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Where each model stands; to be looked at, never to be acted on."""
        return self._scheduler.entries

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return self._scheduler.queue_length

    @property
    def wanted(self) -> Mapping[str, str | None]:
        """The model that each exclusivity group shall have."""
        return self._scheduler.wanted

    def forecast(self, pace: Pace = USUAL) -> Forecast:
        """Return a look ahead from now on."""
        steps = {m: (k.step, k.step_since) for m, k in self._keepers.items() if k.step}
        return self._scheduler.forecast(asyncio.get_running_loop().time(), pace, steps)

    def outlook(self, lease: Lease) -> Outlook:
        """Return what a request has to expect that waits, or would have if it came back."""
        if lease.ticket in self._lines:
            return self.forecast().waiting(lease.model, lease.ticket)
        claim = Claim(lease.since, lease.terms.key, lease.terms.batch)
        return self.forecast().newcomer(lease.model, claim)

    def switch_of(self, lease: Lease) -> str | None:
        """Return the id of the switch that a request waited or waits for, if it did."""
        return self._switches.waited(lease.model, lease.since)

    def keeper(self, model: str) -> EngineKeeper:
        """Return the keeper of a model's engine, to be looked at."""
        return self._keepers[model]

    def durations(self, model: str) -> Durations:
        """Return the measured stage times of a model."""
        return self._tools.history.durations.get(model, {})

    def way_up_s(self, model: str) -> float:
        """Return the seconds that bringing a model up takes; 0 if it is up, or nobody knows."""
        return self.entries[model].way_up_s(self.durations(model))

    def estimate_s(self, model: str) -> float | None:
        """Return the seconds until a model is awake; None where it never came up so before."""
        entry = self.entries[model]
        if entry.state is State.AWAKE or not self.durations(model).get("start"):
            return None
        return round(self.forecast().awake_s(model), 3)

    async def parts(self) -> dict[str, Mapping[str, str]]:
        """Return by model what the processes of engines that have several say of their health."""
        return await self._tasks.parts(self._tools.probe)

    def awake(self) -> list[str]:
        """Return the models that are awake, the last used first."""
        awake = [e for e in self.entries.values() if e.state is State.AWAKE]
        awake.sort(key=lambda e: e.last_used, reverse=True)
        return [e.needs.model for e in awake]

    # Life

    async def open(self) -> None:
        """Take over what an earlier gateway left, then aim for what it wanted."""
        wanted = self._wanted.load()
        self.lending.open()
        loading: list[str] = []
        for engine in await self._tasks.survey():
            keeper = self._keepers[engine.model]
            keeper.engine = engine
            if keeper.is_doubtful or wanted.get(engine.group) != engine.model:
                await keeper.bring_down()
            elif await self._tools.probe.ready(engine, keeper.launch.kind):
                self._apply(ev.Adopted(engine.model))
                if self.entries[engine.model].state is State.AWAKE:
                    self._tasks.watch(engine.model)
            else:
                loading.append(engine.model)
        # What a gateway with another catalog wanted does not count.
        ours = [model for model in wanted.values() if model is None or model in self._keepers]
        aims = ours or filter(None, [self._preload])
        for model in [*loading, *aims]:
            if model in self._keepers and self.entries[model].state is State.STOPPED:
                self.begin_switch(model)

    def refuse_newcomers(self) -> None:
        """Refuse whoever waits or comes; requests that have their engine go on."""
        self._closing = True
        for timer in self._timers:
            timer.cancel()
        for lease in list(self._lines.values()):
            lease.refuse(shutting_down())
        for operator in self._operators.values():
            if not operator.done():
                operator.set_exception(shutting_down())

    async def close(self) -> None:
        """Refuse whoever waits and let go; running engines go on without us."""
        self.refuse_newcomers()
        await self.relaunching.close()
        await self.lending.close()
        await self._warming.close()
        await self._tasks.close()
        await self._tools.history.save()

    # For leases

    def take_in(self, lease: Lease) -> None:
        """Put a lease in line, or grant or refuse it at once."""
        if self._closing:
            lease.refuse(shutting_down())
            return
        if self._scheduler.grant_at_once(lease.model, lease.since):
            self._grant(lease, lease.model, lease.since)
            return
        self._lines[lease.ticket] = lease
        terms = lease.terms
        arrived = ev.Arrived(lease.ticket, lease.model, terms.key, terms.batch, terms.may_switch)
        self._apply(arrived)
        if lease.engine is None:
            lease.outlook = self.outlook(lease)

    def take_back(self, lease: Lease) -> None:
        """End a lease, or leave the line."""
        if lease.engine is not None:
            self._leases[lease.model].discard(lease)
            if not self._scheduler.finish_at_once(lease.model, asyncio.get_running_loop().time()):
                self._apply(ev.Finished(lease.model))
        elif self._lines.pop(lease.ticket, None) is not None:
            self._apply(ev.Left(lease.ticket))

    # Applying and performing

    def _apply(self, event: ev.Event) -> None:
        now = asyncio.get_running_loop().time()
        for effect in self._scheduler.handle(event, now):
            self._perform(effect, now)
        self._switches.tidy(now)

    def _perform(self, effect: ev.Effect, now: float) -> None:
        match effect:
            case ev.Grant(ticket, model):
                self._grant(self._lines.pop(ticket), model, now)
            case ev.Refuse(ticket, error):
                self._refuse(ticket, error)
            case ev.Reached(ticket):
                self._answer_operator(ticket, None)
            case ev.Moved(model, previous, state):
                self._publish_move(Move(model, previous, state, *self._course(model)), now)
            case ev.SetTimer(at):
                self._set_timer(at)
            case _ if not self._closing:
                self._perform_on_engine(effect)

    def _perform_on_engine(self, effect: ev.Want | ev.Start | ev.Cut | ev.Stop | ev.Sleep) -> None:
        match effect:
            case ev.Want(group, model):
                self._wanted.save(self._scheduler.wanted)
                self._warming.want(group, model)
                self.feed.publish("step", model=model, group=group, step="wanted", elapsed_s=0.0)
            case ev.Start(model):
                self._tasks.start(model)
            case ev.Stop(model):
                self._tasks.stop(model)
            case ev.Sleep(model, rung):
                self._tasks.sleep(model, rung)
            case ev.Cut(model, error):
                for lease in list(self._leases[model]):
                    lease.refuse(error)

    def _grant(self, lease: Lease, model: str, now: float) -> None:
        engine = self._keepers[model].engine
        if engine is None:
            raise AssertionError(f"{model} is awake without an engine")
        self._leases[model].add(lease)
        waited = lease.outlook is not None  # else it is granted while it is taken in
        lease.grant(engine, now, self.entries[model].held_up(lease.since) if waited else "none")

    def _refuse(self, ticket: ev.Ticket, error: LLMBackendError) -> None:
        lease = self._lines.pop(ticket, None)
        if lease is not None:
            lease.refuse(error)
        else:
            self._answer_operator(ticket, error)

    def _answer_operator(self, ticket: ev.Ticket, error: LLMBackendError | None) -> None:
        answer = self._operators.pop(ticket, None)
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _course(self, model: str) -> tuple[str | None, Rung | None]:
        """Return which model this one leaves for, if it does, and how deep it slept."""
        entry = self.entries[model]
        aim = entry.yields_to
        if aim is not None and self.wanted.get(self.entries[aim].needs.group) != aim:
            aim = None  # it left for that one at another time
        return aim, entry.rung

    def _publish_move(self, move: Move, now: float) -> None:
        self._warming.review()
        model, state, error = move.model, move.state, self.entries[move.model].error
        self._switches.begin(move, now)
        self.feed.publish(
            "state",
            model=model,
            state=state.value,
            previous=move.previous.value,
            reason=error.message if state is State.FAILED and error else None,
        )
        self._switches.end(move, now)
        if move.previous is State.DRAINING and state is State.STOPPING:
            self._remember_drain(model)

    def _remember_drain(self, model: str) -> None:
        """Time the one stage of a switch in which no keeper does anything."""
        seconds = asyncio.get_running_loop().time() - self.entries[model].turn_over
        self._tools.history.add(model, "drain", seconds)
        self.feed.publish("step", model=model, step="drain_done", elapsed_s=round(seconds, 3))

    def _set_timer(self, at: float) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            if not self._closing:
                self._apply(ev.Timer())

        timer = asyncio.get_running_loop().call_at(at, fire)
        self._timers.add(timer)

    async def _ask(self, make: Callable[[ev.Ticket], ev.Event]) -> None:
        if self._closing:
            raise shutting_down()
        ticket = next(self._tickets)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._operators[ticket] = answer
        try:
            self._apply(make(ticket))
            await answer
        finally:
            if self._operators.pop(ticket, None) is not None:
                self._apply(ev.Left(ticket))
