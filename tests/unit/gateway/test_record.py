"""What is remembered of a request: one log line, one update of the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.errors import EngineGone, InvalidRequest
from llm_backend.gateway.exchange import ClientGone
from llm_backend.gateway.record import Record, Recorder
from llm_backend.telemetry.logs import FrequentLog
from llm_backend.telemetry.metrics import Metrics

ROUTE = "/v1/chat/completions"


class Lines(FrequentLog):
    """Keeps the lines."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.lines: list[Any] = []

    def write(self, event: str, facts: object) -> None:
        assert event == "request"
        self.lines.append(facts)


def closed(record: Record, status: int | None, failure: Exception | None) -> tuple[str, Any, str]:
    """Return the outcome that was counted, the code that was logged, and all series."""
    metrics, log = Metrics(["a"], [ROUTE]), Lines("info", "json")
    Recorder(metrics, log).close(record, status, failure)
    text = metrics.render().decode()
    (series,) = [
        x for x in text.splitlines() if x.startswith("llm_requests_total") and "} 1.0" in x
    ]
    return series.partition('status="')[2].partition('"')[0], log.lines[0].error, text


@pytest.mark.parametrize(
    ("status", "failure", "outcome", "code"),
    [
        (200, None, "2xx", None),
        (400, InvalidRequest("x"), "4xx", "invalid_request"),
        (503, EngineGone("x"), "5xx", "engine_gone"),
        (200, EngineGone("amid a stream"), "5xx", "engine_gone"),
        (200, InvalidRequest("amid a stream"), "4xx", "invalid_request"),
        (None, ZeroDivisionError(), "5xx", "internal_error"),
        (None, ClientGone(), "gone", "client_gone"),
        (200, ClientGone(), "gone", "client_gone"),
    ],
)
def test_how_it_ended(
    status: int | None, failure: Exception | None, outcome: str, code: str | None
) -> None:
    assert closed(Record("id", ROUTE, model="a"), status, failure)[:2] == (outcome, code)


def test_a_model_that_nobody_knows_is_another() -> None:
    series = closed(Record("id", ROUTE), 404, InvalidRequest("x"))[2]
    assert f'llm_requests_total{{model="other",route="{ROUTE}",status="4xx"}} 1.0' in series


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5)),
        ({"input_tokens": 3, "output_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 3}, (3, 0)),
        ({"prompt_tokens": -3, "completion_tokens": "5"}, (0, 0)),
        (None, (0, 0)),
        ([], (0, 0)),
        ("3", (0, 0)),
    ],
)
def test_tokens_are_counted_as_the_engine_says(usage: Any, counts: tuple[int, int]) -> None:
    record = Record("id", ROUTE, model="a")
    record.note_usage(usage)
    assert (record.prompt_tokens, record.completion_tokens) == counts
    series = closed(record, 200, None)[2]
    assert f'llm_tokens_total{{direction="in",model="a"}} {counts[0]}.0' in series
    assert f'llm_tokens_total{{direction="out",model="a"}} {counts[1]}.0' in series


def test_times_are_observed_only_where_there_were_any() -> None:
    quick = Record("id", ROUTE, model="a", waited_s=0.2, first_byte_s=0.1)
    series = closed(quick, 200, None)[2]
    assert 'llm_queue_wait_seconds_count{model="a"} 1.0' in series
    assert 'llm_time_to_first_byte_seconds_count{model="a"} 1.0' in series
    refused = closed(Record("id", ROUTE, model="a"), 503, EngineGone("x"))[2]
    assert 'llm_queue_wait_seconds_count{model="a"} 0.0' in refused
    assert 'llm_request_duration_seconds_count{model="a"} 1.0' in refused


def test_only_who_asked_for_an_engine_is_told_of() -> None:
    noted: list[Record] = []
    recorder = Recorder(Metrics(["a"], [ROUTE]), Lines("info", "json"), noted.append)
    cached, asked = Record("id", ROUTE, model="a"), Record("id", ROUTE, model="a")
    asked.ask()
    for record in (cached, asked):
        recorder.close(record, 200, None)

    assert noted == [asked]
    assert asked.timestamp is not None
