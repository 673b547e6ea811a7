"""The flags of the fake engine: every way in which it can behave, and go wrong."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any, Final

FAULTS: Final = (
    "sleep-500",
    "hang-sleep",
    "noop",
    "noop-quiet",
    "wake-500",
    "slow-wake",
    "die-wake",
    "corrupt-wake",
    "corrupt-reload",
)
"""What can go wrong with sleep: `fake_sleep` says what each does."""


def _flag(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the engine does; each field is a flag of the program."""

    port: int = _flag(0, "port to listen on; 0 takes a free one and prints it")
    host: str = _flag("127.0.0.1", "address to listen on")
    served_model_name: str = _flag("fake", "the model name that it answers")
    max_model_len: int = _flag(4096, "longest prompt, in words")
    no_images: bool = _flag(False, "refuse pictures, as the engine of a text model does")
    tokens: int = _flag(8, "tokens of an answer, unless the request wants fewer")
    token_delay_s: float = _flag(0.0, "seconds from one token to the next")
    load_s: float = _flag(0.0, "seconds until it listens")
    journal: str = _flag("", "file to append what happens to")
    exit_at_start: int = _flag(-1, "load, then fail with this status")
    never_ready: bool = _flag(False, "load for ever")
    ignore_sigterm: bool = _flag(False, "go on after SIGTERM")
    grandchild: bool = _flag(False, "leave a daemon that sleeps for ever")
    grandchild_holds_port: bool = _flag(False, "the same, and it keeps the port bound")
    status: int = _flag(0, "answer requests for text with this HTTP status")
    die_after_tokens: int = _flag(-1, "kill itself after so many tokens of an answer")
    hang_after_tokens: int = _flag(-1, "generate nothing more after so many tokens of an answer")
    abort_finish: bool = _flag(False, 'end answers half-way with the finish reason "abort"')
    cut_stream: bool = _flag(False, "cut streams off half-way")
    bad_frame: bool = _flag(False, "put an event that is not JSON half-way into streams")
    sleep_mode: bool = _flag(False, "have vLLM's routes for sleep; without it they are 404")
    sleep_delay_s: float = _flag(0.0, "seconds that it takes to fall asleep")
    wake_delay_s: float = _flag(0.0, "seconds that each call to wake it takes")
    sleep_fault: str = _flag("", "what goes wrong with sleep", FAULTS)
    device_memory: str = _flag("", "directory for a file PID that holds its memory in MiB")
    awake_mib: int = _flag(0, "memory while it loads and while it is awake")
    asleep_1_mib: int = _flag(0, "memory while it sleeps at level 1")
    asleep_2_mib: int = _flag(0, "memory while it sleeps at level 2")


def parse(arguments: list[str]) -> Behaviour:
    """Read the flags."""
    parser = argparse.ArgumentParser(description="A fake engine, for tests.")
    for each in fields(Behaviour):
        name, text = "--" + each.name.replace("_", "-"), each.metadata["help"]
        if isinstance(each.default, bool):
            parser.add_argument(name, action="store_true", help=text)
        else:
            options = {"type": type(each.default), "choices": each.metadata["choices"]}
            parser.add_argument(name, default=each.default, help=text, **options)
    return Behaviour(**vars(parser.parse_args(arguments)))
