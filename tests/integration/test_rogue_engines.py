"""Engines that misbehave, through the whole gateway: the client gets one honest end, soon."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
import pytest

from tests import rogue_engine
from tests.harness import ALL, GatewayHome, eventually
from tests.integration.gateways import CHAT, MESSAGES, at_rest, client_of, shared_gateway

pytestmark = [pytest.mark.engine, pytest.mark.feature("engines that misbehave")]

REQUEST_S, IDLE_S = 4, 1
MIB = 1024 * 1024
PROBES = 1
"""Connections that the gateway keeps to look after an engine."""

# What is no answer at all: an error with a status, stream or not.
REFUSED = {
    "bad_status": 502,
    "odd_status": 502,
    "not_http": 502,
    "upgrade": 502,
    "gzip": 502,
    "bomb": 502,
    "gzip_transfer": 502,
    "two_framings": 502,
    "big_header": 502,
    "bigger_header": 502,
    "many_headers": 502,
    "endless_header": 502,
    "endless_interim": 502,
    "redirect": 502,
    "no_content": 502,
    "page": 502,
    "leak": 502,
    "cut_head": 503,
    "no_answer": 503,
    "reset_first": 503,
    "silent": 504,
    "slow_head": 504,
    "leak_400": 400,
}
# What begins well: an error event, where a stream was asked for.
BROKEN = {
    "cut_chunk": "engine_gone",
    "no_end": "engine_gone",
    "reset_midway": "engine_gone",
    "bad_chunk": "engine_error",
    "endless_trailer": "engine_error",
    "endless_extension": "engine_error",
    "endless_body": "engine_error",
    "endless_event": "engine_error",
    "endless_comments": "engine_timeout",
    "silent_midway": "engine_timeout",
    "half_event": "engine_error",
    "no_stream": "engine_error",
    "no_done": "engine_error",
    "leak_in_stream": "engine_error",
}
WELL = ["garbage_after", "two_answers", "closes_idle", "says_close", "http10", "interim", "stale"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    entry = {
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": [sys.executable, rogue_engine.__file__, "{port}"]},
        "capabilities": ALL,
        "devices": ["cpu"],
    }
    limits = {"request_timeout_s": REQUEST_S, "idle_timeout_s": IDLE_S}

    def model(_: Path) -> dict[str, Any]:
        return entry

    with shared_gateway(tmp_path_factory, {"rogue": model}, limits=limits) as home:
        assert home.load("rogue").status_code == 200
        yield home
        at_rest(home)
        assert home.state("rogue") == "awake"


def gateway(home: GatewayHome) -> psutil.Process:
    assert home.process is not None
    return psutil.Process(home.process.pid)


def upstream(home: GatewayHome) -> int:
    """Count the connections from the gateway to its engine."""
    (engine,) = home.root.glob("state/engines/*.json")
    port = orjson.loads(engine.read_bytes())["port"]
    found = gateway(home).net_connections()
    return sum(bool(each.raddr) and each.raddr.port == port for each in found)


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home) as http:
        yield http
        good = http.post(CHAT, json={"model": "rogue", "messages": MESSAGES})
        assert good.status_code == 200, "the next one is served"


def ask(http: httpx2.Client, fault: str, *, stream: bool, path: str = CHAT) -> httpx2.Response:
    body = {"model": "rogue", "messages": MESSAGES, "fault": fault, "stream": stream}
    return http.post(path, json=body)


def wrong(check: Callable[[str], object], faults: Iterable[str]) -> dict[str, object]:
    """Check some faults at once; return what is wrong, by fault."""
    faults = list(faults)
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(faults, pool.map(check, faults), strict=True))
    return {fault: what for fault, what in found.items() if what}


def is_scrubbed(text: str) -> bool:
    return not re.search(r"0x[0-9a-f]{4,}|/opt|Traceback|\.py|secret|Tensor object", text)


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_no_answer(http: httpx2.Client, stream: bool) -> None:
    def check(fault: str) -> object:
        response = ask(http, fault, stream=stream)
        as_told = response.status_code == REFUSED[fault] and response.json()["error"]["message"]
        return None if as_told and is_scrubbed(response.text) else response.text

    assert wrong(check, REFUSED) == {}


def test_a_stream_that_breaks_ends_in_one_error_event(http: httpx2.Client) -> None:
    def check(fault: str) -> object:
        response = ask(http, fault, stream=True)
        *_, last = response.text.rstrip().split("\n\n")
        code = orjson.loads(last.removeprefix("data: "))["error"]["code"]
        good = (
            (response.status_code, code) == (200, BROKEN[fault])
            and response.text.count('"error"') == 1
            and "[DONE]" not in response.text
            and is_scrubbed(response.text)
        )
        return None if good else (response.status_code, response.text[-1000:])

    assert wrong(check, BROKEN) == {}


def test_an_answer_that_breaks_is_an_error(http: httpx2.Client) -> None:
    def check(fault: str) -> object:
        response = ask(http, fault, stream=False)
        good = response.status_code in {502, 503, 504} and is_scrubbed(response.text)
        return None if good else (response.status_code, response.text[-1000:])

    assert wrong(check, BROKEN) == {}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["endless_body", "endless_event", "endless_header", "bomb"])
def test_what_never_ends_takes_little_memory(
    home: GatewayHome, http: httpx2.Client, fault: str, stream: bool
) -> None:
    process = gateway(home)
    before = peak = process.memory_info().rss
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, http, fault, stream=stream)
        while not asked.done():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.01)
    assert asked.result().status_code == (200 if stream and fault in BROKEN else 502)
    assert peak - before < (40 if stream else 160) * MIB


@pytest.mark.parametrize("fault", ["cut_chunk", "silent_midway", "no_stream"])
def test_an_error_event_speaks_the_language_of_the_route(http: httpx2.Client, fault: str) -> None:
    *_, last = ask(http, fault, stream=True, path="/v1/messages").text.rstrip().split("\n\n")
    event, data = last.split("\n")
    assert event == "event: error"
    assert orjson.loads(data.removeprefix("data: "))["type"] == "error"


@pytest.mark.parametrize("fault", WELL)
def test_what_only_looks_strange_is_an_answer(http: httpx2.Client, fault: str) -> None:
    for _ in range(3):
        response = ask(http, fault, stream=False)
        assert (response.status_code, response.json()) == (200, {"ok": True})


def test_no_connection_is_left(home: GatewayHome, http: httpx2.Client) -> None:
    at_rest(home)
    eventually(lambda: upstream(home) <= PROBES, within_s=15)
