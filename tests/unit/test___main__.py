"""`python -m llm_backend` is the command line."""

from __future__ import annotations

import subprocess
import sys


def test_the_package_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm_backend", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.startswith("llm-backend ")
