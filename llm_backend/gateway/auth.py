"""Who asks, and may they? Keys are compared by digest, in constant time, without early exit."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_backend.config.settings import Scope, Settings
from llm_backend.errors import ConfigError, Forbidden, InvalidKey, InvalidRequest

ANONYMOUS = "anonymous"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Key:
    """A configured key.

    Attributes:
        name: Names it in logs and metrics.
        digest: SHA-256 of the key, in hexadecimal.
        scopes: What it opens; `admin` opens `infer` too.
    """

    name: str
    digest: str
    scopes: frozenset[Scope]

    def opens(self, scope: Scope) -> bool:
        """Return whether this key reaches `scope`."""
        return scope in self.scopes or "admin" in self.scopes


class Authenticator:
    """Tells who a request comes from.

    Args:
        keys: All configured keys.
        open_infer: Whether `infer` needs no key.
    """

    def __init__(self, keys: Iterable[Key], *, open_infer: bool) -> None:
        self._keys = tuple(keys)
        self._open_infer = open_infer

    @property
    def names(self) -> list[str]:
        """What a request can be authorised as."""
        return [*(key.name for key in self._keys), *([ANONYMOUS] if self._open_infer else [])]

    def authorise(self, headers: Mapping[bytes, bytes], scope: Scope) -> str:
        """Return the name of the key that a request was sent with.

        Where `infer` is open, a key that is not known counts as none: SDKs insist on sending one.

        Raises:
            InvalidKey: no key, or one that is not configured.
            Forbidden: the key does not reach `scope`.
            InvalidRequest: two different keys.
        """
        presented = presented_key(headers)
        key = self._find(presented) if presented else None
        if key is not None and key.opens(scope):
            return key.name
        if scope == "infer" and self._open_infer:
            return key.name if key else ANONYMOUS
        if key is not None:
            raise Forbidden(f"The key {key.name!r} does not have the scope {scope!r}.")
        if presented is None:
            raise InvalidKey(
                "This needs a key.", hint="Send the header Authorization: Bearer <key>."
            )
        raise InvalidKey("The key is not known to this gateway.")

    def _find(self, presented: bytes) -> Key | None:
        digest = hashlib.sha256(presented).hexdigest()
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key of `Authorization: Bearer` or `x-api-key`; the one place that reads them.

    Raises:
        InvalidRequest: both are given and differ.
    """
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    token = bearer.strip() if scheme.lower() == b"bearer" else b""
    api_key = headers.get(b"x-api-key", b"").strip()
    if token and api_key and token != api_key:
        raise InvalidRequest("Authorization and x-api-key hold two different keys.")
    return token or api_key or None


def authenticator_of(settings: Settings) -> Authenticator:
    """Build the authenticator: the configured keys, and the admin key that the first start makes.

    Raises:
        ConfigError: anyone could reach the gateway without a key.
    """
    keys = [Key(k.name, k.sha256, frozenset(k.scopes)) for k in settings.keys]
    has_infer = any(key.opens("infer") for key in keys)
    reachable_as = settings.server.published_host or settings.server.host
    loopback = reachable_as in LOOPBACK
    if not loopback and not has_infer:
        raise ConfigError(
            f"The gateway would be reachable as {reachable_as} by anyone, without a key.",
            hint="Add a key with the scope infer under keys: in config/gateway.yaml, "
            "or publish it on 127.0.0.1.",
        )
    admin = admin_key(settings.state_dir)
    digest = hashlib.sha256(admin.encode()).hexdigest()
    keys.append(Key("admin", digest, frozenset({"admin"})))
    return Authenticator(keys, open_infer=not has_infer)


def admin_key(state_dir: Path) -> str:
    """Return the admin key; the first start makes it, in a file that only its owner reads."""
    path = state_dir / "admin.key"
    if not path.exists() or not path.read_text().strip():
        state_dir.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=state_dir)  # which only its owner reads
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
        Path(draft).replace(path)  # a key is there whole, or not at all
    return path.read_text().strip()
