"""The containers of docker-compose.yml: up whole or not at all, down without a rest."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

from llm_backend.cli import docker
from llm_backend.cli.compose_checks import (
    check_before_start,
    explain_failure,
    gpu_refusal,
    refuse_one,
)
from llm_backend.cli.compose_env import GATEWAY_ENV, ComposeEnv, source_digest
from llm_backend.cli.control import RunRecord, find_gateway, read_record
from llm_backend.cli.docker import Answer
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Report
from llm_backend.config.catalog import RuntimeKind, VllmEngine
from llm_backend.errors import SetupError

BUILD_S = 1800.0
"""How long the gateway's image may take: its packages come over the network."""
PULL_S = 3 * 3600.0
"""How long images may take: vLLM's has some ten gigabytes."""
UP_S = 180
"""How long the services may take until all of them are healthy."""
DOWN_S = 180.0
"""How long taking everything down may take; each container has its own grace period."""
READY_S = 60.0
POLL_S = 0.1
TAIL_LINES = 15
WORTH_TELLING = re.compile(r"Pull|Download|Extract|Started|Healthy|rror")
"""What of Compose's many lines people are shown."""
ENDED = frozenset({"exited", "restarting", "dead"})
PROFILE = ("--profile", "engines")


@dataclass(frozen=True, slots=True)
class Service:
    """One container of the project.

    Attributes:
        name: Of the service in docker-compose.yml.
        container: Of its container.
        state: As Docker calls it: `created`, `running`, `exited`.
        health: `healthy`, `unhealthy`, `starting`; empty without a health check.
        exit_code: Of its last end.
    """

    name: str
    container: str
    state: str
    health: str
    exit_code: int

    @property
    def well(self) -> bool:
        """Whether it runs, and its health check has nothing against it."""
        return self.state == "running" and self.health in {"", "healthy"}


class Stack:
    """The containers of one project.

    Args:
        project: The checkout whose docker-compose.yml it is.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._variables = ComposeEnv(project)
        self._environ = self._variables.stored()

    @property
    def may_run(self) -> bool:
        """Whether a start has made containers and no stop has taken them down since."""
        record = read_record(self._project.state_dir)
        made = (self._project.state_dir / GATEWAY_ENV).exists()
        return made or (record is not None and record.setup == "compose")

    def services(self) -> list[Service]:
        """Return every container of the project, running or not.

        Raises:
            SetupError: Docker does not say.
        """
        answer = self._compose(*PROFILE, "ps", "--all", "--format", "json")
        if not answer.ok:
            raise explain_failure("The containers cannot be listed", answer)
        return list(_services(answer.out))

    def running(self) -> set[str]:
        """Return the services whose containers run, well or not."""
        return {service.name for service in self.services() if service.state == "running"}

    def up(self, report: Report) -> RunRecord:
        """Bring up gateway, cache and monitoring, and make the engines' containers.

        Starts no engine. Whatever goes wrong, Ctrl-C included, everything is taken down again.

        Raises:
            SetupError: something is missing, or did not come up; says what, and what to do.
        """
        report("looking at ports and disk")
        # Before the first start the variables for asking are not there.
        running = self.running() if self.may_run else set()
        check_before_start(self._project, self._variables, running)
        self._environ = self._variables.prepare(_runtimes())
        try:
            self._build(report)
            refuse_one(gpu_refusal(self._variables))
            self._create_engines(report)
            self._start(report)
            return self._wait_until_live(report)
        except BaseException:
            report("taking everything down again")
            self._remove()
            raise

    def down(self, report: Report) -> list[str]:
        """Take every container and network down; return the services that ran. Volumes stay.

        Raises:
            SetupError: something is left, or Docker does not answer.
        """
        ran = sorted(self.running())
        report("taking the containers down")
        answer = self._remove()
        if not answer.ok or self.services():
            raise explain_failure("The containers cannot be taken down", answer)
        return ran

    def engine_containers(self) -> dict[str, str]:
        """Return the containers that docker-compose.yml and the catalog both have, with the model.

        Raises:
            SetupError: docker-compose.yml is wrong.
        """
        answer = self._compose(*PROFILE, "config", "--services")
        if not answer.ok:
            raise explain_failure("docker-compose.yml is wrong", answer)
        known = set(answer.out.split())
        return {name: model for name, model in catalog_containers(self._project) if name in known}

    def config_hashes(self) -> dict[str, str]:
        """Return what Compose would write on each container that it makes now, by service.

        Raises:
            SetupError: docker-compose.yml is wrong.
        """
        now = {"ENGINE_OPTIONS": self._variables.current("ENGINE_OPTIONS")}
        self._environ = {**self._environ, **now}
        answer = self._compose(*PROFILE, "config", "--hash", "*")
        if not answer.ok:
            raise explain_failure("docker-compose.yml is wrong", answer)
        return dict(line.split() for line in answer.out.splitlines())

    def _build(self, report: Report) -> None:
        image = self._variables.get("GATEWAY_IMAGE")
        label = '{{index .Config.Labels "llm-backend.source"}}'
        found = docker.ask("image", "inspect", "--format", label, image)
        # An image without the label is somebody else's, and is taken as it is.
        if found.ok and found.out in {"", "<no value>", source_digest(self._project.root)}:
            return
        report(f"building the image {image}")
        answer = self._work(
            "build", "gateway", report=report, text=f"building the image {image}", timeout_s=BUILD_S
        )
        if not answer.ok:
            raise explain_failure(f"The image {image} cannot be built", answer)

    def _create_engines(self, report: Report) -> None:
        names = sorted(self.engine_containers())
        report("making the engines' containers")
        answer = self._work(*PROFILE, "create", *names, report=report, timeout_s=PULL_S)
        if not answer.ok:
            raise explain_failure("The engines' containers cannot be made", answer)

    def _start(self, report: Report) -> None:
        answer = self._work(
            *("up", "--detach", "--wait", "--wait-timeout", str(UP_S)),
            report=report,
            timeout_s=PULL_S,
        )
        if answer.ok:
            return
        bad = [s for s in self.services() if not s.well and s.container not in self._engines()]
        # Those that only wait for them, or have not come so far, are not to blame.
        culprits = [s for s in bad if s.state in ENDED or s.health == "unhealthy"] or bad
        tail = self._tail(culprits[0]) if culprits else []
        raise explain_failure("The services did not come up", answer, _sentence(culprits), tail)

    def _engines(self) -> set[str]:
        return {name for name, _ in catalog_containers(self._project)}

    def _tail(self, service: Service) -> list[str]:
        answer = docker.ask("logs", "--tail", str(TAIL_LINES), service.container)
        return f"{answer.out}\n{answer.err}".strip().splitlines()[-TAIL_LINES:]

    def _wait_until_live(self, report: Report) -> RunRecord:
        report("waiting until the gateway answers")
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            record = find_gateway(self._project.state_dir)
            if record is not None and record.setup == "compose":
                return record
            time.sleep(POLL_S)
        gateway = next((s for s in self.services() if s.name == "gateway"), None)
        raise SetupError(
            f"The gateway's container runs, and does not answer within {READY_S:.0f} s.",
            hint="Does another program have its port? Type: llm-backend doctor",
            log_tail=self._tail(gateway) if gateway else (),
        )

    def _remove(self) -> Answer:
        answer = self._compose(*PROFILE, "down", timeout_s=DOWN_S)
        if answer.ok:
            (self._project.state_dir / GATEWAY_ENV).unlink(missing_ok=True)
        return answer

    def _compose(self, *arguments: str, timeout_s: float = docker.ANSWER_S) -> Answer:
        root = self._project.root
        return docker.ask("compose", *arguments, timeout_s=timeout_s, cwd=root, env=self._environ)

    def _work(self, *arguments: str, report: Report, timeout_s: float, text: str = "") -> Answer:
        def show(line: str) -> None:
            if text:
                report(text, None, line.strip())
            elif WORTH_TELLING.search(line):
                report(line.strip())

        return docker.work(
            *("compose", "--ansi", "never", "--progress", "plain", *arguments),
            on_line=show,
            timeout_s=timeout_s,
            cwd=self._project.root,
            env=self._environ,
        )


def stack_of(project: Project) -> Stack | None:
    """Return the containers of a project; None where no start has made any."""
    if shutil.which("docker") is None:
        return None
    stack = Stack(project)
    return stack if stack.may_run else None


def catalog_containers(project: Project) -> Iterator[tuple[str, str]]:
    """Yield container and model of every entry of the catalog that runs in one."""
    for spec in project.catalog.runnable(frozenset({RuntimeKind.DOCKER})):
        if isinstance(spec.engine, VllmEngine) and spec.engine.container:
            yield spec.engine.container, spec.id


def _services(text: str) -> Iterator[Service]:
    # One object a line; Compose before 2.21 writes one list.
    for line in text.splitlines():
        value = json.loads(line)
        for item in value if isinstance(value, list) else [value]:
            yield Service(
                item["Service"],
                item["Name"],
                item["State"],
                item.get("Health", ""),
                int(item.get("ExitCode", 0)),
            )


def _sentence(bad: list[Service]) -> str:
    return ", ".join(f"{service.name} {_fate(service)}" for service in bad)


def _fate(service: Service) -> str:
    if service.state == "exited":
        return f"has ended with status {service.exit_code}"
    if service.state == "restarting":
        return "ends as often as it is started"
    return f"is {service.health or service.state}"


def _runtimes() -> list[str]:
    answer = docker.ask("info", "--format", "{{json .Runtimes}}")
    return re.findall(r'"([\w.-]+)":\{', answer.out)
