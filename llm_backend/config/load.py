"""Loads both files: every value typed, every problem of a file said at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from llm_backend.config.base import Loc, Origin, dotted
from llm_backend.config.catalog import Catalog
from llm_backend.config.environment import as_source, from_dotenv, from_environment, insert
from llm_backend.config.problems import Problem, Source, faults, refuse
from llm_backend.config.references import dangling
from llm_backend.config.settings import Settings
from llm_backend.config.shape import Shape
from llm_backend.config.yaml_file import read, shown_path
from llm_backend.errors import ConfigError

_PATHS = {
    "engine": ("config_file", "key_file", "python", "working_directory"),
    "weights": ("path",),
}
"""Where paths stand in an entry of the catalog."""


def load_catalog(path: Path) -> Catalog:
    """Load and check the file that lists the models.

    Raises:
        ConfigError: the file is missing or wrong; says all that is wrong, a line each.
    """
    if not path.exists():
        raise ConfigError(
            f"{shown_path(path)}: no such file.",
            hint="Set LLM_CATALOG, or 'catalog' in config/gateway.yaml, to the file that lists "
            "the models.",
        )
    source, problems = read(path)
    if not source.data and not problems:
        raise ConfigError(f"{shown_path(path)}:1: the file is empty; it needs devices and models.")
    problems += [*faults(Catalog, source), *_references(source)]
    refuse(sorted(problems, key=_line))
    data = _with_absolute_catalog_paths(source.data, path.absolute().parent.parent)
    return Catalog.model_validate(data).located(source.origins)


def _with_absolute_catalog_paths(data: Any, root: Path) -> Any:
    """Let relative paths of the catalog start at the directory that has `config/`."""

    def absolute(entry: Any) -> Any:
        return {
            **entry,
            **{
                part: {k: _located(v, root) if k in names else v for k, v in entry[part].items()}
                for part, names in _PATHS.items()
                if entry.get(part) is not None
            },
        }

    return {**data, "models": {k: absolute(entry) for k, entry in data["models"].items()}}


def _located(value: Any, root: Path) -> Any:
    # A bare name, such as `python3`, is looked for on the PATH.
    if not isinstance(value, str) or "/" not in value:
        return value
    return str(root / Path(value).expanduser())


def _references(source: Source) -> Iterator[Problem]:
    for loc, text in dangling(source.data):
        yield Problem(source.origin(loc), text)
    models = source.data.get("models")
    for model, entry in models.items() if isinstance(models, dict) else ():
        if isinstance(entry, dict) and "id" in entry:
            text = f"unknown key; the key {model!r} is the id"
            yield Problem(source.origin(("models", model, "id")), text)


def load_settings(
    root: Path,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Load and check the settings: flags win, then environment, `.env`, file, defaults.

    Args:
        root: The directory that has `config/` and `.env`; relative paths start there.
        flags: Values by dotted key (`server.port`); None counts as not given.
        environ: The environment, by default that of this process.

    Raises:
        ConfigError: something is wrong; says all that is wrong, a line each.
    """
    shapes = {shape.loc: shape for shape in Shape.of(Settings).leaves()}
    sources: list[Source] = []
    problems: list[Problem] = []
    for source, found in _sources(root, flags or {}, environ, shapes):
        problems += sorted([*found, *faults(Settings, source)], key=_line)
        sources.append(source)
    refuse(problems)
    merged = _merged(sources, shapes)
    settings = Settings.model_validate(merged.data).located(merged.origins)
    return _with_absolute_paths(settings, root.absolute())


def _sources(
    root: Path,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None,
    shapes: Mapping[Loc, Shape],
) -> Iterator[tuple[Source, Sequence[Problem]]]:
    """Yield the sources of settings in ascending order of weight."""
    variables = os.environ if environ is None else environ
    yield _file(root / "config" / "gateway.yaml", shapes)
    dotenv, found = from_dotenv(root / ".env", variables)
    source, unknown = as_source(dotenv, shapes)
    yield source, [*found, *unknown]
    yield as_source(from_environment(variables), shapes)
    yield _flags(flags), []


def _file(path: Path, shapes: Iterable[Loc]) -> tuple[Source, list[Problem]]:
    if not path.exists():
        return Source({}, {}), []
    source, problems = read(path)
    sections = {loc[0] for loc in shapes if len(loc) > 1}
    # A section whose every line is a comment reads as null.
    empty = {key for key, value in source.data.items() if value is None and key in sections}
    data = {key: value for key, value in source.data.items() if key not in empty}
    return Source(data, source.origins), problems


def _flags(flags: Mapping[str, Any]) -> Source:
    data: dict[str, Any] = {}
    origins: dict[Loc, Origin] = {}
    for key, value in flags.items():
        if value is None:
            continue
        loc = tuple(key.split("."))
        insert(data, loc, value)
        for end in range(1, len(loc) + 1):
            origins[loc[:end]] = Origin("flag", "flag", dotted(loc[:end]))
    return Source(data, origins)


def _merged(sources: Iterable[Source], shapes: Iterable[Loc]) -> Source:
    """Take each setting from the last source that has it, its origins too."""
    data: dict[str, Any] = {}
    origins: dict[Loc, Origin] = {}
    for source, loc in product(sources, shapes):
        if loc in source.origins:
            insert(data, loc, _dig(source.data, loc))
            kept = {way: at for way, at in origins.items() if not _within(way, loc)}
            added = {way: at for way, at in source.origins.items() if _within(way, loc)}
            origins = kept | added
    return Source(data, origins)


def _within(way: Loc, loc: Loc) -> bool:
    return way[: len(loc)] == loc


def _with_absolute_paths(settings: Settings, root: Path) -> Settings:
    if settings.lock_dir is None:
        settings = settings.model_copy(update={"lock_dir": settings.state_dir / "locks"})
    names = ("state_dir", "lock_dir", "models_dir", "catalog")
    found: dict[str, Any] = {
        name: _absolute(settings, getattr(settings, name), root, name) for name in names
    }
    record = settings.switching.record
    if record is not None:
        # Below the state directory, because in a container nothing else can be written to.
        record = _absolute(settings, record, found["state_dir"], "switching", "record")
        found["switching"] = settings.switching.model_copy(update={"record": record})
    return settings.model_copy(update=found)


def _absolute(settings: Settings, path: Path, root: Path, *loc: str) -> Path:
    try:
        return root / path.expanduser()
    except RuntimeError:
        origin = settings.origin(*loc)
        text = f"{str(path)!r} starts with a home directory that does not exist"
        raise ConfigError(str(Problem(origin, text))) from None


def _dig(data: Mapping[str, Any], loc: Loc) -> Any:
    value: Any = data
    for part in loc:
        value = value[part]
    return value


def _line(problem: Problem) -> int:
    return problem.origin.line
