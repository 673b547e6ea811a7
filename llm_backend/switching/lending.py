"""Lends devices to programs that are not engines: a game, ComfyUI, a training run.

The scheduler makes the way free; this module names the leases, ends them on time, waits for the
memory and keeps them over a restart. Inside, time is monotonic; the file has the wall clock's.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from llm_backend.errors import Conflict, DeviceBusy, InvalidRequest, LLMBackendError, NotFound
from llm_backend.switching import events as ev
from llm_backend.switching.feed import Feed
from llm_backend.switching.history import read_json, write_json
from llm_backend.switching.memory import RETRY_AFTER_S, MemoryGate

MEMORY_S = 30.0
"""How long the memory may take to come back once the engines have ended."""

LONGEST_S = 7 * 24 * 3600.0
"""The longest lease, in seconds."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loan:
    """A device lease, as it is shown.

    Attributes:
        lease: What is lent, until when on the event loop's clock.
        expires_at: When it ends, in seconds since 1970.
        ready: Whether the device has been cleared.
        note: What still holds memory of it that was to be free.
    """

    lease: ev.DeviceLease
    expires_at: float
    ready: bool = False
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to have.

    Attributes:
        device: Its name in the catalog.
        mib: How much of it; None for all.
        ttl_s: For how long, in seconds from now.
        reason: What for.
    """

    device: str
    mib: int | None
    ttl_s: float
    reason: str


class LoanFile:
    """The device leases, in the state directory: they outlive a restart of the gateway."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, tuple[Wish, float]]:
        """Return each lease that has time left, by id, with its end in seconds since 1970."""
        kept: dict[str, tuple[Wish, float]] = {}
        now = time.time()
        for ident, entry in read_json(self._path).items():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                mib, ends = entry["mib"], min(float(entry["expires_at"]), now + LONGEST_S)
                if ends > now and (mib is None or isinstance(mib, int)):
                    wish = Wish(str(entry["device"]), mib, ends - now, str(entry["reason"]))
                    kept[ident] = (wish, ends)
        return kept

    def save(self, loans: Mapping[str, Loan]) -> None:
        """Replace the file; a full disk loses it and nothing else."""
        about = {
            ident: {
                "device": loan.lease.device,
                "mib": loan.lease.mib,
                "reason": loan.lease.reason,
                "expires_at": loan.expires_at,
            }
            for ident, loan in loans.items()
        }
        with contextlib.suppress(OSError):
            write_json(self._path, about)


Tell = Callable[[ev.Event], None]
"""Applies an event to the scheduler."""

Ask = Callable[[Callable[[ev.Ticket], ev.Event]], Awaitable[None]]
"""Applies the event that is made with a ticket; returns when what it wants is reached."""


class Lending:
    """Owns the device leases; see the module.

    Args:
        tell: Applies an event.
        ask: Applies an event, and waits for what it wants.
        gate: Sees the memory come back.
        feed: Is told of every lease.
        file: Keeps them.
        capacity: MiB that models may reserve, by device; a device not named can be leased as a
            whole only.
    """

    def __init__(
        self,
        tell: Tell,
        ask: Ask,
        gate: MemoryGate,
        feed: Feed,
        file: LoanFile,
        capacity: Mapping[str, int],
    ) -> None:
        self.loans: dict[str, Loan] = {}
        self._tell = tell
        self._ask = ask
        self._gate = gate
        self._feed = feed
        self._file = file
        self._capacity = capacity
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Loan]] = set()

    def open(self) -> None:
        """Take up the leases that an earlier gateway granted and that have time left."""
        for ident, (wish, ends) in self._file.load().items():
            self._begin(ident, wish, ends)

    async def close(self) -> None:
        """Let go; the file keeps what is lent."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def take(self, wish: Wish) -> Loan:
        """Lend a device; return once its memory is free.

        Raises:
            InvalidRequest: the device cannot have so much free.
            Conflict: so much is not left beside other leases, or it ended meanwhile.
            DeviceBusy: somebody else holds the memory.
        """
        return await asyncio.shield(self._new(wish))

    def begin(self, wish: Wish) -> Loan:
        """Lend a device, without waiting for its memory.

        Raises:
            InvalidRequest: the device cannot have so much free.
            Conflict: so much is not left beside other leases.
        """
        self._new(wish)
        return [*self.loans.values()][-1]

    def give(self, ident: str) -> None:
        """Take a device back before its time.

        Raises:
            NotFound: there is no such lease.
        """
        if ident not in self.loans:
            known = ", ".join(self.loans) or "none"
            raise NotFound(f"There is no device lease {ident!r}.", hint=f"There are: {known}.")
        self._end(ident, "given")

    def _new(self, wish: Wish) -> asyncio.Task[Loan]:
        self._check(wish)
        return self._begin(secrets.token_hex(4), wish, time.time() + wish.ttl_s)

    def _check(self, wish: Wish) -> None:
        capacity = self._capacity.get(wish.device)
        if wish.mib is not None and capacity is None:
            raise InvalidRequest(
                f"mib: {wish.mib} MiB of {wish.device} cannot be set apart: its size is not known.",
                hint="Leave mib out to lease the whole device, or set devices."
                f"{wish.device}.memory_mib in the catalog.",
                param="mib",
            )
        if wish.mib is not None and capacity is not None and wish.mib > capacity:
            raise InvalidRequest(
                f"mib: {wish.mib} MiB are more than the {capacity} MiB of {wish.device} that "
                "there are for models.",
                hint="Leave mib out to lease the whole device.",
                param="mib",
            )
        others = [x.lease for x in self.loans.values() if x.lease.device == wish.device]
        if others and not self._has_room_beside(others, wish, capacity):
            raise Conflict(
                f"{wish.device} is leased already: "
                + ", ".join(f"{x.mib or 'all'} MiB ({x.reason})" for x in others)
                + ".",
                hint=f"Give one back: llm-backend lease give {others[0].ident}",
            )

    def _has_room_beside(
        self, others: list[ev.DeviceLease], wish: Wish, capacity: int | None
    ) -> bool:
        taken = [lease.mib for lease in others]
        if wish.mib is None or capacity is None or None in taken:
            return False
        return wish.mib + sum(mib or 0 for mib in taken) <= capacity

    def _begin(self, ident: str, wish: Wish, ends: float) -> asyncio.Task[Loan]:
        loop = asyncio.get_running_loop()
        until = loop.time() + wish.ttl_s
        lease = ev.DeviceLease(ident, wish.device, wish.mib, wish.reason, until)
        self.loans[ident] = Loan(lease, ends)
        self._file.save(self.loans)
        self._timers[ident] = loop.call_at(until, self._end, ident, "expired")
        self._publish(lease, "taken")
        task = asyncio.create_task(self._hand_over(lease), name=f"device lease {ident}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Loan]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("device_lease_failed", lease=task.get_name(), error=str(error))

    async def _hand_over(self, lease: ev.DeviceLease) -> Loan:
        """Clear a device and see its memory come back; a lease that fails is given back."""
        try:
            await self._ask(lambda ticket: ev.LeaseTaken(ticket, lease))
            note = await self._gate.wait_until_handed_over(lease.device, lease.mib, MEMORY_S)
            if note is not None and lease.mib is not None:
                raise DeviceBusy(
                    f"{lease.mib} MiB of {lease.device} did not become free: {note}",
                    retry_after_s=RETRY_AFTER_S,
                )
        except LLMBackendError:
            self._end(lease.ident, "failed")
            raise
        if lease.ident not in self.loans:
            raise Conflict(f"The device lease {lease.ident} ended before its memory was free.")
        loan = replace(self.loans[lease.ident], ready=True, note=note)
        self.loans[lease.ident] = loan
        self._publish(lease, "ready")
        return loan

    def _end(self, ident: str, how: Literal["given", "expired", "failed"]) -> None:
        loan = self.loans.pop(ident, None)
        if loan is None:
            return
        self._timers.pop(ident).cancel()
        self._file.save(self.loans)
        self._publish(loan.lease, how)
        self._tell(ev.LeaseGiven(ident))

    def _publish(self, lease: ev.DeviceLease, state: str) -> None:
        self._feed.publish(
            "lease",
            id=lease.ident,
            device=lease.device,
            mib=lease.mib,
            reason=lease.reason,
            expires_in_s=left_s(lease),
            state=state,
        )


def left_s(lease: ev.DeviceLease) -> float:
    """Return for how many seconds a lease still holds."""
    return round(max(0.0, lease.until - asyncio.get_running_loop().time()), 3)
