"""What is remembered of a request: one log line, one update of the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.errors import EngineGone, InvalidRequest
from llm_backend.gateway.exchange import ClientGone
from llm_backend.gateway.record import Record, Recorder
from llm_backend.telemetry.logs import FrequentLog
from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.vocabulary import ModelLabels, Vocabulary

ROUTE = "/v1/chat/completions"
WORDS = Vocabulary(
    models=[ModelLabels("a", routes={ROUTE: True})],
    routes=[ROUTE, "/score"],
    keys=["alice"],
    codes=["engine_gone", "invalid_request", "internal_error"],
)


class Lines(FrequentLog):
    """Keeps the lines."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.lines: list[Any] = []

    def write(self, event: str, facts: object) -> None:
        assert event == "request"
        self.lines.append(facts)


def of_alice(**facts: Any) -> Record:
    """Return the record of a request for the model `a`."""
    return Record("id", ROUTE, model="a", key="alice", **facts)


def closed(
    record: Record, status: int | None = 200, failure: Exception | None = None
) -> tuple[str, Any, dict[str, float]]:
    """Return the outcome that was counted, the code that was logged, and what was counted."""
    metrics, log = Metrics(WORDS), Lines("info", "json")
    Recorder(metrics, log).close(record, status, failure)
    text = metrics.render().decode().partition("# HELP llm_build_info")[0]
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    counted = {series: float(value) for series, _, value in lines if float(value) > 0}
    (series,) = [x for x in counted if x.startswith("llm_requests_total")]
    return series.partition('status="')[2].partition('"')[0], log.lines[0].error, counted


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
    assert closed(of_alice(), status, failure)[:2] == (outcome, code)


def requests(key: str, model: str, route: str, status: str, cache: str = "bypass") -> str:
    return (
        f'llm_requests_total{{cache="{cache}",key="{key}",model="{model}",route="{route}",'
        f'status="{status}"}}'
    )


def test_a_model_that_nobody_knows_is_another() -> None:
    counted = closed(Record("id", ROUTE, key="alice"), 404, InvalidRequest("x"))[2]
    assert counted == {
        requests("alice", "other", ROUTE, "4xx"): 1,
        'llm_refusals_total{code="invalid_request"}': 1,
    }


def test_who_has_no_key_is_another() -> None:
    counted = closed(Record("id", ROUTE), 401, InvalidRequest("x"))[2]
    assert requests("other", "other", ROUTE, "4xx") in counted


def test_a_model_that_does_not_serve_the_route_is_another() -> None:
    record = Record("id", "/score", model="a", key="alice")
    assert (
        requests("alice", "other", "/score", "4xx") in closed(record, 400, InvalidRequest("x"))[2]
    )


def test_what_the_cache_did_is_told() -> None:
    record = of_alice(cache="miss")
    assert requests("alice", "a", ROUTE, "2xx", "miss") in closed(record)[2]
    record.hit(12.5)
    counted = closed(record)[2]
    assert requests("alice", "a", ROUTE, "2xx", "hit") in counted
    assert counted['llm_switch_saved_seconds_total{model="a"}'] == 12.5


@pytest.mark.parametrize(
    ("failure", "counted"),
    [
        (EngineGone("x"), {'llm_refusals_total{code="engine_gone"}': 1}),
        (ZeroDivisionError(), {'llm_refusals_total{code="internal_error"}': 1}),
        (ClientGone(), {}),
        (None, {}),
    ],
)
def test_errors_are_counted_by_their_code(
    failure: Exception | None, counted: dict[str, float]
) -> None:
    everything = closed(of_alice(), 200, failure)[2]
    assert {k: v for k, v in everything.items() if k.startswith("llm_refusals")} == counted


def test_where_a_client_left() -> None:
    def left(record: Record) -> set[str]:
        found = closed(record, None, ClientGone())[2]
        return {x for x in found if x.startswith("llm_departures")}

    hit = of_alice()
    hit.hit(0)
    answering = {'llm_departures_total{model="a",stage="answering"}'}
    assert left(of_alice()) == {'llm_departures_total{model="a",stage="waiting"}'}
    assert left(of_alice(waited_s=0.0)) == answering
    assert left(hit) == answering
    assert left(Record("id", ROUTE, key="alice")) == set()


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
    record = of_alice(waited_s=0.0)
    record.note_usage(usage)
    assert (record.prompt_tokens, record.completion_tokens) == counts
    counted = closed(record)[2]
    for direction, count in zip(("in", "out"), counts, strict=True):
        series = f'llm_tokens_total{{direction="{direction}",key="alice",model="a"}}'
        assert counted.get(series, 0) == count


def test_times_are_observed_only_where_there_were_any() -> None:
    stream = of_alice(waited_s=0.2, wait_cause="switch", first_token_s=0.1, engine_s=0.5)
    stream.completion_tokens = 5
    counted = closed(stream)[2]
    assert counted['llm_queue_wait_seconds_sum{cause="switch",model="a"}'] == 0.2
    assert counted['llm_time_to_first_token_seconds_sum{model="a"}'] == 0.1
    assert counted['llm_time_per_output_token_seconds_sum{model="a"}'] == pytest.approx(0.1)
    assert counted['llm_gateway_overhead_seconds_count{model="a"}'] == 1
    refused = closed(of_alice(), 503, EngineGone("x"))[2]
    assert {x.partition("{")[0] for x in refused if x.endswith('_count{model="a"}')} == {
        "llm_request_duration_seconds_count"
    }
    assert not [x for x in refused if x.startswith("llm_queue_wait")]


def test_one_token_has_no_time_after_the_first() -> None:
    stream = of_alice(waited_s=0.0, first_token_s=0.1, engine_s=0.1)
    stream.completion_tokens = 1
    counted = closed(stream)[2]
    assert 'llm_time_to_first_token_seconds_count{model="a"}' in counted
    assert 'llm_time_per_output_token_seconds_count{model="a"}' not in counted


def test_the_overhead_is_what_neither_the_wait_nor_the_engine_took() -> None:
    record = of_alice()
    record.begin()
    record.lend(1000.0, "switch")  # clocks may differ by a little: less than nothing is nothing
    record.engine_s = record.since_lease_s()
    assert 'llm_gateway_overhead_seconds_sum{model="a"}' not in closed(record)[2]
    record = of_alice()
    record.lend(0.0, "none")
    record.engine_s = record.since_lease_s()
    assert 0 < closed(record)[2]['llm_gateway_overhead_seconds_sum{model="a"}'] <= record.seconds


def test_a_stream_notes_its_first_output() -> None:
    record = of_alice()
    record.lend(0.0, "none")
    record.note_output()
    assert record.first_token_s is not None
    assert 0 <= record.first_token_s <= record.since_lease_s()


def test_joins_are_counted() -> None:
    metrics = Metrics(WORDS)
    Recorder(metrics, Lines("info", "json")).join("a")
    assert 'llm_single_flight_joins_total{model="a"} 1.0' in metrics.render().decode()


def test_only_who_asked_for_an_engine_is_told_of() -> None:
    noted: list[Record] = []
    recorder = Recorder(Metrics(WORDS), Lines("info", "json"), noted.append)
    cached, asked = of_alice(), of_alice()
    asked.ask()
    for record in (cached, asked):
        recorder.close(record, 200, None)

    assert noted == [asked]
    assert asked.timestamp is not None
