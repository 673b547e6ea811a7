"""What Docker says happens to containers, recorded from its event stream."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Self

from tests.harness import PATIENCE_S

RUNS = {"start": True, "die": False, "destroy": False}
"""The events after which a container runs, or doesn't."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one container; `at` in seconds since the epoch, by Docker's clock."""

    name: str
    action: str
    at: float
    exit_code: int | None = None


class EventLog:
    """Records the events of containers with these names. Use as a context manager.

    When Docker ends, the stream does; the log then waits for Docker and goes on. What happened
    meanwhile is recorded as Docker's state afterwards says it.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._listening = threading.Event()
        self._closing = threading.Event()
        self._stream: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, name="docker-events")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(PATIENCE_S), "Docker gives no event stream"
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._stream is not None:
            self._stream.terminate()
        self._thread.join(PATIENCE_S)

    @property
    def events(self) -> list[Event]:
        """Everything so far, oldest first."""
        with self._changed:
            return list(self._events)

    def wait_for(
        self, wanted: Callable[[Event], bool], *, after: float = 0.0, within_s: float = PATIENCE_S
    ) -> Event:
        """Return the first event that is wanted and not older than `after`."""

        def find() -> Event | None:
            return next((e for e in self._events if e.at >= after and wanted(e)), None)

        with self._changed:
            found = self._changed.wait_for(find, within_s)
        assert found, f"not within {within_s:g} s; there was: {self.events[-20:]}"
        return found

    def running(self) -> Iterator[tuple[Event, frozenset[str]]]:
        """Yield each start and end with the containers that run after it."""
        running: frozenset[str] = frozenset()
        for event in self.events:
            if event.action in RUNS:
                running = running | {event.name} if RUNS[event.action] else running - {event.name}
                yield event, running

    def most_at_once(self) -> int:
        """Return how many of the containers ever ran at the same time."""
        return max((len(running) for _, running in self.running()), default=0)

    def _follow(self) -> None:
        since = time.time()
        while not self._closing.is_set():
            self._resync()
            command = ["docker", "events", "--since", f"{since:.9f}", "--filter", "type=container"]
            with subprocess.Popen(
                [*command, "--format", "{{json .}}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as self._stream:
                self._listening.set()
                for line in self._stream.stdout or ():
                    event = _event(json.loads(line))
                    if event.name in self._names:
                        self._add(event)
                    since = event.at + 1e-6
            self._closing.wait(0.05)

    def _resync(self) -> None:
        """Record, as events, where Docker's state differs from what was heard."""
        believed = [running for _, running in self.running()][-1:] or [frozenset()]
        done = subprocess.run(
            ["docker", "ps", "--format", "{{.Names}}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return
        runs = self._names & set(done.stdout.split())
        for name in sorted(self._names):
            if (name in runs) != (name in believed[0]):
                self._add(Event(name, "start" if name in runs else "die", time.time()))

    def _add(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()


def _event(data: dict[str, object]) -> Event:
    actor = data["Actor"]
    assert isinstance(actor, dict)
    attributes = actor["Attributes"]
    code = attributes.get("exitCode")
    action = str(data["Action"]).partition(":")[0]
    at = int(str(data["timeNano"])) / 1e9
    return Event(attributes.get("name", ""), action, at, None if code is None else int(code))
