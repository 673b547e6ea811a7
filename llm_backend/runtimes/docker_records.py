"""Records of started containers, one file a model, for the gateway that comes next."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from llm_backend.engines.base import LaunchPlan, file_name
from llm_backend.runtimes.base import Engine

_SUFFIX: Final = ".docker.json"


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """The last start of a model's container.

    Attributes:
        container: Its name.
        started: Container id and time of the start; empty until it is confirmed.
        model: The catalog id.
        group: Its exclusivity group.
        fingerprint: That of its launch plan.
        address: Where the engine listens, `host:port`.
        served_name: The name under which it knows the model.
        stop_s: Seconds from SIGTERM to SIGKILL.
        stopping: Whether it was asked to end.
        resting: Whether it is at rest. True before the lock of its group is let go, and until
            after that lock is taken again.
    """

    container: str
    started: str
    model: str
    group: str
    fingerprint: str
    address: str
    served_name: str
    stop_s: float
    stopping: bool = False
    resting: bool = False

    @classmethod
    def of(cls, plan: LaunchPlan, container: str) -> ContainerRecord:
        """Return the record of a start that is about to happen."""
        return cls(
            container=container,
            started="",
            model=plan.model,
            group=plan.group,
            fingerprint=plan.fingerprint,
            address=f"{plan.host}:{plan.port}",
            served_name=plan.served_name,
            stop_s=plan.stop_s,
        )

    def serves(self, plan: LaunchPlan, instance: str) -> bool:
        """Return whether this start is what `plan` would start, and neither ends nor rests."""
        wanted = ContainerRecord.of(plan, self.container)
        return replace(wanted, started=instance, stop_s=self.stop_s) == self


def engine_of(plan: LaunchPlan, container: str, instance: str) -> Engine:
    """Return the engine that a start of `plan` is."""
    return Engine(
        instance=instance,
        model=plan.model,
        host=plan.host,
        port=plan.port,
        served_name=plan.served_name,
        fingerprint=plan.fingerprint,
        group=plan.group,
        handle=container,
        key=plan.key,
        tls=plan.tls,
    )


class ContainerRecords:
    """The records in a state directory. Every method blocks for an instant."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "engines"

    def save(self, record: ContainerRecord) -> None:
        """Replace the record of a model in one step."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(record.model)
        new = path.with_suffix(".tmp")
        new.write_text(json.dumps(asdict(record)), encoding="utf-8")
        new.replace(path)

    def load(self, model: str) -> ContainerRecord | None:
        """Return the record of a model; None where there is no valid one."""
        return _parse(self._path(model))

    def all(self) -> list[ContainerRecord]:
        """Return every valid record."""
        return [record for p in self._folder.glob(f"*{_SUFFIX}") if (record := _parse(p))]

    def mark_stopping(self, model: str, instance: str) -> ContainerRecord | None:
        """Note that an engine is asked to end; return its record, if it is the last start."""
        record = self._last(model, instance)
        if record is not None:
            self.save(replace(record, stopping=True))
        return record

    def mark_resting(self, model: str, instance: str, *, resting: bool) -> None:
        """Note that an engine rests, or no more, if it is the last start."""
        record = self._last(model, instance)
        if record is not None:
            self.save(replace(record, resting=resting))

    def forget(self, model: str) -> None:
        """Remove the record of a model."""
        self._path(model).unlink(missing_ok=True)

    def _last(self, model: str, instance: str) -> ContainerRecord | None:
        record = self.load(model)
        return record if record and record.started == instance else None

    def _path(self, model: str) -> Path:
        return self._folder / f"{file_name(model)}{_SUFFIX}"


def _parse(path: Path) -> ContainerRecord | None:
    try:
        value = json.loads(path.read_bytes())
        known = {field.name for field in fields(ContainerRecord)}
        return ContainerRecord(**{key: value[key] for key in known & value.keys()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
