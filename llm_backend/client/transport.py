"""One HTTP exchange with the gateway: deadline, retries, connections."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx2

from llm_backend.client.address import is_loopback
from llm_backend.client.failures import Failure, answered, unanswered
from llm_backend.client.retries import Retries
from llm_backend.errors import ConnectionFailed, InvalidRequest

Headers = Mapping[str, str]
"""Names and values of HTTP headers."""

CONNECT_TIMEOUT_S: Final = 5.0

_NOT_IN_A_HEADER: Final = re.compile(rb"[\r\n\0]")

_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which uvicorn hangs up, so that no request meets a closing connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask.

    Attributes:
        method: GET or POST.
        path: Path below the gateway's address.
        timeout_s: The longest that all tries together may take, in seconds.
        body: JSON, for a POST.
        headers: Sent beside the client's own.
        repeat: Whether it may be sent again.
    """

    method: str
    path: str
    timeout_s: float
    body: bytes | None = None
    headers: Headers = field(default_factory=dict)
    repeat: bool = True


@dataclass(slots=True)
class _Pool:
    http: httpx2.AsyncClient
    users: int = 0


class Transport:
    """Sends requests to one gateway.

    A request has a connection of its own, closed when it is done: nothing stays open that
    somebody would have to close. Between `hold` and `release` connections are kept for reuse.

    Args:
        root: Address of the gateway, without `/v1`.
        api_key: Bearer key; None sends none.
        retries: When a request is sent again.
    """

    def __init__(self, root: str, api_key: str | None, retries: Retries) -> None:
        self.root = root
        self._retries = retries
        self._headers = {"user-agent": "llm-backend-client"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        url = httpx2.URL(root)
        self._trust_env = not is_loopback(url.host)
        self._tls = _tls_context(url.scheme)
        # A connection belongs to the event loop that opened it: each loop has its own pool.
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

    @property
    def users(self) -> int:
        """How many calls of `hold` on this event loop are not undone yet."""
        pool = self._pools.get(asyncio.get_running_loop())
        return pool.users if pool is not None else 0

    async def hold(self) -> None:
        """Keep connections for reuse on this event loop, until as many calls of `release`."""
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = _Pool(self._new_client())
        self._pools[loop].users += 1

    async def release(self) -> None:
        """Undo one `hold`; the last one closes the connections."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            pool.users -= 1
            if pool.users == 0:
                await self.close()

    async def close(self) -> None:
        """Close the connections that are kept on this event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.http.aclose()

    async def call(self, request: Request) -> httpx2.Response:
        """Return the whole answer to a request.

        Raises:
            LLMBackendError: the server refused; the last try counts.
            ConnectionFailed: no answer came.
        """
        async with self._client() as http, self._deadline(request) as deadline:
            return await self._until_answered(http, request, deadline, whole=True)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[httpx2.Response]:
        """Yield an answer whose body is still to be read.

        Raises:
            LLMBackendError: the server refused; the last try counts.
            ConnectionFailed: no answer came.
        """
        async with self._client() as http:
            async with self._deadline(request) as deadline:
                response = await self._until_answered(http, request, deadline, whole=False)
            try:
                yield response
            finally:
                await response.aclose()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            yield pool.http
        else:
            async with self._new_client() as http:
                yield http

    def _new_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=self._headers,
            verify=self._tls,
            # The deadline of the request bounds the rest.
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(keepalive_expiry=_KEEP_ALIVE_S),
            follow_redirects=False,
            # A proxy of the environment is not for what runs on this machine.
            trust_env=self._trust_env,
        )

    @asynccontextmanager
    async def _deadline(self, request: Request) -> AsyncIterator[asyncio.Timeout]:
        try:
            async with asyncio.timeout(request.timeout_s) as deadline:
                yield deadline
        except TimeoutError:
            raise ConnectionFailed(
                f"{self.root}{request.path} gave no answer within {request.timeout_s:g} s.",
                hint="LLMClient(timeout_s=…) sets this limit." if request.body else None,
            ) from None

    async def _until_answered(
        self, http: httpx2.AsyncClient, request: Request, deadline: asyncio.Timeout, *, whole: bool
    ) -> httpx2.Response:
        tries = 0
        while True:
            outcome = await self._try(http, request, whole=whole)
            if isinstance(outcome, httpx2.Response):
                return outcome
            tries += 1
            wait_s = self._wait_s(request, outcome, tries, deadline)
            if wait_s is None:
                if tries > 1:
                    outcome.error.add_note(f"Tried {tries} times.")
                raise outcome.error
            await self._retries.sleep(wait_s)

    async def _try(
        self, http: httpx2.AsyncClient, request: Request, *, whole: bool
    ) -> httpx2.Response | Failure:
        message = self._message(http, request)
        try:
            response = await http.send(message, stream=True)
            if whole or not response.is_success:
                await response.aread()
        except httpx2.RequestError as error:
            return unanswered(error, message, self.root)
        return response if response.is_success else answered(response)

    def _message(self, http: httpx2.AsyncClient, request: Request) -> httpx2.Request:
        json = {"content-type": "application/json"} if request.body else {}
        headers = {**json, **request.headers}
        try:
            message = http.build_request(
                request.method, self.root + request.path, content=request.body, headers=headers
            )
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidRequest(f"extra_headers must be ASCII strings: {error}.") from None
        for name, value in message.headers.raw:
            if _NOT_IN_A_HEADER.search(value):
                raise InvalidRequest(
                    f"extra_headers: {name.decode()} has a line break or a zero byte."
                )
        return message

    def _wait_s(
        self, request: Request, failure: Failure, tries: int, deadline: asyncio.Timeout
    ) -> float | None:
        wait_s = self._retries.wait_s(failure, tries) if request.repeat else None
        ends_at = deadline.when()
        if wait_s is None or ends_at is None:
            return None
        # A wait that would outlast the deadline would only hide the failure.
        return wait_s if asyncio.get_running_loop().time() + wait_s < ends_at else None


def _tls_context(scheme: str) -> ssl.SSLContext:
    if scheme == "https":
        return httpx2.create_ssl_context()
    # Plain http has no use for one, and loading the certificates takes a fifth of a second.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
