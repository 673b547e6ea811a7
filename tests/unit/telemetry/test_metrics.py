"""The series: each defined once, all there from the start, none that a client could add."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from llm_backend.telemetry.metrics import OTHER, STATUSES, Metrics

MODELS, ROUTES = ["a", "org/b"], ["/v1/chat/completions", "/score"]


def samples(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Return the labels of every sample, by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def test_every_series_is_there_before_anything_happens() -> None:
    found = samples(Metrics(MODELS, ROUTES))
    requests = {(x["model"], x["route"], x["status"]) for x in found["llm_requests_total"]}
    expected = {(m, r, s) for m in [*MODELS, OTHER] for r in ROUTES for s in STATUSES}
    assert requests == expected
    for name in ("llm_requests_in_flight", "llm_requests_waiting", "llm_model_awake"):
        assert [x["model"] for x in found[name]] == MODELS
    assert {(x["model"], x["direction"]) for x in found["llm_tokens_total"]} == {
        (model, direction) for model in MODELS for direction in ("in", "out")
    }
    for name in ("llm_request_duration_seconds", "llm_queue_wait_seconds"):
        assert [x["model"] for x in found[name + "_count"]] == MODELS


def test_two_gateways_in_one_process_have_their_own() -> None:
    one, other = Metrics(MODELS, ROUTES), Metrics(MODELS, ROUTES)
    one.tokens.add(("a", "in"), 3)
    assert b'llm_tokens_total{direction="in",model="a"} 3.0' in one.render()
    assert b'llm_tokens_total{direction="in",model="a"} 0.0' in other.render()


def test_names_follow_the_conventions() -> None:
    for family in text_string_to_metric_families(Metrics(MODELS, ROUTES).render().decode()):
        assert re.fullmatch(r"llm_[a-z_]+", family.name)
        assert family.documentation
