"""Which model a request gets, and the wait for its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil

from llm_backend.config.catalog import ModelSpec
from llm_backend.errors import InvalidRequest, ModelNotActive, Overloaded
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.gateway.fleet import Fleet
from llm_backend.runtimes.base import Engine
from llm_backend.switching.entry import Claim
from llm_backend.switching.estimates import CAREFUL
from llm_backend.switching.forecast import START
from llm_backend.switching.lease import Lease
from llm_backend.switching.residency import WAYS_UP
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher

FIRST_SIGN_S = 0.8
"""A client of a stream has the headers within a second."""

SIGN_EVERY_S = 9.0

Sign = Callable[[str], Awaitable[None]]
"""Tells the client of a stream something while it waits."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Finds the model of a request and waits for its lease.

    Attributes:
        fleet: The models.
        switcher: Who grants leases.
        timeout_s: Longest wait for a lease.
        batch_s: How much longer a batch request may wait.
    """

    fleet: Fleet
    switcher: Switcher
    timeout_s: float
    batch_s: float = 0.0

    def choose(self, name: str | None) -> ModelSpec:
        """Return the model for a request that names this one, or none.

        Raises:
            ModelNotFound: no such model here.
            InvalidRequest: it names none, and there is no default.
        """
        return self.fleet.find(name) if name is not None else self._unnamed()

    def check(self, spec: ModelSpec, endpoint: Endpoint) -> None:
        """Check that a model may be asked on a route.

        Raises:
            NotSupported: the model cannot do what the route needs.
            ModelNotActive: the route does not switch, and the model is not awake.
        """
        self.fleet.require(spec, endpoint.capability)
        if not endpoint.may_switch and self._state(spec) is not State.AWAKE:
            raise ModelNotActive(
                f"{spec.id} is not awake, and {endpoint.path} never switches models.",
                hint=f"Switch first: bash scripts/switch_model.sh {spec.id}",
                param="model",
            )

    def _unnamed(self) -> ModelSpec:
        # Amid a switch nobody is awake: whoever does not care must not cause another one.
        coming = filter(None, self.switcher.wanted.values())
        name = next(iter([*self.switcher.awake(), *coming]), self.fleet.default)
        if name is None:
            raise InvalidRequest("The request names no model, and there is no default.")
        return self.fleet.find(name)

    def _state(self, spec: ModelSpec) -> State:
        return self.switcher.entries[spec.id].state

    def fingerprint(self, model: str) -> str | None:
        """Return the digest of what shapes a model's answers; None before its first plan."""
        return self.switcher.keeper(model).fingerprint

    async def wait(self, lease: Lease, sign: Sign | None) -> Engine:
        """Wait for the engine; `sign` tells the client what it waits for.

        Raises:
            Overloaded: it took too long.
            LLMBackendError: the lease was refused.
        """
        timeout_s = self.timeout_s + (self.batch_s if lease.terms.batch else 0.0)
        if sign is not None and not await lease.settled(min(FIRST_SIGN_S, timeout_s)):
            await self._keep_company(lease, sign, timeout_s)
        try:
            return await lease.granted(timeout_s)
        except Overloaded as error:
            if lease.error is None:  # its time is over: there is nobody else who knows how long yet
                error.retry_after_s = self.back_s(lease)
            raise

    async def _keep_company(self, lease: Lease, sign: Sign, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        while (left := lease.since + timeout_s - loop.time()) > 0:
            await sign(self.tell(lease))
            if await lease.settled(min(SIGN_EVERY_S, left)):
                return

    def back_s(self, lease: Lease) -> float:
        """Return the seconds after which a request that is turned away may come back."""
        claim = Claim(lease.since, lease.terms.key, lease.terms.batch)
        return self.switcher.forecast(CAREFUL).back_s(lease.model, claim)

    def tell(self, lease: Lease) -> str:
        """Say in a few words what a request waits for, how long yet, and where in line."""
        outlook = self.switcher.outlook(lease)
        told = self._doing(lease.model)
        if outlook.is_measured:
            told += f", about {max(1.0, outlook.wait_s):.0f} s left"
        return told if outlook.place == 1 else f"{told}, place {outlook.place} in line"

    def _doing(self, model: str) -> str:
        state = self.switcher.entries[model].state
        if state is State.AWAKE:
            return f"waiting for {model}, all places are taken"
        if state is not State.STARTING:
            return f"waiting for {model}, the device is busy"
        progress = self.switcher.keeper(model).progress
        return f"{progress.text if progress else 'loading'} {model}"

    def stages(self, lease: Lease) -> dict[str, float]:
        """Return the seconds that a request waited, by what it waited for; empty if it did not."""
        if lease.outlook is None:
            return {}
        if self.switcher.entries[lease.model].turn_since < lease.since:
            return {"queue": lease.waited_s}
        # The model came up meanwhile. Of a start that was under way before, all is told.
        took = self.switcher.keeper(lease.model).steps_s
        steps = {step: took[step] for step in (*START, *WAYS_UP.values()) if step in took}
        return {"queue": max(0.0, lease.waited_s - sum(steps.values())), **steps}


def waiting_headers(lease: Lease) -> list[tuple[bytes, bytes]]:
    """Tell a request that waits, or is turned away, its place in line and the wait, if known."""
    outlook = lease.outlook
    if outlook is None or not (lease.error is None or isinstance(lease.error, Overloaded)):
        return []
    headers = [(b"x-queue-position", b"%d" % outlook.place)]
    if outlook.is_measured:
        headers.append((b"x-estimated-wait-s", b"%d" % ceil(outlook.wait_s)))
    return headers
