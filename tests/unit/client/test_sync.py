"""The blocking client: the same methods with the same arguments, anywhere."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from llm_backend import ConfigError, ConnectionFailed, LLMClient, LLMClientSync, ModelNotFound
from llm_backend.client import DoneEvent, TextEvent

from .server import Server, chunk, completion, events, reply

pytestmark = pytest.mark.feature("LLMClientSync")

CHAT = "POST /v1/chat/completions"


class Word(BaseModel):
    """A word."""

    word: str


@pytest.fixture
def sync(server: Server) -> Iterator[LLMClientSync]:
    with LLMClientSync(server.url, "admin-key", timeout_s=20) as client:
        yield client


def public(kind: type) -> dict[str, inspect.Signature]:
    members = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    return {name: inspect.signature(member) for name, member in members.items()}


def test_it_has_the_methods_of_the_async_client_with_their_arguments() -> None:
    ours, theirs = public(LLMClientSync), public(LLMClient)
    assert list(ours) == list(theirs)
    for name, signature in ours.items():
        assert signature.parameters == theirs[name].parameters, name


def test_every_method(server: Server, sync: LLMClientSync) -> None:
    assert sync.generate("Hi") == sync.chat("Hi").text == "Two and two make four."
    assert [model.id for model in sync.models()] == ["tiny", "coder"]
    assert sync.health_check()
    assert sync.status().model == "tiny"
    assert sync.switch("coder").seconds == 3.5
    assert sync.switch("coder", wait=False).state == "starting"
    assert server.connections == 1
    server.script(CHAT, reply(completion('{"word": "да"}')))
    assert sync.generate_structured("Hi", schema=Word) == Word(word="да")
    (outcome,) = sync.batch(["Hi"], low_priority=True, temperature=1)
    assert outcome.get() == "Two and two make four."
    assert server.seen[-1].headers["x-llm-priority"] == "batch"
    assert server.seen[-1].json()["temperature"] == 1


def test_streams_are_iterators(sync: LLMClientSync) -> None:
    told: list[str] = []
    stream = sync.stream("Hi", on_wait=told.append)
    assert "".join(chunk.text for chunk in stream) == "Two and two make four."
    assert told == ["loading tiny, about 4 s left"]
    assert list(stream) == [], "it has ended"
    *_, text, done = sync.events("Hi", "coder")
    assert text == TextEvent(" four.")
    assert isinstance(done, DoneEvent)
    assert done.message.content == "Two and two make four."


def test_a_stream_can_be_left(server: Server, sync: LLMClientSync) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    with sync.stream("Hi") as stream:
        assert next(stream).text == "A"
    assert server.left.wait(10)


def test_a_stream_whose_client_was_closed_does_not_look_complete(
    server: Server, sync: LLMClientSync, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    stream = sync.stream("Hi")
    assert next(stream).text == "A"
    sync.close()
    with pytest.raises(ConnectionFailed, match="broke off before its end"):
        next(stream)
    assert server.left.wait(10)
    assert caplog.messages == [], "asyncio has nothing to complain of"


def test_errors_are_the_same(sync: LLMClientSync) -> None:
    with pytest.raises(ModelNotFound, match="no model 'gpt-9'"):
        sync.chat("Hi", "gpt-9")
    with pytest.raises(ConfigError):
        LLMClientSync("ftp://x")


@pytest.mark.anyio
async def test_inside_an_event_loop_that_runs(sync: LLMClientSync) -> None:
    assert asyncio.get_running_loop().is_running()
    assert sync.generate("Hi") == "Two and two make four."


def test_threads_share_it(server: Server, sync: LLMClientSync) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(sync.generate("Hi"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == ["Two and two make four."] * 8


def test_ctrl_c_ends_the_wait_and_the_request(server: Server, sync: LLMClientSync) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert server.arrived.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), sync.stream("Hi") as stream:
        for _ in stream:  # it is being closed when the block is left
            pass
    thread.join(10)
    assert server.left.wait(10), "the engine need not go on"


def test_a_script_that_never_closes_it_ends_quietly(server: Server) -> None:
    program = f"""
import logging
from llm_backend import LLMClientSync
logging.getLogger("asyncio").setLevel("ERROR")  # it warns of a slow machine
client = LLMClientSync({server.url!r})
print(client.generate("Hi"))
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("Two and two make four.\n", "")


def test_its_name_says_where_it_leads(server: Server) -> None:
    assert repr(LLMClientSync(server.url)) == f"LLMClientSync({server.url!r})"
