"""What Docker's answers mean: texts as Docker 20.10 to 28 write them."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.runtimes.base import Exit
from llm_backend.runtimes.docker_state import Container, Event, exit_of, seconds, why_not_started

STARTED = "2026-11-21T17:29:30.123456789Z"


def inspected(**state: Any) -> dict[str, Any]:
    base = {"Status": "running", "Running": True, "StartedAt": STARTED, "ExitCode": 0}
    return {"Id": "abc", "State": {**base, **state}}


@pytest.mark.parametrize(
    ("state", "alive", "serves"),
    [
        ({}, True, True),
        ({"Status": "paused", "Paused": True}, True, False),
        ({"Status": "restarting", "Restarting": True, "Running": False}, True, False),
        ({"Status": "created", "Running": False}, False, False),
        ({"Status": "exited", "Running": False}, False, False),
        ({"Status": "removing", "Running": False}, False, False),
        ({"Status": "dead", "Running": False, "Dead": True}, False, False),
    ],
    ids=lambda value: value.get("Status", "running") if isinstance(value, dict) else None,
)
def test_each_state_says_whether_there_is_an_engine(
    state: dict[str, Any], alive: bool, serves: bool
) -> None:
    container = Container.parse(inspected(**state))
    assert (container.alive, container.serves) == (alive, serves)


def test_another_start_is_another_instance() -> None:
    first = Container.parse(inspected())
    again = Container.parse(inspected(StartedAt="2026-11-21T17:29:30.123456790Z"))
    assert first.instance == f"abc:{STARTED}"
    assert first.instance != again.instance


@pytest.mark.parametrize(
    ("stamp", "value"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-02T00:00:00.000000250Z", 86_400.00000025),
    ],
)
def test_times(stamp: str, value: float) -> None:
    assert seconds(stamp) == pytest.approx(value, abs=1e-9)


def event(action: str, at: float, ident: str = "abc", **attributes: str) -> Event:
    actor = {"ID": ident, "Attributes": {"name": "llm-a", **attributes}}
    return Event.parse({"Action": action, "Actor": actor, "timeNano": int(at * 1e9)})


def test_events_of_an_earlier_start_are_told_apart() -> None:
    instance, began = f"abc:{STARTED}", seconds(STARTED)
    assert event("die", began + 1, exitCode="137").is_about(instance)
    assert not event("oom", began - 1).is_about(instance)
    assert not event("oom", began + 1, ident="abe").is_about(instance)
    assert event("die", began, exitCode="137").code == 137
    assert event("start", began).code is None


@pytest.mark.parametrize(
    ("code", "oom", "stopped", "expected"),
    [
        (0, False, True, Exit(0, "exited with status 0")),
        (3, False, False, Exit(3, "exited with status 3")),
        (137, False, False, Exit(-9, "killed by SIGKILL (out of memory?)")),
        (137, True, False, Exit(-9, "killed by SIGKILL: out of memory")),
        (1, True, False, Exit(1, "exited with status 1: out of memory")),
        (0, True, False, Exit(0, "exited with status 0")),
        (143, False, True, Exit(-15, "killed by SIGTERM")),
        (139, False, False, Exit(-11, "killed by SIGSEGV")),
        (255, False, False, Exit(255, "exited with status 255")),
        (None, False, False, Exit(None, "ended, and nobody saw how")),
        (
            137,
            False,
            True,
            Exit(-9, "killed by SIGKILL, because it did not end in time after SIGTERM"),
        ),
    ],
)
def test_an_exit_is_told_in_words(
    code: int | None, oom: bool, stopped: bool, expected: Exit
) -> None:
    assert exit_of(code, oom=oom, stopped=stopped) == expected


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            "Docker cannot give it the GPU: the NVIDIA driver",
            "llm-backend doctor",
        ),
        (
            (
                "failed to create task for container: failed to create shim task: OCI runtime create "
                "failed: runc create failed: unable to start container process: error during "
                "container init: error running hook #0: exit status 1, stdout: , stderr: Auto-detected "
                "mode as 'legacy' nvidia-container-cli: initialization error: nvml error: driver not "
                "loaded: unknown"
            ),
            "Docker cannot give it the GPU",
            "llm-backend doctor",
        ),
        (
            (
                "driver failed programming external connectivity on endpoint llm-qwen-14b (9f5c): "
                "Bind for 127.0.0.1:8001 failed: port is already allocated"
            ),
            "127.0.0.1:8001 is taken by another program",
            "ss -ltnp",
        ),
        (
            (
                "failed to set up container networking: driver failed programming external "
                "connectivity on endpoint x (9f5c): failed to bind host port for 127.0.0.1:8001:"
                "172.18.0.2:8001/tcp: address already in use"
            ),
            "its port is taken by another program",
            "ss -ltnp",
        ),
        (
            (
                "Error starting userland proxy: listen tcp4 127.0.0.1:8001: bind: address already in "
                "use"
            ),
            "127.0.0.1:8001 is taken by another program",
            "ss -ltnp",
        ),
        (
            'OCI runtime create failed: exec: "vlm": executable file not found in $PATH: unknown',
            'its command cannot be run (exec: "vlm": executable file not found',
            "llm-backend config check",
        ),
        (
            (
                'error mounting "/x/engine.yaml" to rootfs at "/etc/llm-backend/engine.yaml": not a '
                "directory: Are you trying to mount a directory onto a file"
            ),
            "a file or directory that it mounts is not there",
            "llm-backend start --setup compose",
        ),
        ("No such image: vllm/vllm-openai:v0", "its image is missing", "--setup compose"),
        ("network 1f2e3d not found", "its network is missing", "--setup compose"),
        ("write /var/lib/docker: no space left on device", "the disk is full", "system df"),
        (
            "container is marked for removal and cannot be started",
            "its container is being removed",
            "--setup compose",
        ),
        ("something\n  new", "Docker says: something new", "llm-backend doctor"),
    ],
)
def test_a_failed_start_is_told_in_one_sentence(text: str, sentence: str, hint: str) -> None:
    said, next_step = why_not_started(text)
    assert said.startswith(sentence)
    assert hint in next_step


def test_endless_texts_are_cut() -> None:
    said, _ = why_not_started("x" * 10_000)
    assert len(said) < 500
