"""Bringing containers up and taking them down, with a stand-in for docker. The real one: tests/e2e."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_backend.cli import compose
from llm_backend.cli.compose import Service, Stack, catalog_containers, stack_of
from llm_backend.cli.compose_env import COMPOSE_ENV, GATEWAY_ENV, ComposeEnv
from llm_backend.cli.project import Project
from llm_backend.errors import SetupError
from tests.unit.cli.fake_docker import WELL, FakeDocker, listing
from tests.unit.cli.stand_in import StandIn, write_record


def quiet(_text: str, _fraction: float | None = None, _detail: str = "") -> None:
    pass


@pytest.fixture
def live(project: Project, gateway: StandIn) -> StandIn:
    """A gateway that answers as soon as compose says that it is up."""
    write_record(project.state_dir, url=gateway.url, setup="compose")
    return gateway


def verbs(fake_docker: FakeDocker) -> list[str]:
    """Return what compose was told to do, in order."""
    known = ("build", "create", "up", "down")
    return [word for call in fake_docker.calls for word in call["argv"] if word in known]


def test_up_makes_the_engines_and_starts_the_services(
    project: Project, fake_docker: FakeDocker, live: StandIn
) -> None:
    fake_docker.answers("image inspect llm-backend.source", 1)

    record = Stack(project).up(quiet)

    assert record.url == live.url
    assert verbs(fake_docker) == ["build", "create", "up"]
    (create,) = fake_docker.asked("create")
    assert create["argv"][-4:] == ["--profile", "engines", "create", "llm-boxed"]
    (up,) = fake_docker.asked("up")
    assert "engines" not in up["argv"]
    assert up["cwd"] == str(project.root)
    assert up["env"]["LLM_STATE_DIR"] == str(project.state_dir)
    assert up["env"]["GATEWAY_RUNTIME"] == "nvidia"
    assert len(up["env"]["REDIS_PASSWORD"]) == 48


def test_no_password_is_on_a_command_line(
    project: Project, fake_docker: FakeDocker, live: StandIn
) -> None:
    Stack(project).up(quiet)

    password = ComposeEnv(project).stored()["REDIS_PASSWORD"]
    assert [call for call in fake_docker.calls if password in " ".join(call["argv"])] == []


@pytest.mark.parametrize("label", ["current", "", "<no value>"])
def test_an_image_that_is_current_or_not_ours_is_not_built(
    project: Project, fake_docker: FakeDocker, live: StandIn, label: str
) -> None:
    current = ComposeEnv(project).current("LLM_BACKEND_SOURCE")
    fake_docker.answers("image inspect llm-backend.source", 0, label.replace("current", current))

    Stack(project).up(quiet)

    assert "build" not in verbs(fake_docker)


def test_one_of_other_sources_is(project: Project, fake_docker: FakeDocker, live: StandIn) -> None:
    fake_docker.answers("image inspect llm-backend.source", 0, "0123456789abcdef")

    Stack(project).up(quiet)

    assert verbs(fake_docker)[0] == "build"


@pytest.mark.parametrize(
    ("words", "said", "text", "hint"),
    [
        (
            "build gateway",
            "failed to solve: dial tcp: lookup registry: no such host",
            "The image llm-backend-gateway:local cannot be built: failed to solve: dial tcp",
            "The registry cannot be reached.",
        ),
        (
            "run --gpus",
            (
                'docker: Error response from daemon: could not select device driver "" with '
                "capabilities: [[gpu]].\n\nRun 'docker run --help' for more information"
            ),
            "Docker cannot give a container the GPU: Error response from daemon: could not select",
            "Install the NVIDIA Container Toolkit",
        ),
        (
            "run --gpus",
            "docker: nvidia-container-cli: initialization error: nvml error: driver not loaded",
            "Docker cannot give a container the GPU: nvidia-container-cli: initialization error",
            "install its driver, then look: nvidia-smi",
        ),
        (
            "engines create",
            (
                "Error response from daemon: manifest for vllm/vllm-openai:v9 not found: "
                "manifest unknown"
            ),
            "The engines' containers cannot be made: Error response from daemon: manifest",
            "The registry has no such image",
        ),
        (
            "engines create",
            (
                "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?\n"
                'Error response from daemon: Get "http://127.0.0.1:9/v2/": dial tcp 127.0.0.1:9: refused'
            ),
            "The engines' containers cannot be made: Error response from daemon: Get",
            "The registry cannot be reached.",
        ),
        (
            "compose up",
            (
                "Error response from daemon: driver failed: Bind for 127.0.0.1:3000 failed: "
                "port is already allocated"
            ),
            "The services did not come up: Error response from daemon: driver failed",
            "See who has it: llm-backend doctor",
        ),
        (
            "config --services",
            "yaml: line 3: mapping values are not allowed in this context",
            "docker-compose.yml is wrong: yaml: line 3",
            "docker compose config -q",
        ),
    ],
)
def test_what_fails_is_taken_down_again_and_said_in_a_sentence(
    project: Project, fake_docker: FakeDocker, words: str, said: str, text: str, hint: str
) -> None:
    fake_docker.answers("image inspect llm-backend.source", 1)
    fake_docker.answers(words, 1, "", said)

    with pytest.raises(SetupError) as caught:
        Stack(project).up(quiet)

    assert caught.value.message.startswith(text)
    assert hint in str(caught.value.hint)
    assert verbs(fake_docker)[-1] == "down"
    assert stack_of(project) is None


def test_a_service_that_fails_is_named_with_its_log(
    project: Project, fake_docker: FakeDocker
) -> None:
    redis = ("redis", "llm-backend-redis-1", "exited", "", 2)
    gateway = ("gateway", "llm-backend-gateway-1", "created", "", 0)
    fake_docker.answers("compose up", 1, "", "container llm-backend-redis-1 exited (2)")
    fake_docker.answers("ps --all", 0, listing([gateway, redis, WELL[2]]))
    fake_docker.answers("logs --tail llm-backend-redis-1", 0, "REDIS_PASSWORD: is empty")

    with pytest.raises(SetupError) as caught:
        Stack(project).up(quiet)

    assert caught.value.message == "The services did not come up: redis has ended with status 2."
    assert caught.value.log_tail == ("REDIS_PASSWORD: is empty",)


def test_a_gateway_that_does_not_answer_is_taken_down(
    project: Project, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "READY_S", 0.2)

    with pytest.raises(SetupError, match="does not answer within"):
        Stack(project).up(quiet)

    assert verbs(fake_docker)[-1] == "down"


def test_ctrl_c_takes_it_down_too(project: Project, fake_docker: FakeDocker) -> None:
    def interrupt(text: str, _fraction: float | None = None, _detail: str = "") -> None:
        if text.startswith("making"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stack(project).up(interrupt)

    assert verbs(fake_docker) == ["down"]


def test_down_tells_what_ran_and_forgets_it(
    project: Project, fake_docker: FakeDocker, live: StandIn
) -> None:
    Stack(project).up(quiet)
    stack = stack_of(project)
    assert stack is not None
    calls = len(fake_docker.calls)
    fake_docker.answers("ps --all", 0, listing(WELL))

    assert stack.down(quiet) == ["gateway", "redis"]

    assert fake_docker.calls[calls + 1]["argv"][-3:] == ["--profile", "engines", "down"]
    assert not (project.state_dir / GATEWAY_ENV).exists()
    assert (project.state_dir / COMPOSE_ENV).exists(), "the passwords are for the next start too"


def test_what_does_not_go_away_is_an_error(project: Project, fake_docker: FakeDocker) -> None:
    ComposeEnv(project).prepare([])
    fake_docker.answers("compose ps", 0, listing(WELL))

    with pytest.raises(SetupError, match="The containers cannot be taken down"):
        Stack(project).down(quiet)


def test_services_are_read_in_both_forms_of_compose(
    project: Project, fake_docker: FakeDocker
) -> None:
    ComposeEnv(project).prepare([])
    gateway = Service("gateway", "llm-backend-gateway-1", "running", "healthy", 0)
    for text in (listing(WELL[:1]), f"[{listing(WELL[:1])}]"):
        fake_docker.answers("ps --all", 0, text)
        assert Stack(project).services() == [gateway]
    assert gateway.well
    assert not Service("redis", "r", "running", "starting", 0).well


def test_an_engine_that_is_not_there_is_said(project: Project, fake_docker: FakeDocker) -> None:
    fake_docker.answers("ps", 1, "", "Cannot connect to the Docker daemon at unix:///x.")

    with pytest.raises(SetupError) as caught:
        Stack(project).services()

    assert "Cannot connect to the Docker daemon" in caught.value.message
    assert caught.value.hint == "Type: sudo systemctl start docker"


def test_where_no_start_made_any_there_are_no_containers(
    project: Project, fake_docker: FakeDocker, tmp_path: Path
) -> None:
    assert stack_of(project) is None
    write_record(project.state_dir, setup="compose", pid=os.getpid())
    assert stack_of(project) is not None
    (tmp_path / "bin" / "docker").unlink()
    assert stack_of(project) is None


def test_the_containers_of_the_catalog(project: Project) -> None:
    assert list(catalog_containers(project)) == [("llm-boxed", "boxed")]
