"""Engine records: what is known of the last start of each model, one file a model.

The launcher writes them, before the engine exists, when it rests or is roused, and once more
when it has ended, so that no crash of the gateway can lose an engine. The gateway only reads.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from llm_backend.engines.base import LaunchPlan, file_name
from llm_backend.runtimes.base import Engine, Exit


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One start of an engine.

    Attributes:
        instance: Unique for each start.
        model: The catalog id.
        group: Its exclusivity group.
        fingerprint: That of its launch plan.
        host: Where it listens.
        port: Its port.
        served_name: The name under which it knows the model.
        helpers: Name and port of each process that it needs beside itself.
        stop_s: Seconds from SIGTERM to SIGKILL.
        pid: Its launcher.
        code: Its exit status, negative for a signal; None until it has ended.
        stopping: Whether it was asked to end.
        killed: Whether the launcher had to kill it.
        rests: Whether it is at rest. True before the lock of its group is let go, and until
            after that lock is taken again.
        answers: How often the launcher did what SIGUSR1 or SIGUSR2 asked for, or refused it;
            None where the launcher is of a release that knows neither and would die of them.
        refusal: Why the launcher did not take the lock again when it was asked last.
    """

    instance: str
    model: str
    group: str
    fingerprint: str
    host: str
    port: int
    served_name: str
    stop_s: float
    helpers: tuple[tuple[str, int], ...] = ()
    pid: int = 0
    code: int | None = None
    stopping: bool = False
    killed: bool = False
    rests: bool = False
    answers: int | None = None
    refusal: str = ""

    def serves(self, plan: LaunchPlan) -> bool:
        """Return whether the engine is what `plan` would start, and neither ends nor rests."""
        same = (self.model, self.group, self.fingerprint, self.host, self.served_name)
        wanted = (plan.model, plan.group, plan.fingerprint, plan.host, plan.served_name)
        usable = self.code is None and not self.stopping and not self.rests
        return usable and same == wanted and plan.port in {0, self.port}

    def engine(self, plan: LaunchPlan | None = None) -> Engine:
        """Return the engine; its key and scheme are in the plan alone."""
        return Engine(
            instance=self.instance,
            model=self.model,
            host=self.host,
            port=self.port,
            served_name=self.served_name,
            fingerprint=self.fingerprint,
            group=self.group,
            handle=str(self.pid),
            key=plan.key if plan else None,
            tls=plan.tls if plan else False,
            helpers=self.helpers,
        )

    def exit(self, why: Exit | None = None) -> Exit:
        """Return how the engine ended, as far as its launcher could say.

        Args:
            why: What the program said that ran it with its helpers.
        """
        if why is not None and not self.killed:
            return why
        if self.code is None:
            return Exit(None, "its launcher was killed")
        reason = describe(self.code)
        if self.killed:
            reason += ", because it did not end in time after SIGTERM"
        elif self.code == -signal.SIGKILL:
            reason += " (out of memory?)"
        return Exit(self.code, reason)


def describe(code: int) -> str:
    """Say in words what an exit status means."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


class Records:
    """The records in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "engines"

    def path(self, model: str) -> Path:
        """Return the file of a model's record; its folder exists."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{file_name(model)}.json"

    def load(self, model: str) -> EngineRecord | None:
        """Return the record of a model; None where there is no valid one."""
        record = _parse(self._folder / f"{file_name(model)}.json")
        return record if record and record.model == model else None

    def why_path(self, model: str) -> Path:
        """Return the file for the reason why an engine with helpers ended by itself."""
        return self._folder / f"{file_name(model)}.why"

    def why(self, record: EngineRecord) -> Exit | None:
        """Return that reason; None where there is none."""
        try:
            told = json.loads(self.why_path(record.model).read_bytes())
            return (
                Exit(told["code"], told["reason"]) if told["instance"] == record.instance else None
            )
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def all(self) -> list[EngineRecord]:
        """Return every valid record."""
        return [record for path in self._folder.glob("*.json") if (record := _parse(path))]


def _parse(path: Path) -> EngineRecord | None:
    try:
        value = json.loads(path.read_bytes())
        known = {field.name for field in fields(EngineRecord)}
        found = {key: value[key] for key in known & value.keys()}
        helpers = tuple((str(name), int(port)) for name, port in found.pop("helpers", ()))
        return EngineRecord(**found, helpers=helpers)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def dump(record: EngineRecord) -> dict[str, object]:
    """Return a record as the launcher wants it: without what it will add."""
    values = asdict(record)
    for later in ("pid", "code", "stopping", "killed", "rests", "answers", "refusal"):
        del values[later]
    return values
