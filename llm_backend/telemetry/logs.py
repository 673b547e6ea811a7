"""How the gateway logs: JSON for machines, coloured text for people, never prompts or keys."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol

import orjson
import structlog

Style = Literal["auto", "json", "text"]

COLLECTED_S: Final = 0.05
"""How long a line of `FrequentLog` may wait for others."""


def configure(level: str, style: Style) -> None:
    """Set up logging of the whole process, to standard error."""
    text = _is_text(style)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(text=text),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


def _is_text(style: Style) -> bool:
    return style == "text" or (style == "auto" and sys.stderr.isatty())


class Facts(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class FrequentLog:
    """Writes an event that comes with every request, with the level `info`.

    structlog would take as long for it as the gateway for all the rest of a request. So machines
    get the line without it, the lines of a moment together; people get it from structlog.

    Args:
        level: The least that is logged.
        style: As for `configure`.
    """

    def __init__(self, level: str, style: Style) -> None:
        self._is_wanted = level in {"debug", "info"}
        self._log = structlog.get_logger(__name__) if _is_text(style) else None
        self._lines: list[bytes] = []

    def write(self, event: str, facts: Facts) -> None:
        """Write a line with the fields of a dataclass, within `COLLECTED_S` seconds.

        Args:
            event: What happened; plain letters.
            facts: Its public fields are the line's; one is the `timestamp`, in UTC.
        """
        if not self._is_wanted:
            return
        if self._log is not None:
            fields = asdict(facts)
            del fields["timestamp"]
            self._log.info(event, **{k: v for k, v in fields.items() if k[0] != "_"})
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(COLLECTED_S, self.flush)
        start = b'{"event":"%b","level":"info",' % event.encode()
        self._lines.append(start + orjson.dumps(facts, option=_LINE)[1:])

    def flush(self) -> None:
        """Write what was collected."""
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write(b"".join(lines).decode())
            sys.stderr.flush()


_LINE: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


def _renderers(*, text: bool) -> list[structlog.typing.Processor]:
    # Without the values of variables, which structlog shows by itself: prompts and keys are there.
    if text:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]


def defect(error: BaseException) -> dict[str, str | list[str]]:
    """Return what a log may tell of a defect that a request met: where, and of which kind.

    What an exception says may repeat what was sent.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"defect": type(error).__qualname__, "places": places}
