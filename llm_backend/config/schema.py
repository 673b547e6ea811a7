"""Writes what is generated from the configuration's types: `python -m llm_backend.config.schema`.

The JSON schemas beside the two files, for editors, and the tables of the reference page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from llm_backend.config.base import dotted
from llm_backend.config.catalog import Catalog
from llm_backend.config.explain import explain
from llm_backend.config.settings import Settings
from llm_backend.config.shape import Shape, json_schema

REFERENCE: Final = Path("docs/reference/configuration.md")


def schemas() -> dict[Path, str]:
    """Return the JSON schema of each file, by path below the root."""
    return {
        Path("config/models.schema.json"): _as_text(Catalog),
        Path("config/gateway.schema.json"): _as_text(Settings),
    }


def _as_text(model: type[Catalog | Settings]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(model)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def with_tables(page: str) -> str:
    """Return the reference page with its generated tables made anew."""
    tables = {"settings": "\n\n".join(_settings()), "catalog": "\n\n".join(_catalog())}
    for name, table in tables.items():
        start, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = before + start + "\n" + table + "\n\n" + end + after
    return page


def _settings() -> Iterator[str]:
    yield "\n".join(_every_setting())
    for leaf in Shape.of(Settings).leaves():
        entry = leaf.follow((0,))  # of a list
        if entry.keys:
            yield f"#### `{dotted(leaf.loc)}`, each"
            yield "\n".join(_keys(entry))


def _every_setting() -> Iterator[str]:
    yield "| Setting | Default | Unit | Variable | What it is | Allowed |"
    yield "|---|---|---|---|---|---|"
    for one in explain(Settings()):
        cells = (
            f"`{one.key}`",
            f"`{json.dumps(one.default)}`",
            one.unit,
            f"`{one.variable}`",
            one.meaning,
            one.allowed,
        )
        yield _row(cells)


def _catalog() -> Iterator[str]:
    top = Shape.of(Catalog)
    places: Mapping[str, Shape] = {
        "The file": top,
        "`devices.NAME`": top.follow(("devices", "NAME")),
        **dict(_places("models.ID", top.follow(("models", "ID")))),
    }
    for title, shape in places.items():
        yield f"#### {title}"
        yield "\n".join(_keys(shape))


def _places(path: str, shape: Shape, which: str = "") -> Iterator[tuple[str, Shape]]:
    """Yield a mapping and those inside it, each kind of a mapping that has kinds by itself."""
    if shape.keys:
        yield f"`{path}`{which}", shape
    for tag in shape.kinds:
        yield from _places(path, shape.follow((tag,)), f" with `{shape.tag}: {tag}`")
    for key in shape.keys:
        child = shape.follow((key,))
        yield from _places(f"{path}.{key}", child)
        for name, place in (("", 0), (".NAME", "NAME")):  # of a list, of a mapping with free keys
            entry = child.follow((place,))
            if entry.keys and not child.keys:
                yield from _places(f"{path}.{key}{name}", entry, ", each")


def _keys(shape: Shape) -> Iterator[str]:
    yield "| Key | Default | What it is | Allowed |"
    yield "|---|---|---|---|"
    required = shape.node.get("required", ())
    for key in shape.keys:
        child = shape.follow((key,))
        default = "required" if key in required else f"`{json.dumps(child.node.get('default'))}`"
        meaning = " ".join(child.node.get("description", "").split())
        yield _row((f"`{key}`", "" if child.keys else default, meaning, child.words))


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(root: Path) -> None:
    """Write all generated files below `root`."""
    for path, text in schemas().items():
        (root / path).write_text(text, encoding="utf-8")
    page = root / REFERENCE
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
