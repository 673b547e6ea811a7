"""Fields that a model left out: null, where their schema has room for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from llm_backend.wire import JSONObject

_Wanted = Callable[[JSONObject, str, JSONObject], bool]
"""Whether a missing property is to be null: schema of the object, name, schema of the property."""


_SAYS_NOTHING: Final = frozenset({"title", "description", "default", "examples", "deprecated"})
"""Words of a schema that any value matches."""

_NO_VALUE: Final[JSONObject] = {"not": {}}
"""What a reference that leads nowhere refers to."""

_LONGEST_CHAIN: Final = 32
"""References to references; more are a circle."""


def fill_nullable(value: Any, schema: JSONObject) -> Any:
    """Return a value with null for each required property that is missing and may be null.

    Example:
        >>> nullable = {"type": ["string", "null"]}
        >>> schema = {"properties": {"a": nullable, "b": nullable}, "required": ["a"]}
        >>> fill_nullable({}, schema)
        {'a': None}
    """
    return _Filling(schema, _is_required_nullable).fill(value, schema)


def fill_optional(value: Any, schema: JSONObject) -> Any:
    """Return a value with None for each property that is missing; for one that is valid.

    Example:
        >>> fill_optional({"a": 1}, {"properties": {"a": {}, "b": {"type": "string"}}})
        {'a': 1, 'b': None}
    """
    return _Filling(schema, lambda _schema, _name, _field: True).fill(value, schema)


def _is_required_nullable(schema: JSONObject, name: str, field: JSONObject) -> bool:
    return name in schema.get("required", ()) and _may_be_null(field)


def _may_be_null(schema: JSONObject) -> bool:
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
        return True
    if None in schema.get("enum", ()) or schema.keys() <= _SAYS_NOTHING:
        return True
    return any(_may_be_null(arm) for arm in _arms(schema))


def _arms(schema: JSONObject) -> Iterator[JSONObject]:
    for word in ("anyOf", "oneOf"):
        yield from (arm for arm in schema.get(word, ()) if isinstance(arm, dict))


class _Filling:
    """Walks through a value along its schema."""

    def __init__(self, root: JSONObject, wanted: _Wanted) -> None:
        self._root = root
        self._wanted = wanted

    def fill(self, value: Any, schema: Any) -> Any:
        if not isinstance(schema, dict):  # true and false are schemas too
            return value
        schema = self._inner(schema)
        for part in schema.get("allOf", ()):
            value = self.fill(value, part)
        if isinstance(value, dict):
            return self._fill_object(value, schema)
        if isinstance(value, list):
            return self._fill_list(value, schema)
        return value

    def _fill_list(self, value: list[Any], schema: JSONObject) -> list[Any]:
        first, rest = schema.get("prefixItems", ()), schema.get("items")
        return [
            self.fill(item, first[place] if place < len(first) else rest)
            for place, item in enumerate(value)
        ]

    def _fill_object(self, value: JSONObject, schema: JSONObject) -> JSONObject:
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {k: v if k in known else self.fill(v, others) for k, v in value.items()}
        for name, field in known.items():
            if name in value:
                filled[name] = self.fill(value[name], field)
            elif isinstance(field, dict) and self._wanted(schema, name, self._referred(field)):
                filled[name] = None
        return filled

    def _inner(self, schema: JSONObject) -> JSONObject:
        """Return the schema of what is not null, where there is one way to be that."""
        schema = self._referred(schema)
        arms = [arm for arm in _arms(schema) if arm.get("type") != "null"]
        return self._referred(arms[0]) if len(arms) == 1 else schema

    def _referred(self, schema: JSONObject) -> JSONObject:
        for _ in range(_LONGEST_CHAIN):
            if "$ref" not in schema:
                break
            schema = self._at(str(schema["$ref"]))
        return schema

    def _at(self, reference: str) -> JSONObject:
        place: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            place = place.get(key) if isinstance(place, dict) and part else place
        return place if isinstance(place, dict) else _NO_VALUE
