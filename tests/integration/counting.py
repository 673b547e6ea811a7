"""What a real gateway counts: its samples, and what each event should add to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.harness import GatewayHome, eventually
from tests.integration.gateways import CHAT

START = ("start", "memory", "launch", "load", "warm_up")

Counts = dict[str, float]


def samples(home: GatewayHome) -> dict[str, float]:
    """Return every sample by its name and labels."""
    families = text_string_to_metric_families(home.get("/metrics").text)
    return {line(s.name, **s.labels): s.value for family in families for s in family.samples}


def line(name: str, **labels: str) -> str:
    inside = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


def counts(home: GatewayHome) -> Counts:
    """Return what only grows, less seconds and sizes of buckets."""
    names = ("_total{", "_count{")
    left_out = "llm_switch_saved_seconds_total"
    return {
        name: value
        for name, value in samples(home).items()
        if any(part in name for part in names) and not name.startswith(left_out)
    }


@contextlib.contextmanager
def counted(home: GatewayHome, *expected: Counts) -> Iterator[None]:
    """See that the block counts this and nothing else; a moment later is soon enough."""
    wanted: Counts = {}
    for part in expected:
        for name, count in part.items():
            wanted[name] = wanted.get(name, 0) + count
    before = counts(home)
    assert wanted.keys() <= before.keys(), wanted.keys() - before.keys()
    yield

    def found() -> Counts:
        after = counts(home)
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}

    with contextlib.suppress(AssertionError):
        eventually(lambda: found() == wanted, within_s=10)
    assert found() == wanted


def request(model: str, status: str, cache: str = "bypass", times: int = 1) -> Counts:
    """What each request for a model counts."""
    labels = {"route": CHAT, "model": model, "key": "alice", "status": status, "cache": cache}
    return {
        line("llm_requests_total", **labels): times,
        line("llm_request_duration_seconds_count", model=model): times,
    }


def lent(model: str, cause: str, times: int = 1) -> Counts:
    return {line("llm_queue_wait_seconds_count", model=model, cause=cause): times}


def answered(model: str, tokens: tuple[int, int], times: int = 1) -> Counts:
    """What an engine's answer counts."""
    return {
        line("llm_gateway_overhead_seconds_count", model=model): times,
        line("llm_tokens_total", model=model, key="alice", direction="in"): tokens[0],
        line("llm_tokens_total", model=model, key="alice", direction="out"): tokens[1],
    }


def states(model: str, *states: str) -> Counts:
    return {line("llm_model_state_changes_total", model=model, state=s): 1 for s in states}


def stages(model: str, *stages: str) -> Counts:
    name = "llm_switch_stage_duration_seconds_count"
    return {line(name, model=model, stage=stage): 1 for stage in stages}


def switch(old: str, new: str, outcome: str = "ok", rung: str = "start") -> Counts:
    labels = {"from": old, "to": new, "rung": rung, "outcome": outcome}
    duration = {line("llm_switch_duration_seconds_count", model=new, rung=rung): 1}
    return {line("llm_switches_total", **labels): 1, **(duration if outcome == "ok" else {})}


def up(model: str) -> Counts:
    return {**states(model, "starting", "awake"), **stages(model, *START)}


def down(model: str) -> Counts:
    return {**states(model, "stopping", "stopped"), **stages(model, "stop")}


def refused(code: str, times: int = 1) -> Counts:
    return {line("llm_refusals_total", code=code): times}


def left(model: str, stage: str) -> Counts:
    return {line("llm_departures_total", model=model, stage=stage): 1}
