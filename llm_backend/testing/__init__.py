"""Runnable programs that misbehave on purpose, for tests."""
