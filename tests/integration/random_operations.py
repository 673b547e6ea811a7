"""Random operations on a house: what clients, operators and other programs do, and accidents.

Each of them ends in an outcome that is allowed, within its deadline, or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import orjson
import psutil

from tests.harness import PATIENCE_S
from tests.integration.gateways import CHAT, MESSAGES, key_of, post_bytes
from tests.integration.random_house import ANSWER_S, AWAKE_MIB, BATCH_S, KEYS, WAIT_S, House
from tests.integration.witnessed_engine import STRANGER

CLIENTS: Final = 48
KNOWING: Final = 0.9
"""The share of the requests that are made by clients who ask nothing while others have the card."""
DEADLINE_S: Final = WAIT_S + BATCH_S + ANSWER_S + 20
"""What a request may take by the settings, and room for a slow machine."""

MODELS: Final = list(AWAKE_MIB)
REFUSALS: Final = {
    "engine_gone",  # its engine was killed, hung, or had to go at the drain deadline
    "engine_start_failed",  # its engine was killed while it loaded
    "engine_timeout",  # its engine was frozen for longer than it may be silent
    "gpu_busy",  # a stranger or a device lease has the card
    "server_is_overloaded",  # its turn did not come within its deadline
    "service_unavailable",
}
OPERATORS: Final = REFUSALS | {"conflict", "switch_superseded", "not_found"}
LEASE: Final = "/api/v1/device/lease"
JSON: Final = ("host: localhost", "content-type: application/json")


class Operations:
    """What people, programs and accidents do to a house; each ends in an outcome that is allowed."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.chance = random.Random(seed)  # noqa: S311  # chance, not secrets
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        self._card = asyncio.Lock()
        self._card_is_free = asyncio.Event()
        self._card_is_free.set()

    @property
    def plan(self) -> dict[Callable[[], Awaitable[None]], int]:
        """How often what is done, in a thousand."""
        return {
            self.ask: 420,
            self.ask_again: 370,
            self.leave: 140,
            self.switch: 15,
            self.unload: 6,
            self.kill: 12,
            self.freeze: 8,
            self.lease: 6,
            self.take_memory: 6,
            self.look: 17,
        }

    # What clients do

    async def ask(self) -> None:
        await self._ask(self.chance.choice(MODELS))

    async def ask_again(self) -> None:
        awake = self.house.switcher.awake() or MODELS
        await self._ask(self.chance.choice(awake))

    async def leave(self) -> None:
        """Ask and hang up, at any moment from the first byte to the last."""
        async with self.house.client() as client:
            request = self._request(self.chance.choice(MODELS), self._wish())
            client.writer.write(request[: self.chance.choice((80, None, None, None))])
            wait_s = self.chance.choice((0, 0.01, 0.1, 0.5, 2)) * self.chance.random()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await client.reader.read()
        self.outcomes["left"] += 1

    def _wish(self) -> dict[str, Any]:
        return {
            "stream": self.chance.random() < 0.5,
            "max_tokens": self.chance.choice((1, 4, 10, 40)),
            "user": str(self.chance.random()),
        }

    def _request(self, model: str, wish: dict[str, Any]) -> bytes:
        priority = self.chance.choice(("interactive", "interactive", "batch"))
        key = key_of(self.chance.choice(KEYS))
        headers = (f"authorization: Bearer {key}", f"x-llm-priority: {priority}")
        body = {"model": model, "messages": MESSAGES, **wish}
        return post_bytes(CHAT, orjson.dumps(body), *JSON, *headers)

    async def _ask(self, model: str) -> str:
        """Have a request answered: once, in time, by its model and by the whole of it."""
        wish = self._wish()
        if self.chance.random() < KNOWING:
            await self._card_is_free.wait()
        status, body = await self._exchange(self._request(model, wish))
        text, code = streamed(body) if wish["stream"] and status == 200 else plain(body)
        whole = model + "".join(f" word{n}" for n in range(2, wish["max_tokens"] + 1))
        assert text == whole if code is None else whole.startswith(text), body
        assert code in {None, *REFUSALS}, (status, body)
        self.outcomes[f"asked: {code or 'served'}"] += 1
        if code is not None:  # clients that are told to come back do so later
            await self._card_is_free.wait()
            await asyncio.sleep(1 + 2 * self.chance.random())
        return code or "served"

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE_S), self.house.client() as client:
            client.writer.write(request)
            head = (await client.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            body = await client.reader.read()
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        if headers.get("transfer-encoding") == "chunked":
            body = unchunked(body)
        else:
            assert len(body) == int(headers["content-length"])
        return int(head[0].split(" ")[1]), body

    # What operators do

    async def switch(self) -> None:
        wait = self.chance.random() < 0.7
        body = {"model": self.chance.choice(MODELS), "wait": wait}
        await self._operate("switch", "/api/v1/inference/load", body)

    async def unload(self) -> None:
        body = {} if self.chance.random() < 0.1 else {"model": self.chance.choice(MODELS)}
        await self._operate("unload", "/api/v1/inference/unload", body)

    async def look(self) -> None:
        """Read what the gateway says of itself."""
        status, body = await self._operator("GET", "/status")
        assert status == 200
        awake = [m["id"] for m in orjson.loads(body)["models"] if m["state"] == "awake"]
        assert len(set(awake) - {"small"}) <= 1
        self.outcomes["looked"] += 1

    async def _operate(self, what: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self._operator("POST", path, body)
        code = error_code(answer) if status >= 400 else None
        assert code in {None, *OPERATORS}, (status, answer)
        self.outcomes[f"{what}: {code or 'done'}"] += 1
        found: dict[str, Any] = orjson.loads(answer)
        return found

    async def _operator(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        key = f"authorization: {self.house.home.admin['authorization']}"
        request = post_bytes(path, b"" if body is None else orjson.dumps(body), *JSON, key)
        return await self._exchange(request.replace(b"POST", method.encode(), 1))

    # What others want of the card

    @contextlib.asynccontextmanager
    async def _card_taken(self) -> AsyncIterator[None]:
        async with self._card:
            self._card_is_free.clear()
            try:
                yield
            finally:
                self._card_is_free.set()

    async def lease(self) -> None:
        """A program takes the card, or a part of it, and gives it back, or forgets to."""
        async with self._card_taken():
            wish = {
                "ttl_s": self.chance.choice((0.05, 0.5, 1)),
                "mib": self.chance.choice((None, 2_000, 5_000, 8_000)),
                "wait": self.chance.random() < 0.5,
                "reason": "a game",
            }
            lent = await self._operate("lease", LEASE, wish)
            await asyncio.sleep(self.chance.random())
            if self.chance.random() < 0.7:
                path = f"{LEASE}/{lent.get('id', 'nothing')}"
                status, body = await self._operator("DELETE", path)
                assert status in {200, 404}, body
                self.outcomes["lease given" if status == 200 else "lease was over"] += 1

    async def take_memory(self) -> None:
        """A program takes memory without asking, or what is given back comes late."""
        device, what = self.house.device, self.chance.choice(("named", "nameless", "late"))
        async with self._card_taken():
            mib = self.chance.choice((1_000, 5_000, 12_000))
            device.linger(self.chance.choice((100, 400)) if what == "late" else 0)
            device.reserve(mib if what == "nameless" else 0)
            if what == "named":
                device.hold(STRANGER, mib)
            await asyncio.sleep(self.chance.random())
            self.leave_card()
        self.outcomes[f"memory: {what}"] += 1

    def leave_card(self) -> None:
        self.house.device.reserve(0)
        self.house.device.linger(0)
        if STRANGER in self.house.device.holders():
            self.house.device.let_go(STRANGER)

    # Accidents

    async def kill(self) -> None:
        process = self._victim()
        with contextlib.suppress(psutil.Error):
            if process is not None:
                process.kill()
        self.outcomes["killed" if process else "nobody to kill"] += 1

    async def freeze(self) -> None:
        """An engine does nothing for a moment, or for so long that it counts as hung."""
        process = self._victim()
        if process is None:
            return
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.choice((0.1, 0.5, 1, 6)))
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGCONT)
        self.outcomes["froze"] += 1

    def _victim(self) -> psutil.Process | None:
        up = [m for m in MODELS if self.house.switcher.keeper(m).engine is not None]
        return self.house.engine_of(self.chance.choice(up)) if up else None

    # All of it

    async def perform(self, count: int) -> None:
        """Do so many operations, some at once; check after each."""
        drawn = self.chance.choices([*self.plan], [*self.plan.values()], k=count)
        left = iter(drawn)

        async def some() -> None:
            for operation in left:
                await operation()
                self.house.check()
                assert not self.house.broken, "\n".join(self.house.broken)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(some())

    async def everybody_is_served(self) -> None:
        """After the storm each model is served, whatever failed before."""
        async with asyncio.timeout(2 * PATIENCE_S):
            for model in MODELS:
                while await self._ask(model) != "served":
                    pass


def unchunked(body: bytes) -> bytes:
    """Return the content of a chunked body, which must be whole."""
    found: list[bytes] = []
    while True:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n", body
        if length == 0:
            assert rest == b"\r\n", rest
            return b"".join(found)
        found.append(rest[:length])
        body = rest[length + 2 :]


def error_code(body: bytes) -> str:
    return str(orjson.loads(body)["error"]["code"])


def plain(body: bytes) -> tuple[str, str | None]:
    """Return the text of an answer, or the code of the error that it is."""
    answer = orjson.loads(body)
    if "error" in answer:
        return "", error_code(body)
    (choice,) = answer["choices"]
    return choice["message"]["content"], None


def streamed(body: bytes) -> tuple[str, str | None]:
    """Return the text of a stream, and the code of the error that ends it, if one does."""
    *events, last = [x[6:] for x in body.split(b"\n") if x.startswith(b"data: ")]
    choices = [choice for event in events for choice in orjson.loads(event)["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, None if last == b"[DONE]" else error_code(last)
