"""Traces are off until somebody wants them, and then want OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_backend.errors import SetupError
from llm_backend.telemetry.traces import install_command, tracing
from tests.harness import REPOSITORY

pytestmark = pytest.mark.anyio

WANTED = ("llm_backend.telemetry.spans", "opentelemetry.exporter", "opentelemetry.sdk.trace")
"""What traces take. Other parts of it FastAPI imports by itself where it finds them."""


async def test_nobody_gets_traces_by_default() -> None:
    async with tracing(None) as tracer:
        assert tracer is None


def test_nothing_of_it_is_imported_while_nobody_wants_it() -> None:
    program = (
        "import sys, asyncio, llm_backend.server\n"
        "from llm_backend.telemetry.traces import tracing\n"
        "async def main():\n"
        "    async with tracing(None): pass\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith(WANTED)])"
    ).replace("WANTED", repr(WANTED))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


async def test_without_it_a_person_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llm_backend.telemetry.spans", raising=False)
    module = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SetupError) as caught:
        async with tracing("http://127.0.0.1:4318"):
            pass
    error = caught.value
    assert error.message == "telemetry.otlp_endpoint is set, and opentelemetry is not installed."
    assert error.hint == f"Type: {install_command()}"


def test_the_command_names_the_file_of_this_checkout() -> None:
    locked = REPOSITORY / "requirements" / "traces.txt"
    assert install_command() == f"{sys.executable} -m pip install --requirement {locked}"
    assert locked.exists()
