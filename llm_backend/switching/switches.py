"""The switches that are under way: an id for each, and what came of it.

Whoever reads of a state, a step or a request can tell by the id what belongs together. Nothing is
decided here: it is told each move of a model, and goes by that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from llm_backend.switching.feed import Feed
from llm_backend.switching.residency import Rung
from llm_backend.switching.states import SERVING, State

Outcome = Literal["ok", "failed", "cancelled"]

LEAVING: Final = frozenset({State.DRAINING, State.STOPPING})


@dataclass(slots=True)
class Switch:
    """The way from one awake model to another, or to none.

    Attributes:
        ident: Names it in logs, traces and on `/events`.
        to: The model that comes up; None where one leaves for no other.
        began: When, on the event loop's clock.
        left: The model that left for it, the first of several; None where none had to.
        rung: What the model comes up from: `start` or a level of sleep.
        estimate_s: Seconds that it was to take when it began; None where nobody knew.
    """

    ident: str
    to: str | None
    began: float
    left: str | None = None
    rung: str = "start"
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A model came into another state.

    Attributes:
        model: The catalog id.
        previous: The state before.
        state: The state now.
        aim: The model that it leaves for, if it does.
        rung: How deep it slept.
    """

    model: str
    previous: State
    state: State
    aim: str | None = None
    rung: Rung | None = None


class Switches:
    """Keeps the books of switches, and publishes when one begins and ends.

    Args:
        feed: Where it tells of them; it stamps what is told of a model with the model's switch.
        estimate: Returns the seconds until a model is awake, if known.
    """

    def __init__(self, feed: Feed, estimate: Callable[[str], float | None]) -> None:
        self._feed = feed
        self._estimate = estimate
        self._open: dict[str, Switch] = {}
        self._last: dict[str, tuple[str, float]] = {}

    def begin(self, move: Move, now: float) -> None:
        """Take in a move that is about to be published."""
        if move.state in LEAVING:
            own = self._to(move.model)
            if own is not None:
                self._end(own, "cancelled", now)
            known = self._to(move.aim) if move.aim is not None else self._of(move.model)
            switch = known or Switch(_new_id(), move.aim, now)
            if move.previous in SERVING:
                switch.left = switch.left or move.model
        elif move.state is State.STARTING:
            switch = self._to(move.model) or Switch(_new_id(), move.model, now)
            woken = move.previous is State.ASLEEP and move.rung is not None
            switch.rung = f"asleep-{move.rung}" if woken else "start"
        else:
            return
        self._feed.switches[move.model] = switch.ident
        if switch.ident not in self._open:
            self._open[switch.ident] = switch
            switch.estimate_s = self._estimate(switch.to) if switch.to is not None else None
            self._tell(switch, None, now)

    def end(self, move: Move, now: float) -> None:
        """Take in a move that has been published."""
        if move.state in LEAVING or move.state is State.STARTING:
            return
        switch = self._open.get(self._feed.switches.pop(move.model, ""))
        if switch is not None and switch.to == move.model:
            self._end(switch, "ok" if move.state is State.AWAKE else "failed", now)

    def tidy(self, now: float) -> None:
        """End what no model takes part in any more: drains called off, unloads that are done."""
        if not self._open:
            return
        going_on = set(self._feed.switches.values())
        for switch in [s for s in self._open.values() if s.ident not in going_on]:
            self._end(switch, "cancelled" if switch.to is not None else "ok", now)

    def waited(self, model: str, since: float) -> str | None:
        """Return the switch that a request for a model waited or waits for, if it did.

        Args:
            model: The catalog id.
            since: When its wait began, on the event loop's clock.
        """
        coming = self._to(model)
        if coming is not None:
            return coming.ident
        ident, ended = self._last.get(model, (None, 0.0))
        return ident if ended >= since else None

    def _to(self, model: str) -> Switch | None:
        return next((s for s in self._open.values() if s.to == model), None)

    def _of(self, model: str) -> Switch | None:
        """Return the switch to no other model in which this one leaves."""
        switch = self._open.get(self._feed.switches.get(model, ""))
        return switch if switch is not None and switch.to is None else None

    def _end(self, switch: Switch, outcome: Outcome, now: float) -> None:
        del self._open[switch.ident]
        if switch.to is not None:
            self._last[switch.to] = (switch.ident, now)
            if self._feed.switches.get(switch.to) == switch.ident:
                del self._feed.switches[switch.to]
        self._tell(switch, outcome, now)

    def _tell(self, switch: Switch, outcome: Outcome | None, now: float) -> None:
        about = {"switch": switch.ident, "from": switch.left, "to": switch.to}
        times = {"elapsed_s": round(now - switch.began, 3), "estimate_s": switch.estimate_s}
        self._feed.publish("switch", **about, rung=switch.rung, outcome=outcome, **times)


def _new_id() -> str:
    return secrets.token_hex(4)
