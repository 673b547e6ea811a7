"""The table of the picker at any width. Keys are pressed in tests/integration/test_cli.py."""

from __future__ import annotations

import pytest

from llm_backend.cli.machine import Offer
from llm_backend.cli.picker import cut, rows_of

OFFERS = [
    Offer(
        "smollm2-long",
        "A demo with one long conversation",
        94,
        ("process",),
        True,
        True,
        True,
        None,
    ),
    Offer("qwen-small", "Chat", 469, ("process",), True, False, True, None),
    Offer("qwen-14b", "Reasoning", None, ("docker",), False, False, True, "it runs on docker."),
]


def test_with_room_everything_is_shown_in_columns() -> None:
    assert rows_of(OFFERS, 120) == [
        "MODEL         FOR                                SIZE     FITS  DOWNLOADED",
        "smollm2-long  A demo with one long conversation  94 MiB   yes   yes",
        "qwen-small    Chat                               469 MiB  yes   no",
        "qwen-14b      Reasoning                          ?        no    no          cannot run here",
    ]


def test_on_a_narrower_terminal_the_purpose_is_shortened() -> None:
    assert rows_of(OFFERS, 76)[:2] == [
        "MODEL         FOR                 SIZE     FITS  DOWNLOADED",
        "smollm2-long  A demo with one...  94 MiB   yes   yes",
    ]


def test_on_a_narrow_one_it_is_left_out() -> None:
    assert rows_of(OFFERS, 66)[:2] == [
        "MODEL         SIZE     FITS  DOWNLOADED",
        "smollm2-long  94 MiB   yes   yes",
    ]


def test_short_purposes_stay_where_there_is_room() -> None:
    assert rows_of(OFFERS[1:2], 50)[0] == "MODEL       FOR   SIZE     FITS  DOWNLOADED"


@pytest.mark.parametrize("width", [5, 20, 39, 52, 80])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(row) for row in rows_of(OFFERS, width)) <= width


def test_a_text_that_fits_stays_whole() -> None:
    assert [cut("abcdef", 6), cut("abcdef", 5)] == ["abcdef", "ab..."]
