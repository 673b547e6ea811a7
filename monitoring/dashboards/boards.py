"""All dashboards, as the files that Grafana is given."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import clients, engines, gpu, overview, switching

FOLDER: Final = Path(__file__).parents[1] / "grafana" / "dashboards"
"""From where Grafana reads them."""


def boards() -> Iterable[Dashboard]:
    """Build every dashboard."""
    return [make() for make in (m.board for m in (overview, switching, engines, clients, gpu))]


def files() -> dict[str, str]:
    """Return the text of every file, by its name."""
    return {f"{_name(board)}.json": _text(board) for board in boards()}


def _name(board: Dashboard) -> str:
    return (board.uid or "").removeprefix("llm-backend-")


def _text(board: Dashboard) -> str:
    return json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
