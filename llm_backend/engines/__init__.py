"""Engines: what a runtime needs to launch each kind, and how to read what it says."""

from llm_backend.engines.kinds import kind_of, plan_for

__all__ = ["kind_of", "plan_for"]
