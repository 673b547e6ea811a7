"""schemathesis against the control API of a real gateway, by the gateway's own description.

`FUZZ_S` is the budget in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import PATIENCE_S, GatewayHome
from tests.integration.gateways import at_rest, recorder, shared_gateway

pytestmark = [pytest.mark.engine, pytest.mark.feature("control API")]

BUDGET_S = int(os.environ.get("FUZZ_S", "40" if os.environ.get("CI") else "15"))
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    with shared_gateway(tmp_path_factory, {"echo": recorder(), "other": recorder()}) as home:
        yield home
        at_rest(home)


def description(home: GatewayHome) -> dict[str, Any]:
    """What the gateway tells of itself, less what has no end, with models that there are."""
    told: dict[str, Any] = home.get("/openapi.json").json()
    paths = told["paths"]
    del paths["/events"]
    del paths["/api/v1/device/lease"]["post"]  # while one holds, loads are refused with 503
    logs = paths["/logs/{model}"]["get"]
    logs["parameters"] = [each for each in logs["parameters"] if each["name"] != "follow"]
    for schema in told["components"]["schemas"].values():
        for name, field in schema.get("properties", {}).items():
            if name == "model":
                field["examples"] = ["echo", "other", "nobody"]
    return told


@pytest.mark.slow
def test_the_control_api_never_fails_by_a_defect(home: GatewayHome, tmp_path: Path) -> None:
    schema = tmp_path / "openapi.json"
    schema.write_text(json.dumps(description(home)))
    key = home.admin["authorization"]
    arguments = [
        *("--url", home.url),
        *("--header", f"Authorization: {key}"),
        *("--checks", "not_a_server_error"),
        *("--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-time", str(BUDGET_S)),
        *("--max-examples", "100000"),
        *("--request-timeout", "30"),
        *("--warnings", "off"),
        "--continue-on-failure",
        "--no-color",
    ]

    run = subprocess.run(
        [str(SCHEMATHESIS), "run", str(schema), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BUDGET_S + 2 * PATIENCE_S,
        check=False,
    )

    assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]
    assert "not_a_server_error" in run.stdout or "passed" in run.stdout, run.stdout[-2000:]
    assert home.get("/health").json()["status"] == "ok"
