"""The wait for a lease: signs on the way, and a deadline that counts from the first moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_backend.config.catalog import Catalog
from llm_backend.errors import EngineStartFailed, Overloaded
from llm_backend.gateway import admission
from llm_backend.gateway.admission import Admission, waiting_headers
from llm_backend.gateway.fleet import Fleet
from llm_backend.runtimes.base import Engine
from llm_backend.switching.estimates import Outlook
from llm_backend.switching.lease import ORDINARY, Lease, Terms

pytestmark = pytest.mark.anyio

ENGINE = Engine("i", "a", "127.0.0.1", 1, "a", "f", "cpu", "1")
FLEET = Fleet(Catalog(devices={}, models={}), {}, None)


class Line:
    """Takes leases in and back; a test grants them."""

    def take_in(self, lease: Lease) -> None:
        pass

    def take_back(self, lease: Lease) -> None:
        pass


class Quiet(Admission):
    """One that needs no switcher to say what a request waits for, and how long."""

    def back_s(self, lease: Lease) -> float:  # noqa: ARG002  # of whomever
        return 77.0

    def tell(self, lease: Lease) -> str:
        return f"waiting for {lease.model}"


def stage(timeout_s: float) -> Admission:
    return Quiet(FLEET, None, timeout_s)  # type: ignore[arg-type]  # it is not asked


def lease(terms: Terms = ORDINARY) -> Lease:
    return Lease(Line(), "a", 1, asyncio.get_running_loop().time(), terms)


async def test_the_deadline_is_named_whether_signs_are_given_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "FIRST_SIGN_S", 0.01)
    told: list[str] = []

    async def sign(text: str) -> None:
        told.append(text)

    for way in (None, sign):
        with pytest.raises(Overloaded, match=r"a was not free within 0\.05 s") as raised:
            await stage(0.05).wait(lease(), way)
        assert raised.value.retry_after_s == 77.0
    assert told == ["waiting for a"]


async def test_a_batch_request_may_wait_for_longer() -> None:
    patient = Quiet(FLEET, None, 0.05, batch_s=0.1)  # type: ignore[arg-type]  # it is not asked

    with pytest.raises(Overloaded, match=r"a was not free within 0\.15 s"):
        await patient.wait(lease(Terms(batch=True)), None)
    with pytest.raises(Overloaded, match=r"a was not free within 0\.05 s"):
        await patient.wait(lease(), None)


async def test_signs_come_until_the_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST_SIGN_S", 0)
    monkeypatch.setattr(admission, "SIGN_EVERY_S", 0)
    held, told = lease(), []

    async def sign(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            held.grant(ENGINE, held.since)

    assert await stage(10).wait(held, sign) is ENGINE
    assert told == ["waiting for a"] * 3


async def test_a_refusal_ends_the_wait() -> None:
    async def sign(_: str) -> None:
        raise AssertionError("there is no time for it")

    for way in (None, sign):
        held = lease()
        held.refuse(EngineStartFailed("It did not start."))
        with pytest.raises(EngineStartFailed):
            await stage(10).wait(held, way)


async def test_a_client_that_cannot_be_told_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST_SIGN_S", 0)

    async def sign(_: str) -> Any:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await stage(10).wait(lease(), sign)


async def test_a_refusal_says_itself_when_to_come_back() -> None:
    held = lease()
    held.refuse(Overloaded("512 requests wait already.", retry_after_s=5))

    with pytest.raises(Overloaded) as raised:
        await stage(10).wait(held, None)
    assert raised.value.retry_after_s == 5


async def test_who_waits_or_finds_no_place_is_told_of_the_line() -> None:
    held = lease()
    assert waiting_headers(held) == [], "it was granted at once"

    held.outlook = Outlook(3, 41.2)
    told = [(b"x-queue-position", b"3"), (b"x-estimated-wait-s", b"42")]
    assert waiting_headers(held) == told
    held.error = Overloaded("512 requests wait already.")
    assert waiting_headers(held) == told
    held.error = EngineStartFailed("It did not start.")
    assert waiting_headers(held) == []


async def test_what_was_never_measured_is_not_told() -> None:
    held = lease()
    held.outlook = Outlook(1, 30.0, is_measured=False)

    assert waiting_headers(held) == [(b"x-queue-position", b"1")]
