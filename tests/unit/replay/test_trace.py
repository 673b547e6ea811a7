"""A trace is read as it was written, and a wrong line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.errors import SetupError
from llm_backend.replay.trace import Arrival, Trace, read_trace, to_line

ARRIVALS = (
    Arrival(at_s=0.0, model="a", key="k", prompt_tokens=3, completion_tokens=4),
    Arrival(at_s=0.25, model="b", batch=True, client="c"),
    Arrival(at_s=1.5, model="b", client="c", think_s=2.0, patience_s=30.0),
)


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    path.write_bytes(b"".join(map(to_line, ARRIVALS)))

    trace = read_trace(path)

    assert trace == Trace("day.jsonl", ARRIVALS)
    assert trace.models == ["a", "b"]


def test_a_line_says_only_what_is_not_as_usual() -> None:
    assert to_line(Arrival(at_s=2.0, model="a")) == b'{"at_s":2.0,"model":"a"}\n'


def test_arrivals_are_ordered_and_begin_at_zero() -> None:
    trace = Trace.of("x", [Arrival(at_s=1.7e9 + 5, model="a"), Arrival(at_s=1.7e9, model="b")])

    assert [(a.at_s, a.model) for a in trace.arrivals] == [(0, "b"), (5, "a")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"at_s": 1, "model": "a", "text": "secret"}', "text: Extra inputs"),
        ('{"at_s": -1, "model": "a"}', "at_s: Input should be greater"),
        ('{"at_s": "1", "model": "a"}', "at_s: Input should be a valid number"),
        ('{"at_s": 1}', "model: Field required"),
        ('{"at_s": 1, "model": "a", "prompt_tokens": 1.5}', "prompt_tokens: Input should be"),
        ('{"at_s": 1, "model": "a", "batch": "yes"}', "batch: Input should be"),
        ("half a li", "Invalid JSON"),
        ('{"at_s": 1, "model": "a", "think_s": 1}', "think_s needs an earlier line of the same"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = written(tmp_path / "t.jsonl", '{"at_s": 0, "model": "a", "client": "c"}', "", line)

    with pytest.raises(SetupError) as caught:
        read_trace(path)

    assert f"{path}:3: {told}" in str(caught.value)


def test_an_empty_file_says_how_to_get_a_trace(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"has no requests\. switching\.record in"):
        read_trace(written(tmp_path / "t.jsonl", ""))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read: Is a directory"):
        read_trace(tmp_path)
