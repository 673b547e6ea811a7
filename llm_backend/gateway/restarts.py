"""Tells why engines had to be started anew, out of what the feed says of their ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_backend.switching.feed import Notice
from llm_backend.switching.states import State

_SAID: Final = frozenset({"exited", "oom", "hung"})
"""Steps by which a keeper tells that an engine ended by itself, or hangs and is ended."""


class Restarts:
    """Remembers of each model how its last engine ended, where nobody had wanted that."""

    def __init__(self) -> None:
        self._launched: set[str] = set()
        self._ends: dict[str, str] = {}

    def reason(self, notice: Notice) -> str | None:
        """Take one notice; return why an engine is started anew, where it tells of that."""
        data = notice.data
        if notice.kind == "step":
            return self._step(data.get("model", ""), data["step"])
        if notice.kind == "state":
            self._state(data)
        return None

    def _step(self, model: str, step: str) -> str | None:
        what, _, how = step.rpartition("_")
        if step in _SAID:
            self._ends[model] = step
        elif step == "launched":
            self._launched.add(model)
        elif how in {"failed", "canary"} and what:
            self._ends[model] = "canary" if how == "canary" else "sleep"
        elif step == "start":
            return self._ends.pop(model, None)
        return None

    def _state(self, data: Mapping[str, Any]) -> None:
        model, state = data["model"], data["state"]
        if state == State.FAILED and model in self._launched:
            self._ends.setdefault(model, "other")  # it never got ready, and did not end by itself
        if state != State.STARTING:
            self._launched.discard(model)
