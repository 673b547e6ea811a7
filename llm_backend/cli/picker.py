"""A table of models to choose from with the arrow keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from llm_backend.cli.machine import Offer
from llm_backend.cli.terminal import mib, yes_no

HEADINGS = ("MODEL", "FOR", "SIZE", "FITS", "DOWNLOADED", "")
MARGIN = 4
"""Columns that the pointer takes."""
SHORTEST_PURPOSE = 12
"""What a model is for is left out where it has less room than this."""
GAP = "  "


def pick(question: str, offers: Iterable[Offer], default: str | None) -> str:
    """Let the person choose a model; those that cannot run are shown and cannot be chosen.

    Args:
        question: What is asked.
        offers: The models.
        default: The one that is preselected.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    import questionary  # noqa: PLC0415  # costs half a second, and most commands ask nothing

    offers = list(offers)
    heading, *rows = rows_of(offers, shutil.get_terminal_size().columns - MARGIN)
    choices: list[questionary.Choice] = [questionary.Separator(heading)]
    for offer, row in zip(offers, rows, strict=True):
        able = offer.obstacle is None
        choices.append(
            questionary.Choice(row, value=offer.id) if able else questionary.Separator(row)
        )
    answer: str = questionary.select(
        question,
        choices=choices,
        default=default,
        instruction="(arrow keys, Enter)",
    ).unsafe_ask()
    return answer


def rows_of(offers: Sequence[Offer], width: int) -> list[str]:
    """Return heading and rows of the table, none wider than `width` columns."""
    table = [HEADINGS, *(_cells(offer) for offer in offers)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    excess = sum(widths) + len(GAP) * (sum(map(bool, widths)) - 1) - width
    if excess > 0:
        left = widths[1] - excess
        widths[1] = left if left >= SHORTEST_PURPOSE else 0
    return [_line(row, widths)[:width] for row in table]


def _cells(offer: Offer) -> tuple[str, ...]:
    size = "?" if offer.size_mib is None else mib(offer.size_mib)
    note = "" if offer.obstacle is None else "cannot run here"
    return (offer.id, offer.purpose, size, yes_no(offer.fits), yes_no(offer.downloaded), note)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = (
        cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True) if width
    )
    return GAP.join(shown).rstrip()


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns."""
    return text if len(text) <= width else f"{text[: width - 3]}..."
