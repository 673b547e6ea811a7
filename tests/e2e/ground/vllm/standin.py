"""Stands in for vLLM in a container, where there is neither a GPU nor an image of vLLM.

    vllm serve [MODEL] --config FILE --host 0.0.0.0 --port 8000 [--OPTION [VALUE]...]

vLLM's command line and configuration file, its log lines and the names of its metrics, in front of
the project's fake engine. An option that vLLM 0.32 does not have is refused as vLLM refuses it.

Where /standin is mounted, what happens is written to /standin/NAME.jsonl (NAME is the served model
name), and /standin/NAME.flags holds more flags of the fake engine, read at each start: that is how a
test makes a container misbehave that it cannot create anew. Two are this program's own:
`--fill-mib N` takes memory before it loads, `--log-line TEXT` writes a line. On SIGUSR1 it takes
more memory than any test gives to a container.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llm_backend.testing import fake_engine

HERE = Path(__file__).parent
FAULTS = Path("/standin")
TOO_MUCH_MIB = 1024
BACKENDS = "['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION']"


class Parser(argparse.ArgumentParser):
    """vLLM's options; its first and only positional argument is the model."""

    def __init__(self) -> None:
        super().__init__("vllm serve", "vllm serve [model_tag] [options]", allow_abbrev=False)
        self.add_argument("model_tag", nargs="?")
        for line in (HERE / "options.txt").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name != "help":
                kind: dict[str, Any] = (
                    {"action": "append", "nargs": "?"} if value else {"action": "store_true"}
                )
                self.add_argument(f"--{name}", default=argparse.SUPPRESS, **kind)

    def read(self, arguments: list[str]) -> dict[str, Any]:
        """Return the options of a command line: by their names, with a configuration file's."""
        given = vars(self.parse_args(arguments))
        model = given.pop("model_tag")
        options = {
            name: value[-1] if isinstance(value, list) else value for name, value in given.items()
        }
        if model:
            options["model"] = model
        if file := options.pop("config", None):
            words = list(words_of(yaml.safe_load(Path(file).read_text()) or {}))
            options = {**self.read(words), **options}
        return options


def words_of(config: dict[str, Any]) -> Iterator[str]:
    """Spell a configuration file as a command line, as vLLM does."""
    for name, value in config.items():
        if value is True:
            yield f"--{name}"
        elif value is not False:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            yield from (f"--{name}", text)


def faults_of(model: str) -> list[str]:
    """Return the flags with which a test wants this start."""
    if not FAULTS.is_dir():
        return []
    file = FAULTS / model.replace("/", "_")
    flags = file.with_name(f"{file.name}.flags")
    wanted = shlex.split(flags.read_text()) if flags.exists() else []
    return ["--journal", f"{file}.jsonl", *wanted]


class Engine(fake_engine.FakeEngine):
    """The fake engine, with vLLM's metrics."""

    async def serve(self, listener: socket.socket) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, fill, TOO_MUCH_MIB)
        return await super().serve(listener)

    def _metrics(self) -> str:
        """Return a page that vLLM 0.32 once gave, its counters grown with the requests served."""
        own = dict(line.rsplit(" ", 1) for line in super()._metrics().splitlines())
        page = (HERE / "metrics.txt").read_text().replace("MODEL", self.behaviour.served_model_name)
        lines = [self._line(line, own) for line in page.splitlines()]
        return "\n".join([*lines, *(f"{series} {value}" for series, value in own.items()), ""])

    def _line(self, line: str, own: dict[str, str]) -> str:
        """Return a line of the page with the value of now; `own` loses what has its line."""
        series, _, value = line.rpartition(" ")
        if series in own:
            return f"{series} {own.pop(series)}"
        if not line.startswith("#") and series.partition("{")[0].endswith(
            ("_total", "_sum", "_count", "_bucket")
        ):
            return f"{series} {float(value) * self._requests}"
        return line


def fill(mib: int) -> list[bytes]:
    """Take memory; return what has to be kept for that."""
    return [b"x" * 2**20 for _ in range(mib)]


def announce(options: dict[str, Any]) -> None:
    """Write the lines from which people and programs learn what an engine runs with."""
    fake_engine.log(f"INFO [api_utils.py:286] non-default args: {options}")
    if "VLLM_ATTENTION_BACKEND" in os.environ:
        text = "Unknown vLLM environment variable detected: VLLM_ATTENTION_BACKEND"
        fake_engine.log(f"WARNING [interface.py:1458] {text}")
    decoder = options.get("attention_backend", "FLASH_ATTN")
    fake_engine.log(
        f"INFO [cuda.py:506] Using {decoder} attention backend out of potential backends: {BACKENDS}."
    )
    if backend := options.get("mm_encoder_attn_backend"):
        fake_engine.log(
            f"INFO [cuda.py:571] Using backend AttentionBackendEnum.{backend} for vit attention"
        )


def main() -> None:
    """Run the program."""
    arguments = sys.argv[2:] if sys.argv[1:2] == ["serve"] else sys.argv[1:]
    options = Parser().read(arguments)
    model = str(options.get("served_model_name") or options.get("model") or "Qwen/Qwen3-0.6B")
    own = argparse.ArgumentParser()
    own.add_argument("--fill-mib", type=int, default=0)
    own.add_argument("--log-line", action="append", default=[])
    wanted, faults = own.parse_known_args(faults_of(model))
    flags = ["--served-model-name", model, "--host", str(options.get("host", "0.0.0.0"))]
    flags += ["--port", str(options.get("port", 8000))]
    flags += ["--max-model-len", str(options.get("max_model_len", 4096))]
    behaviour = fake_engine.parse([*flags, *faults])
    engine = Engine(behaviour)
    engine.note("start", model=model)
    announce(options)
    for line in wanted.log_line:
        fake_engine.log(line)
    ballast = fill(wanted.fill_mib)
    # As vLLM does, it takes the port at once and listens when it has loaded.
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((behaviour.host, behaviour.port))
    status = asyncio.run(engine.serve(listener))
    engine.note("exit", status=status, ballast_mib=len(ballast))
    sys.exit(status)


if __name__ == "__main__":
    main()
