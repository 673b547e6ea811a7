"""What Docker says of a container, and what that means: no I/O here.

`docker start` fails in a dozen ways, each as a text of another program. The table below turns
those into one sentence and the next command; Docker's own words follow for all that is not in it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from llm_backend.runtimes.base import Exit
from llm_backend.runtimes.records import describe

RECREATE: Final = "Make the containers anew with: llm-backend start --setup compose"
DOCTOR: Final = "Look with: llm-backend doctor"
_LONGEST_TEXT: Final = 400
_SIGNALS: Final = range(129, 128 + 65)
"""Exit statuses that stand for a signal."""

_NO_GPU: Final = (
    "Docker cannot give it the GPU: the NVIDIA driver or the NVIDIA Container Toolkit is missing"
)
_ELSEWHERE: Final = "See which one: ss -ltnp. Other addresses: ENGINES_ADDRESS in .env"
_FAILURES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence, hint)
    for pattern, sentence, hint in (
        (r"could not select device driver|nvidia-container", _NO_GPU, DOCTOR),
        (r"runtime name: nvidia|libnvidia|CDI device|failed to discover GPU", _NO_GPU, DOCTOR),
        (
            r"(?:Bind for|listen tcp\d?) (?P<what>\S+:\d+):? (?:failed|bind)",
            "{what} is taken by another program",
            _ELSEWHERE,
        ),
        (
            r"port is already allocated|address already in use",
            "its port is taken by another program",
            _ELSEWHERE,
        ),
        (r"no space left on device", "the disk is full", "See what takes it: docker system df"),
        (
            r"error mounting.*|invalid mount config.*|bind source path does not exist.*",
            "a file or directory that it mounts is not there ({text})",
            RECREATE,
        ),
        (
            r"exec: .*|executable file not found.*|exec format error",
            "its command cannot be run ({text})",
            f"Look for what is wrong with: llm-backend config check. {RECREATE}",
        ),
        (r"no such image", "its image is missing", RECREATE),
        (r"network \S+ not found", "its network is missing", RECREATE),
        (
            r"marked for removal|is dead|removal of container .* in progress",
            "its container is being removed",
            RECREATE,
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as `inspect` shows it.

    Attributes:
        ident: Its id: another one of the same name has another.
        status: `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        started_at: When its last run began, as Docker writes it.
        alive: Whether Docker has a process of it, or will start one by itself.
        code: Exit status of its last run.
        oom: Whether the kernel killed something of it for want of memory; Docker 20.10 keeps
            this of an earlier run.
        error: Why its last start failed; empty where it did not.
    """

    ident: str
    status: str
    started_at: str
    alive: bool
    code: int
    oom: bool
    error: str

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> Container:
        """Read the answer of `inspect`."""
        state = answer["State"]
        return cls(
            ident=answer["Id"],
            status=state["Status"],
            started_at=state["StartedAt"],
            alive=any(state.get(key) for key in ("Running", "Paused", "Restarting")),
            code=state["ExitCode"],
            oom=bool(state.get("OOMKilled")),
            error=state.get("Error") or "",
        )

    @property
    def instance(self) -> str:
        """Unique for each start of each container."""
        return f"{self.ident}:{self.started_at}"

    @property
    def serves(self) -> bool:
        """Whether its process runs: not paused, and not between two runs."""
        return self.status == "running"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of Docker's event stream.

    Attributes:
        action: `start`, `die`, `oom`, ...
        name: The container's name.
        ident: The container's id.
        at: When it happened, in seconds since the epoch.
        code: Exit status, with `die`.
    """

    action: str
    name: str
    ident: str
    at: float
    code: int | None

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> Event:
        """Read an event about a container."""
        actor = line["Actor"]
        code = actor["Attributes"].get("exitCode")
        return cls(
            action=line["Action"],
            name=actor["Attributes"].get("name", ""),
            ident=actor["ID"],
            at=line["timeNano"] / 1e9,
            code=None if code is None else int(code),
        )

    def is_about(self, instance: str) -> bool:
        """Return whether it happened to this start of the container, not to an earlier one."""
        ident, _, started_at = instance.partition(":")
        return ident == self.ident and seconds(started_at) <= self.at


def seconds(stamp: str) -> float:
    """Return a time as Docker writes it, in seconds since the epoch."""
    # Nanoseconds are more than fromisoformat takes in Python 3.11.
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return moment + float(f"0.{fraction or 0}")


def exit_of(code: int | None, *, oom: bool, stopped: bool) -> Exit:
    """Say how a run of a container ended.

    Args:
        code: Docker's exit status; None where nobody saw it.
        oom: Whether the kernel killed it for want of memory.
        stopped: Whether it had been asked to end.
    """
    if code is None:
        return Exit(None, "ended, and nobody saw how")
    if code in _SIGNALS:
        code = 128 - code
    reason = describe(code)
    if oom and code:
        reason += ": out of memory"
    elif code == -signal.SIGKILL:
        reason += ", because it did not end in time after SIGTERM" if stopped else _GUESS
    return Exit(code, reason)


_GUESS: Final = " (out of memory?)"


def why_not_started(text: str) -> tuple[str, str]:
    """Turn what Docker says of a failed start into a sentence and the next command."""
    text = " ".join(text.split())
    for pattern, sentence, hint in _FAILURES:
        if match := pattern.search(text):
            named = {"what": match.groupdict().get("what", ""), "text": match[0]}
            return sentence.format(**named)[:_LONGEST_TEXT], hint
    return f"Docker says: {text[:_LONGEST_TEXT]}", DOCTOR
