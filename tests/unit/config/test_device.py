"""How much of a device models may take: head-room for others, a ceiling, and what is set."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.config.device import DeviceSpec


@pytest.mark.parametrize(
    ("fields", "total", "room"),
    [
        ({}, 16303, 14767),  # 1536 MiB for the desktop
        ({}, 81559, 77481),  # the ceiling of 95 % is the lower one
        ({"headroom_mib": 2048}, 16303, 14255),
        ({"headroom_mib": 0, "ceiling": 1.0}, 16303, 16303),
        ({"headroom_mib": 0}, 16303, 15487),
        ({"memory_mib": 8000}, 16303, 8000),
        ({"memory_mib": 16303}, 16303, 14767),
        ({"memory_mib": 16303}, None, 14767),  # a card that only Docker sees
        ({"memory_mib": 24000}, 16303, 14767),
        ({}, 1000, 0),
        ({}, None, None),
        ({"kind": "cpu"}, 64000, 64000),
        ({"kind": "cpu", "headroom_mib": 4000}, 64000, 60000),
        ({"kind": "cpu", "memory_mib": 1000}, 64000, 1000),
    ],
)
def test_what_models_may_reserve(fields: dict[str, Any], total: int | None, room: int) -> None:
    assert DeviceSpec(**{"kind": "cuda", **fields}).room_mib(total) == room


def test_the_largest_models_of_the_reference_card_fit_beside_the_head_room() -> None:
    room = DeviceSpec(kind="cuda").room_mib(16303)
    assert room is not None
    assert round(0.9 * 16303) <= room
