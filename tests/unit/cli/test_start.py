"""`start`: what it refuses, and what it says where all runs. Starting: tests/integration/test_cli.py."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llm_backend.cli.compose_env import ComposeEnv
from llm_backend.cli.control import require_gateway
from llm_backend.cli.project import Project
from llm_backend.cli.start import Start
from llm_backend.cli.terminal import Terminal
from llm_backend.config.catalog import ModelSpec
from llm_backend.errors import EngineStartFailed
from tests.unit.cli.conftest import MODELS, Command, write_catalog
from tests.unit.cli.fake_docker import WELL, FakeDocker, listing
from tests.unit.cli.stand_in import STATUS, StandIn, write_record


def test_where_it_runs_already_it_says_so_and_prints_the_urls(
    command: Command, gateway: StandIn
) -> None:
    result = command("start", "--yes")

    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0] == f"It runs already (process {os.getpid()}); awake: tiny."
    assert f"  API      {gateway.url}/v1" in lines
    assert any(line.startswith(f"  curl {gateway.url}/v1/chat/completions") for line in lines)


def test_another_model_is_switched_to_not_started(command: Command, gateway: StandIn) -> None:
    gateway.answers["GET", "/status"] = (200, STATUS | {"model": None})

    result = command("start", "--model", "t")

    assert result.out.splitlines()[:2] == [
        f"It runs already (process {os.getpid()}); awake: no model.",
        "To change the model: llm-backend switch tiny",
    ]


def test_programs_get_the_same(command: Command, gateway: StandIn) -> None:
    result = command("start", "--json").json

    assert (result["already"], result["url"], result["model"]) == (True, gateway.url, "tiny")


def test_compose_that_cannot_run_is_refused(command: Command) -> None:
    result = command("start", "--setup", "compose")

    assert result.code == 1
    assert result.err == (
        "Error: The compose set-up cannot run here: the docker command is not installed.\n"
        "Install Docker Engine: https://docs.docker.com/engine/install/\n"
        "Without containers: llm-backend start --setup local\n"
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("nope", "Error: The catalog has no model 'nope'; it has tiny, absent, huge, boxed.\n"),
        ("boxed", "Error: boxed cannot run here: it runs on docker, which the set-up local does"),
        ("huge", "Error: huge cannot run here: it needs 16000000 MiB on cpu, which has "),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_anything_starts(
    command: Command, project: Project, model: str, text: str
) -> None:
    result = command("start", "--model", model)

    assert result.code == 1
    assert text in result.err
    assert not project.gateway_log.exists()


def test_wrong_settings_are_refused_before_anything_starts(
    command: Command, project: Project, root: Path
) -> None:
    (root / "config" / "gateway.yaml").write_text("server: {host: 0.0.0.0}\n")

    result = command("start", "--yes")

    assert result.code == 78
    assert "no key has the scope 'infer'" in result.err
    assert not project.gateway_log.exists()


def test_a_port_that_is_taken_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("LLM_SERVER__PORT", str(port))

        result = command("start", "--yes", "--json")

    assert result.code == 1
    assert f"Port {port} is taken by " in result.json["error"]["message"]


def test_weights_that_cannot_be_fetched_stop_the_start(
    command: Command, root: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")

    result = command("start", "--model", "absent")

    assert result.code == 69
    assert "http://127.0.0.1:1" in result.err
    assert not project.gateway_log.exists()


class TestFirstModel:
    """What is loaded first, on a gateway that already answers."""

    def start(self, project: Project, **changes: object) -> Start:
        fields = {"model": None, "ask": False, "stays": False} | changes
        return Start(Terminal(), project, **fields)  # type: ignore[arg-type]  # checked at run time

    def load(self, project: Project, start: Start) -> ModelSpec | None:
        return start._load(require_gateway(project.state_dir), project.model("absent"))

    def test_a_model_that_the_gateway_kept_goes_before_the_default(
        self, project: Project, gateway: StandIn
    ) -> None:
        spec = self.load(project, self.start(project))

        assert spec is not None
        assert spec.id == "tiny"
        assert gateway.received[-1].body == {"model": "tiny"}

    def test_so_does_one_that_it_is_bringing_back(self, project: Project, gateway: StandIn) -> None:
        body = STATUS | {"model": None, "switch": {"to": "tiny"}}
        gateway.answers["GET", "/status"] = (200, body)

        self.load(project, self.start(project))

        assert gateway.received[-1].body == {"model": "tiny"}

    @pytest.mark.parametrize("choice", [{"model": "absent"}, {"ask": True}])
    def test_a_model_that_was_chosen_goes_before_it(
        self, project: Project, gateway: StandIn, choice: dict[str, object]
    ) -> None:
        self.load(project, self.start(project, **choice))

        assert gateway.received[-1].body == {"model": "absent"}

    def test_in_the_foreground_a_model_that_fails_is_told_and_the_gateway_goes_on(
        self, project: Project, gateway: StandIn, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gateway.refuse("POST", "/api/v1/inference/load", 503, "engine_start_failed", "It broke.")

        assert self.load(project, self.start(project, stays=True)) is None

        assert capsys.readouterr().err.endswith(
            "The gateway runs, this model does not. Others: llm-backend models\nError: It broke.\n"
        )

    def test_detached_it_is_an_error(self, project: Project, gateway: StandIn) -> None:
        gateway.refuse("POST", "/api/v1/inference/load", 503, "engine_start_failed", "It broke.")

        with pytest.raises(EngineStartFailed, match="It broke"):
            self.load(project, self.start(project))


def test_where_nothing_can_run_the_doctor_is_next(command: Command, root: Path) -> None:
    write_catalog(root, {"boxed": MODELS["boxed"]})

    result = command("start", "--yes")

    assert result.code == 1
    assert result.err.endswith("See why: llm-backend doctor\n")


class TestCompose:
    """Starts of the compose set-up up to Docker; beyond it: tests/e2e."""

    @pytest.mark.usefixtures("gateway", "fake_docker")
    def test_another_set_up_that_runs_is_not_taken_for_this_one(self, command: Command) -> None:
        result = command("start", "--setup", "compose", "--yes", "--detach")

        assert result.code == 75
        assert result.err == (
            f"Error: A gateway of the set-up local runs (process {os.getpid()}), and one of the "
            "set-up compose is asked for.\n"
            "Type: llm-backend stop, then: llm-backend start --setup compose\n"
        )

    @pytest.mark.usefixtures("fake_docker")
    def test_one_that_runs_is_left_as_it_is(
        self, command: Command, project: Project, gateway: StandIn
    ) -> None:
        write_record(project.state_dir, url=gateway.url, setup="compose")

        result = command("start", "--setup", "compose", "--yes", "--detach")

        assert result.code == 0
        assert result.out.startswith("It runs already (its container); awake: tiny.\n")
        assert "(Prometheus)" in result.out
        assert f"(Grafana: admin, {project.state_dir / 'compose.env'})" in result.out

    def test_a_model_is_loaded_once_the_containers_are_up(
        self, command: Command, project: Project, gateway: StandIn, fake_docker: FakeDocker
    ) -> None:
        """The record appears while compose brings the gateway up, as a real one makes it."""
        write_record(project.state_dir, url=gateway.url, setup="compose")
        record = project.state_dir / "gateway.json"
        fake_docker.makes(record, record.read_text(), after="up")
        record.unlink()

        result = command("start", "--setup", "compose", "--model", "boxed", "--detach")

        assert result.code == 0, result.err
        assert "The gateway runs (its container)." in result.out
        assert gateway.received[-1].body == {"model": "boxed"}
        assert fake_docker.asked("down") == []

    def test_a_local_gateway_does_not_start_beside_containers(
        self, command: Command, project: Project, fake_docker: FakeDocker
    ) -> None:
        ComposeEnv(project).prepare([])
        fake_docker.answers("ps --all", 0, listing(WELL))

        result = command("start", "--setup", "local", "--yes", "--detach")

        assert result.code == 75
        assert "Containers of the compose set-up still run: gateway, redis." in result.err
        assert result.err.endswith("Type: llm-backend stop\n")
        assert not project.gateway_log.exists()

    def test_nothing_is_left_where_it_fails(
        self, command: Command, fake_docker: FakeDocker
    ) -> None:
        fake_docker.answers("engines create", 1, "", "no space left on device")

        result = command("start", "--setup", "compose", "--model", "boxed", "--detach")

        assert result.code == 1
        assert (
            "Error: The engines' containers cannot be made: no space left on device." in result.err
        )
        assert "Traceback" not in result.err
        assert len(fake_docker.asked("down")) == 1
