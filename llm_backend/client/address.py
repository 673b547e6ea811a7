"""Where the gateway is and which key opens it: arguments first, then the environment."""

from __future__ import annotations

import ipaddress
import os
from typing import Final

import httpx2

from llm_backend.errors import ConfigError

DEFAULT_BASE_URL: Final = "http://localhost:7000"


def resolve_root(base_url: str | None) -> str:
    """Return the address of the gateway without `/v1`: `base_url`, LLM_BASE_URL or the default.

    Raises:
        ConfigError: it is not an http or https address; names where it came from.
    """
    if base_url is not None:
        return _root(base_url, "base_url")
    return _root(os.environ.get("LLM_BASE_URL") or DEFAULT_BASE_URL, "LLM_BASE_URL")


def resolve_key(api_key: str | None) -> str | None:
    """Return the key: `api_key`, else LLM_API_KEY; None where both are absent or empty.

    Raises:
        ConfigError: it cannot be sent in a header. The message does not show it.
    """
    source = "LLM_API_KEY" if api_key is None else "api_key"
    key = (os.environ.get("LLM_API_KEY", "") if api_key is None else api_key).strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{source} must be printable ASCII without spaces; this key is not.")
    return key or None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _root(text: str, source: str) -> str:
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise ConfigError(f"{source} is not an address: {text!r} ({error}).") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(
            f"{source} must start with http:// or https://, not {text!r}.",
            hint=f"An example: {DEFAULT_BASE_URL}",
        )
    if url.query or url.fragment or url.userinfo:
        raise ConfigError(
            f"{source} must be an address without user, query or fragment.",
            hint="The key goes into api_key, or LLM_API_KEY.",
        )
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")
