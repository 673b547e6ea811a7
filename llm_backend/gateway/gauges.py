"""What a scrape reads: the state of models, devices and the cache at that moment.

A scrape runs in a thread of its own, since devices may take their time. Everything here only looks,
and looks at each thing once: the event loop goes on meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from llm_backend.gateway.cache import ResponseCache
from llm_backend.switching.entry import Entry
from llm_backend.switching.forecast import NOBODY
from llm_backend.switching.lending import Lending
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.states import AT_REST, SERVING, State
from llm_backend.switching.switcher import Switcher
from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.tally import Labels
from llm_backend.telemetry.vocabulary import RESIDENCIES, Vocabulary

MIB: Final = 1024 * 1024

Values = Mapping[Labels, float]


def show(metrics: Metrics, words: Vocabulary, switcher: Switcher, cache: ResponseCache) -> None:
    """Have the gauges show how things stand."""
    entries, devices = switcher.entries, words.devices
    metrics.in_flight.follow(_each(entries, lambda entry: entry.leases))
    metrics.waiting.follow(_each(entries, _waiting))
    metrics.awake.follow(_each(entries, lambda entry: entry.state is State.AWAKE))
    metrics.state.follow(lambda: _one_of(entries, State, lambda entry: entry.state))
    metrics.residency.follow(lambda: _one_of(entries, RESIDENCIES, lambda e: e.residency))
    metrics.engines_awake.follow(lambda: _awake(entries.values(), devices))
    metrics.engine_memory.follow(lambda: _reserved(entries))
    metrics.device_memory.follow(lambda: _memory(switcher.memory, devices))
    metrics.device_leases.follow(lambda: _lent(switcher.lending, devices))
    metrics.listeners.follow(lambda: {(): switcher.feed.readers})
    _show_cache(metrics, cache)


def _show_cache(metrics: Metrics, cache: ResponseCache) -> None:
    memory, redis = cache.memory, cache.redis
    metrics.cache_bytes.follow(lambda: {("memory",): memory.bytes})
    metrics.cache_entries.follow(lambda: {("memory",): len(memory)})
    if redis is None:
        return
    metrics.cache_breaker.follow(lambda: {(): not redis.well})
    metrics.cache_errors.follow(lambda: {("get",): redis.read_errors, ("set",): redis.write_errors})


def _each(entries: Mapping[str, Entry], value: Callable[[Entry], float]) -> Callable[[], Values]:
    return lambda: {(model,): value(entry) for model, entry in entries.items()}


def _waiting(entry: Entry) -> int:
    # While the event loop looks ahead for one that might come, that one is in line.
    return sum(ticket != NOBODY for ticket in list(entry.waiting))


def _one_of(
    entries: Mapping[str, Entry], names: Iterable[str], current: Callable[[Entry], str]
) -> Values:
    now = {model: current(entry) for model, entry in entries.items()}
    return {(model, str(name)): name == now[model] for model in now for name in names}


def _awake(entries: Iterable[Entry], devices: Iterable[str]) -> Values:
    held = Counter(d for e in entries if e.state in SERVING for d in e.needs.mib)
    return {(device,): held[device] for device in devices}


def _reserved(entries: Mapping[str, Entry]) -> Values:
    return {
        (device, model): mib * MIB
        for model, entry in entries.items()
        for device, mib in _reserved_mib(entry).items()
    }


def _reserved_mib(entry: Entry) -> Mapping[str, int]:
    state, rung, needs = entry.state, entry.rung, entry.needs
    if state in AT_REST:
        return dict.fromkeys(needs.mib, 0)
    if state is State.ASLEEP and rung is not None:
        return {device: needs.rungs[rung][device] for device in needs.mib}
    return needs.mib


def _memory(memory: MemoryGate, devices: Iterable[str]) -> Values:
    """Return what is known; what is not stays NaN."""
    found: dict[Labels, float] = {}
    for device in devices:
        account = memory.account(device)
        if account is None:
            continue
        reading = account.reading
        mib = {"total": reading.total_mib, "used": reading.used_mib, "free": reading.free_mib}
        if account.foreign_mib is not None:
            mib["foreign"] = account.foreign_mib
        found |= {(device, kind): value * MIB for kind, value in mib.items()}
    return found


def _lent(lending: Lending, devices: Iterable[str]) -> Values:
    held = Counter(loan.lease.device for loan in list(lending.loans.values()))
    return {(device,): held[device] for device in devices}
