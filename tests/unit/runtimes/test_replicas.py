"""Which server gets the next request, and which are left alone."""

from __future__ import annotations

import pytest

from llm_backend.runtimes.base import Engine
from llm_backend.runtimes.replicas import EJECT_AFTER, FIRST_PAUSE_S, LONGEST_PAUSE_S, ReplicaSet

pytestmark = pytest.mark.feature("replicas")


def engine(port: int) -> Engine:
    return Engine("i", "far", "host", port, "far", "f", "g", "")


A, B, C = engine(1), engine(2), engine(3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def replicas(clock: Clock, *servers: Engine) -> ReplicaSet:
    made = ReplicaSet(servers, clock)
    for server in servers:
        made.note(server, None)
    return made


def fail(made: ReplicaSet, times: int) -> Engine:
    """Fail requests until one server had `times` of them in a row."""
    server = made.take()
    assert server is not None
    for number in range(times):
        if number:
            assert made.take() is not None
        made.give_back(server, failed=True)
    return server


def test_the_fewest_requests_count_then_the_longest_rest() -> None:
    made = replicas(Clock(), A, B, C)
    assert [made.take() for _ in range(3)] == [A, B, C]
    made.give_back(B, failed=False)
    assert made.take() == B
    made.give_back(C, failed=False)
    made.give_back(A, failed=False)
    assert made.take() == A  # C had its last turn later


def test_a_server_that_is_down_comes_last_and_is_tried_where_all_are() -> None:
    made = replicas(Clock(), A, B)
    assert made.up
    assert made.note(A, "no answer")
    assert not made.note(A, "no answer"), "that is no news"
    assert [made.take() for _ in range(3)] == [B, B, B]
    made.note(B, "no answer either")
    assert not made.up
    assert made.take() == A
    assert made.troubles == {A: "no answer", B: "no answer either"}


def test_a_server_that_fails_in_a_row_is_left_alone_for_longer_each_time() -> None:
    clock = Clock()
    made = replicas(clock, A, B)
    pause_s = FIRST_PAUSE_S
    for _ in range(9):
        for _ in range(EJECT_AFTER):
            server = made.take(other_than=[B])
            if server is None:  # it is left alone: no second try goes there
                break
            made.give_back(server, failed=True)
        assert made.take(other_than=[B]) is None
        clock.now += min(pause_s, LONGEST_PAUSE_S) - 0.01
        assert made.take(other_than=[B]) is None
        clock.now += 0.02
        pause_s *= 2
    assert made.take(other_than=[B]) == A
    made.give_back(A, failed=False)
    assert made.take(other_than=[B]) == A
    made.give_back(A, failed=True)
    assert made.take(other_than=[B]) == A, "one success makes it as good as new"


def test_failures_of_requests_that_were_under_way_do_not_lengthen_the_pause() -> None:
    clock = Clock()
    made = replicas(clock, A)
    for _ in range(20):
        assert made.take() == A
    for _ in range(20):
        made.give_back(A, failed=True)
    clock.now += FIRST_PAUSE_S + 0.01
    assert made.take(other_than=[B]) == A


def test_a_client_that_leaves_tells_nothing_of_its_server() -> None:
    made = replicas(Clock(), A, B)
    for failed in (True, None, True, None, True):
        assert made.take(other_than=[B]) == A
        made.give_back(A, failed=failed)
    assert made.take(other_than=[B]) is None


def test_the_only_server_is_used_however_it_fares() -> None:
    made = replicas(Clock(), A)
    assert fail(made, EJECT_AFTER + 2) == A
    assert made.take() == A
    assert made.take(other_than=[A]) is None
