"""Fetches pictures from allowed hosts, so that no engine ever opens a connection for a client.

The address is looked up once, judged, and connected to: a name that answers differently the next
time gains nothing. Redirects are not followed, credentials are never sent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx2

from llm_backend.config.settings import ImageSettings
from llm_backend.errors import InvalidRequest

_HINT: Final = "images.allowed_hosts in config/gateway.yaml adds a host."


class Fetcher:
    """Fetches from the hosts that are allowed.

    Args:
        allowed: Host names, or `address:port` literals; only a literal may be a private address.
        limit: Bytes of an answer.
        timeout_s: Seconds for all of it.
    """

    def __init__(self, allowed: Iterable[str], limit: int, timeout_s: float) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self._limit = limit
        self._timeout_s = timeout_s
        self._http = httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s)

    @classmethod
    def within(cls, bounds: ImageSettings) -> Fetcher:
        """Return one that keeps to the settings of pictures."""
        return cls(bounds.allowed_hosts, bounds.mib * 1024 * 1024, bounds.fetch_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __call__(self, url: str) -> tuple[str, bytes]:
        """Return media type and bytes of what a URL names.

        Raises:
            InvalidRequest: the URL is not allowed, or does not give a picture.
        """
        parts, port = self._judged(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._address(parts, port)
                return await self._get(parts, address, port)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            raise InvalidRequest(
                f"The image at {parts.hostname} could not be fetched: {type(error).__name__}."
            ) from None

    def _judged(self, url: str) -> tuple[SplitResult, int]:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise InvalidRequest("The URL of an image is not a valid one.") from None
        host = (parts.hostname or "").lower()
        if parts.username is not None or parts.password is not None or not host:
            raise InvalidRequest("The URL of an image must have a host and no user name.")
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        name = place if self._is_literal(host) else host
        if self._allowed.isdisjoint({name, place}):
            raise InvalidRequest(
                f"Images are not fetched from {name[:100]!r}; send them inline as data: URLs.",
                hint=_HINT,
            )
        return parts, port

    @staticmethod
    def _is_literal(host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    async def _address(self, parts: SplitResult, port: int) -> str:
        host = parts.hostname or ""
        if self._is_literal(host):
            return host
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        if not addresses or not all(a.is_global and not a.is_multicast for a in addresses):
            raise InvalidRequest(f"The host {host[:100]!r} has an address that is not public.")
        return str(addresses[0])

    async def _get(self, parts: SplitResult, address: str, port: int) -> tuple[str, bytes]:
        shown = f"[{address}]" if ":" in address else address
        target = f"{parts.scheme}://{shown}:{port}{parts.path or '/'}"
        if parts.query:
            target += f"?{parts.query}"
        request = self._http.build_request(
            "GET",
            target,
            headers={"host": parts.netloc, "accept": "image/*", "accept-encoding": "identity"},
            extensions={"sni_hostname": parts.hostname or ""},
        )
        response = await self._http.send(request, stream=True)
        try:
            return await self._read(response)
        finally:
            await response.aclose()

    async def _read(self, response: httpx2.Response) -> tuple[str, bytes]:
        if response.status_code != httpx2.codes.OK:
            raise InvalidRequest(
                f"The image could not be fetched: its host answered {response.status_code}."
            )
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self._limit:
                raise InvalidRequest(f"The image that was fetched is over {self._limit} bytes.")
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return media_type, bytes(content)
