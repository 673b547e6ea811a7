"""What is asked of servers that others run, and what is made of their answers."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from llm_backend.engines.base import LaunchPlan, Server, Upkeep
from llm_backend.errors import EngineStartFailed, ServiceError
from llm_backend.runtimes.external import ExternalRuntime
from llm_backend.runtimes.ports import free_port

pytestmark = pytest.mark.anyio

QUICK = Upkeep(interval_s=0.02, deadline_s=0.5)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stranger:
    """A server whose answers the test sets: a status by path, or none at all."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.is_mute = False
        self.is_endless = False
        self.port = 0
        self._news = asyncio.Event()
        self._conversations: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def up(
        self, runtime: ExternalRuntime, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator[Stranger]:
        """Answer until the end of the block, which is that of the runtime too: it asks first."""
        server = await asyncio.start_server(self._converse, host, port or self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await runtime.close()
            server.close()
            for task in list(self._conversations):
                task.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.asked.append(path)
            self.keys.append(head.lower().partition("bearer ")[2].partition("\r\n")[0])
            self._news.set()
            if self.is_mute:
                await reader.read()
                return
            if self.is_endless:
                await self._never_end(writer)
            status = self.statuses.get(path.strip("/").replace("/", "_"), 404)
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _never_end(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def questions(self, count: int) -> None:
        """Wait for so many more questions."""
        aim = len(self.asked) + count
        while len(self.asked) < aim:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)

    def plan(self, *others: Stranger, key: str | None = None, tls: bool = False) -> LaunchPlan:
        replicas = tuple(Server("127.0.0.1", other.port) for other in others)
        return LaunchPlan(
            model="far",
            group="far, elsewhere",
            served_name="far",
            port=self.port,
            key=key,
            tls=tls,
            replicas=replicas,
            upkeep=QUICK,
        )


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ExternalRuntime]:
    made = ExternalRuntime(tmp_path)
    yield made
    await made.close()


async def test_a_server_that_can_serve_is_found_and_its_end_is_told(
    runtime: ExternalRuntime,
) -> None:
    async with Stranger(health=200).up(runtime) as stranger:
        (engine,) = await runtime.survey([stranger.plan(key="word")])
        assert engine.replicas is not None
        assert engine.replicas.up
        assert set(stranger.keys) == {"word"}
        assert await runtime.poll(engine) is None
        stranger.statuses["health"] = 503
        ended = await asyncio.wait_for(runtime.wait(engine), 10)
    address = f"http://127.0.0.1:{stranger.port}"
    assert ended.reason == f"cannot be reached ({address}: GET /health answers HTTP status 503)"
    assert await runtime.poll(engine) == ended
    assert await runtime.stop(engine, 5) == ended
    tail = await runtime.log_tail("far", 10)
    assert [line.partition(" ")[2] for line in tail] == [
        f"{address}: can serve",
        f"{address}: GET /health answers HTTP status 503",
    ]
    with pytest.raises(ServiceError):
        await runtime.rest(engine)
    with pytest.raises(EngineStartFailed):
        await runtime.rouse(engine)


async def test_a_server_without_a_health_route_is_asked_for_its_models(
    runtime: ExternalRuntime,
) -> None:
    async with Stranger(v1_models=200).up(runtime) as stranger:
        (engine,) = await runtime.survey([stranger.plan()])
        assert engine.replicas is not None
        assert engine.replicas.up
        assert stranger.asked[:2] == ["/health", "/v1/models"]


async def test_a_server_that_refuses_the_key_does_not_count_as_up(
    runtime: ExternalRuntime,
) -> None:
    async with Stranger(health=401, v1_models=200).up(runtime) as stranger:
        assert await runtime.survey([stranger.plan()]) == []
        assert "HTTP status 401" in (await runtime.log_tail("far", 1))[0]


async def test_a_mute_server_is_not_waited_for(runtime: ExternalRuntime) -> None:
    async with Stranger().up(runtime) as stranger:
        stranger.is_mute = True
        engine = await runtime.start(stranger.plan())
        ended = await asyncio.wait_for(runtime.wait(engine), 10)
    assert "no answer within 0.5 s" in ended.reason


async def test_an_answer_without_an_end_is_not_read_to_its_end(runtime: ExternalRuntime) -> None:
    async with Stranger().up(runtime) as stranger:
        stranger.is_endless = True
        assert len(await runtime.survey([stranger.plan()])) == 1
        assert "can serve" in (await runtime.log_tail("far", 1))[0]


async def test_a_watch_that_fails_at_once_does_not_keep_the_gateway_waiting(
    runtime: ExternalRuntime,
) -> None:
    plan = dataclasses.replace(Stranger().plan(), upkeep=Upkeep(paths=("no path",), deadline_s=1))
    assert await asyncio.wait_for(runtime.survey([plan]), 10) == []


async def test_models_that_start_at_once_share_one_client(
    runtime: ExternalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = ssl.create_default_context, []
    monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(0) or make())
    async with Stranger(health=200).up(runtime) as stranger:
        plans = [dataclasses.replace(stranger.plan(), model=name) for name in ("a", "b", "c")]
        await asyncio.gather(*map(runtime.start, plans))
    assert len(made) == 1


async def test_a_server_at_an_ipv6_address_is_asked(runtime: ExternalRuntime) -> None:
    port = free_port("::1")
    async with Stranger(health=200).up(runtime, "::1", port) as stranger:
        plan = dataclasses.replace(stranger.plan(), host="::1")
        (engine,) = await runtime.survey([plan])
        assert engine.url == f"http://[::1]:{port}"


async def test_one_of_two_that_answers_is_enough(runtime: ExternalRuntime) -> None:
    gone = Stranger()
    gone.port = free_port("127.0.0.1")
    async with Stranger(health=200).up(runtime) as stranger:
        (engine,) = await runtime.survey([gone.plan(stranger)])
        assert engine.replicas is not None
        taken = [engine.replicas.take() for _ in range(3)]
        assert {each.port for each in taken if each} == {stranger.port}
        await stranger.questions(5)
        assert await runtime.poll(engine) is None

        async with gone.up(runtime):  # it comes back by itself
            gone.statuses["health"] = 200
            await gone.questions(2)
            other = engine.replicas.take()
            assert other is not None
            assert other.port == gone.port


async def test_what_is_watched_is_not_started_twice_and_may_start_anew(
    runtime: ExternalRuntime,
) -> None:
    async with Stranger(health=200).up(runtime) as stranger:
        engine = await runtime.start(stranger.plan())
        with pytest.raises(EngineStartFailed, match="still runs"):
            await runtime.start(stranger.plan())
        await runtime.rest(engine)
        await runtime.rouse(engine)
        ended = await runtime.stop(engine, 5)
        assert (ended.code, ended.reason) == (None, "was let go of")
        again = await runtime.start(stranger.plan())
        assert again.instance != engine.instance
        await stranger.questions(1)


async def test_its_log_can_be_followed(runtime: ExternalRuntime) -> None:
    async with Stranger(health=200).up(runtime) as stranger:
        lines = runtime.follow_log("far", 5)
        async with aclosing(lines):  # type: ignore[type-var]  # the protocol's iterator has it
            first = asyncio.create_task(anext(lines))  # type: ignore[arg-type]  # as above
            await runtime.start(stranger.plan())
            assert "can serve" in await asyncio.wait_for(first, 10)


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Port and certificate of a server that signs its own and answers everything by 200."""
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port("127.0.0.1")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = ["-subj", "/CN=stranger", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    serve = f"openssl s_server -www -accept 127.0.0.1:{port} -key {key} -cert {certificate}"
    with subprocess.Popen(
        serve.split(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        try:
            assert any(line.startswith(b"ACCEPT") for line in server.stdout)
            yield port, certificate
        finally:
            server.kill()


@pytest.mark.parametrize("is_known", [True, False])
async def test_tls_is_verified(
    tls_server: tuple[int, Path],
    is_known: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, certificate = tls_server
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    stranger = Stranger()
    stranger.port = port
    runtime = ExternalRuntime(tmp_path)
    try:
        found = await runtime.survey([stranger.plan(tls=True)])
        assert len(found) == is_known
        (line,) = await runtime.log_tail("far", 1)
        assert ("CERTIFICATE_VERIFY_FAILED" in line) is not is_known
    finally:
        await runtime.close()
