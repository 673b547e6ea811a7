"""Serves one GGUF file over the OpenAI API on loopback, with llama.cpp inside this process.

    python llamacpp_serve.py --model FILE --port N --alias NAME

It stands alone (nothing of this package is imported), so that it listens within a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EX_UNAVAILABLE = 69
EX_NOINPUT = 66
EX_SOFTWARE = 70


def no_wheel(system: str, machine: str) -> str | None:
    """Say that xllamacpp has no wheel for such a machine, and what to do; None where it has.

    Args:
        system: As `platform.system()` names it.
        machine: As `platform.machine()` names it.
    """
    if system == "Linux" and machine in {"aarch64", "arm64"}:
        return (
            "xllamacpp has no current wheel for Linux on ARM64. Use an entry of the catalog whose "
            "engine is vLLM, or one with `kind: external` that names a server elsewhere."
        )
    if system not in {"Linux", "Darwin"} or machine not in {"x86_64", "AMD64", "arm64"}:
        return (
            f"xllamacpp has no wheel for {system} on {machine}. Use an entry of the catalog with "
            "`kind: external` that names a server elsewhere."
        )
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp_serve", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", required=True, help="the name that clients use")
    parser.add_argument("--context", type=int, default=4096, help="tokens of each conversation")
    parser.add_argument("--parallel", type=int, default=1, help="conversations at a time")
    parser.add_argument("--threads", type=int, default=0, help="0 takes every core")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--mmproj", type=Path, help="the projector of a vision model")
    parser.add_argument("--embeddings", action="store_true")
    return parser


def _params(xllamacpp: Any, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_ctx = options.context * options.parallel  # llama.cpp divides it among the slots
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = options.threads or _cores()
    params.n_gpu_layers = options.gpu_layers
    params.embedding = options.embeddings
    if options.mmproj is not None:
        params.mmproj.path = str(options.mmproj)
    _close_down(params)
    return params


def _close_down(params: Any) -> None:
    """Leave on what the gateway uses, and nothing else."""
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.offline = True
    params.cors_origins = ""
    params.cors_origins_explicit = True
    # The gateway keeps idle streams alive. With pings, a hung engine would look busy.
    params.sse_ping_interval = -1
    # Up to 8 GiB of RAM by default, over the memory that the catalog reserves.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False


def _fail(message: str, status: int) -> int:
    _say(message)
    return status


def _say(message: str) -> None:
    sys.stderr.write(f"llamacpp_serve: {message}\n")
    sys.stderr.flush()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process; return an exit status if that is not possible."""
    options = _parser().parse_args(argv)
    try:
        import xllamacpp  # noqa: PLC0415  # its absence is one of the answers of this program
    except ImportError:
        reason = no_wheel(platform.system(), platform.machine())
        return _fail(reason or "xllamacpp is not installed.", EX_UNAVAILABLE)
    for file in (options.model, options.mmproj):
        if file is not None and not file.is_file():
            return _fail(f"there is no file {file}", EX_NOINPUT)
    # SIGTERM has its default action: the kernel ends the process at once, requests in flight
    # or not. Draining is the gateway's part and done by then; there is no state to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(_params(xllamacpp, options))
    except RuntimeError as error:
        return _fail(f"llama.cpp could not load {options.model}: {error}", EX_SOFTWARE)
    _say(f"listening on {server.listening_address}")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
