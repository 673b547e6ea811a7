"""What a start says at its end: where everything is, and one request to try."""

from __future__ import annotations

from llm_backend.cli.compose_env import COMPOSE_ENV, ComposeEnv
from llm_backend.cli.control import RunRecord, reachable
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from llm_backend.config.catalog import Capability, ModelSpec
from llm_backend.wire import JSONObject

PLACES = (
    ("API", "/v1"),
    ("Console", "/console"),
    ("Docs", "/docs"),
    ("Health", "/health"),
    ("Metrics", "/metrics"),
)

REQUESTS = (
    (
        Capability.CHAT,
        "/v1/chat/completions",
        '"messages": [{"role": "user", "content": "Hello!"}]',
    ),
    (Capability.COMPLETIONS, "/v1/completions", '"prompt": "Hello"'),
    (Capability.EMBEDDINGS, "/v1/embeddings", '"input": "Hello"'),
)


def announce(
    terminal: Terminal, project: Project, record: RunRecord, spec: ModelSpec | None
) -> None:
    """Print the URLs, one request to try, and how to stop."""
    terminal.say()
    for name, path in PLACES:
        terminal.say(f"  {name:<9}{record.url}{path}")
    if record.in_container:
        _announce_monitoring(terminal, project)
    else:
        terminal.say(f"  {'Log':<9}{record.log or project.gateway_log}")
    terminal.say()
    terminal.say("Try it:")
    for line in curl(record.url, spec, with_key=bool(project.settings.keys)):
        terminal.say(f"  {line}")
    terminal.say()
    terminal.say("Stop it: llm-backend stop")


def _announce_monitoring(terminal: Terminal, project: Project) -> None:
    variables = ComposeEnv(project)
    host = reachable(f"http://{variables.get('MONITORING_ADDRESS')}:").rstrip(":")
    passwords = project.state_dir / COMPOSE_ENV
    terminal.say(f"  {'Watch':<9}{host}:{variables.get('PROMETHEUS_PORT')} (Prometheus)")
    terminal.say(f"  {'':<9}{host}:{variables.get('GRAFANA_PORT')} (Grafana: admin, {passwords})")
    terminal.say(f"  {'Log':<9}llm-backend logs gateway")


def curl(url: str, spec: ModelSpec | None, *, with_key: bool) -> list[str]:
    """Return the lines of one request that shows that a model works.

    Args:
        url: The gateway.
        spec: The model to ask; None asks for whichever is awake.
        with_key: Whether a key is needed; it is taken from `LLM_API_KEY`.
    """
    able = spec.capabilities if spec is not None else (Capability.CHAT,)
    found = next(((path, body) for what, path, body in REQUESTS if what in able), None)
    path, body = found or ("/v1/models", "")
    lines = [f"curl {url}{path}"]
    if with_key:
        lines.append('-H "Authorization: Bearer $LLM_API_KEY"')
    if body:
        model = f'"model": "{spec.id}", ' if spec is not None else ""
        lines += ["-H 'Content-Type: application/json'", f"-d '{{{model}{body}}}'"]
    return " \\\n  ".join(lines).splitlines()


def as_json_object(record: RunRecord, model: str | None, *, already: bool) -> JSONObject:
    """Return what `start --json` prints.

    Args:
        record: The gateway.
        model: The model that is awake.
        already: Whether it ran before this start.
    """
    return {
        "running": True,
        "already": already,
        "pid": record.pid,
        "url": record.url,
        "setup": record.setup,
        "model": model,
        "log": record.log,
    }
