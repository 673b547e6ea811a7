"""Engines that fail in every way: clients are told why in time, the next request works, nothing stays.

The numbers are those of the fault table: F1 dies mid-stream, F2 exits at start, F3 never ready, F4
hangs, F5 ignores SIGTERM.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.harness import PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "Say hi"}]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home


def start(
    home: GatewayHome, *flags: str, settings: dict[str, Any] | None = None, **fields: Any
) -> None:
    """Start a gateway with a model `bad`, which has these flags, and a sound one `good`."""
    bad = fake_model(home.root, "bad", *flags, **fields)
    home.configure({"bad": bad, "good": fake_model(home.root, "good")}, **(settings or {}))
    home.start()


def mend(home: GatewayHome) -> None:
    """Let the next start of `bad` be a sound one: its program looks for this file."""
    (home.root / "mended").touch()


def broken_once(home: GatewayHome, *flags: str, **fields: Any) -> dict[str, Any]:
    """A model whose engine misbehaves until `mend` is called."""
    sound = fake_model(home.root, "bad", **fields)
    bad = fake_model(home.root, "bad", *flags, **fields)
    choose = (
        "import os, sys; n = int(sys.argv[2]); a = sys.argv[3:];"
        "a = a[n:] if os.path.exists(sys.argv[1]) else a[:n]; os.execvp(a[0], a)"
    )
    first, second = bad["engine"]["argv"], sound["engine"]["argv"]
    argv = [
        sys.executable,
        "-c",
        choose,
        str(home.root / "mended"),
        str(len(first)),
        *first,
        *second,
    ]
    return {**sound, "engine": {**sound["engine"], "argv": argv}}


def start_broken(
    home: GatewayHome, *flags: str, settings: dict[str, Any] | None = None, **fields: Any
) -> None:
    good = fake_model(home.root, "good")
    home.configure({"bad": broken_once(home, *flags, **fields), "good": good}, **(settings or {}))
    home.start()


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert isinstance(error["code"], str)
    return dict(error)


def stream(home: GatewayHome, model: str, **fields: Any) -> list[str]:
    """Return the data of every event of a chat stream."""
    body = {"model": model, "stream": True, "messages": MESSAGES, **fields}
    url = home.url + "/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, timeout=PATIENCE_S) as response:
        return [x[6:] for x in response.iter_lines() if x.startswith("data: ")]


def nothing_left(home: GatewayHome) -> bool:
    return not home.engine_processes()


def test_f1_death_amid_a_stream_ends_in_one_error_event(home: GatewayHome) -> None:
    start_broken(home, "--die-after-tokens", "3")
    events = stream(home, "bad", max_tokens=8)
    assert "[DONE]" not in events
    error = json.loads(events[-1])["error"]
    assert error["code"] == "engine_gone"
    assert "killed by SIGKILL" in error["message"]
    assert "Application startup complete" in error["message"], "the last log lines are told"
    assert sum("error" in json.loads(e) for e in events) == 1
    mend(home)
    assert home.chat("bad").status_code == 200


def test_f1_death_amid_a_plain_answer(home: GatewayHome) -> None:
    start_broken(home, "--die-after-tokens", "3")
    response = home.chat("bad", max_tokens=8)
    assert response.status_code == 503
    assert error_of(response)["code"] == "engine_gone"
    assert response.headers["retry-after"]
    mend(home)
    assert home.chat("bad").status_code == 200


def test_f2_exit_at_start(home: GatewayHome) -> None:
    start_broken(home, "--exit-at-start", "1")
    began = time.monotonic()
    response = home.chat("bad")
    assert response.status_code == 503
    error = error_of(response)
    assert error["code"] == "engine_start_failed"
    assert "exited with status 1 before it was ready" in error["message"]
    assert "less than" in error["message"], "the last log lines are told"
    assert time.monotonic() - began < 15
    assert nothing_left(home)
    mend(home)
    assert home.chat("bad").status_code == 200, "the next request tries again"


def test_f2_repeated_failures_back_off_with_a_truthful_retry_after(home: GatewayHome) -> None:
    start(home, "--exit-at-start", "1")
    assert [home.chat("bad").status_code for _ in range(2)] == [503, 503]
    starts = home.starts("bad")
    response = home.chat("bad")
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 4
    assert home.starts("bad") == starts, "no third start before its time"
    assert home.chat("good").status_code == 200, "other models are not concerned"


def test_f2_a_failed_switch_can_bring_the_previous_model_back(home: GatewayHome) -> None:
    start(home, "--exit-at-start", "1", settings={"switching": {"restore_previous": True}})
    assert home.load("good").status_code == 200
    assert home.load("bad").status_code == 503
    eventually(lambda: home.state("good") == "awake")


def test_f3_never_ready(home: GatewayHome) -> None:
    start_broken(home, "--never-ready", timeouts={"start_s": 2, "stop_s": 2})
    response = home.chat("bad")
    assert response.status_code == 503
    assert "was not ready 2 s after its launch" in error_of(response)["message"]
    assert nothing_left(home)
    mend(home)
    assert home.chat("bad").status_code == 200


def test_f3_a_stream_that_waits_ends_in_an_error_event(home: GatewayHome) -> None:
    start(home, "--never-ready", timeouts={"start_s": 2, "stop_s": 2})
    events = stream(home, "bad")
    assert len(events) == 1
    assert json.loads(events[0])["error"]["code"] == "engine_start_failed"


def test_f4_a_hung_engine_is_found_and_replaced(home: GatewayHome) -> None:
    start_broken(
        home, "--hang-after-tokens", "3", settings={"switching": {"stall_s": 1, "probe_s": 1}}
    )
    events = stream(home, "bad", max_tokens=8)
    error = json.loads(events[-1])["error"]
    assert error["code"] == "engine_gone"
    assert "hung: asked for one token, no answer within 1 s" in error["message"]
    mend(home)
    assert home.chat("bad").status_code == 200


def test_f4_a_busy_engine_is_not_taken_for_a_hung_one(home: GatewayHome) -> None:
    home.configure(
        {"slow": fake_model(home.root, "slow", "--token-delay-s", "0.1", "--tokens", "50")},
        switching={"stall_s": 0.6, "probe_s": 0.5},
    )
    home.start()
    events = stream(home, "slow", max_tokens=50)
    assert events[-1] == "[DONE]"
    assert home.starts("slow") == 1


def test_f4_silence_is_limited_for_the_client(home: GatewayHome) -> None:
    start(home, "--hang-after-tokens", "3", settings={"limits": {"idle_timeout_s": 1}})
    events = stream(home, "bad", max_tokens=8)
    assert json.loads(events[-1])["error"]["code"] == "engine_timeout"


def test_the_request_timeout_limits_an_answer(home: GatewayHome) -> None:
    flags = ("--token-delay-s", "0.2", "--tokens", "50")
    start(home, *flags, settings={"limits": {"request_timeout_s": 1}})
    response = home.chat("bad", max_tokens=50)
    assert response.status_code == 504
    assert "did not finish within 1 s" in error_of(response)["message"]


def test_f5_sigterm_ignored(home: GatewayHome) -> None:
    start(home, "--ignore-sigterm", timeouts={"start_s": 30, "stop_s": 1})
    assert home.chat("bad").status_code == 200
    assert home.chat("good").status_code == 200
    assert "sigterm" in home.events("bad")
    assert len(home.engine_processes()) == 2, "the launcher and the engine of good"


@pytest.mark.parametrize("flag", ["--grandchild", "--grandchild-holds-port"])
def test_grandchildren_end_with_their_engine(home: GatewayHome, flag: str) -> None:
    start(home, flag)
    assert home.chat("bad").status_code == 200
    pids = [line["child"] if "child" in line else line["pid"] for line in home.journal("bad")]
    assert home.post("/api/v1/inference/unload", {}, headers=home.admin).status_code == 200
    assert nothing_left(home)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_abort_and_cut_streams_never_look_finished(home: GatewayHome) -> None:
    cuts = {
        "abort": fake_model(home.root, "abort", "--abort-finish"),
        "cut": fake_model(home.root, "cut", "--cut-stream"),
    }
    home.configure(cuts)
    home.start()
    for model in cuts:
        events = stream(home, model, max_tokens=8)
        assert "[DONE]" not in events
        assert "error" in json.loads(events[-1])
    assert home.chat("abort", max_tokens=8).status_code in {502, 503}


def test_manual_mode_names_the_command(home: GatewayHome) -> None:
    models = {m: fake_model(home.root, m) for m in "ab"}
    home.configure(models, switching={"mode": "manual"})
    home.start()
    home.load("a")
    assert home.chat("a").status_code == 200
    refused = home.chat("b")
    assert refused.status_code == 409
    assert error_of(refused)["code"] == "model_not_active"
    assert "bash scripts/switch_model.sh b" in error_of(refused)["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert home.state("a") == "awake"
    assert home.load("b").status_code == 200
    assert home.chat("b").status_code == 200


def test_a_drain_has_a_deadline(home: GatewayHome) -> None:
    slow = ("--token-delay-s", "0.2", "--tokens", "200")
    start(home, *slow, settings={"switching": {"drain_timeout_s": 1}})
    body = {"model": "bad", "stream": True, "messages": MESSAGES, "max_tokens": 200}
    url = home.url + "/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(lines)
        assert home.load("good").status_code == 200
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert "was switched away" in json.loads(last[6:])["error"]["message"]
