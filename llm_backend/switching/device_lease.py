"""Device leases: memory that programs other than engines have for a time. Pure: the books of them.

A device lease is not the lease of a request. It takes MiB of a device, or all of it, away from what
models may reserve; who does not fit beside it any more has to leave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from llm_backend.switching.entry import Entry
from llm_backend.switching.events import DeviceLease, Needs, Ticket
from llm_backend.switching.eviction import fits_beside, overcommitted
from llm_backend.switching.states import AT_REST, State

CLOSED: Final = -1
"""The capacity of a device that is leased as a whole: not even a model that reserves 0 fits."""


class DeviceLeases:
    """All device leases, and what they leave to models.

    Args:
        capacity: MiB that may be reserved without any lease, by device; a device not named is
            not limited.

    Attributes:
        capacity: What models may reserve beside the leases, by device; a live view.
        held: The leases, by id.
        displaced: Models that left, or were refused to an operator, because of a lease.
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self.capacity = dict(capacity)
        self.held: dict[str, DeviceLease] = {}
        self.displaced: set[str] = set()
        self._whole = capacity
        self._tickets: dict[str, Ticket] = {}

    def take(self, ticket: Ticket, lease: DeviceLease) -> None:
        """Enter a lease: from now on nothing starts in its place."""
        self.held[lease.ident] = lease
        self._tickets[lease.ident] = ticket
        self._count(lease.device)

    def give(self, ident: str) -> Ticket | None:
        """Strike a lease out; return the ticket of whoever still waits for it."""
        lease = self.held.pop(ident, None)
        if lease is not None:
            self._count(lease.device)
        return self._tickets.pop(ident, None)

    def forget(self, ticket: Ticket) -> None:
        """Take note that whoever holds this ticket waits no longer."""
        self._tickets = {i: t for i, t in self._tickets.items() if t != ticket}

    def keeping_out(self, needs: Needs) -> DeviceLease | None:
        """Return the lease that ends last of those beside which a model does not fit."""
        if not self.held or fits_beside(needs, [], self.capacity):
            return None
        theirs = [lease for lease in self.held.values() if lease.device in needs.mib]
        return max(theirs, key=lambda lease: lease.until, default=None)

    def leaving(self, entries: Iterable[Entry]) -> list[Entry]:
        """Choose who has to leave: the idle before the busy, the longest unused first."""
        if not self.held:
            return []
        staying = [e for e in entries if e.state not in AT_REST | {State.STOPPING}]
        victims: list[Entry] = []
        while full := self._overcommitted(staying):
            movable = [e for e in staying if full & e.reserved.mib.keys()]
            victims.append(min(movable, key=_worth))
            staying.remove(victims[-1])
        for spared in victims[::-1]:  # nobody leaves in vain
            if not self._overcommitted([*staying, spared]):
                victims.remove(spared)
                staying.append(spared)
        return victims

    def cleared(self, entries: Collection[Entry]) -> list[Ticket]:
        """Return, each once, the tickets of the leases in whose place no engine is any more."""
        if not self._tickets:
            return []
        full = self._overcommitted([e for e in entries if e.state not in AT_REST])
        free = [i for i in self._tickets if self.held[i].device not in full]
        return [self._tickets.pop(ident) for ident in free]

    def _overcommitted(self, entries: Iterable[Entry]) -> set[str]:
        devices = {lease.device for lease in self.held.values()}
        return overcommitted((e.reserved for e in entries), self.capacity) & devices

    def _count(self, device: str) -> None:
        leases = [lease for lease in self.held.values() if lease.device == device]
        if any(lease.mib is None for lease in leases):
            self.capacity[device] = CLOSED
        elif device in self._whole:
            self.capacity[device] = self._whole[device] - sum(lease.mib or 0 for lease in leases)
        else:
            self.capacity.pop(device, None)


def _worth(entry: Entry) -> tuple[bool, bool, float]:
    return entry.state is not State.ASLEEP, entry.leases > 0, entry.last_used
