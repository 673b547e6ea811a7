"""Writes the dashboards: `python -m monitoring.dashboards [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.dashboards.boards import FOLDER, files


def main() -> None:
    """Write every dashboard into the folder that is named, by default into Grafana's."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
