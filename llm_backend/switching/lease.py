"""The right of one request to use an awake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    EngineTimeout,
    LLMBackendError,
    Overloaded,
    RequestError,
)
from llm_backend.runtimes.base import Engine, Replicas
from llm_backend.switching.estimates import Outlook
from llm_backend.switching.events import HeldUp


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a request waits in line.

    Attributes:
        key: The name of its API key.
        batch: Whether it may wait until its model is awake anyway, or the device idle.
        may_switch: Whether its model may be made awake for it.
    """

    key: str = ""
    batch: bool = False
    may_switch: bool = True


ORDINARY: Final = Terms()


class Lessor(Protocol):
    """Who grants leases and takes them back."""

    def take_in(self, lease: Lease) -> None:
        """Put a lease in line, or grant or refuse it at once."""
        ...

    def take_back(self, lease: Lease) -> None:
        """End a lease, or leave the line."""
        ...


class Lease:
    """One request's place in line, then its right to use the engine.

    A context manager: on entering, the request is in line, or already has the engine; on
    leaving, whatever happened, it has neither.

        with switcher.lease("qwen-14b") as lease:
            engine = lease.engine or await lease.granted(timeout_s=60)

    Attributes:
        model: The catalog id.
        ticket: Its number in line.
        engine: The engine, once granted.
        terms: Under which it waits.
        error: Why it was refused, or why the engine was taken away.
        waited_s: Seconds in line.
        held_up: What it waited for, once granted.
        outlook: What it had to expect when it came; None where it was granted at once.

    Where several servers stand behind the engine, `engine` is the one that was taken for this
    request; it is given back with the lease.
    """

    __slots__ = (
        "_answer",
        "_lessor",
        "_on_revoke",
        "_replicas",
        "_tried",
        "engine",
        "error",
        "held_up",
        "model",
        "outlook",
        "since",
        "terms",
        "ticket",
        "waited_s",
    )

    def __init__(
        self, lessor: Lessor, model: str, ticket: int, now: float, terms: Terms = ORDINARY
    ) -> None:
        self.model = model
        self.terms = terms
        self.ticket = ticket
        self.engine: Engine | None = None
        self.error: LLMBackendError | None = None
        self.since = now
        self.waited_s = 0.0
        self.held_up: HeldUp = "none"
        self.outlook: Outlook | None = None
        self._lessor = lessor
        self._answer: asyncio.Future[None] | None = None
        self._on_revoke: Callable[[LLMBackendError], None] | None = None
        self._replicas: Replicas | None = None
        self._tried: list[Engine] = []

    def __enter__(self) -> Self:
        self._lessor.take_in(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_revoke = None
        if self._replicas is not None and self.engine is not None:
            self._replicas.give_back(self.engine, failed=_is_fault(exc))
        self._lessor.take_back(self)

    async def settled(self, timeout_s: float) -> bool:
        """Wait until the lease is granted or refused; return whether it is by now."""
        if self.engine is not None or self.error is not None:
            return True
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._answer}, timeout=timeout_s)
        return self._answer.done()

    async def granted(self, timeout_s: float) -> Engine:
        """Wait for the engine.

        Raises:
            Overloaded: it is not there `timeout_s` seconds after the wait in line began.
            LLMBackendError: the lease was refused.
        """
        left = self.since + timeout_s - asyncio.get_running_loop().time()
        if not await self.settled(max(0, left)):
            raise Overloaded(
                f"{self.model} was not free within {timeout_s:g} s.",
                hint="limits.queue_timeout_s sets this limit.",
                retry_after_s=30,
            )
        if self.error is not None:
            raise copy(self.error)  # one error may end many waits
        if self.engine is None:  # settled says that there is one or an error
            raise AssertionError("a settled lease has an engine or an error")
        return self.engine

    def on_revoke(self, callback: Callable[[LLMBackendError], None]) -> None:
        """Call `callback`, at once if it is too late already, when the engine is taken away."""
        if self.error is not None:
            callback(self.error)
        else:
            self._on_revoke = callback

    async def cause(self, timeout_s: float) -> LLMBackendError | None:
        """Wait a moment to learn why the engine broke off; None when nobody says.

        Of servers elsewhere nobody sees an exit, so nothing is waited for.
        """
        if self.error is None and self._replicas is None:
            self._answer = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._answer}, timeout=timeout_s)
        return self.error

    def elsewhere(self) -> Engine | None:
        """Give up a server that did not answer at all; return another one, if there is one."""
        if self._replicas is None or self.engine is None or self.error is not None:
            return None
        self._tried.append(self.engine)
        other = self._replicas.take(self._tried)
        if other is not None:
            self._replicas.give_back(self.engine, failed=True)
            self.engine = other
        return other

    # For the switcher

    def grant(self, engine: Engine, now: float, held_up: HeldUp = "none") -> None:
        """Hand the engine over; tell what held it up."""
        self._replicas = engine.replicas
        self.engine = engine if self._replicas is None else self._replicas.take() or engine
        self.held_up = held_up
        self.waited_s = now - self.since
        if self._answer is not None:
            self._wake()

    def refuse(self, error: LLMBackendError) -> None:
        """End the wait, or take the engine away."""
        self.error = error
        if self._on_revoke is not None:
            self._on_revoke(error)
        self._wake()

    def _wake(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)


def _is_fault(error: BaseException | None) -> bool | None:
    """Return whether a request ended badly by its server's fault; None where that is open."""
    if error is None or isinstance(error, RequestError):
        return False
    if isinstance(error, EngineBroke | EngineGone | EngineTimeout | Overloaded):
        return True
    return None  # the client left, or the gateway stops
