"""A real gateway notes its arrivals, and the replay of what it noted is a replay of what happened."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_backend.replay.profile import Costs, Profile
from llm_backend.replay.trace import Arrival
from tests.harness import PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home
from tests.integration.test_cli import Shell

pytestmark = [pytest.mark.engine, pytest.mark.feature("recording and replay")]

SECRETS = ("What the doctor said", "alice", "key-of-alice", "bob", "key-of-bob", "127.0.0.1")


def keys() -> list[dict[str, Any]]:
    return [
        {"name": name, "sha256": hashlib.sha256(f"key-of-{name}".encode()).hexdigest()}
        for name in ("alice", "bob")
    ]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        models = {
            "one": fake_model(tmp_path, "one"),
            "two": fake_model(tmp_path, "two"),
            "slow": fake_model(tmp_path, "slow", "--load-s", "60"),
        }
        home.configure(
            models, keys=keys(), switching={"policy": "fifo", "record": "traces/day.jsonl"}
        )
        yield home


def recorded(home: GatewayHome, requests: int) -> list[Arrival]:
    """Wait until so many requests are noted, and return them."""
    path = home.root / "state/traces/day.jsonl"
    eventually(lambda: len(path.read_bytes().splitlines()) >= requests)
    return [Arrival.model_validate_json(line) for line in path.read_bytes().splitlines()]


def ask(
    home: GatewayHome, name: str, model: str, patience_s: float = PATIENCE_S, **fields: Any
) -> httpx2.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What the doctor said"}],
        "max_tokens": 4,
        **fields,
    }
    priority = "batch" if name == "bob" else "interactive"
    headers = {"authorization": f"Bearer key-of-{name}", "x-llm-priority": priority}
    url = home.url + "/v1/chat/completions"
    return httpx2.post(url, json=body, headers=headers, timeout=patience_s)


def test_what_is_noted_and_what_is_not(home: GatewayHome) -> None:
    home.start()
    usage = ask(home, "alice", "one").json()["usage"]
    assert ask(home, "bob", "two").status_code == 200
    assert ask(home, "alice", "two", temperature=0).headers["x-cache"] == "miss"
    assert ask(home, "alice", "two", temperature=0).headers["x-cache"] == "hit"
    assert ask(home, "alice", "nobody").status_code == 404
    assert ask(home, "mallory", "one").status_code == 401
    with pytest.raises(httpx2.ReadTimeout):
        ask(home, "bob", "slow", patience_s=2)
    first, second, third, left = recorded(home, requests=4)

    assert [a.model for a in (first, second, third, left)] == ["one", "two", "two", "slow"]
    assert Counter(a.key for a in (first, second, third, left)) == {first.key: 2, second.key: 2}
    assert first.key == third.key
    assert [a.batch for a in (first, second, third, left)] == [False, True, False, True]
    assert first.prompt_tokens == usage["prompt_tokens"] > 0
    assert first.completion_tokens == usage["completion_tokens"] > 0
    assert first.at_s < second.at_s < third.at_s < left.at_s
    assert (first.patience_s, left.completion_tokens) == (None, 0)
    assert left.patience_s == pytest.approx(2, abs=1.5)
    text = (home.root / "state/traces/day.jsonl").read_text()
    assert [secret for secret in SECRETS if secret in text] == []


def test_a_recording_outlives_the_gateway_and_can_be_replayed(home: GatewayHome) -> None:
    home.start()
    for model in ("one", "two", "one"):
        assert ask(home, "alice", model).status_code == 200
    home.terminate()
    home.start()
    assert ask(home, "alice", "two").status_code == 200
    arrivals = recorded(home, requests=4)
    assert len({a.key for a in arrivals}) == 1

    costs = Costs(
        start_s=0.05,
        stop_s=0.05,
        prompt_tokens_per_s=1000,
        tokens_per_s=500,
        tokens_per_s_at_most=1000,
    )
    profile = Profile(
        name="here",
        about="This machine.",
        basis="estimated",
        sources=(),
        models={"one": costs, "two": costs},
    )
    (home.root / "here.json").write_text(profile.model_dump_json())
    done = Shell(home).run(
        "replay",
        str(home.root / "state/traces/day.jsonl"),
        "--policy=fifo",
        f"--profile={home.root / 'here.json'}",
        "--json",
    )

    assert (done.code, done.err) == (0, "")
    (result,) = json.loads(done.out)["results"]
    assert result["ends"]["served"] == 4
    assert result["switches"] == 3


def test_a_file_that_cannot_be_written_stops_the_start(home: GatewayHome) -> None:
    (home.root / "state").mkdir()
    (home.root / "state/traces").touch()
    home.start(ready=False)
    assert home.process is not None

    assert home.process.wait(PATIENCE_S) == 1
    assert "switching.record: " in home.log.read_text()
