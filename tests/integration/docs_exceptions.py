"""Blocks of commands in the documents that test_docs_commands.py does not run, and why."""

from __future__ import annotations

from typing import Final

CARD: Final = (
    "needs an NVIDIA card with Docker; tests/e2e/test_stack.py runs the set-up without the card"
)
HUB: Final = "needs the model hub; tests/integration/test_hub.py fetches from one on loopback"

PAGES: Final = {
    "docs/howto/docker-compose.md": CARD,
    "docs/howto/wsl2.md": "needs Windows",
    "docs/howto/lend-the-card.md": "waits for a card's memory; run by tests/integration/test_device_lease.py",
    "docs/howto/works-with/": "each with its own program: tests/integration/test_works_with.py",
    "docs/howto/install.md": "installs: tests/integration/test_install.py, with pipx and uv",
    "docs/howto/run-as-a-service.md": "needs systemd and root; tests/integration/test_systemd.py checks the units",
    "docs/howto/behind-nginx.md": "needs root; tests/integration/test_nginx.py runs nginx with the file",
    "docs/howto/benchmark-a-model.md": "run by tests/integration/test_install.py and test_bench.py",
    "docs/howto/embedded.md": "run by tests/integration/test_embedded.py",
    "docs/howto/python-client.md": "run by tests/unit/client/test_docs.py, with its output",
    "docs/howto/structured-output.md": "run by tests/unit/client/test_docs.py, with its output",
}
"""By the beginning of a page's name."""

BLOCKS: Final = {
    ("README.md", "bash scripts/start_all.sh"): "its second command is the one that runs this test",
    ("README.md", "bash scripts/start_all.sh --setup compose --model qwen-coder"): CARD,
    ("docs/howto/alerts/cache-down.md", "docker ps --filter name=redis"): CARD,
    ("docs/howto/alerts/device-memory-foreign.md", "bash scripts/health_check.sh"): CARD,
    ("docs/howto/alerts/device-memory-low.md", "nvidia-smi"): CARD,
    (
        "docs/howto/alerts/index.md",
        "promtool test rules monitoring/prometheus/tests/*.yml",
    ): "run by tests/house/test_monitoring.py",
    (
        "docs/howto/clear-caches.md",
        "cd ~/.cache/llm-backend/models",
    ): "removes 9 GB that no test has fetched",
    (
        "docs/howto/external-servers.md",
        "kubectl port-forward svc/vllm-router-service 30080:80",
    ): "needs a Kubernetes cluster",
    (
        "docs/howto/look-at-dashboards.md",
        "sed 's/gateway:7000/localhost:7000/' monitoring/prometheus/prometheus.yml > monitoring/prometheus/local.yml",
    ): "Prometheus goes on until it is ended; tests/integration/test_prometheus.py runs one",
    (
        "docs/howto/look-at-dashboards.md",
        "make dashboards",
    ): "run by tests/house/test_monitoring.py",
    ("docs/howto/out-of-memory.md", ".venv/bin/llm-backend config check"): CARD,
    ("docs/howto/quick-switches.md", "bash scripts/stop_all.sh"): "the tutorial stops and starts",
    (
        "docs/howto/replay.md",
        ".venv/bin/llm-backend replay ~/.local/state/llm-backend/arrivals.jsonl --profile mine.json",
    ): "needs a recording of its own; tests/integration/test_recording.py makes one",
    (
        "docs/howto/serve-any-model.md",
        "llm-backend serve --model-path ./models/small-Q4_K_M.gguf",
    ): "goes on until it is ended; tests/integration/test_one_off.py serves such a file",
    (
        "docs/howto/traces.md",
        ".venv/bin/python -m pip install --require-hashes -r requirements/traces.txt",
    ): "installs; tests/integration/test_traces.py sends what is installed to a receiver",
    ("docs/howto/upgrade.md", "bash scripts/stop_all.sh"): CARD,
    (
        "docs/howto/upgrade.md",
        "rm ~/.cache/llm-backend/models/hub/models--Qwen--Qwen2.5-14B-Instruct-AWQ/refs/main",
    ): HUB,
}
"""By page and first line of the block."""
