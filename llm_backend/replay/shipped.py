"""The traces that come with the product: situations in which first come, first served hurts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from llm_backend.errors import SetupError
from llm_backend.replay.generator import random_trace
from llm_backend.replay.trace import Arrival, Trace

VISION, REASONING, CODE = "qwen-vl", "qwen-14b", "qwen-coder"


def ping_pong() -> Iterator[Arrival]:
    """Two programs, each in a loop of short questions to its own model."""
    luck = _luck("ping-pong")
    for client, model in (("captions", VISION), ("completions", CODE)):
        for turn in range(200):
            yield Arrival(
                at_s=0.0,
                model=model,
                key=client,
                client=client,
                think_s=round(luck.uniform(0.1, 0.5), 3) if turn else None,
                prompt_tokens=luck.randint(200, 600),
                completion_tokens=luck.randint(20, 80),
            )


def agent() -> Iterator[Arrival]:
    """Six chats with an agent; each chat's title, and each summary, comes from a smaller model."""
    luck = _luck("agent")
    for number in range(6):
        client, begin = f"chat-{number}", round(number * 40 + luck.uniform(0, 20), 3)
        for turn in range(12):
            small = turn % 4 == 1
            yield Arrival(
                at_s=begin,
                model=CODE if small else REASONING,
                key="webui",
                client=client,
                think_s=_think(luck, turn, 0.2 if small else 8.0),
                prompt_tokens=luck.randint(300, 900) if small else 500 + 400 * turn,
                completion_tokens=luck.randint(10, 30) if small else luck.randint(100, 500),
            )


def three_teams() -> Iterator[Arrival]:
    """An hour of three teams with a key and a favourite model each; one asks for most."""
    luck = _luck("three-teams")
    teams = (("research", REASONING, 40.0), ("software", CODE, 8.0), ("design", VISION, 60.0))
    for team, favourite, pause_s in teams:
        at_s = luck.expovariate(1 / pause_s)
        while at_s < 3600:
            others = [m for m in (VISION, REASONING, CODE) if m != favourite]
            yield Arrival(
                at_s=round(at_s, 3),
                model=favourite if luck.random() < 0.9 else luck.choice(others),
                key=team,
                prompt_tokens=luck.randint(100, 3000),
                completion_tokens=luck.randint(50, 400),
            )
            at_s += luck.expovariate(1 / pause_s)


def nightly_batch() -> Iterator[Arrival]:
    """A thousand documents for one model, sixteen at once, while two people use the others."""
    luck = _luck("nightly-batch")
    for worker in range(16):
        for turn in range(60):
            yield Arrival(
                at_s=0.0,
                model=REASONING,
                key="nightly",
                batch=True,
                client=f"worker-{worker}",
                think_s=0.1 if turn else None,
                prompt_tokens=luck.randint(1000, 4000),
                completion_tokens=luck.randint(100, 400),
            )
    for person, model, pause_s in (("ada", CODE, 45.0), ("grace", VISION, 90.0)):
        for turn in range(30):
            yield Arrival(
                at_s=120.0,
                model=model,
                key=person,
                client=person,
                think_s=_think(luck, turn, pause_s),
                prompt_tokens=luck.randint(200, 2000),
                completion_tokens=luck.randint(50, 300),
            )


def burst() -> Iterator[Arrival]:
    """Ten minutes of calm use of one model; amid it, half a minute in which all want everything."""
    luck = _luck("burst")
    for _ in range(60):
        yield _question(luck, luck.uniform(0, 600), CODE, "calm")
    for number in range(240):
        model = luck.choice((VISION, REASONING, CODE))
        yield _question(luck, luck.uniform(200, 230), model, f"team-{number % 4}")


SHIPPED: Final[dict[str, Callable[[], Iterator[Arrival]]]] = {
    "ping-pong": ping_pong,
    "agent": agent,
    "three-teams": three_teams,
    "nightly-batch": nightly_batch,
    "burst": burst,
}
"""By name; they use the models of the reference set-up."""


def shipped_trace(name: str) -> Trace | None:
    """Return a trace that comes with the product, or `random:SEED`; None if it is neither.

    Raises:
        SetupError: the seed is no number.
    """
    kind, colon, seed = name.partition(":")
    if kind == "random" and colon:
        if not seed.isdecimal():
            raise SetupError(f"The seed {seed!r} is no whole number.", hint="As in random:17.")
        return random_trace(int(seed), (VISION, REASONING, CODE))
    return Trace.of(name, SHIPPED[name]()) if name in SHIPPED else None


def _luck(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # no secret


def _think(luck: random.Random, turn: int, mean_s: float) -> float | None:
    return round(luck.uniform(0.5, 1.5) * mean_s, 3) if turn else None


def _question(luck: random.Random, at_s: float, model: str, key: str) -> Arrival:
    return Arrival(
        at_s=round(at_s, 3),
        model=model,
        key=key,
        prompt_tokens=luck.randint(100, 2000),
        completion_tokens=luck.randint(30, 300),
    )
