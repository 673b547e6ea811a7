"""What requests are told of their wait by a real gateway with real processes, and how it came."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import pytest

from tests.harness import PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home
from tests.integration.gateways import CHAT, client_of

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.feature("time left")]

LOAD_S = 3.0
ANSWER_S = 1.6
MODELS = ("one", "two")
SWITCHES = 3


def slow(root: Path, name: str) -> dict[str, Any]:
    """A fake engine that takes its time, to start and to answer, and answers one at a time."""
    flags = ("--load-s", str(LOAD_S), "--token-delay-s", "0.2", "--tokens", "8")
    return fake_model(root, name, *flags, concurrency=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    root = tmp_path_factory.mktemp("gateway")
    with gateway_home(root) as home:
        home.configure(
            {name: slow(root, name) for name in MODELS},
            limits={"queue": 4},
            cache={"mode": "off"},
        )
        home.start()
        for _ in range(SWITCHES):
            for name in MODELS:
                assert ask(home, name).status_code == 200
        yield home


def ask(home: GatewayHome, model: str, *, stream: bool = False) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with client_of(home) as http:
        return http.post(CHAT, json=body)


class Asker(threading.Thread):
    """Asks once, beside others."""

    def __init__(self, home: GatewayHome, model: str) -> None:
        super().__init__()
        self._home, self._model = home, model
        self.response: httpx2.Response | None = None

    def run(self) -> None:
        self.response = ask(self._home, self._model)

    def answer(self) -> httpx2.Response:
        self.join(PATIENCE_S)
        assert self.response is not None
        return self.response


def asked(home: GatewayHome, model: str) -> Asker:
    """Let somebody ask, and see that it runs or waits."""

    def known() -> int:
        status = home.get("/status").json()
        inside = [status["queue"]["length"], *(m["inflight"] for m in status["models"])]
        return sum(map(int, inside))

    before = known()
    asker = Asker(home, model)
    asker.start()
    eventually(lambda: known() > before)
    return asker


def stages_s(response: httpx2.Response) -> dict[str, float]:
    """The seconds of each stage that an answer names."""
    pairs = (part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    return {name: float(milliseconds) / 1000 for name, milliseconds in pairs}


def test_estimates_come_true(home: GatewayHome) -> None:
    misses = []
    for _ in range(2):
        for name in MODELS:
            askers = [asked(home, name) for _ in range(3)]
            for place, asker in enumerate(askers, 1):
                answer = asker.answer()
                assert answer.status_code == 200
                expected_s = int(answer.headers["x-estimated-wait-s"])
                waited_s = sum(s for stage, s in stages_s(answer).items() if stage != "engine")
                assert int(answer.headers["x-queue-position"]) == place
                misses.append(abs(expected_s - waited_s) / waited_s)
    print(f"median {median(misses):.0%} of {len(misses)}")
    assert median(misses) <= 0.25, misses


def test_an_answer_that_did_not_wait_has_no_place(home: GatewayHome) -> None:
    assert home.load("one").status_code == 200
    answer = ask(home, "one")

    assert "x-queue-position" not in answer.headers
    assert "x-estimated-wait-s" not in answer.headers
    assert list(stages_s(answer)) == ["engine"]
    assert stages_s(answer)["engine"] >= ANSWER_S - 0.4


def test_an_answer_that_waited_for_a_load_names_its_stages(home: GatewayHome) -> None:
    assert home.load("two").status_code == 200
    stages = stages_s(ask(home, "one"))

    assert list(stages) == ["queue", "memory", "launch", "load", "warm_up", "engine"]
    assert stages["load"] > LOAD_S - 0.5


def test_streams_tell_place_and_wait_and_end_in_their_stages(home: GatewayHome) -> None:
    assert home.load("two").status_code == 200
    first = asked(home, "one")
    answer = ask(home, "one", stream=True)
    lines = [line for line in answer.text.splitlines() if line]

    assert answer.headers["x-queue-position"] == "2"
    assert int(answer.headers["x-estimated-wait-s"]) > 1
    assert "server-timing" not in answer.headers
    assert lines[0].startswith(": ")
    assert "about " in lines[0]
    assert lines[0].endswith(" s left, place 2 in line")
    assert lines[-2] == "data: [DONE]"
    assert lines[-1].startswith(": timing: queue;dur=")
    assert first.answer().status_code == 200


def test_the_status_tells_what_a_newcomer_has_to_expect(home: GatewayHome) -> None:
    assert home.load("two").status_code == 200
    assert home.load("one", wait=False).status_code == 202
    waiting = asked(home, "one")
    status = home.get("/status").json()

    assert status["switch"]["to"] == "one"
    assert LOAD_S - 1 < status["switch"]["estimate_s"] < 2 * LOAD_S
    assert status["queue"]["wait_s"]["one"] > status["switch"]["estimate_s"]
    assert waiting.answer().status_code == 200


def test_whoever_comes_back_when_told_is_taken_in(home: GatewayHome) -> None:
    assert home.load("two").status_code == 200
    waiting = [asked(home, "one") for _ in range(4)]
    refused = ask(home, "one")
    turned_away = time.monotonic()

    assert refused.status_code == 503
    assert int(refused.headers["x-queue-position"]) == 5
    assert int(refused.headers["x-estimated-wait-s"]) >= LOAD_S - 1
    told_s = int(refused.headers["retry-after"])
    assert 1 <= told_s <= 120
    time.sleep(max(0.0, turned_away + told_s - time.monotonic()))
    assert home.state("one") == "awake"
    assert ask(home, "one").status_code == 200
    assert [asker.answer().status_code for asker in waiting] == [200] * 4
