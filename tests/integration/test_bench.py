"""`bench` against a real gateway: the switch is not in the figures, the cache gives nothing."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness import PATIENCE_S, eventually, fake_model, gateway_home
from tests.integration.test_cli import Shell

pytestmark = [pytest.mark.engine, pytest.mark.feature("model benchmark")]

LOAD_S = 2.0
TOKENS = 5
DELAY_S = 0.05


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with gateway_home(tmp_path) as home:
        pace = ("--tokens", str(TOKENS), "--token-delay-s", str(DELAY_S))
        home.configure(
            {
                "first": fake_model(tmp_path, "first"),
                "paced": fake_model(tmp_path, "paced", *pace, "--load-s", str(LOAD_S)),
                "slow": fake_model(tmp_path, "slow", "--tokens", "500", "--token-delay-s", "0.05"),
            },
            cache={"mode": "all"},
        )
        shell = Shell(home)
        try:
            yield shell
        finally:
            if gateway := shell.gateway:
                gateway.kill()
                with contextlib.suppress(psutil.TimeoutExpired):
                    gateway.wait(PATIENCE_S)


def test_a_switch_is_not_in_the_figures_and_the_cache_gives_nothing(shell: Shell) -> None:
    assert shell.run("start", "--yes", "--detach", "--model", "first").code == 0
    arguments = ("bench", "paced", "--concurrency", "1,4", "--requests", "4")
    done = shell.run(*arguments, "--assert-ttft-ms", str(1000 * LOAD_S), "--json")
    shown = json.loads(done.out)

    assert done.code == 0, done.err
    kinds = [(line["prompt"], line["concurrency"], line["requests"]) for line in shown["lines"]]
    assert kinds == [(k, n, 4) for k in ("short", "long", "image") for n in (1, 4)]
    for line in shown["lines"]:
        assert line["ttft_ms"]["p99"] < 1000 * LOAD_S
        assert 0 < line["tokens_per_s"]["p50"] <= 1.2 / DELAY_S
    asked = [x for x in shell.home.journal("paced") if x.get("path") == "/v1/chat/completions"]
    assert [x["event"] for x in asked].count("request") == 3 + 6 * 4
    missed = shell.run(*arguments, "--prompt", "short", "--assert-ttft-ms", "0.001")
    assert missed.code == 1
    assert "not within 0.001 ms." in missed.err
    shell.run("stop")


def test_ctrl_c_shows_what_there_is(shell: Shell) -> None:
    process = shell.begin("bench", "slow", "--prompt", "short", "--concurrency", "1")
    # 500 tokens of 0.05 s are 25 s a request; it is asked for 64 of them: 3 s.
    eventually(lambda: shell.home.events("slow").count("done") >= 2 + _probes(shell))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, said
    assert "Interrupted: the figures are of what was complete by then." in said
    assert "Traceback" not in said
    assert any(line.startswith("short") and line.split()[3] == "0" for line in said.splitlines())
    assert shell.is_clean()


def _probes(shell: Shell) -> int:
    """How many requests ended that were not for text."""
    done = [x for x in shell.home.journal("slow") if x["event"] == "done"]
    return sum(x.get("path") != "/v1/chat/completions" for x in done)
