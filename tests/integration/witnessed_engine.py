"""A fake engine that is its own witness, for tests that never want to see two at once.

    python witnessed_engine.py WITNESS CAPACITY_MIB FLAGS...

From its first moment until it sleeps or ends, and again once it has been woken, it holds the kernel
lock of the file WITNESS. Where somebody else holds it, it says so in its journal: `beside_another`.
Whenever it takes memory, it counts what all engines of the device hold by then; where that is more
than CAPACITY_MIB, it notes `overfull`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from llm_backend.testing.fake_engine import FakeEngine
from llm_backend.testing.fake_flags import Behaviour, parse
from llm_backend.testing.fake_sleep import DeviceMemory

STRANGER = 1
"""The process that holds memory and is no engine: it lives as long as the machine."""


class WitnessedMemory(DeviceMemory):
    """Memory of a device on which engines take no more than they may."""

    def __init__(self, folder: str, capacity_mib: int, note: Callable[..., None]) -> None:
        super().__init__(folder)
        self._folder = Path(folder)
        self._capacity_mib = capacity_mib
        self._note = note

    def hold(self, mib: int) -> None:
        super().hold(mib)
        held = {pid: mib for pid in self._engines() if (mib := self._held_by(pid))}
        if sum(held.values()) > self._capacity_mib:
            self._note("overfull", held=held)

    def _engines(self) -> list[int]:
        names = [path.name for path in self._folder.iterdir() if path.name.isdigit()]
        return [int(name) for name in names if int(name) != STRANGER]

    def _held_by(self, pid: int) -> int:
        try:
            held = int((self._folder / str(pid)).read_text())
            return held if Path(f"/proc/{pid}").exists() else 0
        except (FileNotFoundError, ValueError):
            return 0


class WitnessedEngine(FakeEngine):
    """A fake engine that holds the witness's lock while it is awake."""

    def __init__(self, behaviour: Behaviour, witness: str, capacity_mib: int) -> None:
        super().__init__(behaviour)
        self._witness = os.open(witness, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sleep.memory = WitnessedMemory(behaviour.device_memory, capacity_mib, self.note)

    def note(self, event: str, **details: object) -> None:
        if event in {"start", "awake"}:
            self._claim()
        super().note(event, **details)
        if event == "asleep":
            fcntl.flock(self._witness, fcntl.LOCK_UN)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            super().note("beside_another")


def command(witness: Path, capacity_mib: int, *flags: str) -> list[str]:
    """Return the command line, with `{port}` for the process runtime."""
    return [sys.executable, __file__, str(witness), str(capacity_mib), "--port", "{port}", *flags]


def main() -> None:
    witness, capacity_mib, *flags = sys.argv[1:]
    behaviour = parse(flags)
    engine = WitnessedEngine(behaviour, witness, int(capacity_mib))
    engine.note("start", model=behaviour.served_model_name)
    with socket.create_server((behaviour.host, behaviour.port)) as listener:
        status = asyncio.run(engine.serve(listener))
    engine.note("exit", status=status)
    sys.exit(status)


if __name__ == "__main__":
    main()
