"""Figures out of samples: what counts, what is left out, what a promise means."""

from __future__ import annotations

import pytest

from llm_backend.cli.bench_figures import Line, Sample, Spread, line_of, verdict

pytestmark = pytest.mark.feature("model benchmark")


def whole(first_s: float, tokens: int = 11, decode_s: float = 1.0) -> Sample:
    return Sample(first_s, first_s + decode_s, tokens)


def test_a_spread_is_made_of_values_that_were_there() -> None:
    assert Spread.of(range(1, 101)) == Spread(50, 95, 99)
    assert Spread.of([7]) == Spread(7, 7, 7)
    assert Spread.of([]) is None


def test_the_first_token_does_not_count_as_written_after_it() -> None:
    assert whole(0.1, tokens=11, decode_s=2.0).tokens_per_s == 5
    assert whole(0.1, tokens=1).tokens_per_s is None
    assert whole(0.1, decode_s=0.0).tokens_per_s is None


def test_a_line_is_made_of_whole_answers_alone() -> None:
    samples = [
        whole(0.1),
        whole(0.3),
        Sample(0.01, 9.0, 100, failure="it broke"),
        Sample(None, 9.0, 0, failure="another"),
        Sample(5.0, 6.0, 100, away="loading other"),
    ]
    line = line_of("short", 4, samples, took_s=2.0)

    assert (line.requests, line.failed, line.away, line.failure) == (2, 2, 1, "it broke")
    assert line.ttft_ms == Spread(100, 300, 300)
    assert line.tokens_per_s is not None
    assert line.tokens_per_s.p50 == pytest.approx(10)
    assert line.total_tokens_per_s == 11


def test_a_line_of_nothing_has_no_figures() -> None:
    line = line_of("long", 1, [], took_s=0.0)

    assert (line.requests, line.ttft_ms, line.tokens_per_s) == (0, None, None)
    assert line.total_tokens_per_s == 0


def lines(*first_s: float, failed: int = 0) -> list[Line]:
    samples = [whole(value) for value in first_s]
    broken = [Sample(None, 1.0, 0, failure="no answer")] * failed
    return [line_of("short", 1, samples + broken, 1.0), line_of("long", 8, [whole(9.0)], 1.0)]


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (lines(0.1, 0.15), None),
        (lines(0.1, 0.151), "95 % within 151 ms, not within 150 ms"),
        (lines(0.1, failed=1), "1 requests of short prompts, 1 at once failed: no answer"),
        (lines(), "Nothing was measured"),
        ([], "Nothing was measured"),
    ],
)
def test_a_promise_is_about_the_first_line(measured: list[Line], says: str | None) -> None:
    said = verdict(measured, 150)

    assert said is None if says is None else says in (said or "")
