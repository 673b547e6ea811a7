"""JSON goes in and comes out the same; what is declared has its type."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.client.view import View

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False)
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
)
objects = st.dictionaries(st.text(), values, max_size=5)


class Leaf(View):
    name: str
    size: int | None = None


class Tree(View):
    kind: str
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf] = {}
    height: float = 1.5
    evergreen: bool = False
    from_: str | None = None
    anything: Any = None


leaves = st.builds(
    lambda extra, name, size: {**extra, "name": name, "size": size},
    objects,
    st.text(),
    st.none() | st.integers(0, 9),
)
trees = st.builds(
    lambda extra, fields: {**extra, **fields},
    objects,
    st.fixed_dictionaries(
        {"kind": st.text(), "leaf": leaves},
        optional={
            "leaves": st.none() | st.lists(leaves, max_size=3),
            "by_name": st.dictionaries(st.text(), leaves, max_size=3),
            "height": st.floats(0, 99) | st.integers(0, 99),
            "evergreen": st.booleans(),
            "from": st.none() | st.text(),
            "anything": values,
        },
    ),
)


@given(trees)
def test_json_comes_out_as_it_went_in(data: dict[str, Any]) -> None:
    before = json.dumps(data)
    tree = Tree(data)
    assert json.dumps(tree.to_dict()) == before
    assert json.dumps(dict(tree)) == before
    assert tree == data
    assert list(tree) == list(data)
    assert all(tree[key] == value for key, value in data.items())


@given(trees)
def test_attributes_and_keys_agree(data: dict[str, Any]) -> None:
    tree = Tree(data)
    assert tree.leaf == data["leaf"]
    assert tree.leaf.name == data["leaf"]["name"]
    assert list(tree.leaves) == (data.get("leaves") or [])
    assert all(isinstance(leaf, Leaf) for leaf in tree.leaves)
    assert {name: leaf.name for name, leaf in tree.by_name.items()} == {
        name: leaf["name"] for name, leaf in data.get("by_name", {}).items()
    }
    assert tree.from_ == data.get("from")
    assert tree.height == data.get("height", 1.5)


@given(objects)
def test_an_object_becomes_a_view_or_a_value_error(data: dict[str, Any]) -> None:
    try:
        tree = Tree(data)
    except ValueError as error:
        assert str(error)  # noqa: PT017  # either end is right; nothing else may happen
    else:
        assert isinstance(tree.kind, str)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": None}, "kind is null"),
        ({"leaf": {}}, "leaf.name is missing"),
        ({"leaf": "x"}, "leaf must be an object, not 'x'"),
        ({"leaves": {}}, "leaves must be a list, not {}"),
        ({"leaves": [{"name": "a"}, None]}, r"leaves\[1\] must be an object, not None"),
        (
            {"leaves": [{"name": "a", "size": True}]},
            r"leaves\[0\].size must be an integer, not True",
        ),
        ({"by_name": []}, r"by_name must be an object, not \[\]"),
        ({"by_name": {"x": {"name": 1}}}, "by_name.x.name must be a string, not 1"),
        ({"height": "tall"}, "height must be a number, not 'tall'"),
        ({"evergreen": 1}, "evergreen must be true or false, not 1"),
        ({"kind": ["x" * 99]}, "kind must be a string, not .{60}…$"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tree({"kind": "oak", "leaf": {"name": "a"}, **change})


def test_a_view_cannot_be_changed_and_its_copy_can() -> None:
    data = {"kind": "oak", "leaf": {"name": "a"}}
    tree = Tree(data)
    with pytest.raises(AttributeError, match=r"Tree\.kind is read-only; to_dict\(\)"):
        tree.kind = "elm"
    with pytest.raises(AttributeError, match="read-only"):
        del tree.kind
    with pytest.raises(TypeError):
        tree["kind"] = "elm"  # type: ignore[index]  # that is the point
    tree.to_dict()["leaf"]["name"] = "b"
    assert (tree.leaf.name, tree["leaf"]["name"]) == ("a", "a")


def test_a_view_is_a_value() -> None:
    tree = Tree({"kind": "oak", "leaf": {"name": "a"}, "age": 3})
    assert "age" in tree
    assert not hasattr(tree, "age")
    assert repr(tree) == "Tree({'kind': 'oak', 'leaf': {'name': 'a'}, 'age': 3})"
    assert copy.deepcopy(tree) == tree
    assert pickle.loads(pickle.dumps(tree)).leaf.name == "a"  # noqa: S301  # our own bytes
