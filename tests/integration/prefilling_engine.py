"""A fake engine that reads long prompts first: no token comes meanwhile, but short ones are answered.

    python prefilling_engine.py SECONDS FLAGS...

A prompt of more than a hundred words takes it so many seconds, as the prefill of a real engine does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

from llm_backend.testing.fake_answers import Answer
from llm_backend.testing.fake_engine import FakeEngine
from llm_backend.testing.fake_flags import Behaviour, parse
from llm_backend.testing.fake_http import Exchange

LONG_PROMPT = "and so on " * 100


class PrefillingEngine(FakeEngine):
    """A fake engine whose time to the first token depends on the prompt."""

    def __init__(self, behaviour: Behaviour, prefill_s: float) -> None:
        super().__init__(behaviour)
        self._prefill_s = prefill_s

    async def _tokens(self, exchange: Exchange, answer: Answer) -> AsyncIterator[str]:
        if answer.prompt_tokens > 100:
            await asyncio.sleep(self._prefill_s)
        tokens = super()._tokens(exchange, answer)
        async with aclosing(tokens) as source:  # type: ignore[type-var]  # it is a generator
            async for token in source:
                yield token


def command(prefill_s: float, *flags: str) -> list[str]:
    """Return the command line, with `{port}` for the process runtime."""
    return [sys.executable, __file__, str(prefill_s), "--port", "{port}", *flags]


def main() -> None:
    prefill_s, *flags = sys.argv[1:]
    behaviour = parse(flags)
    engine = PrefillingEngine(behaviour, float(prefill_s))
    engine.note("start", model=behaviour.served_model_name)
    with socket.create_server((behaviour.host, behaviour.port)) as listener:
        sys.exit(asyncio.run(engine.serve(listener)))


if __name__ == "__main__":
    main()
