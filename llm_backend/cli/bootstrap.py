"""Makes the virtual environment of a checkout, and keeps it as the locked requirements say.

Run by `scripts/start_all.sh` with the system's Python, before anything is installed: only the
standard library is imported. Usage: `python bootstrap.py ROOT NAME...`, where NAME stands for
`ROOT/requirements/NAME.txt`. Ends with status 0 once `ROOT/.venv/bin/llm-backend` works.

The package itself is not installed: a `.pth` file puts the checkout on the path, and
`.venv/bin/llm-backend` is three lines of shell. An editable install would do the same, and need
a build backend, which would have to be locked, fetched and kept for nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
STAMP_SUFFIX = ".installed"
LOG_TAIL = 15


class Broken(Exception):
    """The environment could not be made; says why and what to type."""


class Environment:
    """The virtual environment of a checkout.

    Args:
        root: The checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.log = self.folder / "bootstrap.log"

    def prepare(self, names: list[str]) -> None:
        """Bring the environment to what the requirement files say; at once where it is there."""
        with self._alone():
            if not self._runs(f"import sys; sys.exit(sys.version_info < {OLDEST})"):
                self._make()
            if not self._runs("import pip"):
                self._call(self.python, "-m", "ensurepip")
            for number, name in enumerate(names, 1):
                self._install(name, f"{number} of {len(names)}")
            self._link()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one bootstrap of this checkout work at a time."""
        # The lock is on a file of the checkout: one inside .venv would go away with it.
        with Path(__file__).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another start prepares the environment; waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _runs(self, program: str) -> bool:
        """Return whether the environment's Python runs a program without an error."""
        if not self.python.exists():
            return False
        done = subprocess.run([self.python, "-c", program], capture_output=True, check=False)
        return done.returncode == 0

    def _make(self) -> None:
        say(f"Making the virtual environment .venv (Python {platform.python_version()})")
        self._call(sys.executable, "-m", "venv", "--clear", self.folder)

    def _call(self, *command: str | Path) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(
                f"Python could not make a virtual environment in {self.folder}:\n"
                f"{(done.stdout + done.stderr).strip()}\n"
                "On Debian and Ubuntu type: sudo apt-get install -y python3-venv"
            )

    def _install(self, name: str, part: str) -> None:
        file = self.root / "requirements" / f"{name}.txt"
        stamp = self.folder / f"{name}{STAMP_SUFFIX}"
        if stamp.exists() and stamp.read_text() == self._digest(file):
            return
        say(f"Installing {file.relative_to(self.root)} ({part}, the first time takes a minute)")
        self._pip(file)
        # Last: a stamp says that all of it is installed.
        stamp.write_text(self._digest(file))

    def _digest(self, file: Path) -> str:
        """Return what changes when the environment no longer fits."""
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        return f"{content} {self.root} {platform.machine()}\n"

    def _pip(self, file: Path) -> None:
        command = (self.python, "-m", "pip", "install", "--require-hashes", "--no-deps")
        environment = {**os.environ, **PIP}
        total = len(re.findall(r"^[\w.-]+(?:\[.*?\])?==", file.read_text(), re.MULTILINE))
        with (
            self.log.open("w") as log,
            subprocess.Popen(
                [*command, "--progress-bar=off", "--requirement", file],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            ) as pip,
        ):
            show_progress(log.write, pip.stdout or [], total)
        if pip.returncode:
            raise Broken(self._why_pip_failed(file))

    def _why_pip_failed(self, file: Path) -> str:
        lines = self.log.read_text().splitlines()
        text = "\n".join(lines)
        parts = [f"pip could not install {file.relative_to(self.root)}. It said last:"]
        parts += [f"  {line}" for line in lines[-LOG_TAIL:]]
        if "DO NOT MATCH THE HASHES" in text:
            parts.append("A package is not the one that was locked: it was refused.")
        elif "No matching distribution" in text or "Could not find a version" in text:
            machine = f"Python {platform.python_version()} on {platform.machine()}"
            parts.append(f"The package index cannot be reached, or has no wheel for {machine}.")
            parts.append("Behind a proxy set HTTPS_PROXY, then run the same command again.")
        elif "No space left" in text:
            parts.append(f"The disk of {self.folder} is full. Look: df -h {self.folder}")
        parts.append(f"The whole log: {self.log}")
        return "\n".join(parts)

    def _link(self) -> None:
        """Let the environment find the package in the checkout."""
        site_packages = next((self.folder / "lib").glob("python3*/site-packages"))
        write(site_packages / "llm_backend_checkout.pth", f"{self.root}\n")
        script = self.folder / "bin" / "llm-backend"
        write(script, f'#!/bin/sh\nexec {shlex.quote(str(self.python))} -m llm_backend "$@"\n')
        script.chmod(0o755)


PIP = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_USER": "0",  # a person's pip.conf may ask for user installs, which a venv refuses
    "PYTHONUNBUFFERED": "1",
}
"""What pip has to do without, or to keep to itself."""


PACKAGE = re.compile(
    r"(?:Collecting|Ignoring|Processing|Requirement already satisfied:) "
    r"(?:\S*/)?(\w+(?:[-.][a-z]\w*)*)"
)
"""How pip begins a line when it comes to a package, be it named or a file."""


def show_progress(write_log: Callable[[str], object], lines: Iterable[str], total: int) -> None:
    """Copy pip's lines to the log, and show how many packages it has come to."""
    count, terminal = 0, sys.stderr.isatty()
    for line in lines:
        write_log(line)
        found = PACKAGE.match(line)
        if found:
            count += 1
            text = f"  package {count} of {total}: {found[1]}"
            if terminal:
                print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            elif count % 10 == 0 or count == total:
                say(text)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def write(path: Path, text: str) -> None:
    """Replace a small file in one step, if it would change."""
    if path.exists() and path.read_text() == text:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def say(text: str) -> None:
    """Tell what is being done; standard output is for the command that comes after."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Prepare the environment of the checkout named first, with the requirements named after."""
    try:
        Environment(Path(sys.argv[1]).resolve()).prepare(sys.argv[2:])
    except Broken as problem:
        say(f"Error: {problem}")
        return 1
    except OSError as error:
        say(f"Error: {error}\nThe checkout has to be writable: .venv is made in it.")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. The same command goes on from here.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
