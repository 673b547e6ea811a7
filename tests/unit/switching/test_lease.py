"""A lease from its first moment in line to its end, whoever comes first."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    InvalidRequest,
    LLMBackendError,
    Overloaded,
)
from llm_backend.runtimes.base import Engine
from llm_backend.runtimes.replicas import EJECT_AFTER, ReplicaSet
from llm_backend.switching.lease import Lease

pytestmark = pytest.mark.anyio

ENGINE = Engine("i", "a", "127.0.0.1", 1, "a", "f", "cpu", "1")
GONE = EngineGone("It left.")


class Line:
    """Remembers who is in it."""

    def __init__(self) -> None:
        self.inside: list[Lease] = []

    def take_in(self, lease: Lease) -> None:
        self.inside.append(lease)

    def take_back(self, lease: Lease) -> None:
        self.inside.remove(lease)

    def lease(self) -> Lease:
        return Lease(self, "a", 1, asyncio.get_running_loop().time())


async def test_whatever_happens_it_is_given_back() -> None:
    line = Line()
    for outcome in (None, ZeroDivisionError(), asyncio.CancelledError()):
        lease = line.lease()
        try:
            with lease:
                assert line.inside == [lease]
                if outcome is not None:
                    raise outcome
        except type(outcome or Exception):
            pass
        assert line.inside == []


async def test_a_grant_at_once_needs_no_wait() -> None:
    lease = Line().lease()
    lease.grant(ENGINE, lease.since + 3)
    assert lease.engine is ENGINE
    assert lease.waited_s == 3
    assert await lease.granted(0) is ENGINE


async def test_a_grant_wakes_whoever_waits() -> None:
    lease = Line().lease()
    waiting = asyncio.create_task(lease.granted(20))
    await asyncio.sleep(0)
    lease.grant(ENGINE, lease.since)
    assert await waiting is ENGINE


async def test_a_refusal_is_raised() -> None:
    lease = Line().lease()
    waiting = asyncio.create_task(lease.granted(20))
    await asyncio.sleep(0)
    lease.refuse(GONE)
    with pytest.raises(EngineGone):
        await waiting


async def test_the_time_counts_from_the_first_moment_in_line() -> None:
    lease = Line().lease()
    lease.since -= 100
    with pytest.raises(Overloaded, match="not free within 100 s") as raised:
        await asyncio.wait_for(lease.granted(100), timeout=20)
    assert raised.value.retry_after_s is not None
    assert "queue_timeout_s" in str(raised.value)


async def test_waiting_again_after_a_time_out_misses_nothing() -> None:
    lease = Line().lease()
    assert not await lease.settled(0)
    assert not await lease.settled(0.001)
    lease.grant(ENGINE, lease.since)
    assert await lease.settled(0)


async def test_a_wait_that_is_cancelled_can_be_granted_later() -> None:
    lease = Line().lease()
    waiting = asyncio.create_task(lease.settled(20))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    lease.grant(ENGINE, lease.since)
    assert await lease.granted(0) is ENGINE


@pytest.mark.parametrize("early", [True, False])
async def test_whoever_uses_the_engine_learns_that_it_is_taken_away(early: bool) -> None:
    told: list[LLMBackendError] = []
    with Line().lease() as lease:
        lease.grant(ENGINE, lease.since)
        if early:
            lease.refuse(GONE)
        lease.on_revoke(told.append)
        if not early:
            assert told == []
            lease.refuse(GONE)
        assert told == [GONE]
    assert await lease.cause(0) is GONE


async def test_after_the_end_nobody_is_told() -> None:
    told: list[LLMBackendError] = []
    with Line().lease() as lease:
        lease.grant(ENGINE, lease.since)
        lease.on_revoke(told.append)
    lease.refuse(GONE)
    assert told == []


async def test_a_cause_that_comes_late_is_waited_for() -> None:
    lease = Line().lease()
    lease.grant(ENGINE, lease.since)
    waiting = asyncio.create_task(lease.cause(20))
    await asyncio.sleep(0)
    lease.refuse(GONE)
    assert await waiting is GONE


async def test_a_cause_that_nobody_tells() -> None:
    lease = Line().lease()
    lease.grant(ENGINE, lease.since)
    assert await lease.cause(0.001) is None


ONE, TWO = (replace(ENGINE, port=port) for port in (11, 12))


def granted(line: Line, replicas: ReplicaSet) -> Lease:
    """A lease on an engine of two servers."""
    lease = line.lease()
    line.take_in(lease)
    lease.grant(replace(ENGINE, replicas=replicas), 0)
    return lease


@pytest.fixture
def replicas() -> ReplicaSet:
    made = ReplicaSet([ONE, TWO], lambda: 0.0)
    for server in (ONE, TWO):
        made.note(server, None)
    return made


async def test_each_lease_has_one_of_the_servers_and_gives_it_back(replicas: ReplicaSet) -> None:
    line = Line()
    first, second = granted(line, replicas), granted(line, replicas)
    assert (first.engine, second.engine) == (ONE, TWO)
    second.__exit__(None, None, None)
    assert granted(line, replicas).engine == TWO, "the other one has a request"


async def test_a_server_without_an_answer_is_exchanged_until_there_is_none(
    replicas: ReplicaSet,
) -> None:
    lease = granted(Line(), replicas)
    assert lease.elsewhere() == TWO
    assert lease.engine == TWO
    assert lease.elsewhere() is None
    assert lease.engine == TWO


async def test_of_servers_elsewhere_no_cause_is_waited_for(replicas: ReplicaSet) -> None:
    assert await asyncio.wait_for(granted(Line(), replicas).cause(3600), 20) is None


async def test_an_engine_that_was_taken_away_is_not_exchanged(replicas: ReplicaSet) -> None:
    lease = granted(Line(), replicas)
    lease.refuse(GONE)
    assert lease.elsewhere() is None


async def test_an_engine_of_one_server_is_not_exchanged() -> None:
    lease = Line().lease()
    lease.grant(ENGINE, 0)
    assert lease.elsewhere() is None


@pytest.mark.parametrize(
    ("error", "is_blamed"),
    [
        (EngineGone("x"), True),
        (EngineBroke("x"), True),
        (Overloaded("x"), True),
        (InvalidRequest("x"), False),
        (None, False),
        (asyncio.CancelledError(), False),
    ],
)
async def test_a_server_is_blamed_for_its_own_faults(
    replicas: ReplicaSet, error: BaseException | None, is_blamed: bool
) -> None:
    replicas.note(TWO, "down")
    line = Line()
    for _ in range(EJECT_AFTER):
        lease = granted(line, replicas)
        assert lease.engine == ONE
        lease.__exit__(type(error) if error else None, error, None)
    replicas.note(TWO, None)
    takers = [granted(line, replicas).engine for _ in range(4)]
    assert (ONE not in takers) is is_blamed
