"""What the world of the model is made of, and how it says that a promise was broken."""

from __future__ import annotations

from dataclasses import dataclass

from llm_backend.switching import events as ev


class Violation(AssertionError):
    """The scheduler broke a promise."""


def require(condition: object, promise: str) -> None:
    if not condition:
        raise Violation(promise)


@dataclass
class Engine:
    """From `Start` until its end was told.

    `stopping` is true on the way to sleep too; then `rung` says how deep it is to be.
    """

    ready: bool = False
    hung: bool = False
    stopping: bool = False
    asleep: bool = False
    rung: int | None = None


@dataclass
class Wait:
    """Somebody who waits for an answer: a request for a lease, or an operator."""

    kind: str
    model: str
    may_switch: bool = True


@dataclass
class Catalog:
    """The models and the rules, and which models can be awake together."""

    models: dict[str, ev.Needs]
    rules: ev.Rules

    def conflict(self, one: str, other: str) -> bool:
        """Whether two models can never be awake together."""
        a, b = self.models[one], self.models[other]
        return one != other and (a.group == b.group or not self.fit([a, b]))

    def touch(self, one: str, other: str) -> bool:
        a, b = self.models[one], self.models[other]
        return a.group == b.group or bool(a.mib.keys() & b.mib.keys())

    def fit(self, models: list[ev.Needs]) -> bool:
        return all(
            sum(needs.mib.get(device, 0) for needs in models) <= capacity
            for device, capacity in self.rules.capacity.items()
        )
