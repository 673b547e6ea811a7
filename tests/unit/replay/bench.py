"""A machine with round numbers, and shorthands for traces."""

from __future__ import annotations

from typing import Any

from llm_backend.replay.profile import Costs, Profile
from llm_backend.replay.result import Result
from llm_backend.replay.simulate import Conditions, simulate
from llm_backend.replay.trace import Arrival, Trace
from llm_backend.switching.events import Rules

COSTS: dict[str, Any] = {
    "start_s": 10.0,
    "stop_s": 2.0,
    "concurrency": 2,
    "prompt_tokens_per_s": 100.0,
    "tokens_per_s": 50.0,
    "tokens_per_s_at_most": 50.0,
}


def profile(**changes: Any) -> Profile:
    """Return a machine with two equal models, `a` and `b`."""
    costs = Costs(**{**COSTS, **changes})
    return Profile(
        name="round",
        about="A machine of the tests.",
        basis="estimated",
        sources=(),
        models={"a": costs, "b": costs},
    )


def trace(*arrivals: dict[str, Any]) -> Trace:
    """Return a trace of these requests; each writes 50 tokens, one second, unless it says else."""
    return Trace.of("test", [Arrival(**{"completion_tokens": 50, **a}) for a in arrivals])


def run(
    *arrivals: dict[str, Any], machine: Profile | None = None, seed: int = 0, **rules: Any
) -> Result:
    """Simulate requests under `fifo`, with these rules."""
    conditions = Conditions(Rules(**{"policy": "fifo", **rules}), seed=seed)
    return simulate(trace(*arrivals), machine or profile(), conditions)
