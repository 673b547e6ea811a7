"""Two models in turn through the gateway, each of them asleep while the other one is awake."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.gpu.card import ASLEEP_MIB, DEVICE, START_S, Card
from tests.harness import GatewayHome, gateway_home
from tests.integration.gateways import DEFECTS

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

PAIR = ("qwen-coder", "qwen-14b")
TURNS = 3


@pytest.fixture
def home(card: Card, tmp_path: Path) -> Iterator[GatewayHome]:
    """A gateway whose catalog has the card and two sleepers."""
    with gateway_home(tmp_path) as home:
        models = {name: card.entry(name, "asleep-1") for name in PAIR}
        home.configure(models, switching={"policy": "fifo"})
        path = tmp_path / "config/models.yaml"
        catalog = yaml.safe_load(path.read_text())
        catalog["devices"][DEVICE] = {"kind": "cuda", "index": 0}
        path.write_text(yaml.safe_dump(catalog, sort_keys=False))
        home.start()
        yield home
        log = home.log.read_text()
        assert [word for word in DEFECTS if word in log] == [], log


def answered_s(home: GatewayHome, model: str) -> tuple[float, str]:
    """Return how long an answer takes, and its text."""
    body = {"model": model, "prompt": "a", "max_tokens": 8, "temperature": 0, "user": "nobody"}
    headers = {"cache-control": "no-cache"}
    began = time.monotonic()
    answer = httpx2.post(home.url + "/v1/completions", json=body, headers=headers, timeout=START_S)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began, str(answer.json()["choices"][0]["text"])


def residency(home: GatewayHome, model: str) -> str:
    models = home.get("/status").json()["models"]
    return next(str(m["residency"]) for m in models if m["id"] == model)


def test_two_models_take_turns_and_sleep_in_between(card: Card, home: GatewayHome) -> None:
    free = card.read().free_mib
    first = {model: answered_s(home, model)[1] for model in PAIR}

    for _ in range(TURNS):
        for model, other in (PAIR, PAIR[::-1]):
            seconds, text = answered_s(home, model)
            assert text == first[model], "it woke as another model"
            assert residency(home, model) == "awake"
            assert residency(home, other) == "asleep-1"
            card.results.seconds(model, "switch through the gateway by sleep", seconds)
    held = free - card.read().free_mib
    assert held <= int(card.share * card.read().total_mib) + 2 * ASLEEP_MIB
