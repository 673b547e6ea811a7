"""What the running services may and may not do, and options that come from their files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, docker

pytestmark = [pytest.mark.docker, pytest.mark.slow]

OPTIONS = ("--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")
ASK_REDIS = 'REDISCLI_AUTH=$REDIS_PASSWORD exec redis-cli -e --user gateway "$@"'
FORBIDDEN = (
    "EVAL 'return 1' 0",
    "CONFIG GET maxmemory",
    "CONFIG SET maxmemory 1gb",
    "FLUSHALL",
    "FLUSHDB",
    "MODULE LIST",
    "ACL LIST",
    "KEYS *",
    "SAVE",
    "REPLICAOF 127.0.0.1 6379",
    "SHUTDOWN",
    "GET other:key",
)
SOCKET_CALL = """
import http.client, sys
link = http.client.HTTPConnection("docker-filter", 2375, timeout=5)
link.request(*sys.argv[1:])
print(link.getresponse().status)
"""


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Stack]:
    stack.script("start_all", *OPTIONS)
    yield stack
    stack.script("stop_all")


@pytest.mark.parametrize("command", FORBIDDEN)
def test_redis_refuses_what_the_cache_does_not_need(running: Stack, command: str) -> None:
    done = running.inside("redis", "sh", "-fc", f"set -- {command}; {ASK_REDIS}")
    assert done.returncode != 0
    assert "NOPERM" in done.stdout + done.stderr


def test_redis_refuses_whoever_has_no_password(running: Stack) -> None:
    done = running.inside("redis", "redis-cli", "-e", "SCAN", "0")
    assert "NOAUTH" in done.stdout + done.stderr


def test_the_cache_works_through_it(running: Stack) -> None:
    fields = {"temperature": 0, "seed": 1}
    answers = [running.chat("qwen-14b", "twice", **fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert running.get("/health").json()["cache"]["status"] == "ok"
    requests = [e for e in running.journal("qwen-14b") if e.get("path") == "/v1/chat/completions"]
    assert [e["event"] for e in requests].count("request") == 1


def test_the_gateway_is_nobody_and_writes_nowhere(running: Stack) -> None:
    status = running.inside("gateway", "cat", "/proc/1/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert fields["Gid"].split()[0] != "0"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    for path in ("/app/x", "/app/config/x", "/models/x", "/venv/x"):
        assert "Read-only file system" in running.inside("gateway", "touch", path).stderr


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (("GET", "/v1.45/containers/llm-qwen-14b/json"), "200"),
        (("GET", "/v1.45/containers/json"), "403"),
        (("GET", "/v1.45/containers/redis/json"), "403"),
        (("POST", "/v1.45/containers/create"), "403"),
        (("POST", "/v1.45/containers/llm-qwen-14b/exec"), "403"),
        (("DELETE", "/v1.45/containers/llm-qwen-14b"), "403"),
        (("GET", "/v1.45/images/json"), "403"),
    ],
)
def test_the_gateway_reaches_of_docker_what_the_filter_allows(
    running: Stack, call: tuple[str, str], status: str
) -> None:
    assert running.inside("gateway", "python3", "-c", SOCKET_CALL, *call).stdout.strip() == status
    assert running.inside("gateway", "ls", "/var/run/docker.sock").returncode != 0


def test_the_secrets_are_their_owners_alone_and_no_two_are_alike(running: Stack) -> None:
    files = [running.state_dir / name for name in ("compose.env", "gateway.env", "admin.key")]
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
    lines = files[0].read_text().splitlines()
    secrets = [line.split("=", 1)[1].strip("'\"") for line in lines if "PASSWORD" in line]
    assert len(secrets) == 2
    assert len({*secrets, files[2].read_text().strip()}) == 3
    assert min(map(len, secrets)) >= 32
    shown = docker("ps", "--all", "--no-trunc", "--format", "{{.Command}}").stdout
    assert not any(secret in shown for secret in secrets)


def test_an_option_of_an_engine_needs_a_new_container_and_then_counts(running: Stack) -> None:
    assert running.cli("config", "check").returncode == 0
    file = running.root / "config" / "engines" / "qwen-14b.yaml"
    file.write_text(file.read_text().replace("max-num-queued-reqs: 64", "max-num-queued-reqs: 32"))

    done = running.cli("config", "check", check=False)
    assert done.returncode == 1
    assert "The container llm-qwen-14b has to be made anew" in done.stdout
    typed = done.stdout.replace(".venv/bin/", "")
    assert "Type: llm-backend stop, then: llm-backend start --setup compose" in typed

    running.script("stop_all")
    running.script("start_all", *OPTIONS)
    assert "'max_num_queued_reqs': '32'" in running.script("logs", "qwen-14b").stdout
    assert running.cli("config", "check").returncode == 0
