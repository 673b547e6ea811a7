"""What a gateway tells of itself, counted by model, and the pace between two moments."""

from __future__ import annotations

import pytest

from llm_backend.cli.snapshot import Counts, Rate, Snapshot, counts_of, rates

METRICS = """\
# TYPE llm_requests_total counter
llm_requests_total{cache="hit",key="a",model="m",route="/v1/x",status="2xx"} 2.0
llm_requests_total{cache="miss",key="b",model="m",route="/v1/x",status="5xx"} 3.0
llm_requests_total{model="only"} 1.0
llm_requests_total{cache="miss",key="b",model="other",route="/v1/x",status="4xx"} 7.0
llm_tokens_total{direction="in",key="a",model="m"} 100.0
llm_tokens_total{direction="out",key="a",model="m"} 1e+06
llm_tokens_total{key="b",model="m",direction="out"} 5.0
llm_requests_waiting{model="m"} 9.0
"""


def moment(at: float, **counts: Counts) -> Snapshot:
    return Snapshot({}, {}, {}, counts, at)


def test_what_a_model_has_done_is_summed_over_keys_and_routes() -> None:
    assert counts_of(METRICS) == {
        "m": Counts(5.0, 1_000_005.0),
        "only": Counts(1.0, 0.0),
        "other": Counts(7.0, 0.0),
    }


def test_a_gateway_that_counts_nothing_yet() -> None:
    assert counts_of("") == {}


def test_rates_are_those_between_the_first_and_the_last_moment() -> None:
    moments = [
        moment(10.0, m=Counts(1, 10)),
        moment(11.0, m=Counts(99, 99)),
        moment(12.0, m=Counts(5, 110)),
    ]
    assert rates(moments) == {"m": Rate(2.0, 50.0)}


@pytest.mark.parametrize(
    "moments",
    [[], [moment(1.0, m=Counts(1, 1))], [moment(1.0), moment(2.0, m=Counts(1, 1))]],
)
def test_one_moment_is_no_pace(moments: list[Snapshot]) -> None:
    assert rates(moments) == {}


def test_a_gateway_that_began_anew_is_not_counted_backwards() -> None:
    assert rates([moment(1.0, m=Counts(9, 9)), moment(2.0, m=Counts(1, 1))]) == {"m": Rate(0, 0)}
