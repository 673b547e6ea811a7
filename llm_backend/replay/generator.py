"""Random traces by seed: every mixture of callers that the shipped traces do not think of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from llm_backend.replay.trace import Arrival, Trace

REQUESTS = 160
"""About how many requests a trace has."""


def random_trace(seed: int, models: Sequence[str], requests: int = REQUESTS) -> Trace:
    """Return the trace of a seed; the same one on every machine.

    Two to six callers, each of one kind: one who asks now and then, one who asks in bursts, a
    program in a loop, a batch. Each has a favourite model and sometimes asks another.

    Args:
        seed: Decides everything.
        models: Whom they may ask.
        requests: About how many requests there shall be.
    """
    luck = random.Random(seed)  # noqa: S311  # no secret
    kinds: list[Callable[[_Caller, int], Iterator[Arrival]]] = [
        _now_and_then,
        _in_bursts,
        _in_a_loop,
        _in_a_batch,
    ]
    number = luck.randint(2, 6)
    arrivals: list[Arrival] = []
    for name in range(number):
        kind = luck.choices(kinds, weights=(4, 2, 4, 1))[0]
        arrivals += kind(_Caller(luck, f"caller-{name}", models), max(1, requests // number))
    return Trace.of(f"random:{seed}", arrivals)


class _Caller:
    """Somebody with habits."""

    def __init__(self, luck: random.Random, name: str, models: Sequence[str]) -> None:
        self.luck = luck
        self.name = name
        self.models = models
        self.favourite = luck.choice(models)
        self.loyalty = luck.choice((1.0, 1.0, 0.9, 0.5))
        self.pause_s = 10 ** luck.uniform(-0.5, 2)
        self.longest = luck.choice((50, 200, 600))
        self.patience_s = luck.choice((None, None, None, 300.0))

    def asks(self, at_s: float, think_s: float | None = None, *, batch: bool = False) -> Arrival:
        """Return one request."""
        is_loyal = self.luck.random() < self.loyalty
        return Arrival(
            at_s=round(at_s, 3),
            model=self.favourite if is_loyal else self.luck.choice(self.models),
            key=self.name,
            batch=batch,
            prompt_tokens=self.luck.randint(20, 4000),
            completion_tokens=self.luck.randint(5, self.longest),
            client=self.name,
            think_s=think_s,
            patience_s=None if batch else self.patience_s,
        )


def _now_and_then(caller: _Caller, requests: int) -> Iterator[Arrival]:
    at_s = 0.0
    for _ in range(requests):
        at_s += caller.luck.expovariate(1 / caller.pause_s)
        yield caller.asks(at_s)


def _in_bursts(caller: _Caller, requests: int) -> Iterator[Arrival]:
    at_s, left = caller.luck.uniform(0, 60), requests
    while left > 0:
        size = min(left, caller.luck.randint(3, 20))
        left -= size
        for _ in range(size):
            yield caller.asks(at_s + caller.luck.uniform(0, 3))
        at_s += caller.luck.expovariate(1 / (10 * caller.pause_s))


def _in_a_loop(caller: _Caller, requests: int) -> Iterator[Arrival]:
    at_s = caller.luck.uniform(0, 60)
    for turn in range(requests):
        think_s = round(caller.pause_s * caller.luck.uniform(0.5, 1.5), 3)
        yield caller.asks(at_s, think_s if turn else None)


def _in_a_batch(caller: _Caller, requests: int) -> Iterator[Arrival]:
    at_s = caller.luck.uniform(0, 300)
    for _ in range(requests):
        yield caller.asks(at_s, batch=True)
