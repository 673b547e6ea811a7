"""Who has to leave so that a model fits. Pure: values in, a list out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from llm_backend.switching.events import Needs


@dataclass(frozen=True, slots=True)
class Occupant:
    """A model that has an engine.

    Attributes:
        needs: What it takes.
        busy: Leases out.
        last_used: When a lease on it was last granted or came back; the longest unused goes first.
        fixed: Whether it may not be asked to leave: an earlier request counts on it.
    """

    needs: Needs
    busy: int = 0
    last_used: float = 0.0
    fixed: bool = False


def exclude_each_other(one: Needs, other: Needs) -> bool:
    """Return whether two models may never be awake together, however small they are."""
    return one.group == other.group


def overcommitted(models: Iterable[Needs], capacity: Mapping[str, int]) -> set[str]:
    """Return the devices on which these models reserve more than there is."""
    reserved: dict[str, int] = {}
    for needs in models:
        for device, mib in needs.mib.items():
            reserved[device] = reserved.get(device, 0) + mib
    return {d for d, mib in reserved.items() if d in capacity and mib > capacity[d]}


def has_room(wanted: Needs, running: Sequence[Needs], capacity: Mapping[str, int]) -> bool:
    """Return whether `wanted` may start while all of these have engines."""
    return not any(exclude_each_other(wanted, other) for other in running) and not overcommitted(
        [wanted, *running], capacity
    )


def fits_beside(wanted: Needs, others: Sequence[Needs], capacity: Mapping[str, int]) -> bool:
    """Return whether `wanted` fits beside these models, whichever of each group is awake."""
    if any(exclude_each_other(wanted, other) for other in others):
        return False
    return all(
        mib + _reserved_at_most(others, device) <= capacity.get(device, inf)
        for device, mib in wanted.mib.items()
    )


def _reserved_at_most(models: Sequence[Needs], device: str) -> int:
    largest: dict[str, int] = {}
    for needs in models:
        largest[needs.group] = max(largest.get(needs.group, 0), needs.mib.get(device, 0))
    return sum(largest.values())


def make_room(
    wanted: Needs,
    occupants: Sequence[Occupant],
    capacity: Mapping[str, int],
    ahead: Sequence[Needs] = (),
) -> list[str] | None:
    """Choose the models that must leave before `wanted` may start.

    1. It waits unless it fits beside those who are fixed and those `ahead` of it in line.
    2. All of its exclusivity group leave.
    3. While its devices are overcommitted, the idle leave before the busy, and among those the
       longest unused first; but nobody leaves in vain.

    Returns:
        The models that must leave; None while it has to wait.
    """
    if not fits_beside(wanted, [*ahead, *(o.needs for o in occupants if o.fixed)], capacity):
        return None
    staying = [o for o in occupants if not exclude_each_other(o.needs, wanted)]
    rivals = [o.needs.model for o in occupants if o not in staying]
    victims: list[Occupant] = []
    while full := _overcommitted_by(wanted, staying, capacity):
        movable = [o for o in staying if not o.fixed and full & o.needs.mib.keys()]
        victims.append(min(movable, key=lambda o: (o.busy > 0, o.last_used)))
        staying.remove(victims[-1])
    for spared in victims[::-1]:
        if not _overcommitted_by(wanted, [*staying, spared], capacity):
            victims.remove(spared)
            staying.append(spared)
    return rivals + [o.needs.model for o in victims]


def _overcommitted_by(
    wanted: Needs, staying: Iterable[Occupant], capacity: Mapping[str, int]
) -> set[str]:
    return overcommitted([wanted, *(o.needs for o in staying)], capacity) & wanted.mib.keys()
