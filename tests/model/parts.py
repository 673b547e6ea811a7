"""What the world of the model is made of, and how it says that a promise was broken."""

from __future__ import annotations

from dataclasses import dataclass


class Violation(AssertionError):
    """The scheduler broke a promise."""


def require(condition: object, promise: str) -> None:
    if not condition:
        raise Violation(promise)


@dataclass
class Engine:
    """From `Start` until its end was told."""

    ready: bool = False
    hung: bool = False
    stopping: bool = False


@dataclass
class Wait:
    """Somebody who waits for an answer: a request for a lease, or an operator."""

    kind: str
    model: str
    may_switch: bool = True
