"""Ports for engines: free ones that the kernel gives to nobody else meanwhile."""

from __future__ import annotations

import itertools
import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SPAN = 12_000
_LOWEST = 10_240

_turn = itertools.count(random.randrange(_SPAN))  # noqa: S311  # spread, not secrecy
"""No port is named twice in a row: who asked may not have bound it yet."""


def free_port(host: str) -> int:
    """Return a port that a server can bind now, and most likely still in a moment.

    It lies below the range from which the kernel takes the ports of outgoing connections (ip(7)):
    a port out of that range may be some connection's own by the time the server binds it, even
    one of those that ask whether this very server listens already.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    highest = _lowest_ephemeral()
    span = min(_SPAN, highest - _LOWEST)
    for _ in range(span):
        port = highest - 1 - next(_turn) % span
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    with socket.socket(family) as probe:  # a machine that gives them all away
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _lowest_ephemeral() -> int:
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
