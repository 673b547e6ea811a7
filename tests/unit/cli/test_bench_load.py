"""The load of a benchmark: its prompts, and what it makes of answers of a real HTTP server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import imagesize
import pytest

from llm_backend.cli.bench_figures import Line
from llm_backend.cli.bench_load import IMAGE, LONG, PIXELS, SHORT, Effort, Load, Prompts, picture
from llm_backend.client import LLMClient
from tests.unit.cli.stand_in import StandIn, standing_in, streamed

pytestmark = pytest.mark.feature("model benchmark")

CHAT = ("POST", "/v1/chat/completions")
PROMPTS = Prompts(max_model_len=4096, max_tokens=8)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with standing_in(tmp_path) as server:
        server.answers[CHAT] = (200, streamed("a", "b", "c"))
        yield server


def measure(server: StandIn, concurrency: int, requests: int, seconds: float = 20.0) -> Line:
    lines: list[Line] = []
    done: list[int] = []

    async def run() -> None:
        async with LLMClient(server.url, max_retries=0) as client:
            load = Load(client, "tiny", PROMPTS, 8)
            await load.measure(SHORT, concurrency, Effort(requests, seconds), lines, done.append)

    asyncio.run(run())
    assert done == list(range(1, len(done) + 1))
    (line,) = lines
    return line


def test_no_two_prompts_begin_alike() -> None:
    texts = [str(PROMPTS.message(SHORT, number)["content"]) for number in range(20)]

    assert len({text[:3] for text in texts}) == 20


def test_a_long_prompt_fits_the_model() -> None:
    roomy = str(Prompts(None, 8).message(LONG, 1)["content"]).split()
    tight = str(Prompts(512, 64).message(LONG, 1)["content"]).split()

    assert len(roomy) > 1200
    assert 100 < len(tight) < 224
    assert len(str(Prompts(128, 120).message(LONG, 1)["content"]).split()) < 20


def test_the_picture_is_a_png_and_another_one_each_time() -> None:
    assert imagesize.get(io.BytesIO(picture(1))) == (PIXELS, PIXELS)
    assert picture(1) != picture(2)
    assert PROMPTS.message(IMAGE, 1)["content"][1]["image_url"]["url"].startswith("data:image/png")


def test_every_request_is_sent_once_and_past_the_cache(server: StandIn) -> None:
    line = measure(server, concurrency=3, requests=7)
    bodies = [request.body for request in server.received]

    assert (line.requests, line.failed, line.concurrency) == (7, 0, 3)
    assert len({body["messages"][0]["content"] for body in bodies}) == 7
    assert all(body["max_tokens"] == 8 and body["temperature"] == 0 for body in bodies)
    # The engine's own count of tokens holds, not that of the chunks.
    assert line.total_tokens_per_s > 0
    assert line.ttft_ms is not None


def test_an_error_is_a_failed_request(server: StandIn) -> None:
    server.refuse(*CHAT, 400, "invalid_request", "It was wrong.")
    line = measure(server, concurrency=1, requests=2)

    assert (line.requests, line.failed, line.ttft_ms) == (0, 2, None)
    assert "It was wrong." in (line.failure or "")


def test_an_answer_of_nothing_is_a_failed_request(server: StandIn) -> None:
    server.answers[CHAT] = (200, streamed())

    assert measure(server, 1, 1).failure == "the model answered nothing"


def test_waiting_for_another_model_is_left_out_and_for_a_turn_is_not(server: StandIn) -> None:
    server.answers[CHAT] = (200, streamed("a", wait="loading tiny, about 9 s left"))
    moved = measure(server, 1, 2)
    server.answers[CHAT] = (200, streamed("a", wait="waiting for tiny, all places are taken"))
    crowded = measure(server, 1, 2)

    assert (moved.requests, moved.away, moved.failed) == (0, 2, 0)
    assert (crowded.requests, crowded.away) == (2, 0)


def test_what_hangs_is_given_up(server: StandIn) -> None:
    server.hold.clear()
    server.held.add(CHAT[1])
    line = measure(server, concurrency=2, requests=10, seconds=0.2)

    assert (line.requests, line.failed) == (0, 2)
    assert "was not whole after" in (line.failure or "")
