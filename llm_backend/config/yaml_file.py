"""Reads YAML so that nothing is guessed and every value knows its line.

Booleans are `true` and `false` alone (`mode: off` is the text 'off'), numbers are plain decimal
ones, a key given twice is a fault. Anchors and merge keys work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from llm_backend.config.base import Loc, Origin, dotted
from llm_backend.config.problems import Problem, Source
from llm_backend.errors import ConfigError

_MERGE: Final = "tag:yaml.org,2002:merge"
_STR: Final = "tag:yaml.org,2002:str"
_COLLECTIONS: Final = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

_MEANINGS: Final = (
    ("tag:yaml.org,2002:bool", r"true|false"),
    ("tag:yaml.org,2002:null", r"~|null|"),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]{0,17})"),
    ("tag:yaml.org,2002:float", r"[-+]?(0|[1-9][0-9]{0,17})?\.[0-9]{1,18}"),
    (_MERGE, r"<<"),
)
_VALUES: Final[Mapping[str, Callable[[str], Any]]] = {
    _STR: str,
    "tag:yaml.org,2002:bool": "true".__eq__,
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
}


class _Loader(yaml.SafeLoader):
    """PyYAML's loader without YAML 1.1's many ways to write a boolean, number or date."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012  # typed so by PyYAML
        None: [(tag, re.compile(rf"(?:{pattern})\Z")) for tag, pattern in _MEANINGS]
    }


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{shown_path(path)}: cannot be read: {error.strerror}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{shown_path(path)}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8."
        ) from None


def shown_path(path: Path) -> str:
    """Return a path as people would type it here: relative where it is below this directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read(path: Path) -> tuple[Source, list[Problem]]:
    """Return the values of a YAML file with their lines, and what is wrong with the YAML.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is no mapping.
    """
    file = shown_path(path)
    top = _composed(read_text(path), file)
    document = _Document(file)
    if top is None or (isinstance(top, yaml.ScalarNode) and not top.value):
        return Source({}, document.origins), []
    if not isinstance(top, yaml.MappingNode):
        raise ConfigError(f"{file}:{_line(top)}: the file must be a mapping: lines of 'key: value'")
    return Source(document.value(top, ()), document.origins), document.problems


def parse_value(text: str) -> Any:
    """Return what a YAML file would hold if the text stood there; the text where it is no YAML."""
    try:
        top = _composed(text, "")
    except ConfigError:
        return text
    return None if top is None else _Document("").value(top, ())


def _composed(text: str, file: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        fault = f"{file}:{line}: the character U+{ord(text[error.position]):04X} is not allowed"
        raise ConfigError(fault) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        fault = f"{file}:{line}: not valid YAML at column {column}: {_reason(error)}"
        raise ConfigError(fault) from None
    return node


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it cannot be understood"
    if "'\\t'" in problem:
        return "a tab; YAML indents with spaces"
    if "mapping values are not allowed" in problem:
        return "a colon too many; put the value in quotes, or mend the indentation"
    return f"{problem} ({error.context})" if error.context else problem


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Document:
    """Turns the nodes of one file into plain values, and notes where each of them stands."""

    def __init__(self, file: str) -> None:
        self.origins: dict[Loc, Origin] = {(): Origin("file", f"{file}:1", "", 1)}
        self.problems: list[Problem] = []
        self._file = file
        self._merger = yaml.constructor.SafeConstructor()
        self._open: list[yaml.Node] = []
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        """Return the plain value of a node; null where something is wrong with it."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if node.tag not in _COLLECTIONS:
            return self._fault(node, loc, f"the tag {_short(node.tag)} is not allowed")
        if node in self._open:
            self.problems.append(Problem(self.origins[loc], "contains itself"))
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._items(node, loc))
            return [self._placed(child, child, (*loc, i)) for i, child in enumerate(node.value)]
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        if node.tag in (_STR, _plain_tag(node.value)) and node.tag in _VALUES:
            return _VALUES[node.tag](node.value)
        return self._fault(node, loc, f"the tag {_short(node.tag)} is not allowed")

    def _items(self, node: yaml.MappingNode, loc: Loc) -> Iterator[tuple[str, Any]]:
        # An aliased mapping comes by again, merged already: look for repeated keys once only.
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._refuse_repeated(node, loc)
            self._merge(node, loc)
        for key, value in node.value:
            if key.tag == _STR:
                yield key.value, self._placed(key, value, (*loc, key.value))
            else:
                self._fault(key, loc, "every key must be text; put it in quotes")

    def _merge(self, node: yaml.MappingNode, loc: Loc) -> None:
        try:
            self._merger.flatten_mapping(node)
        except yaml.MarkedYAMLError:
            self._fault(node, loc, "what '<<' merges must be a mapping")
            node.value = [(key, value) for key, value in node.value if key.tag != _MERGE]

    def _refuse_repeated(self, node: yaml.MappingNode, loc: Loc) -> None:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == _STR and first.setdefault(key.value, key) is not key:
                earlier = _line(first[key.value])
                self._fault(key, (*loc, key.value), f"given twice; line {earlier} has it too")

    def _placed(self, at: yaml.Node, node: yaml.Node, loc: Loc) -> Any:
        self.origins[loc] = self._origin(at, loc)
        return self.value(node, loc)

    def _origin(self, node: yaml.Node, loc: Loc) -> Origin:
        line = _line(node)
        return Origin("file", f"{self._file}:{line}", dotted(loc), line)

    def _fault(self, node: yaml.Node, loc: Loc, text: str) -> None:
        self.problems.append(Problem(self._origin(node, loc), text))


def _plain_tag(text: str) -> str:
    """Return what an unquoted text means without a tag of its own."""
    meanings = (tag for tag, pattern in _MEANINGS if re.fullmatch(pattern, text))
    return next(meanings, _STR)


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
