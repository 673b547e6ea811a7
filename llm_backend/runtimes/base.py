"""The contract of a runtime: start, stop, poll and read the logs of engines.

A runtime drives; it decides nothing. The switcher alone calls it, and calls at most one
of `start`, `stop`, `rest` and `rouse` for a model at a time. What a call answers in each state:

| state of the engine | start | stop | poll | wait |
|---|---|---|---|---|
| never started, or exited | starts it | returns its exit at once | the exit | returns at once |
| running, at rest or not | EngineStartFailed | ends it, proves the exit | None | waits |
| being stopped by a call that was cancelled | EngineStartFailed | joins the stop | None | waits |
| the lock of its group is held by another engine | EngineStartFailed | - | - | - |

An engine holds the lock of its exclusivity group from its start to its end, except while it is
at rest: asleep, so that another engine of the group may start.

| state of the engine | rest | rouse |
|---|---|---|
| running, and holds the lock | lets go of the lock | returns at once |
| at rest, the lock is free | returns at once | takes the lock |
| at rest, the lock is held by another engine | returns at once | EngineStartFailed; it rests on |
| ended, or being stopped | ServiceError | EngineStartFailed |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llm_backend.engines.base import LaunchPlan


@dataclass(frozen=True, slots=True)
class Exit:
    """How an engine ended.

    Attributes:
        code: Exit status; negative for a signal (-9 for SIGKILL); None where nobody knows.
        reason: A sentence for people: "exited with status 1", "killed by SIGKILL",
            "out of memory".
    """

    code: int | None
    reason: str


class Replicas(Protocol):
    """The servers behind one engine: who gets the next request.

    Whoever has a lease on the engine takes a server and gives it back; all is decided and
    counted here, on the event loop, without a wait in between.
    """

    @property
    def up(self) -> bool:
        """Whether any server says that it can serve."""
        ...

    def take(self, other_than: Sequence[Engine] = ()) -> Engine | None:
        """Return the server that has the fewest requests; None where no other one is left."""
        ...

    def give_back(self, server: Engine, *, failed: bool | None) -> None:
        """End a request on a server; tell whether it failed by the server's fault.

        None where nobody can tell: the client left first.
        """
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, as its runtime knows it.

    Attributes:
        instance: Unique for each start.
        model: The catalog id.
        host: Where it listens.
        port: Its port.
        served_name: The name under which it knows the model.
        fingerprint: That of the launch plan it was started with.
        group: Its exclusivity group.
        handle: What the runtime needs to find it again (a process id, a container name).
        key: Bearer key it wants.
        tls: Whether it speaks HTTPS.
        helpers: Name and port of each process that it needs beside itself.
        replicas: The servers that stand behind it, where there is a choice; `host`, `port`,
            `key` and `tls` are then those of the first.
    """

    instance: str
    model: str
    host: str
    port: int
    served_name: str
    fingerprint: str
    group: str
    handle: str
    key: str | None = None
    tls: bool = False
    helpers: tuple[tuple[str, int], ...] = ()
    replicas: Replicas | None = field(default=None, compare=False)

    @property
    def authority(self) -> str:
        """Host and port, as an address and the header `Host` have them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Base address of the engine."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


class Runtime(Protocol):
    """A driver that starts, stops and polls engines."""

    async def start(self, plan: LaunchPlan) -> Engine:
        """Start the engine of `plan`; return as soon as it runs, long before it is ready.

        Raises:
            EngineStartFailed: it could not be started, or exited at once; says why.
        """
        ...

    async def stop(self, engine: Engine, grace_s: float) -> Exit:
        """End the engine and all that it started; return only when the exit is proven.

        SIGTERM first, SIGKILL after `grace_s` seconds. Cancelling the call does not call off
        the stop.
        """
        ...

    async def rest(self, engine: Engine) -> None:
        """Let go of the lock of the engine's group: it is asleep, and another one may start.

        An engine that rests is never taken over: the `survey` of the next gateway ends it, for
        nobody knows then what it would answer. Cancelling the call does not call it off.

        Raises:
            ServiceError: the engine has ended or is being stopped, or what watches over it does
                not answer. Whether the lock is held is then unknown until the engine has ended.
        """
        ...

    async def rouse(self, engine: Engine) -> None:
        """Take the lock again, before the engine is woken.

        Cancelling the call does not call it off: `rest` does.

        Raises:
            EngineStartFailed: another engine holds the lock, and this one rests on; or it has
                ended or is being stopped, or what watches over it does not answer.
        """
        ...

    async def poll(self, engine: Engine) -> Exit | None:
        """Return how the engine ended; None while it runs."""
        ...

    async def wait(self, engine: Engine) -> Exit:
        """Wait until the engine has ended."""
        ...

    async def survey(self, plans: Sequence[LaunchPlan]) -> Sequence[Engine]:
        """Find running engines of these plans that an earlier gateway left.

        What is ours and cannot be used any more (half started, half ended, at rest, of another
        fingerprint, of a model no longer in the catalog) is ended here, exit proven.
        """
        ...

    async def log_tail(self, model: str, lines: int) -> list[str]:
        """Return the last log lines of a model's engine, running or not."""
        ...

    def follow_log(self, model: str, lines: int = 0) -> AsyncIterator[str]:
        """Yield the last `lines` log lines, then new ones as they come, until closed."""
        ...

    async def close(self) -> None:
        """Let go of resources; running engines go on."""
        ...
