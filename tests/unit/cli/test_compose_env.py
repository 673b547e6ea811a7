"""The variables of docker-compose.yml: who sets them, what is generated, and who may read it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from llm_backend.cli.compose_env import COMPOSE_ENV, DEFAULTS, GATEWAY_ENV, ComposeEnv
from llm_backend.cli.project import Project, open_project
from llm_backend.errors import SetupError
from tests.harness import REPOSITORY
from tests.unit.cli.conftest import write_catalog

COMPOSE = (REPOSITORY / "docker-compose.yml").read_text()


def of(project: Project, name: str = COMPOSE_ENV) -> dict[str, str | None]:
    return dotenv_values(project.state_dir / name)


def test_a_first_start_generates_passwords_that_only_their_owner_can_read(
    project: Project,
) -> None:
    made = ComposeEnv(project, {}).prepare(["runc"])

    path = project.state_dir / COMPOSE_ENV
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((project.state_dir / GATEWAY_ENV).stat().st_mode) == 0o600
    passwords = {made["REDIS_PASSWORD"], made["GRAFANA_ADMIN_PASSWORD"]}
    assert len(passwords) == 2
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
    assert dict(of(project)) == made


def test_later_starts_keep_them(project: Project) -> None:
    first = ComposeEnv(project, {}).prepare([])

    assert ComposeEnv(project, {}).prepare([]) == first
    assert ComposeEnv(project, {}).stored() == first


def test_it_finds_out_paths_user_and_runtime(project: Project) -> None:
    made = ComposeEnv(project, {}).prepare(["nvidia", "runc"])

    assert made["LLM_STATE_DIR"] == str(project.state_dir)
    assert made["LLM_LOCK_DIR"] == str(project.lock_dir)
    assert made["MODELS_DIR"] == str(project.models_dir)
    assert project.lock_dir.is_dir()
    assert project.models_dir.is_dir()
    assert int(made["LLM_UID"]) == project.state_dir.stat().st_uid != 0
    assert made["GATEWAY_RUNTIME"] == "nvidia"
    assert (made["PUBLISH_ADDRESS"], made["GATEWAY_PORT"]) == ("127.0.0.1", "7000")


def test_the_user_wins_the_environment_most(project: Project) -> None:
    (project.root / ".env").write_text("GATEWAY_PORT=7005\nREDIS_PASSWORD=own\nVLLM_IMAGE=a:1\n")
    variables = ComposeEnv(project, {"VLLM_IMAGE": "b:2", "GATEWAY_RUNTIME": "runsc"})

    made = variables.prepare(["nvidia"])

    assert (made["GATEWAY_PORT"], made["REDIS_PASSWORD"]) == ("7005", "own")
    assert (made["VLLM_IMAGE"], made["GATEWAY_RUNTIME"]) == ("b:2", "runsc")
    assert variables.get("VLLM_IMAGE") == "b:2"
    assert variables.get("GATEWAY_PORT") == "7005"
    assert variables.get("GRAFANA_PORT") == "3000"


def test_paths_are_those_of_the_settings_however_they_are_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.delenv("LLM_STATE_DIR")
    (root / ".env").write_text("LLM_STATE_DIR=~/here\nMODELS_DIR=elsewhere\n")
    project = open_project()

    made = ComposeEnv(project).prepare([])

    assert made["LLM_STATE_DIR"] == str(root / "here")
    assert made["MODELS_DIR"] == str(project.models_dir)


def test_the_address_of_the_settings_is_where_it_is_published(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SERVER__HOST", "::1")
    monkeypatch.setenv("LLM_SERVER__PORT", "7007")

    made = ComposeEnv(open_project()).prepare([])

    assert (made["PUBLISH_ADDRESS"], made["GATEWAY_PORT"]) == ("[::1]", "7007")


def test_an_attention_backend_can_be_set_to_nothing(project: Project) -> None:
    assert ComposeEnv(project, {}).get("VLLM_ATTENTION_BACKEND") == "TORCH_SDPA"
    assert ComposeEnv(project, {"VLLM_ATTENTION_BACKEND": ""}).get("VLLM_ATTENTION_BACKEND") == ""


def test_settings_of_the_gateway_go_into_its_container(project: Project) -> None:
    keys = '[{name: "it\'s $me", scopes: [infer]}]'
    (project.root / ".env").write_text("LLM_SWITCHING__MODE=manual\nHF_TOKEN=secret\n")

    ComposeEnv(project, {"LLM_KEYS": keys, "LLM_UID": "7", "OTHER": "x"}).prepare([])

    text = (project.state_dir / GATEWAY_ENV).read_text()
    assert "secret" not in text
    assert set(of(project, GATEWAY_ENV)) == {"LLM_SWITCHING__MODE", "LLM_KEYS"}
    assert 'LLM_KEYS="[{name: \\"it\'s \\$me\\", scopes: [infer]}]"' in text


def test_a_catalog_that_no_container_sees_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_CATALOG", str(tmp_path / "models.yaml"))

    with pytest.raises(SetupError, match="The containers see config/ and nothing else"):
        ComposeEnv(open_project()).prepare([])


def test_a_state_directory_that_cannot_be_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLM_STATE_DIR", str(tmp_path / "file" / "state"))

    with pytest.raises(SetupError, match="cannot be prepared"):
        ComposeEnv(open_project()).prepare([])


def test_changed_options_and_sources_are_seen(project: Project) -> None:
    variables = ComposeEnv(project, {})
    before = [variables.current("ENGINE_OPTIONS"), variables.current("LLM_BACKEND_SOURCE")]
    (project.root / "config" / "engines").mkdir()
    (project.root / "config" / "engines" / "tiny.yaml").write_text("port: 8000\n")
    (project.root / "Dockerfile").write_text("FROM scratch\n")

    after = [variables.current("ENGINE_OPTIONS"), variables.current("LLM_BACKEND_SOURCE")]

    assert before[0] != after[0]
    assert before[1] != after[1]


def defaults() -> dict[str, str]:
    """Return the defaults in docker-compose.yml, by variable."""
    found = re.findall(r"\$\{([A-Z0-9_]+):?-([^{}$]*)\}", COMPOSE)
    return {name: value for name, value in found if value}


def test_the_defaults_are_those_of_docker_compose_yml() -> None:
    assert {n: v for n, v in DEFAULTS.items() if v} == {
        n: v for n, v in defaults().items() if n in DEFAULTS
    }


SLEEPY = {
    "boxed": {
        "runtimes": ["docker"],
        "engine": {"kind": "vllm", "container": "llm-boxed"},
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "residency": "asleep-1",
    }
}


@pytest.mark.parametrize(
    ("theirs", "files"),
    [
        (None, "docker-compose.yml:docker-compose.sleep.yml"),
        ("docker-compose.yml:mine.yml", "docker-compose.yml:mine.yml:docker-compose.sleep.yml"),
        ("docker-compose.sleep.yml", "docker-compose.sleep.yml"),
    ],
)
def test_engines_that_sleep_bring_their_file(root: Path, theirs: str | None, files: str) -> None:
    write_catalog(root, SLEEPY)
    environ = {} if theirs is None else {"COMPOSE_FILE": theirs}
    variables = ComposeEnv(open_project(), environ)

    assert variables.prepare([])["COMPOSE_FILE"] == files
    assert variables.stored()["COMPOSE_FILE"] == files


def test_where_none_sleeps_the_file_is_left_out_again(root: Path, project: Project) -> None:
    write_catalog(root, SLEEPY)
    ComposeEnv(open_project(), {}).prepare([])
    write_catalog(root)

    assert "COMPOSE_FILE" not in ComposeEnv(open_project(), {}).prepare([])
    assert "COMPOSE_FILE" not in ComposeEnv(project, {}).stored()
