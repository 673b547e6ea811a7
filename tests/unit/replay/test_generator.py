"""Random traces: equal for equal seeds, and of every kind over some of them."""

from __future__ import annotations

import hashlib

from llm_backend.replay.generator import random_trace
from llm_backend.replay.trace import to_line

MODELS = ("a", "b", "c")
DIGEST = "feedeed2eb6f50c1"
"""Of the trace of seed 0: figures that are told of a seed hold as long as this does."""


def test_a_seed_is_a_trace() -> None:
    assert random_trace(3, MODELS) == random_trace(3, MODELS)
    assert random_trace(3, MODELS) != random_trace(4, MODELS)


def test_it_is_the_same_on_every_machine() -> None:
    lines = b"".join(map(to_line, random_trace(0, MODELS).arrivals))

    assert hashlib.sha256(lines).hexdigest()[:16] == DIGEST


def test_over_some_seeds_everything_occurs() -> None:
    traces = [random_trace(seed, MODELS) for seed in range(50)]
    arrivals = [a for trace in traces for a in trace.arrivals]

    assert {a.model for a in arrivals} == set(MODELS)
    assert {a.batch for a in arrivals} == {True, False}
    assert {a.think_s is None for a in arrivals} == {True, False}
    assert {a.patience_s for a in arrivals} == {None, 300.0}
    assert all(100 <= len(trace.arrivals) <= 160 for trace in traces)
    assert all(2 <= len({a.key for a in trace.arrivals}) <= 6 for trace in traces)
