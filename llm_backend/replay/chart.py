"""Pictures of results: a strip of letters for terminals, a drawing in SVG for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil
from string import ascii_uppercase

from llm_backend.replay.result import Result

NOBODY = "·"
"""Stands where no model is awake."""

COLOURS = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#4d7c0f")
FONT = 'font-family="sans-serif" font-size="12"'
WIDTH, LEFT, RIGHT, LANE, HEAD = 900, 70, 20, 46, 34


def bar(value: float, most: float, width: int) -> str:
    """Return a bar for a value, as long as `width` for the greatest of all values."""
    return "█" * (max(1, round(value / most * width)) if value > 0 else 0)


def letters(results: Sequence[Result]) -> dict[str, str]:
    """Return a letter for each model that was ever awake."""
    models = dict.fromkeys(span.model for result in results for span in result.spans)
    return {model: ascii_uppercase[n % 26] for n, model in enumerate(sorted(models))}


def strip(result: Result, names: dict[str, str], width: int) -> str:
    """Return who was awake in each of `width` slices of the time.

    A capital letter for most of the slice, a small one for some of it.
    """
    slice_s = (result.seconds or 1.0) / width
    shares: list[dict[str, float]] = [{} for _ in range(width)]
    for span in result.spans:
        for n in range(int(span.begin / slice_s), min(width, ceil(span.end / slice_s))):
            awake_s = min(span.end, (n + 1) * slice_s) - max(span.begin, n * slice_s)
            shares[n][span.model] = shares[n].get(span.model, 0.0) + awake_s / slice_s
    return "".join(_cell(share, names) for share in shares)


def _cell(shares: dict[str, float], names: dict[str, str]) -> str:
    model, share = max(shares.items(), key=lambda item: item[1], default=("", 0.0))
    if not share:
        return NOBODY
    return names[model] if share >= 0.5 else names[model].lower()


def svg(results: Sequence[Result]) -> str:
    """Return a drawing: a lane a policy with the models that were awake, on one scale of time."""
    longest = max((result.seconds for result in results), default=0.0) or 1.0
    models = sorted(letters(results))
    colours = {model: COLOURS[n % len(COLOURS)] for n, model in enumerate(models)}
    height = HEAD + LANE * len(results) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend(results[0].trace if results else "", colours),
    ]
    scale = (WIDTH - LEFT - RIGHT) / longest
    for number, result in enumerate(results):
        parts += _lane(result, HEAD + LANE * number, scale, colours)
    parts += [f'<text x="{LEFT}" y="{height - 8}">0 to {longest:.0f} s</text>', "</svg>", ""]
    return "\n".join(parts)


def _legend(trace: str, colours: dict[str, str]) -> Iterator[str]:
    yield f'<text x="10" y="20" font-weight="bold">{escape(trace)}</text>'
    for number, (model, colour) in enumerate(colours.items()):
        x = 220 + 150 * number
        yield f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="20">{escape(model)}</text>'


def _lane(result: Result, top: int, scale: float, colours: dict[str, str]) -> Iterator[str]:
    told = (
        f"{result.switches} switches, interactive wait p95 {result.interactive.p95_s:.0f} s, "
        f"serving {result.use.serving:.0%} of the time"
    )
    yield f'<text x="10" y="{top + 18}">{escape(result.policy)}</text>'
    yield _box(LEFT, top, result.seconds * scale, "#e2e8f0")
    for span in result.spans:
        long_s = span.end - span.begin
        yield _box(LEFT + span.begin * scale, top, max(0.5, long_s * scale), colours[span.model])
    yield f'<text x="{LEFT}" y="{top + 40}" font-size="11" fill="#475569">{told}</text>'


def _box(x: float, y: float, width: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="26" fill="{fill}"/>'
