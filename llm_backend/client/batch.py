"""Many requests, a few at a time: results in order, one failure loses nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from llm_backend.errors import ConfigError, LLMBackendError

T = TypeVar("T")
P = TypeVar("P")

OnProgress = Callable[[int, int], None]
"""Told after each request how many are done, and how many there are."""

LOW_PRIORITY: Final = {"x-llm-priority": "batch"}
"""Tells the gateway that a request may wait until its model is awake anyway."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one request of a batch.

    Attributes:
        value: The answer; None where there is none.
        error: Why there is none.
    """

    value: T | None = None
    error: LLMBackendError | None = None

    def get(self) -> T:
        """Return the answer.

        Raises:
            LLMBackendError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error it is the answer


async def run_batch(
    ask: Callable[[P], Awaitable[T]],
    prompts: Iterable[P],
    concurrency: int,
    on_progress: OnProgress | None,
) -> list[Outcome[T]]:
    """Ask for each prompt, `concurrency` of them at a time; return the outcomes in their order.

    What `on_progress` raises ends all of it.

    Raises:
        ConfigError: `concurrency` is below 1.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be 1 or more, not {concurrency!r}.")
    todo = list(prompts)
    outcomes: list[Outcome[T]] = [Outcome()] * len(todo)
    queue, done = iter(enumerate(todo)), itertools.count(1)

    async def work() -> None:
        for place, prompt in queue:  # shared: whoever is free takes the next one
            outcomes[place] = await _outcome(ask(prompt))
            if on_progress is not None:
                on_progress(next(done), len(todo))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(work())
    except BaseExceptionGroup as failures:  # what `on_progress` raised is the caller's own
        raise failures.exceptions[0] from None
    return outcomes


async def _outcome(answer: Awaitable[T]) -> Outcome[T]:
    try:
        return Outcome(value=await answer)
    except LLMBackendError as error:
        return Outcome(error=error)
