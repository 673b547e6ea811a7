"""The first look at a request: is it for us, of a bearable size, and of a kind that we take?

It decides on the raw path and headers alone, before anything is parsed.
"""

from __future__ import annotations

import itertools
import secrets
import string
from collections.abc import Iterable
from typing import Final

from llm_backend.errors import (
    Forbidden,
    ForeignHost,
    HeadersTooLarge,
    InvalidRequest,
    WrongMediaType,
)
from llm_backend.gateway.exchange import Fields, Headers

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ID_CHARACTERS: Final = frozenset((string.ascii_letters + string.digits + "_-").encode())
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})

_ONCE: Final = frozenset(
    b"authorization content-encoding content-type host origin x-api-key".split()
)
"""Headers that decide: of two of them, two readers could each believe another one."""

EXPOSED: Final = (
    b"retry-after",
    b"server-timing",
    b"x-cache",
    b"x-estimated-wait-s",
    b"x-queue-position",
    b"x-request-id",
)
"""Headers of answers that a page may read."""

_HOSTS_KEPT: Final = 64
"""Good values of the Host header that are not taken apart again; ports make many of one name."""


class Guard:
    """Refuses what no route of this gateway takes.

    Args:
        hosts: Names that the Host header may have, besides the loopback names.
        origins: Web origins whose pages may call this gateway.
        max_headers: Headers that a request may have.
        max_header_bytes: Their length together.
    """

    def __init__(
        self,
        *,
        hosts: Iterable[str],
        origins: Iterable[str],
        max_headers: int,
        max_header_bytes: int,
    ) -> None:
        self._hosts = LOOPBACK_HOSTS | {h.lower().strip("[]") for h in hosts}
        self._origins = frozenset(o.encode() for o in origins)
        self._max_headers = max_headers
        self._max_header_bytes = max_header_bytes
        self._good_hosts: set[bytes] = set()

    def check(self, method: str, headers: Headers, fields: Fields) -> bytes | None:
        """Look at one request; return the origin whose page sent it, where that is an allowed one.

        Args:
            method: Such as `POST`.
            headers: All headers.
            fields: The first header of each name.

        Raises:
            HeadersTooLarge: too many or too large headers.
            InvalidRequest: no Host header, or two of a kind that decides something.
            ForeignHost: a Host that is not ours, such as after DNS rebinding.
            Forbidden: a page of another origin sent it.
            WrongMediaType: a body that is not plain JSON.
        """
        if len(headers) > self._max_headers:
            raise HeadersTooLarge(f"{len(headers)} headers; at most {self._max_headers}.")
        if sum(map(len, itertools.chain.from_iterable(headers))) > self._max_header_bytes:
            raise HeadersTooLarge(f"The headers are over {self._max_header_bytes} bytes.")
        if len(headers) > len(fields):
            _refuse_repeated(headers)
        host = fields.get(b"host")
        if host not in self._good_hosts:
            self._check_host(host)
        page = self._foreign_page(fields) if b"origin" in fields else None
        if method in _BODY_METHODS:
            _check_media_type(fields)
        return page

    def _check_host(self, value: bytes | None) -> None:
        if value is None:
            raise InvalidRequest("The request has no Host header.")
        host, _, port = value.decode("latin-1").lower().rpartition(":")
        if not host or not port.isdigit():
            host = value.decode("latin-1").lower()
        if host.strip("[]") not in self._hosts:
            raise ForeignHost(
                f"This gateway does not answer for the host {host[:100]!r}.",
                hint="server.allowed_hosts in config/gateway.yaml adds one.",
            )
        if len(self._good_hosts) < _HOSTS_KEPT:
            self._good_hosts.add(value)

    def _foreign_page(self, fields: Fields) -> bytes | None:
        origin = fields[b"origin"]
        if origin in self._origins:
            return origin
        # Our own pages, such as /docs, send the host that they came from.
        if origin.partition(b"://")[2] == fields.get(b"host"):
            return None
        raise Forbidden(
            f"Pages of {origin.decode('latin-1')[:100]!r} may not call this gateway.",
            hint="server.cors_origins in config/gateway.yaml adds an origin.",
        )


def _refuse_repeated(headers: Headers) -> None:
    seen = set()
    for name, _ in headers:
        if name in seen and name in _ONCE:
            raise InvalidRequest(f"The request has two {name.decode().title()} headers.")
        seen.add(name)


def _check_media_type(fields: Fields) -> None:
    media_type = fields.get(b"content-type", b"")
    if media_type != b"application/json":
        media_type = media_type.split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise WrongMediaType(
            f"The content type is {media_type.decode('latin-1')[:100]!r}, not application/json.",
            hint="Send the header Content-Type: application/json.",
        )
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongMediaType("The body has a content encoding.", hint="Send it as it is.")


def cors_headers(origin: bytes) -> Headers:
    """Return what lets a page of an allowed origin read the answer."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b", ".join(EXPOSED)),
        (b"vary", b"origin"),
    ]


def preflight_headers(wanted: bytes) -> Headers:
    """Return what lets such a page send its request, with the headers that it wants to send."""
    return [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", b"600"),
    ]


class RequestIds:
    """Names requests."""

    def __init__(self) -> None:
        # Asking the kernel for chance with every request would cost more than all of the guard.
        self._start = secrets.token_hex(8)
        self._count = itertools.count()

    def of(self, fields: Fields) -> str:
        """Return the client's request id if it is a harmless one, else a new one."""
        told = fields.get(b"x-request-id")
        if told and len(told) <= 64 and _ID_CHARACTERS.issuperset(told):
            return str(told, "ascii")
        return f"{self._start}{next(self._count):08x}"
