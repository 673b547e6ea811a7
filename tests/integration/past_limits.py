"""The official SDKs as they are, through a load that is longer than anything they wait for.

It takes eleven minutes, and is run by its name: `make patience`. What came out stands in
docs/explanation/waiting.md; tests/integration/test_patience.py does the same in half a minute.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.patience import Case, cases, needs_node, through_a_load

pytestmark = [pytest.mark.engine, pytest.mark.slow, needs_node]

LOAD_S = 640.0
"""Longer than the 300 s of Node's fetch, and the 600 s of the SDKs for Python."""

LIMIT_S = {"node": 300, "python": 600}


def check(case: Case, text: str | None, seconds: float) -> bool:
    if case.way != "muted":
        return bool(text) and seconds > LOAD_S - 20
    return text is None and abs(seconds - LIMIT_S[case.language]) < 30


def test_only_those_who_hear_something_wait_for_so_long(tmp_path: Path) -> None:
    told = through_a_load(tmp_path, LOAD_S, None)

    for case, result in told.items():
        print(f"{case!s:24} {result.seconds:6.1f} s  {result.error or 'an answer'}")
    assert told.keys() == set(cases("stream", "plain", "muted"))
    assert [str(c) for c, r in told.items() if not check(c, r.text, r.seconds)] == []
