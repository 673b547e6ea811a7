"""`InferenceService`: models inside this process, on real engine processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import BaseModel

from llm_backend import (
    AlreadyRunning,
    ConfigError,
    ConnectionFailed,
    EngineGone,
    EngineStartFailed,
    EngineTimeout,
    InferenceService,
    InvalidRequest,
    LLMBackendError,
    ModelNotFound,
    NotSupported,
    PromptTooLong,
)
from llm_backend.client import DoneEvent, image_message
from tests.harness import PATIENCE_S, REPOSITORY, GatewayHome, fake_model, gateway_home
from tests.integration import drafting_engine

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.feature("embedded use")]

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x08\x00\x00\x00\x08\x08\x06\x00\x00\x00"
    b"\x1f\x15\xc4\x89"
)
PAGE = REPOSITORY / "docs" / "howto" / "embedded.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


class Draft(BaseModel):
    """What the drafting engine writes when it is right."""

    name: str
    symptoms: str
    phone: str | None


def drafter(**fields: Any) -> dict[str, Any]:
    return {
        "runtimes": ["process"],
        "engine": {
            "kind": "command",
            "argv": [sys.executable, drafting_engine.__file__, "{port}"],
        },
        "capabilities": ["chat", "tools"],
        "devices": ["cpu"],
        "timeouts": {"start_s": 30, "stop_s": 5},
        **fields,
    }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        able = ["chat", "vision"]
        models = {
            "one": fake_model(
                tmp_path, "one", "--max-model-len", "50", aliases=["first"], capabilities=["chat"]
            ),
            "two": fake_model(tmp_path, "two", "--tokens", "3", capabilities=able),
            "slow": fake_model(tmp_path, "slow", "--token-delay-s", "0.05", "--tokens", "400"),
            "ill": fake_model(tmp_path, "ill", "--exit-at-start", "1"),
            "embedder": fake_model(tmp_path, "embedder", capabilities=["embeddings"]),
            "drafter": drafter(),
        }
        home.configure(models)
        yield home


@pytest.fixture
async def service(home: GatewayHome) -> AsyncIterator[InferenceService]:
    async with InferenceService(home.root / "config/models.yaml") as service:
        yield service
    assert home.engine_processes() == [], "leaving the block leaves no engine"


async def failure(expected: type[LLMBackendError], call: Any) -> LLMBackendError:
    with pytest.raises(expected) as raised:
        await call
    assert type(raised.value) is expected
    return raised.value


async def test_load_ask_and_unload(home: GatewayHome, service: InferenceService) -> None:
    assert service.awake is None
    assert service.models == ["one", "two", "slow", "ill", "embedder", "drafter"]

    assert await service.load("first") == "one"
    assert service.awake == "one"
    assert await service.generate("Hi", max_tokens=2) == "one word2"
    answer = await service.chat([{"role": "user", "content": "Hi"}], "one", max_tokens=1)
    assert (answer.text, answer.choices[0].finish_reason) == ("one", "length")
    assert await service.unload() == ["one"]
    assert service.awake is None
    assert home.engine_processes() == []


async def test_asking_for_another_model_switches(
    home: GatewayHome, service: InferenceService
) -> None:
    assert await service.generate("Hi", "one", max_tokens=1) == "one"
    assert await service.generate("Hi", "two", max_tokens=1) == "two"
    assert service.awake == "two"
    assert home.events("one")[-1] == "exit"


async def test_streams_and_events(service: InferenceService) -> None:
    chunks = [chunk.text async for chunk in service.stream("Hi", "two")]
    assert "".join(chunks) == "two word2 word3"
    *_, done = [event async for event in service.events("Hi", "two")]
    assert isinstance(done, DoneEvent)
    assert done.message.content == "two word2 word3"


async def test_a_stream_that_is_left_frees_the_engine(
    home: GatewayHome, service: InferenceService
) -> None:
    async with service.stream("Hi", "slow") as stream:
        await anext(stream)
    assert await service.generate("Hi", "one", max_tokens=1) == "one"
    assert "gone" in home.events("slow")


async def test_leaving_the_block_does_not_wait_for_a_stream_that_nobody_reads(
    home: GatewayHome,
) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        InferenceService(home.root / "config/models.yaml") as service,
    ):
        stream = service.stream("Hi", "slow")
        await anext(stream)
    assert home.engine_processes() == []
    broken = await failure(ConnectionFailed, anext(stream))
    assert "not the whole answer" in str(broken)


@pytest.mark.feature("structured output")
async def test_shapes_and_batches(service: InferenceService) -> None:
    draft = await service.generate_structured("broken", "drafter", schema=Draft)
    assert draft.name == "Анна Ёлкина"
    outcomes = await service.batch(["wrong", "hopeless"], "drafter", schema=Draft)
    assert outcomes[0].value == draft
    assert "not valid JSON" in str(outcomes[1].error)


@pytest.mark.feature("images from path, bytes, URL")
async def test_pictures(tmp_path: Path, service: InferenceService) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PNG)
    asked = [image_message("What is this?", [path, PNG])]

    assert await service.generate(asked, "two") == "two word2 word3"
    assert "vision" in str(await failure(NotSupported, service.generate(asked, "one")))
    elsewhere = [image_message("And this?", ["http://127.0.0.1:9/cat.png"])]
    refused = await failure(InvalidRequest, service.generate(elsewhere, "two"))
    assert "127.0.0.1" in str(refused)


async def test_what_cannot_be(service: InferenceService) -> None:
    assert "There are: one," in str(await failure(ModelNotFound, service.generate("Hi", "nobody")))
    await failure(ModelNotFound, service.load("nobody"))
    started = await failure(EngineStartFailed, service.load("ill"))
    assert "exited with status 1" in str(started)
    await failure(NotSupported, service.generate("Hi", "embedder"))
    long = await failure(PromptTooLong, service.generate("word " * 100, "one"))
    assert "50" in str(long)
    assert await service.generate("Hi", "one", max_tokens=1) == "one", "it goes on"


async def test_an_engine_that_dies_says_how(service: InferenceService) -> None:
    assert "exited with status 3" in str(await failure(EngineGone, service.chat("die", "drafter")))
    assert (await service.generate("fine", "drafter")).startswith("{")


async def test_a_call_has_a_deadline(home: GatewayHome) -> None:
    async with InferenceService(home.root / "config/models.yaml", timeout_s=2) as service:
        await service.load("slow")
        late = await failure(EngineTimeout, service.generate("Hi", "slow"))
        assert "slow gave no answer in time. InferenceService(timeout_s" in str(late)
        text = "".join([chunk.text async for chunk in service.stream("Hi", "slow", max_tokens=50)])
        assert text.endswith("word50"), "a stream has one between two signs of life"


async def test_the_defaults_of_the_catalog_are_filled_in(home: GatewayHome) -> None:
    home.configure({"short": drafter(defaults={"max_tokens": 64}), "long": drafter()})
    async with InferenceService(home.root / "config/models.yaml") as service:
        assert (await service.chat("long", "short")).choices[0].finish_reason == "stop"
        assert (await service.chat("long", "long")).choices[0].finish_reason == "length"
        cut = await service.chat("long", "short", max_tokens=1)
        assert cut.choices[0].finish_reason == "length"


async def test_without_a_name_the_awake_model_answers_else_the_default(
    home: GatewayHome, service: InferenceService
) -> None:
    assert await service.generate("Hi", max_tokens=1) == "one"
    await service.load("two")
    assert await service.generate("Hi", max_tokens=1) == "two"
    assert await service.load() == "two"


async def test_an_engine_may_be_left_to_the_next_service(home: GatewayHome) -> None:
    catalog = home.root / "config/models.yaml"
    async with InferenceService(catalog, unload_on_exit=False) as service:
        await service.load("one")
    assert home.starts("one") == 1
    async with InferenceService(catalog) as service:
        assert service.awake == "one"
        assert await service.generate("Hi", max_tokens=1) == "one"
    assert home.starts("one") == 1
    assert home.engine_processes() == []


async def test_an_error_or_the_end_of_a_task_ends_the_engine_too(home: GatewayHome) -> None:
    catalog, loaded = home.root / "config/models.yaml", asyncio.Event()

    async def ask(*, fail: bool) -> None:
        async with InferenceService(catalog) as service:
            await service.load("one")
            loaded.set()
            if fail:
                raise ZeroDivisionError
            await service.generate("Hi", "slow")

    with contextlib.suppress(ZeroDivisionError):
        await ask(fail=True)
    assert home.engine_processes() == []
    loaded.clear()
    task = asyncio.create_task(ask(fail=False))
    async with asyncio.timeout(PATIENCE_S):
        await loaded.wait()
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.cancelled()
    assert home.engine_processes() == []


async def test_two_services_exclude_each_other(
    home: GatewayHome, service: InferenceService
) -> None:
    other = InferenceService(home.root / "config/models.yaml")
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        await other.__aenter__()
    await failure(ConfigError, other.generate("Hi"))
    assert await service.generate("Hi", max_tokens=1) == "one"


async def test_a_gateway_and_a_service_exclude_each_other(home: GatewayHome) -> None:
    service = InferenceService(home.root / "config/models.yaml")
    async with service:
        await asyncio.to_thread(home.start, ready=False)
        assert home.process is not None
        assert await asyncio.to_thread(home.process.wait, 60) != 0
        assert "holds" in home.log.read_text()
    await asyncio.to_thread(home.start)
    with pytest.raises(AlreadyRunning, match=str(home.process.pid)):
        await service.__aenter__()


async def test_it_is_open_once_and_may_be_opened_again(home: GatewayHome) -> None:
    service = InferenceService(home.root / "config/models.yaml")
    for call in (service.load(), service.generate("Hi"), service.unload()):
        assert "not open" in str(await failure(ConfigError, call))
    for _ in range(2):
        async with service:
            with pytest.raises(ConfigError, match="open already"):
                await service.__aenter__()
            assert await service.generate("Hi", max_tokens=1) == "one"


@pytest.mark.parametrize(
    ("text", "problem"), [(None, "no such file"), ("models: 5", "models.yaml:1")]
)
async def test_a_wrong_catalog_names_its_file(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "config" / "models.yaml"
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        await InferenceService(path, settings={"state_dir": str(tmp_path)}).__aenter__()


async def test_what_cannot_work_is_refused(tmp_path: Path, home: GatewayHome) -> None:
    with pytest.raises(ConfigError, match="timeout_s must be above 0"):
        InferenceService(timeout_s=0)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    settings = {"state_dir": str(taken)}
    with pytest.raises(ConfigError, match=r"taken cannot be used.*state_dir"):
        await InferenceService(home.root / "config/models.yaml", settings=settings).__aenter__()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_programs_of_the_how_to(tmp_path: Path, number: int) -> None:
    """Real engines of the project's catalog; nothing but answers on standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[number]],
        cwd=REPOSITORY,
        env={**environment, "LLM_STATE_DIR": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.strip()) > 1
    assert [p for p in psutil.process_iter() if str(tmp_path) in _state_of(p)] == []
    if number == 0:
        assert "\nloading weights\n" in done.stdout


def test_the_how_to_has_programs() -> None:
    assert len(PROGRAMS) == 2


def _state_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("LLM_BACKEND_STATE", "")
    return ""
