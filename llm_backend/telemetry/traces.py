"""Traces by OpenTelemetry, where the settings name somebody who takes them.

Without that, nothing of OpenTelemetry is imported, and it need not be installed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import llm_backend
from llm_backend.errors import SetupError

if TYPE_CHECKING:
    from llm_backend.telemetry.spans import Tracer


@asynccontextmanager
async def tracing(endpoint: str | None) -> AsyncIterator[Tracer | None]:
    """Send traces while the block runs; None where nobody wants them.

    Args:
        endpoint: The OTLP receiver, as `telemetry.otlp_endpoint` has it.

    Raises:
        SetupError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        yield None
        return
    try:
        from llm_backend.telemetry.spans import Tracer  # noqa: PLC0415  # only where it is wanted
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise SetupError(
            f"telemetry.otlp_endpoint is set, and {missing} is not installed.",
            hint=f"Type: {install_command()}",
        ) from None
    tracer = Tracer(endpoint)
    try:
        yield tracer
    finally:
        await tracer.close()


def install_command() -> str:
    """Return what a person types to install OpenTelemetry for this gateway."""
    locked = Path(llm_backend.__file__).parents[1] / "requirements" / "traces.txt"
    what = f"--requirement {shlex.quote(str(locked))}" if locked.exists() else "llm-backend[traces]"
    return f"{shlex.quote(sys.executable)} -m pip install {what}"
