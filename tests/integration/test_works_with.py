"""Programs of others, as docs/howto/works-with has them configured.

Those that can be installed beside the tests run, the rest have their requests replayed. Programs
and configurations are read from the pages; the address alone is another one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import ALL, REPOSITORY, GatewayHome, fake_model, gateway_home
from tests.integration.gateways import (
    CHAT,
    at_rest,
    fake,
    recorded,
    recorder,
    requests_of,
    shared_gateway,
)
from tests.integration.patience import SDKS, needs_node
from tests.works_with import editing_engine, replays
from tests.works_with.pages import (
    ADDRESS,
    CATALOG,
    FOLDER,
    block,
    blocks,
    configuration,
    table,
    text_of,
)

pytestmark = [pytest.mark.engine]

PROGRAMS = REPOSITORY / ".venv-works-with"
needs_programs = pytest.mark.skipif(
    not (PROGRAMS / "installed").exists(), reason="the programs are not here: make works-with"
)
CLAUDE = REPOSITORY / "tests/works_with/node_modules/.bin/claude"
needs_claude = pytest.mark.skipif(
    not CLAUDE.exists(), reason="Claude Code is not here: make works-with, with npm"
)

FIRST, SECOND = "smollm2-long", "smollm2-wide"
PLANNER, EDITOR = "qwen-14b", "qwen-coder"
AGENT = "qwen-14b"
SPENT_S = 240
"""How long a program may take; some import for a minute on a busy machine."""


def answering(model: str) -> Any:
    """An engine that answers with its name, under an id of the catalog."""
    able = [*ALL, "tools"]
    return fake(model, "--tokens 1 --max-model-len 100000", capabilities=able)[model]


def editing(model: str) -> Any:
    """An engine that writes a new `greeting.py`, whatever it is asked."""

    def entry(root: Path) -> dict[str, Any]:
        made = fake_model(root, model)
        witness = made["engine"]["argv"][:6]
        argv = [*witness, sys.executable, editing_engine.__file__, "{port}", model]
        return {**made, "engine": {"kind": "command", "argv": argv}}

    return entry


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {model: answering(model) for model in (FIRST, SECOND, PLANNER, EDITOR)}
    with shared_gateway(tmp_path_factory, {**models, "recorder": recorder()}) as home:
        yield home


@pytest.fixture(autouse=True)
def quiet(home: GatewayHome) -> Iterator[None]:
    yield
    at_rest(home)


def run(command: list[str | Path], folder: Path, text: str = "", home: Path | None = None) -> str:
    """Return what a program prints that reads `text`; it reaches nothing but this machine."""
    path = [PROGRAMS / "bin", CLAUDE.parent, os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(map(str, path)),
        "HOME": str(home or folder),
        "LANG": "C.UTF-8",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "localhost,127.0.0.1",
    }
    done = subprocess.run(
        command,
        input=text,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SPENT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def at(home: GatewayHome, text: str) -> str:
    """Return a text of a page with the address of this gateway."""
    assert ADDRESS in text
    return text.replace(ADDRESS, home.url)


def swaps(home: GatewayHome, command: list[str | Path], page: str, number: int, work: Path) -> None:
    """Run a program of a page: it says what the page says, and the gateway switches amid it."""
    program = blocks(page, "python", "js")[number]
    assert home.chat(SECOND).status_code == 200
    before = home.starts(FIRST), home.starts(SECOND)

    assert run(command, work, at(home, program), home.root) == blocks(page, "text")[number]

    assert (home.starts(FIRST), home.starts(SECOND)) == (before[0] + 1, before[1] + 1)
    assert (home.state(FIRST), home.state(SECOND)) == ("stopped", "awake")


@pytest.mark.feature("openai for Python")
def test_openai_for_python(home: GatewayHome, tmp_path: Path) -> None:
    swaps(home, [sys.executable, "-"], "sdks", 0, tmp_path)


@pytest.mark.feature("anthropic for Python")
def test_anthropic_for_python(home: GatewayHome, tmp_path: Path) -> None:
    swaps(home, [sys.executable, "-"], "sdks", 1, tmp_path)


@needs_node
@pytest.mark.feature("openai for Node")
def test_openai_for_node(home: GatewayHome) -> None:
    swaps(home, ["node", "--input-type=module", "-"], "sdks", 2, SDKS)


@needs_node
@pytest.mark.feature("anthropic for Node")
def test_anthropic_for_node(home: GatewayHome) -> None:
    swaps(home, ["node", "--input-type=module", "-"], "sdks", 3, SDKS)


@needs_programs
@pytest.mark.slow
@pytest.mark.feature("LangChain")
def test_langchain(home: GatewayHome, tmp_path: Path) -> None:
    for number in (0, 1):
        swaps(home, [PROGRAMS / "bin/python", "-"], "langchain", number, tmp_path)


@needs_programs
@pytest.mark.slow
@pytest.mark.feature("LlamaIndex")
def test_llamaindex(home: GatewayHome, tmp_path: Path) -> None:
    swaps(home, [PROGRAMS / "bin/python", "-"], "llamaindex", 0, tmp_path)


@needs_programs
@pytest.mark.slow
@pytest.mark.feature("aider")
def test_aider_edits_with_one_model_and_with_two(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    alone, together = blocks("aider", "shell")
    quick = {"check-update": False, "analytics-disable": True, "show-release-notes": False}
    greeting = tmp_path / "greeting.py"
    greeting.touch()
    with shared_gateway(
        tmp_path_factory, {model: editing(model) for model in (PLANNER, EDITOR)}
    ) as home:
        settings = at(home, block("aider", "yaml")) + yaml.safe_dump(quick)
        (tmp_path / ".aider.conf.yml").write_text(settings)
        (tmp_path / ".aider.model.metadata.json").write_text(block("aider", "json"))

        assert "Applied edit to greeting.py" in run(["bash", "-c", alone], tmp_path)
        assert greeting.read_text() == f"print('Hello from {EDITOR}')\n"
        assert home.state(EDITOR) == "awake"

        greeting.write_text("")
        before = requests_of(home, model=PLANNER), requests_of(home, model=EDITOR)
        run(["bash", "-c", together], tmp_path)
        assert greeting.read_text() == f"print('Hello from {EDITOR}')\n"
        after = requests_of(home, model=PLANNER), requests_of(home, model=EDITOR)
        assert after == (before[0] + 1, before[1] + 1), "one planned, the other one edited"
        assert (home.state(PLANNER), home.state(EDITOR)) == ("stopped", "awake")


@needs_claude
@pytest.mark.slow
@pytest.mark.feature("Claude Code")
def test_claude_code(home: GatewayHome, tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude/settings.json").write_text(at(home, block("claude-code", "json")))
    command = block("claude-code", "shell")

    assert run(["bash", "-c", command], tmp_path).strip() == AGENT
    other = f"{command.rstrip()} --model {EDITOR}"
    assert run(["bash", "-c", other], tmp_path).strip() == EDITOR
    assert (home.state(AGENT), home.state(EDITOR)) == ("stopped", "awake")


def streamed(home: GatewayHome, asked: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Ask for a stream of chat; return its last chunk, which has the usage."""
    answer = home.post(CHAT, asked, headers={"authorization": "Bearer any", **headers})
    assert answer.status_code == 200, answer.text
    frames = [
        line.removeprefix("data: ") for line in answer.text.splitlines() if line[:5] == "data:"
    ]
    assert frames.pop() == "[DONE]"
    chunks: list[dict[str, Any]] = [json.loads(frame) for frame in frames]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == asked["model"]
    return chunks[-1]


@pytest.mark.feature("Open WebUI")
def test_open_webui(home: GatewayHome) -> None:
    service = configuration("open-webui", "yaml")["services"]["open-webui"]
    environment = service["environment"]
    assert service["network_mode"] == "host", "the gateway listens on loopback"
    path = environment["OPENAI_API_BASE_URL"].removeprefix(ADDRESS)
    key = {"authorization": f"Bearer {environment['OPENAI_API_KEY']}"}

    listed = home.get(f"{path}/models", headers={**key, **replays.OPEN_WEBUI_HEADERS}).json()
    models = [model["id"] for model in listed["data"]]
    assert {FIRST, SECOND} <= set(models)
    for model in (FIRST, SECOND):
        last = streamed(home, replays.open_webui(model), **key, **replays.OPEN_WEBUI_HEADERS)
        assert last["usage"]["completion_tokens"] == 1
        title = home.post(f"{path}/chat/completions", replays.open_webui_title(model))
        assert title.json()["choices"][0]["message"]["content"] == model


@pytest.mark.feature("Continue")
def test_continue(home: GatewayHome) -> None:
    entries = configuration("continue", "yaml")["models"]
    assert [entry["model"] for entry in entries] == [EDITOR, PLANNER]
    for entry in entries:
        options = entry["defaultCompletionOptions"]
        assert entry["provider"] == "openai"
        assert entry["apiBase"] == f"{ADDRESS}/v1"
        assert options["contextLength"] == CATALOG[entry["model"]]["max_model_len"]
        assert ("tool_use" in entry.get("capabilities", ())) == can_use_tools(entry["model"])
        assert streamed(home, replays.continue_chat(entry))["usage"]


@pytest.mark.feature("Cline")
def test_cline(home: GatewayHome) -> None:
    settings = table("cline")
    model = settings["Model ID"]
    assert settings["Base URL"] == f"{ADDRESS}/v1"
    assert int(settings["Context Window Size"]) == CATALOG[model]["max_model_len"]
    assert (settings["Supports Images"] == "off") == (
        "vision" not in CATALOG[model]["capabilities"]
    )
    assert streamed(home, replays.cline(model))["usage"]


@pytest.mark.feature("Zed")
def test_zed(home: GatewayHome) -> None:
    settings = configuration("zed", "json")
    ((name, provider),) = settings["language_models"]["openai_compatible"].items()
    models = provider["available_models"]
    chosen = settings["agent"]["default_model"]
    assert provider["api_url"] == f"{ADDRESS}/v1"
    assert (chosen["provider"], chosen["model"]) == (name, models[0]["name"])
    assert f"{name.upper().replace(' ', '_')}_API_KEY=" in block("zed", "shell")
    for model in models:
        known = CATALOG[model["name"]]
        assert model["max_tokens"] == known["max_model_len"]
        assert model["capabilities"]["tools"] == can_use_tools(model["name"])
        assert model["capabilities"]["images"] == ("vision" in known["capabilities"])
        assert streamed(home, replays.zed(model))["usage"]


def test_a_real_engine_takes_every_field(tmp_path: Path) -> None:
    tools = {"tools": True, "images": False}
    with gateway_home(tmp_path) as home:
        home.configure({FIRST: CATALOG[FIRST]})
        home.start()
        for asked in (
            replays.open_webui(FIRST) | {"max_completion_tokens": 4},
            replays.cline(FIRST) | {"max_tokens": 4},
            replays.zed({"name": FIRST, "max_output_tokens": 4, "capabilities": tools}),
        ):
            answer = home.post(CHAT, asked)
            assert answer.status_code == 200, answer.text
            assert '"usage":{' in answer.text
        question = replays.claude_code(FIRST, max_tokens=4)
        answer = home.post("/v1/messages", question, headers=replays.CLAUDE_CODE_HEADERS)
        assert answer.status_code == 200, answer.text
        assert "event: message_stop" in answer.text


def can_use_tools(model: str) -> bool:
    return "tools" in CATALOG[model]["capabilities"]


class TestClaudeCodesRequests:
    """What it sends, where it is not installed."""

    def test_the_configuration_names_one_model_that_can(self) -> None:
        environment = configuration("claude-code", "json")["env"]
        models = {value for name, value in environment.items() if name.endswith("_MODEL")}
        assert models == {AGENT}
        assert {"messages", "tools"} <= set(CATALOG[AGENT]["capabilities"])
        window = int(environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"])
        assert window == CATALOG[AGENT]["max_model_len"]
        assert environment["ANTHROPIC_BASE_URL"] == ADDRESS, "it appends /v1/messages itself"

    @pytest.mark.feature("Claude Code")
    def test_a_question_is_answered_as_a_stream(self, home: GatewayHome) -> None:
        headers = {"authorization": "Bearer any", **replays.CLAUDE_CODE_HEADERS}
        for model in (AGENT, EDITOR):
            asked = replays.claude_code(model)
            answer = home.post("/v1/messages?beta=true", asked, headers=headers)
            assert answer.status_code == 200, answer.text
            assert f'"text": "{model}"' in answer.text
            assert "event: message_stop" in answer.text

    @pytest.mark.feature("Claude Code")
    def test_every_field_reaches_the_engine_and_no_credential(self, home: GatewayHome) -> None:
        asked = replays.claude_code("recorder", stream=False)
        headers = {"authorization": "Bearer any", **replays.CLAUDE_CODE_HEADERS}
        answer = home.post("/v1/messages?beta=true", asked, headers=headers)

        body, arrived = recorded(answer)
        assert json.loads(body) == asked
        assert "authorization" not in arrived

    @pytest.mark.feature("Claude Code")
    def test_counting_tokens(self, home: GatewayHome) -> None:
        assert home.chat(AGENT).status_code == 200
        asked = replays.claude_code(AGENT)
        counted = {name: asked[name] for name in ("model", "system", "messages", "tools")}
        path = "/v1/messages/count_tokens?beta=true"
        answer = home.post(path, counted, headers=replays.CLAUDE_CODE_HEADERS)
        assert answer.json()["input_tokens"] > 0


def test_every_page_is_in_the_index_and_names_this_gateway() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"index"}
    assert set(re.findall(r"\]\((\w[\w-]*)\.md\)", text_of("index"))) == pages
    for page in pages:
        urls = set(re.findall(rf"{ADDRESS}(/[\w/]*)?", text_of(page)))
        assert urls, page
        assert urls <= {"", "/v1"}, page


@pytest.mark.parametrize("page", sorted(path.stem for path in FOLDER.glob("*.md")))
def test_every_model_that_a_page_names_is_in_the_catalog(page: str) -> None:
    named = re.findall(r"\b(?:qwen|smollm2)-[\w-]+", text_of(page))
    assert set(named) <= set(CATALOG)
