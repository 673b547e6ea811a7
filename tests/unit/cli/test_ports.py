"""Ports: free, taken, and by whom."""

from __future__ import annotations

import os
import socket

import psutil

from llm_backend.cli.ports import port_holder, port_is_free


def test_a_port_that_is_listened_on_is_not_free_and_its_holder_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert not port_is_free("127.0.0.1", port)
        assert port_holder(port) == f"{psutil.Process().name()} (process {os.getpid()})"
    assert port_is_free("127.0.0.1", port)
    assert port_holder(port) == "another program"
