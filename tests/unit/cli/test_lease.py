"""`lease take`, `give` and `list` say what another program has, and for how long."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import StandIn

PATH = "/api/v1/device/lease"
LEASE: dict[str, Any] = {
    "id": "5f2c81d0",
    "device": "gpu0",
    "mib": None,
    "reason": "ComfyUI",
    "ready": True,
    "note": None,
    "expires_in_s": 3596.2,
}


def test_a_device_is_taken(command: Command, gateway: StandIn) -> None:
    gateway.answers["POST", PATH] = (200, LEASE)

    result = command("lease", "take", "ComfyUI")

    assert result.code == 0
    assert result.out.startswith("All of gpu0 is yours for ")
    assert result.out.endswith("Give it back: llm-backend lease give 5f2c81d0\n")
    assert gateway.received[-1].body == {
        "reason": "ComfyUI",
        "ttl_s": 3600,
        "mib": None,
        "device": None,
    }


def test_a_part_of_a_device_for_some_minutes(command: Command, gateway: StandIn) -> None:
    gateway.answers["POST", PATH] = (200, LEASE | {"mib": 8192, "note": "blender holds some."})

    result = command("lease", "take", "a game", "--ttl", "5", "--mib", "8192", "--device", "gpu0")

    assert result.out.startswith("8.0 GiB of gpu0 is yours for ")
    assert "blender holds some." in result.err
    assert gateway.received[-1].body == {
        "reason": "a game",
        "ttl_s": 300,
        "mib": 8192,
        "device": "gpu0",
    }


def test_a_refusal_says_why(command: Command, gateway: StandIn) -> None:
    gateway.refuse("POST", PATH, 409, "conflict", "gpu0 is leased already.")

    result = command("lease", "take", "ComfyUI")

    assert result.code == 1
    assert "gpu0 is leased already." in result.err


def test_it_is_given_back(command: Command, gateway: StandIn) -> None:
    gateway.answers["DELETE", f"{PATH}/5f2c81d0"] = (200, {"id": "5f2c81d0", "state": "given"})

    result = command("lease", "give", "5f2c81d0")

    assert (result.code, result.out) == (0, "The device is given back.\n")


def test_the_list(command: Command, gateway: StandIn) -> None:
    gateway.answers["GET", PATH] = (200, {"leases": [LEASE, LEASE | {"id": "x", "mib": 1024}]})

    lines = command("lease", "list").out.splitlines()

    assert lines[0].split() == ["ID", "DEVICE", "MEMORY", "FOR", "LEFT"]
    assert lines[1].split()[:4] == ["5f2c81d0", "gpu0", "all", "ComfyUI"]
    assert lines[2].split()[:4] == ["x", "gpu0", "1.0", "GiB"]


def test_an_empty_list(command: Command, gateway: StandIn) -> None:
    gateway.answers["GET", PATH] = (200, {"leases": []})

    assert command("lease", "list").out == "No device is leased.\n"


def test_programs_get_the_answers_of_the_gateway(command: Command, gateway: StandIn) -> None:
    gateway.answers["GET", PATH] = (200, {"leases": [LEASE]})
    gateway.answers["POST", PATH] = (200, LEASE)
    gateway.answers["DELETE", f"{PATH}/x"] = (200, {"id": "x", "state": "given"})

    assert command("lease", "list", "--json").json == {"leases": [LEASE]}
    assert command("lease", "take", "ComfyUI", "--json").json == LEASE
    assert command("lease", "give", "x", "--json").json == {"id": "x", "state": "given"}
