from __future__ import annotations

import base64
import json
import struct

import pytest

from bench.scenarios import (
    BLANKS,
    SCENARIOS,
    BodyKind,
    Scenario,
    TargetKind,
    body,
    noise_png,
)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("short", 250, 350),
        ("unique", 250, 350),
        ("same", 250, 350),
        ("stream", 250, 350),
        ("long", 31 * 1024, 33 * 1024),
        ("image", 3_900_000, 4_300_000),
    ],
)
def test_bodies_have_the_sizes_that_the_tables_tell(kind: BodyKind, least: int, most: int) -> None:
    assert least <= len(body(kind, "bench", 10)) <= most


def test_only_the_body_of_the_unique_requests_has_blanks_to_fill_in() -> None:
    blank = {s.body for s in SCENARIOS if BLANKS.encode() in body(s.body, "bench", 10)}

    assert blank == {"unique"}


def test_what_shall_be_looked_up_in_the_cache_is_not_sampled() -> None:
    sampled = {s.body for s in SCENARIOS if json.loads(body(s.body, "b", 1))["temperature"]}

    assert sampled == {"short", "long", "image", "stream"}


def test_a_stream_asks_for_as_many_events_as_are_wanted() -> None:
    fields = json.loads(body("stream", "bench", 123))

    assert fields["stream"] is True
    assert fields["max_tokens"] == 123


def test_the_image_is_a_png_that_tells_its_size() -> None:
    url = json.loads(body("image", "bench", 1))["messages"][0]["content"][1]["image_url"]["url"]
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (1024, 1000)
    assert png == noise_png(1024, 1000)


@pytest.mark.parametrize(
    ("measures", "kinds"),
    [("any", {"any", "ours"}), ("ours", {"ours"}), ("redis", {"redis"})],
)
def test_a_scenario_suits_the_targets_it_is_for(measures: TargetKind, kinds: set[str]) -> None:
    scenario = Scenario("x", "x", "short", 1, measures=measures)

    assert {kind for kind in ("any", "ours", "redis") if scenario.suits(kind)} == kinds
