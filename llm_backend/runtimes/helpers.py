"""The engine that needs helpers: a small program that runs them and the engine proper as one.

The launcher runs it in the engine's place, as `python -I -S helpers.py SPEC`, where SPEC is a
JSON object:

| key | meaning |
|---|---|
| `members` | the processes in the order of their start, the engine proper last; each an object |
| `instance` | which start of the engine this is |
| `why_path` | a file for the reason of an end that nobody asked for |
| `stop_s` | seconds until the launcher kills what is left of a stop |

A member has `name`, `argv`, `cwd` (or null), `host`, `port`, `ready_path` (or null) and `start_s`.
The variables of its own are in `LLM_BACKEND_HELPERS` of the environment, as JSON by its name: they
may be secrets, and everybody can read a command line.

Each one starts when the one before it is ready; when one ends, the others are ended in the reverse
order, and this program ends with the status of the one that ended. It needs no care against its own
violent end: the launcher ends what it leaves.

Only the standard library is imported: it runs isolated from all packages.
"""

# ruff: noqa: PTH105, PTH123 - as in the launcher: pathlib takes longer to import than all the rest

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing takes as long as the rest of the start
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

ENVIRONMENTS = "LLM_BACKEND_HELPERS"
CANNOT_RUN = 127
LOOK_S = 0.05
"""How often a helper that is not ready yet is asked."""
ANSWER_S = 1.0
"""How long it may take to answer."""
SHARE = 0.9
"""The part of a stop's time that is used here; in the rest, what is left is killed in order."""
KILL_S = 2.0
"""How long the end of a killed member is waited for; then it is left to the launcher, so that one
whom the kernel does not let go keeps the others from nothing."""

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(Exception):
    """A member ended, or never came; the message is a sentence's end for people."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Stopped(Exception):
    """The engine was asked to end."""


class Company:
    """The members of one engine, from the first start to the last end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.environments = json.loads(os.environ.pop(ENVIRONMENTS, "{}"))
        self.running: list[tuple[dict[str, Any], subprocess.Popen[bytes]]] = []
        self.is_stopped = False
        self.wakes, wakeup = os.pipe()
        os.set_blocking(self.wakes, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in _STOP:
            signal.signal(number, self.ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Remember that the engine is to end."""
        self.is_stopped = True

    def run(self) -> int:
        """Start all, wait for the first end, end all; return the exit status."""
        try:
            for member in self.spec["members"]:
                self.start(member)
            while True:
                self.pause(None)
        except Stopped:
            return self.end(time.monotonic() + self.spec["stop_s"] * SHARE)
        except Ended as ended:
            say(f"the engine {ended.reason}")
            self.explain(ended)
            self.end(time.monotonic() + self.spec["stop_s"] * SHARE)
            return as_status(ended.code)

    def start(self, member: dict[str, Any]) -> None:
        """Start a member; return when it is ready. The engine proper is the gateway's to ask."""
        began = time.monotonic()
        try:
            # The lock of the group is inherited: it is held as long as any member lives.
            process = subprocess.Popen(
                member["argv"],
                cwd=member["cwd"],
                env={**os.environ, **self.environments.get(member["name"], {})},
                close_fds=False,
            )
        except (OSError, ValueError) as error:
            # An OSError names what is missing: the program, or the directory.
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            reason = f"{called(member)} cannot be run: {why}"
            raise Ended(CANNOT_RUN, f"ended because {reason}") from None
        self.running.append((member, process))
        if member["name"] is None:
            return
        say(f"{called(member)} starts on port {member['port']}")
        while not is_ready(member):
            if time.monotonic() - began > member["start_s"]:
                reason = f"{called(member)} was not ready within {member['start_s']:g} s"
                raise Ended(CANNOT_RUN, f"ended because {reason}")
            self.pause(LOOK_S)
        self.pause(0)
        say(f"{called(member)} is ready after {time.monotonic() - began:.1f} s")

    def pause(self, seconds: float | None) -> None:
        """Wait for a signal, so long at most; see to what it says."""
        self.look()
        select.select([self.wakes], [], [], seconds)
        try:
            os.read(self.wakes, 4096)
        except BlockingIOError:
            return
        self.look()

    def look(self) -> None:
        """Raise what has happened: a stop that was asked for, or an end."""
        if self.is_stopped:
            raise Stopped
        for member, process in self.running:
            code = process.poll()
            if code is not None:
                how = describe(code)
                raise Ended(code, how if member["name"] is None else because(member, how))

    def explain(self, ended: Ended) -> None:
        """Leave the reason where the gateway finds it."""
        text = {"instance": self.spec["instance"], "code": ended.code, "reason": ended.reason}
        path = self.spec["why_path"]
        try:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(text, file)
            os.replace(path + ".tmp", path)
        except OSError as error:
            say(f"the reason could not be kept: {error}")

    def end(self, deadline: float) -> int:
        """End the members, the last started first; return the exit status of the engine proper."""
        status = 0
        while self.running:
            left = max(0.0, deadline - time.monotonic()) / len(self.running)
            member, process = self.running.pop()
            code = end_one(process, left)
            if member["name"] is None:
                status = as_status(code)
        return status


def say(text: str) -> None:
    """Write a line into the log of the engine."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def called(member: dict[str, Any]) -> str:
    """Return what a member is called."""
    return "its program" if member["name"] is None else f"its helper {member['name']}"


def because(member: dict[str, Any], how: str) -> str:
    """Say why the whole engine ended."""
    verb = "was " if how.startswith("killed") else ""
    return f"ended because {called(member)} {verb}{how}"


def describe(code: int) -> str:
    """Say in words what an exit status means."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def as_status(code: int) -> int:
    """Return the exit status for the end of a member, as a shell gives it."""
    return code if code >= 0 else 128 - code


def end_one(process: subprocess.Popen[bytes], patience_s: float) -> int:
    """End one member, by SIGKILL where it takes longer; return how it ended."""
    process.terminate()
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
    try:
        return process.wait(KILL_S)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def is_ready(member: dict[str, Any]) -> bool:
    """Return whether a helper takes connections and, where it has a path for that, says so."""
    address = (member["host"], member["port"])
    try:
        with socket.create_connection(address, ANSWER_S) as connection:
            if member["ready_path"] is None:
                return True
            request = f"GET {member['ready_path']} HTTP/1.0\r\nHost: {member['host']}\r\n\r\n"
            connection.sendall(request.encode())
            first = connection.recv(64)
    except OSError:
        return False
    return first.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))


if __name__ == "__main__":
    sys.exit(Company(json.loads(sys.argv[1])).run())
