"""The series: each defined once, all there from the start, none that a client could add."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.vocabulary import CAUSES, OUTCOMES, ModelLabels, Vocabulary

CHAT = "/v1/chat/completions"
MODELS = ["a", "org/b"]
WORDS = Vocabulary(
    models=[
        ModelLabels("a", routes={CHAT: True}, devices=["gpu0"], rungs=[1]),
        ModelLabels("org/b", routes={CHAT: True}, devices=["gpu0"]),
    ],
    routes=[CHAT],
    keys=["alice", "admin"],
    codes=["invalid_request"],
    states=["awake", "failed"],
    stages=["start", "drain"],
    devices=["gpu0"],
    build=("1.2.3", "local"),
)


def samples(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Return the labels of every sample, by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def test_every_series_is_there_before_anything_happens() -> None:
    found = samples(Metrics(WORDS))
    requests = {
        tuple(x[n] for n in ("route", "model", "key", "status", "cache"))
        for x in found["llm_requests_total"]
    }
    assert requests == set(WORDS.requests())
    for name in ("llm_requests_in_flight", "llm_requests_waiting", "llm_model_awake"):
        assert [x["model"] for x in found[name]] == MODELS
    assert {(x["model"], x["cause"]) for x in found["llm_queue_wait_seconds_count"]} == {
        (model, cause) for model in MODELS for cause in CAUSES
    }
    switches = {
        tuple(x[n] for n in ("from", "to", "rung", "outcome")) for x in found["llm_switches_total"]
    }
    assert switches == set(WORDS.switches())
    assert {x["outcome"] for x in found["llm_switches_total"]} == set(OUTCOMES)
    assert found["llm_build_info"] == [{"version": "1.2.3", "setup": "local"}]
    assert all(
        found.get(f.about.name) or found[f"{f.about.name}_count"] for f in Metrics(WORDS).families
    )


def test_a_scrape_says_what_prometheus_client_would_say() -> None:
    metrics = Metrics(WORDS)
    metrics.requests.add((CHAT, "a", "alice", "2xx", "miss"))
    metrics.wait_seconds.observe(("a", "switch"), 12.5)
    metrics.switch_estimate.set(("a",), 3)

    def read(text: bytes) -> set[str]:
        return {
            f"{family.type} {family.documentation} {s.name} {s.labels} {float(s.value)}"
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
        }

    assert read(metrics.render()) == read(generate_latest(metrics.registry))


def test_two_gateways_in_one_process_have_their_own() -> None:
    one, other = Metrics(WORDS), Metrics(WORDS)
    one.tokens.add(("a", "alice", "in"), 3)
    line = b'llm_tokens_total{direction="in",key="alice",model="a"} '
    assert line + b"3.0" in one.render()
    assert line + b"0.0" in other.render()


def test_an_error_of_an_unknown_code_is_another() -> None:
    metrics = Metrics(WORDS)
    for code in ("invalid_request", "invented", "invented"):
        metrics.refuse(code)
    text = metrics.render().decode()
    assert 'llm_refusals_total{code="invalid_request"} 1.0' in text
    assert 'llm_refusals_total{code="other"} 2.0' in text


def test_names_follow_the_conventions() -> None:
    for family in Metrics(WORDS).families:
        about = family.about
        assert re.fullmatch(r"llm_[a-z_]+", about.name)
        assert not about.text[0].islower()
        assert not about.text.endswith(".")
        assert about.name.endswith("_total") == (about.kind == "counter")
        assert "mib" not in about.name
        assert about.kind != "histogram" or about.name.endswith("_seconds")


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus"
)
def test_promtool_finds_nothing_to_mend() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=Metrics(WORDS).render(),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
