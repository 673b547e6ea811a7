"""`status`: what a person and a program read of a gateway."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import HEALTH, STATUS, StandIn

SWITCH = {
    "to": "tiny",
    "from": "absent",
    "step": "load",
    "elapsed_s": 4.2,
    "estimate_s": 12.0,
    "progress": {"text": "loading weights", "fraction": 0.5},
}


def test_a_healthy_gateway(command: Command, gateway: StandIn) -> None:
    result = command("status")

    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0] == "Health   ok"
    assert lines[1].startswith(
        f"Gateway  {gateway.url}, version 0.1.0, set-up local, up 75 s, process "
    )
    assert lines[2:5] == [
        "Awake    tiny",
        "Cache    ok, backend memory, entries 3",
        "cpu      CPU, 8 cores, 512 MiB of 16.0 GiB free",
    ]
    assert [line.split(maxsplit=4) for line in lines[6:]] == [
        ["MODEL", "STATE", "RUNNING", "WAITING", "NOTE"],
        ["tiny", "awake", "2", "0"],
        ["boxed", "not", "here", "0", "0        it runs as docker"],
    ]


def test_a_switch_and_a_queue_are_told(command: Command, gateway: StandIn) -> None:
    queue = {"length": 3, "limit": 512, "by_model": {"tiny": 2, "absent": 1}}
    body = STATUS | {"model": None, "switch": SWITCH, "queue": queue}
    gateway.answers["GET", "/status"] = (200, body)

    lines = command("status").out.splitlines()

    assert lines[2:5] == [
        "Awake    no model",
        "Switch   to tiny, loading weights, for 4 s, about 12 s left",
        "Queue    3 of 512 (2 for tiny, 1 for absent)",
    ]


def test_leases_and_devices_that_nobody_can_read_are_told(
    command: Command, gateway: StandIn
) -> None:
    lease = {"id": "5f2c", "device": "gpu0", "mib": None, "reason": "a game", "expires_in_s": 90.0}
    part = lease | {"id": "77ab", "device": "gpu1", "mib": 8192}
    gateway.answers["GET", "/status"] = (200, STATUS | {"leases": [lease, part]})
    gateway.answers["GET", "/health"] = (200, HEALTH | {"unwatched_devices": ["gpu1"]})

    lines = command("status").out.splitlines()

    assert lines[4] == (
        "Leased   all of gpu0 for 90 s more: a game (5f2c); "
        "8.0 GiB of gpu1 for 90 s more: a game (77ab)"
    )
    assert "gpu1     its memory cannot be read" in lines


def test_a_switch_of_unknown_length_is_told_by_its_step(command: Command, gateway: StandIn) -> None:
    switch = SWITCH | {"progress": None, "estimate_s": None}
    gateway.answers["GET", "/status"] = (200, STATUS | {"switch": switch})

    assert "Switch   to tiny, load, for 4 s\n" in command("status").out


def test_something_degraded_is_an_exit_code(command: Command, gateway: StandIn) -> None:
    gateway.answers["GET", "/health"] = (200, HEALTH | {"status": "degraded"})

    result = command("status")

    assert result.code == 1
    assert result.out.startswith("Health   degraded\n")


def test_programs_get_both_bodies(command: Command, gateway: StandIn) -> None:
    assert command("status", "--json").json == {
        "running": True,
        "url": gateway.url,
        "health": HEALTH,
        "status": STATUS,
        "attention": None,
    }


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_without_a_gateway_it_says_what_to_type(command: Command, options: tuple[str]) -> None:
    result = command("status", *options)

    assert result.code == 69
    if options:
        assert result.json["error"]["message"] == "The gateway does not run."
        assert result.json["error"]["hint"] == "Type: llm-backend start"
    else:
        assert result.err == "Error: The gateway does not run.\nType: llm-backend start\n"


LOG = """INFO [cuda.py:506] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].
INFO [cuda.py:547] Using backend AttentionBackendEnum.TORCH_SDPA for vit attention
"""


def test_the_attention_in_force_is_read_out_of_the_engines_log(
    command: Command, gateway: StandIn
) -> None:
    gateway.answers["GET", "/status"] = (200, STATUS | {"model": "boxed"})
    gateway.answers["GET", "/logs/boxed?lines=10000"] = (200, LOG)

    assert (
        "Backends attention: FLASH_ATTN for text, TORCH_SDPA for images\n" in command("status").out
    )
    assert command("status", "--json").json["attention"] == {
        "decoder": "FLASH_ATTN",
        "images": "TORCH_SDPA",
    }


def test_a_log_that_tells_nothing_or_is_not_there_is_no_failure(
    command: Command, gateway: StandIn
) -> None:
    gateway.answers["GET", "/status"] = (200, STATUS | {"model": "boxed"})
    gateway.answers["GET", "/logs/boxed?lines=10000"] = (200, "INFO nothing\n")
    assert "Backends" not in command("status").out

    gateway.refuse("GET", "/logs/boxed?lines=10000", 401, "invalid_api_key", "No.")
    assert command("status").code == 0
