"""The figures of a model benchmark, out of its samples. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from llm_backend.replay.result import percentile
from llm_backend.wire import JSONObject


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured request. Times in seconds, from the moment it was sent.

    Attributes:
        first_s: When the first token came; None where none came.
        end_s: When the last one came, or when it ended otherwise.
        tokens: How many came.
        failure: Why the answer is not whole; None where it is.
        away: What else had the device while it waited; None where it waited for its turn at most.
    """

    first_s: float | None
    end_s: float
    tokens: int
    failure: str | None = None
    away: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the model was there and its answer came to an end."""
        return self.failure is None and self.away is None and self.first_s is not None

    @property
    def tokens_per_s(self) -> float | None:
        """How quickly it was written after the first token; None of one token, or too few."""
        if self.first_s is None or self.tokens < 2 or self.end_s <= self.first_s:
            return None
        return (self.tokens - 1) / (self.end_s - self.first_s)


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread; each is the smallest that so many of all do not exceed."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Return the spread of some values; None of none."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(*(percentile(ordered, share) for share in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Line:
    """The figures of one kind of prompt at one concurrency.

    Attributes:
        prompt: The kind of prompt.
        concurrency: Requests at once.
        requests: Those whose whole answer came; the figures are theirs.
        failed: Those without one, by any cause.
        away: Those left out because another model had the device meanwhile.
        ttft_ms: Milliseconds to the first token.
        tokens_per_s: Of one answer, after its first token.
        total_tokens_per_s: Of all answers together, over the time that they took.
        failure: What the first of the failed ran into.
    """

    prompt: str
    concurrency: int
    requests: int
    failed: int
    away: int
    ttft_ms: Spread | None
    tokens_per_s: Spread | None
    total_tokens_per_s: float
    failure: str | None

    def as_json(self) -> JSONObject:
        """Return it as `--json` shows it."""
        return asdict(self)


def line_of(prompt: str, concurrency: int, samples: Sequence[Sample], took_s: float) -> Line:
    """Return the figures of some samples.

    Args:
        prompt: The kind of prompt that they had.
        concurrency: How many ran at once.
        samples: The requests.
        took_s: From the first request to the end of the last.
    """
    whole = [sample for sample in samples if sample.is_whole]
    failures = [sample.failure for sample in samples if sample.failure is not None]
    rates = (sample.tokens_per_s for sample in whole)
    return Line(
        prompt=prompt,
        concurrency=concurrency,
        requests=len(whole),
        failed=len(failures),
        away=sum(sample.failure is None and sample.away is not None for sample in samples),
        ttft_ms=Spread.of(1000 * s.first_s for s in whole if s.first_s is not None),
        tokens_per_s=Spread.of(rate for rate in rates if rate is not None),
        total_tokens_per_s=sum(s.tokens for s in whole) / took_s if took_s > 0 else 0.0,
        failure=next(iter(failures), None),
    )


def verdict(lines: Sequence[Line], limit_ms: float) -> str | None:
    """Say how the first line misses a promised time to the first token; None where it keeps it.

    What counts is the 95th percentile, and that no request failed.
    """
    if not lines or lines[0].ttft_ms is None:
        return "Nothing was measured, so the promised time to the first token is not shown."
    line, reached = lines[0], lines[0].ttft_ms.p95
    where = f"of {line.prompt} prompts, {line.concurrency} at once"
    if line.failed:
        return f"{line.failed} requests {where} failed: {line.failure}"
    if reached > limit_ms:
        return (
            f"The time to the first token {where}: 95 % within {reached:.0f} ms, "
            f"not within {limit_ms:g} ms."
        )
    return None
