"""Flags become fields, and what is no flag is refused."""

from __future__ import annotations

import pytest

from llm_backend.testing.fake_flags import FAULTS, Behaviour, parse


def test_no_flags_are_the_defaults() -> None:
    assert parse([]) == Behaviour()


def test_flags_have_the_types_of_their_fields() -> None:
    words = "--port 8001 --sleep-mode --wake-delay-s 0.5 --sleep-fault noop --device-memory /m"
    given = {"port": 8001, "sleep_mode": True, "wake_delay_s": 0.5, "sleep_fault": "noop"}
    assert parse(words.split()) == Behaviour(**given, device_memory="/m")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_known(fault: str) -> None:
    assert parse(["--sleep-fault", fault]).sleep_fault == fault


def test_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--sleep-fault", "no-such"])
    assert "no-such" in capsys.readouterr().err
