"""The way to a gateway. One of our own, from start to end: tests/integration/test_generate.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llm_backend.cli.control import find_gateway
from llm_backend.cli.door import Door, door, signals_as_exit
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from llm_backend.errors import AlreadyRunning, ConnectionFailed
from llm_backend.runtimes.locks import gateway_lock
from tests.unit.cli.stand_in import StandIn


def test_a_gateway_that_runs_is_used_and_left_alone(project: Project, gateway: StandIn) -> None:
    with door(Terminal(), project, None) as way:
        assert way.record.url == gateway.url
        assert not way.is_remote

    assert not gateway.received
    assert find_gateway(project.state_dir) is not None


def test_one_that_has_gone_meanwhile_is_missed(project: Project) -> None:
    with pytest.raises(ConnectionFailed, match=r"The gateway does not run\."):
        Door(project).client()


def test_a_gateway_elsewhere_needs_none_here(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://other.example:7000/v1")
    with door(Terminal(), project, None) as way:
        assert repr(way.client()) == "LLMClient('http://other.example:7000')"


def test_a_gateway_that_is_coming_up_is_not_ended(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with gateway_lock(project.lock_dir), pytest.raises(AlreadyRunning), opened(project):
        pass

    assert "stopping" not in capsys.readouterr().err


@contextmanager
def opened(project: Project) -> Iterator[None]:
    with door(Terminal(), project, "tiny"):
        yield


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_exit():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_through_every_finally(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, signals_as_exit():
        os.kill(os.getpid(), number)

    assert end.value.code == 128 + number
    assert signal.getsignal(number) is before
