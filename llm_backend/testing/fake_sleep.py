"""The fake engine's sleep: vLLM's routes for it, and what a request meets meanwhile.

With `--sleep-mode` it answers as vLLM 0.32 does with `--enable-sleep-mode` and
`VLLM_SERVER_DEV_MODE=1`:

| route | answer |
|---|---|
| `POST /sleep?level=LEVEL&mode=MODE` | `{"status": "sleeping", "level": LEVEL}` |
| `POST /wake_up` | `{"status": "awake", "tags": null}` |
| `POST /wake_up?tags=weights` | `{"status": "sleeping", "tags": ["weights"]}` |
| `POST /wake_up?tags=kv_cache` | `{"status": "awake", "tags": ["kv_cache"]}` |
| `GET /is_sleeping` | `{"is_sleeping": true}` |
| `POST /collective_rpc` `{"method": "reload_weights"}` | `{"results": [null]}` |
| `POST /reset_prefix_cache` | `{"success": true}` |

LEVEL is 0, 1 (the default) or 2; MODE is `abort` (the default), which ends the answers that are
under way with the finish reason "abort", or `wait`, which waits for their ends.

One of these is dealt with at a time: `/is_sleeping` waits for a `/sleep` that is under way. From
the moment that a sleep begins, `/health` goes on to say 200 and a request for text waits without
a word until the engine is fully awake; it is noted in the journal as `asleep_request`. What was
dropped at level 2 is read again by `reload_weights`, between the two halves of the wake-up:
without it the engine generates garbage.

With `--device-memory DIR` the file `DIR/PID` holds the MiB that the engine has of its device, from
its first moment of loading until it ends by itself; who kills it removes the file. A wake-up of
one of the two tags takes half of what a whole one takes.

`--sleep-fault` makes it go wrong:

| name | what happens |
|---|---|
| `sleep-500` | `/sleep` is answered with 500, and the engine stays awake |
| `hang-sleep` | `/sleep` never answers, nor does any of the routes or a request after it |
| `noop` | `/sleep` is answered with 200, and the engine stays awake |
| `noop-quiet` | it sleeps, and keeps all of its memory |
| `wake-500` | `/wake_up` is answered with 500, and it sleeps on |
| `slow-wake` | `/wake_up` takes a minute longer |
| `die-wake` | it exits with status 1 in `/wake_up` |
| `corrupt-wake` | once it has been woken, what it generates is another text than before |
| `corrupt-reload` | `reload_weights` is answered as if it had worked: garbage after level 2 |
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from llm_backend.testing.fake_flags import Behaviour
from llm_backend.testing.fake_http import Exchange

Route = Callable[[Exchange], Awaitable[None]]

_TAGS: Final = frozenset({"weights", "kv_cache"})
_SLOW_S: Final = 60.0


class DeviceMemory:
    """What the engine has of its device: a file, which whoever reads it sees whole.

    Args:
        folder: Where the file is, named after this process; empty for no file.
    """

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, str(os.getpid())) if folder else None

    def hold(self, mib: int) -> None:
        """Have `mib` MiB from now on."""
        if self._file is not None:
            new = self._file.with_name(f".{self._file.name}")
            new.write_text(f"{mib}\n", encoding="ascii")
            new.replace(self._file)

    def release(self) -> None:
        """Have nothing any more."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


class SleepMode:
    """Whether the engine sleeps, and the routes that change it.

    Args:
        behaviour: The flags.
        note: Appends an event to the journal.

    Attributes:
        memory: What the engine has of its device.
        damage: What its weights have become: empty while they are sound, else a word that the
            text is made of.
        aborts: How often a sleep has ended the requests that were being answered.
    """

    def __init__(self, behaviour: Behaviour, note: Callable[..., None]) -> None:
        self.memory = DeviceMemory(behaviour.device_memory)
        self.damage = ""
        self.aborts = 0
        self._flags = behaviour
        self._note = note
        self._core = asyncio.Lock()
        self._awake = asyncio.Event()
        self._awake.set()
        self._asleep: frozenset[str] = frozenset()
        """What is not on the device; nothing at level 0, where no request is dealt with either."""
        self._level = 0
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def routes(self) -> Mapping[tuple[str, str], Route]:
        """Return the routes that `--sleep-mode` opens."""
        if not self._flags.sleep_mode:
            return {}
        return {
            ("POST", "/sleep"): self._sleep,
            ("POST", "/wake_up"): self._wake_up,
            ("GET", "/is_sleeping"): self._is_sleeping,
            ("POST", "/collective_rpc"): self._collective_rpc,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
        }

    async def until_awake(self, exchange: Exchange) -> None:
        """Keep a request waiting while the engine sleeps."""
        if self._awake.is_set():
            return
        self._note("asleep_request", path=exchange.path, model=exchange.body.get("model"))
        waking = asyncio.create_task(self._awake.wait())
        leaving = asyncio.create_task(exchange.until_gone())
        try:
            await asyncio.wait({waking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                await leaving
        finally:
            waking.cancel()
            leaving.cancel()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request that is being answered: a sleep waits for its end."""
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def _sleep(self, exchange: Exchange) -> None:
        level = exchange.query.get("level", ["1"])[-1]
        mode = exchange.query.get("mode", ["abort"])[-1]
        if level not in {"0", "1", "2"} or mode not in {"abort", "wait"}:
            await exchange.refuse(400, f"level={level}&mode={mode} is not known here.")
            return
        async with self._core:
            if self._flags.sleep_fault == "sleep-500":
                await exchange.refuse(500, "The engine was told to fail to sleep.")
                return
            if self._flags.sleep_fault != "noop":
                await self._fall_asleep(int(level), mode)
        await exchange.answer_json({"status": "sleeping", "level": int(level)})

    async def _fall_asleep(self, level: int, mode: str) -> None:
        self._awake.clear()
        if mode == "abort":
            self.aborts += 1
        await self._idle.wait()
        if self._flags.sleep_fault == "hang-sleep":
            await asyncio.Event().wait()
        # As with vLLM, one that sleeps already stays at its level.
        if level and not self._asleep:
            await asyncio.sleep(self._flags.sleep_delay_s)
            self._level, self._asleep = level, _TAGS
            self._account()
        self._note("asleep", level=level)

    async def _wake_up(self, exchange: Exchange) -> None:
        tags = exchange.query.get("tags")
        fault = self._flags.sleep_fault
        async with self._core:
            if fault == "die-wake":
                self.memory.release()
                self._note("exit", status=1)
                os._exit(1)
            if fault == "wake-500":
                await exchange.refuse(500, "The engine was told to fail to wake up.")
                return
            await asyncio.sleep(self._flags.wake_delay_s + _SLOW_S * (fault == "slow-wake"))
            self._wake(frozenset(tags) if tags else self._asleep)
        status = "sleeping" if self._asleep else "awake"
        await exchange.answer_json({"status": status, "tags": tags})

    def _wake(self, tags: frozenset[str]) -> None:
        if tags <= self._asleep:
            self._asleep -= tags
            if "weights" in tags:
                self._damage_weights()
            self._account()
        if not self._asleep and not self._awake.is_set():
            self._awake.set()
            self._note("awake")

    def _damage_weights(self) -> None:
        if self._level == 2:
            self.damage = "garbage"
        elif self._flags.sleep_fault == "corrupt-wake":
            self.damage = "noise"

    async def _is_sleeping(self, exchange: Exchange) -> None:
        async with self._core:
            await exchange.answer_json({"is_sleeping": not self._awake.is_set()})

    async def _collective_rpc(self, exchange: Exchange) -> None:
        method = exchange.body.get("method")
        async with self._core:
            if method is None:
                await exchange.refuse(400, "Missing 'method' in request body")
            elif method != "reload_weights" or "weights" in self._asleep:
                await exchange.refuse(500, f"The workers cannot do {method!r} now.")
            else:
                self._reload()
                await exchange.answer_json({"results": [None]})

    def _reload(self) -> None:
        if self._asleep and self._flags.sleep_fault != "corrupt-reload":
            self.damage = "noise" if self._flags.sleep_fault == "corrupt-wake" else ""
        self._note("reload")

    async def _reset_prefix_cache(self, exchange: Exchange) -> None:
        async with self._core:
            await exchange.answer_json({"success": self._idle.is_set()})

    def _account(self) -> None:
        """Write down the memory of now."""
        flags = self._flags
        asleep = (flags.awake_mib, flags.asleep_1_mib, flags.asleep_2_mib)[self._level]
        gone = 0 if flags.sleep_fault == "noop-quiet" else len(self._asleep)
        self.memory.hold(flags.awake_mib + (asleep - flags.awake_mib) * gone // len(_TAGS))
