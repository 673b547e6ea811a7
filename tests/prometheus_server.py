"""A real Prometheus on a free loopback port, with the shipped configuration and rules."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import yaml

from llm_backend.runtimes.ports import free_port
from tests import watching
from tests.harness import PATIENCE_S, GatewayHome, eventually

BINARY: Final = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    BINARY is None, reason="prometheus is missing: sudo apt-get install -y prometheus"
)

EVERY: Final = "500ms"
"""How often it asks its targets, and judges its rules."""


class PrometheusServer:
    """The server, and what can be asked of it.

    Args:
        root: A directory for its configuration and data.
        gateway: Host and port of the gateway.
        factor: How many times shorter all times in the rules are.
        bounds: How many times smaller bounds in seconds are, if not by the same.
    """

    def __init__(
        self, root: Path, gateway: str, factor: float = 1, bounds: float | None = None
    ) -> None:
        self._root = root
        self._gateway = gateway
        self._factors = (factor, bounds)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port('127.0.0.1')}"

    def start(self) -> None:
        assert BINARY is not None
        self._root.mkdir()
        self._write_rules()
        (self._root / "prometheus.yml").write_text(self._configuration())
        with (self._root / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    BINARY,
                    f"--config.file={self._root / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._root / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        eventually(self._is_ready)

    def _write_rules(self) -> None:
        folder = self._root / "rules"
        folder.mkdir()
        for path in watching.RULES.glob("*.yml"):
            (folder / path.name).write_text(watching.scaled(path.read_text(), *self._factors))

    def _configuration(self) -> str:
        """Return the shipped configuration, for this gateway and in a hurry."""
        shipped = (watching.MONITORING / "prometheus" / "prometheus.yml").read_text()
        config = yaml.safe_load(shipped.replace("gateway:7000", self._gateway))
        config["global"] = {
            "scrape_interval": EVERY,
            "scrape_timeout": EVERY,
            "evaluation_interval": EVERY,
        }
        jobs = config["scrape_configs"]
        for discovery in (d for job in jobs for d in job.get("http_sd_configs", ())):
            discovery["refresh_interval"] = EVERY
        config["scrape_configs"] = [job for job in jobs if job["job_name"] != "prometheus"]
        return yaml.safe_dump(config)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._root / "prometheus.log").read_text()
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """Return the answer to a query as of now."""
        answer = httpx2.post(
            f"{self.url}/api/v1/query", data={"query": expr}, trust_env=False, timeout=PATIENCE_S
        ).json()
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or fire."""
        answer = httpx2.get(f"{self.url}/api/v1/alerts", trust_env=False, timeout=PATIENCE_S)
        found: list[dict[str, Any]] = answer.json()["data"]["alerts"]
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {a["labels"]["alertname"] for a in self.alerts() if a["state"] == "firing"}

    def fired(self) -> set[str]:
        """Return the names of the alerts that have fired since the start."""
        found = self.ask('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {series["metric"]["alertname"] for series in found}


@contextlib.contextmanager
def prometheus_of(
    home: GatewayHome, factor: float = 1, bounds: float | None = None
) -> Iterator[PrometheusServer]:
    """Run one that watches a gateway; it is gone afterwards."""
    gateway = home.url.removeprefix("http://")
    server = PrometheusServer(home.root / "prometheus", gateway, factor, bounds)
    try:
        server.start()
        yield server
    finally:
        server.stop()
