"""Starts engines with other launch options than the catalog's, by an operator's wish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from llm_backend.engines.launch_options import CATALOG, LaunchOptions
from llm_backend.errors import LLMBackendError, SwitchSuperseded
from llm_backend.switching.keeper import EngineKeeper


class Relaunching:
    """Loads models with launch options, which hold until their engine stops.

    Args:
        keepers: By model.
        switch: Makes a model awake, by an operator's wish.
        unload: Drains and ends the engine of a model, if it has one.
    """

    def __init__(
        self,
        keepers: Mapping[str, EngineKeeper],
        switch: Callable[[str], Awaitable[None]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self._keepers = keepers
        self._switch = switch
        self._unload = unload
        self._begun: set[asyncio.Task[None]] = set()

    async def check(self, model: str, options: LaunchOptions) -> None:
        """Find out whether these options can be had, before an engine is ended for them.

        Raises:
            LLMBackendError: they cannot, or a start could not work anyway.
        """
        await self._keepers[model].plan(options)

    async def switch(self, model: str, options: LaunchOptions) -> None:
        """Make a model awake with these options; one that runs without them is started anew.

        Raises:
            SwitchSuperseded: a later switch or load replaced this one.
            LLMBackendError: the engine could not be brought up.
        """
        keeper = self._keepers[model]
        if options not in (keeper.options, keeper.due):
            await self._unload(model)
        # Requests that wait for the model may have begun its start already: it has not come to
        # the launch yet, and is the same start. One that runs like that may be on its way out,
        # or not wake from its sleep: then there is a start, too.
        keeper.due = options
        try:
            await self._switch(model)
        finally:
            keeper.due = CATALOG
        if keeper.options != options:
            raise SwitchSuperseded(f"Another load of {model} came in between.")

    def begin(self, model: str, options: LaunchOptions) -> None:
        """Do that without anybody waiting for it."""
        task = asyncio.create_task(self._switch_unseen(model, options), name=f"load {model}")
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _switch_unseen(self, model: str, options: LaunchOptions) -> None:
        # Why it failed is in the model's entry.
        with contextlib.suppress(LLMBackendError):
            await self.switch(model, options)

    async def close(self) -> None:
        """Let go of what was begun."""
        tasks = list(self._begun)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
