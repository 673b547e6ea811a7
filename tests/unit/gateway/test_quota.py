"""What is left of a key's share, on a clock that the tests move."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from llm_backend.config.settings import KeySettings
from llm_backend.errors import RateLimited
from llm_backend.gateway.quota import Quotas


class Desk:
    """Quotas of one key, and the time."""

    def __init__(self, **limits: Any) -> None:
        self.now = 1000.0
        key = KeySettings(name="alice", sha256="ab" * 32, **limits)
        self.quotas = Quotas([key], lambda: self.now)

    def ask(self, key: str = "alice") -> dict[bytes, bytes]:
        """Make one request and return the headers that its answer gets."""
        told: list[tuple[bytes, bytes]] = []
        with self.quotas.spending(key, told):
            return dict(told)


def left(headers: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    prefix = b"x-ratelimit-"
    assert headers[prefix + b"limit-requests"] == b"3"
    return headers[prefix + b"remaining-requests"], headers[prefix + b"reset-requests"]


def test_a_minute_s_worth_may_come_at_once_and_no_more() -> None:
    desk = Desk(requests_per_minute=3)

    assert [left(desk.ask()) for _ in range(3)] == [
        (b"2", b"20.0s"),
        (b"1", b"40.0s"),
        (b"0", b"60.0s"),
    ]
    told: list[tuple[bytes, bytes]] = []
    refused = desk.quotas.spending("alice", told)
    with pytest.raises(RateLimited, match="3 requests a minute") as error, refused:
        pass
    assert error.value.retry_after_s == pytest.approx(20)
    assert left(dict(told)) == (b"0", b"60.0s"), "a refusal tells how long, too"


def test_the_share_comes_back_with_time_and_never_grows_over_itself() -> None:
    desk = Desk(requests_per_minute=3)
    for _ in range(3):
        desk.ask()

    desk.now += 21
    assert left(desk.ask())[0] == b"0"
    desk.now += 100_000
    assert left(desk.ask()) == (b"2", b"20.0s")


def test_a_refusal_costs_nothing() -> None:
    desk = Desk(requests_per_minute=3)
    for _ in range(3):
        desk.ask()
    for _ in range(10):
        with pytest.raises(RateLimited):
            desk.ask()
    desk.now += 20
    desk.ask()


def test_requests_at_once_are_given_back_whatever_ends_them() -> None:
    desk = Desk(concurrency=2)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), desk.quotas.spending("alice", []):
            raise error
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(desk.quotas.spending("alice", []))
        with pytest.raises(RateLimited, match="2 requests under way; at most 2") as refused:
            desk.ask()
        assert refused.value.retry_after_s == 1
    assert desk.ask() == {}


def test_a_request_too_many_at_once_does_not_spend_the_minute() -> None:
    desk = Desk(concurrency=1, requests_per_minute=3)
    with desk.quotas.spending("alice", []):
        for _ in range(5):
            with pytest.raises(RateLimited, match="under way"):
                desk.ask()
    assert left(desk.ask())[0] == b"1"


def test_keys_without_a_limit_are_not_counted() -> None:
    desk = Desk(requests_per_minute=1)
    desk.ask()
    for _ in range(100):
        assert desk.ask("admin") == {}
    assert Desk().ask() == {}
