"""The shape of a file, read out of its JSON schema: what may stand where, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from llm_backend.config.base import Loc

Node = Mapping[str, Any]

_NULL: Final = {"type": "null"}

_WORDS: Final = {
    "string": "text",
    "path": "a path",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


class _Generator(GenerateJsonSchema):
    """Writes what pydantic writes, without titles and with `propertyNames` for every mapping."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's hook
        return False

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        patterns = made.pop("patternProperties", None)
        if patterns:
            (made["additionalProperties"],) = patterns.values()
            made["propertyNames"] = self.generate_inner(schema["keys_schema"])
        return made


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a file."""
    return model.model_json_schema(schema_generator=_Generator)


@dataclass(frozen=True, slots=True)
class Shape:
    """One place of a file, and what may stand there.

    Attributes:
        root: The whole schema, where references lead.
        node: The schema of this place, references and "or null" resolved.
        nullable: Whether null may stand here.
        loc: The way to it, without the tags that pydantic puts where a mapping has kinds.
    """

    root: Node
    node: Node
    nullable: bool = False
    loc: Loc = ()

    @classmethod
    def of(cls, model: type[BaseModel]) -> Shape:
        """Return the shape of a whole file."""
        root = json_schema(model)
        return cls(root, root)

    def follow(self, loc: Loc) -> Shape:
        """Go along a way as pydantic reports it, as far as the schema knows it."""
        if not loc:
            return self
        part, *rest = loc
        if part in self.kinds:
            return self._at(self.kinds[str(part)], self.loc).follow(tuple(rest))
        child = self._child(part)
        if child is None:
            return self
        return self._at(child, (*self.loc, part)).follow(tuple(rest))

    def leaves(self) -> Iterator[Shape]:
        """Yield the places further in that hold values, not sections of values."""
        for key in self.keys:
            child = self.follow((key,))
            if child.keys:
                yield from child.leaves()
            else:
                yield child

    def _child(self, part: str | int) -> Node | None:
        if isinstance(part, int):
            items: Node | None = self.node.get("items")
            return items
        known: Node | None = self.node.get("properties", {}).get(part)
        if known is not None:
            return known
        others = self.node.get("additionalProperties")
        return others if isinstance(others, Mapping) else None

    def _at(self, node: Node, loc: Loc) -> Shape:
        options = [option for option in node.get("anyOf", ()) if option != _NULL]
        nullable = _NULL in node.get("anyOf", ())
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        if len(options) > 1:
            rest["anyOf"] = options
        elif options:
            rest = {**self._resolved(options[0]), **rest}
        return Shape(self.root, self._resolved(rest), nullable, loc)

    def _resolved(self, node: Node) -> Node:
        target = node.get("$ref")
        if target is None:
            return node
        found: Node = self.root["$defs"][target.removeprefix("#/$defs/")]
        return {**found, **node}

    @property
    def keys(self) -> list[str]:
        """The keys that a mapping here may have; none where they are free."""
        return list(self.node.get("properties", ()))

    @property
    def kinds(self) -> Mapping[str, Node]:
        """The schemas of a mapping that has kinds, by tag."""
        mapping = self.node.get("discriminator", {}).get("mapping", {})
        return {tag: {"$ref": target} for tag, target in mapping.items()}

    @property
    def tag(self) -> str:
        """The key that tells the kinds of a mapping apart."""
        return str(self.node["discriminator"]["propertyName"])

    @property
    def choices(self) -> list[str]:
        """The texts of which one must stand here; none where it is free."""
        choices = [self.node["const"]] if "const" in self.node else self.node.get("enum", ())
        return list(choices)

    @property
    def secret(self) -> bool:
        """Whether what stands here must never be shown."""
        return bool(self.node.get("writeOnly"))

    @property
    def words(self) -> str:
        """What may stand here, for people: "a whole number from 0 to 65535"."""
        return " or ".join([*self._words(), *(["null"] if self.nullable else [])])

    def _words(self) -> list[str]:
        if self.choices:
            return [one_of(self.choices)]
        if "anyOf" in self.node:
            return [self._at(option, self.loc).words for option in self.node["anyOf"]]
        if self.kinds:
            return [f"a mapping with the key {self.tag!r}"]
        items = self._child(0)
        each = self._at(items, self.loc) if items is not None else None
        special = each is not None and (each.choices or "patternErrorMessage" in each.node)
        return [_plain_words(self.node) + (f", each {each.words}" if each and special else "")]

    @property
    def key_words(self) -> str:
        """What the keys of a mapping here may be, for people."""
        return _plain_words(self.node["propertyNames"])


def _plain_words(node: Node) -> str:
    kind = node.get("format", node.get("type", "object"))
    return str(node.get("patternErrorMessage", _WORDS[kind])) + _range(node)


def _range(node: Node) -> str:
    low, above, high = (node.get(k) for k in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if above is not None and high is not None:
        return f" above {above}, at most {high}"
    if low is not None:
        return f" of at least {low}"
    return " that is not empty" if node.get("minLength") or node.get("minItems") else ""


def one_of(choices: list[str]) -> str:
    """Enumerate choices: "one of 'a', 'b'"."""
    return ("one of " if len(choices) > 1 else "") + ", ".join(repr(choice) for choice in choices)
