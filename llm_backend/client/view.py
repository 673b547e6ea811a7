"""JSON objects that read both ways: by key as they came, by attribute with a type."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Never, Union, get_args, get_origin, get_type_hints

from llm_backend.wire import JSONObject

_Reader = Callable[[Any, str], Any]
"""Turns a JSON value and the place where it stood into the typed value."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    key: str
    read: _Reader
    required: bool
    default: Any


class View(Mapping[str, Any]):
    """A read-only JSON object.

    By key it gives what the server sent, unknown fields included. A subclass declares the
    fields that it knows as a dataclass does; these are also typed attributes. A field that the
    server left out, or sent as null, takes its default; `X | None` needs none. A trailing
    underscore keeps a field's name clear of Python's keywords.

    Example:
        >>> class Usage(View):
        ...     total_tokens: int = 0
        >>> usage = Usage({"total_tokens": 7, "energy_j": 2.5})
        >>> usage.total_tokens, usage["total_tokens"], usage["energy_j"]
        (7, 7, 2.5)

    Args:
        data: The decoded JSON object.
        where: Its place in the answer, for error messages.

    Raises:
        ValueError: a declared field is missing or of another type; says which.
    """

    _fields: ClassVar[tuple[_Field, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields = tuple(
            _field(cls, name, hint)
            for name, hint in get_type_hints(cls).items()
            if not name.startswith("_")
        )

    def __init__(self, data: JSONObject, where: str = "") -> None:
        values: dict[str, Any] = {"_data": data}
        for field in self._fields:
            place = f"{where}.{field.key}" if where else field.key
            value = data.get(field.key)
            if value is not None:
                values[field.name] = field.read(value, place)
            elif field.required:
                raise ValueError(f"{place} is {'null' if field.key in data else 'missing'}")
            else:
                values[field.name] = field.default
        self.__dict__.update(values)

    def __getitem__(self, key: str) -> Any:
        return self.__dict__["_data"][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_data"])

    def __len__(self) -> int:
        return len(self.__dict__["_data"])

    def __setattr__(self, name: str, value: Never) -> None:
        raise AttributeError(
            f"{type(self).__name__}.{name} is read-only; to_dict() gives a copy to change"
        )

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)  # type: ignore[arg-type]  # it refuses every value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__['_data']!r})"

    def to_dict(self) -> JSONObject:
        """Return a deep copy of the JSON object, free to change."""
        data: JSONObject = copy.deepcopy(self.__dict__["_data"])
        return data


def _field(owner: type[View], name: str, hint: Any) -> _Field:
    nullable = get_origin(hint) in (Union, types.UnionType)
    if nullable:
        hint = next(arm for arm in get_args(hint) if arm is not types.NoneType)
    return _Field(
        name=name,
        key=name.removesuffix("_"),
        read=_reader(hint),
        required=not nullable and not hasattr(owner, name),
        default=getattr(owner, name, None),
    )


def _reader(hint: Any) -> _Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value, _place: value
    if origin is tuple:
        return partial(_read_list, _reader(arguments[0]))
    if origin is Mapping:
        return partial(_read_mapping, _reader(arguments[1]))
    if issubclass(hint, View):
        return partial(_read_object, hint)
    return partial(_read_scalar, hint)


def _read_list(read: _Reader, value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch(value, place, "a list")
    return tuple(read(item, f"{place}[{index}]") for index, item in enumerate(value))


def _read_mapping(read: _Reader, value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(value, place, "an object")
    return types.MappingProxyType(
        {key: read(item, f"{place}.{key}") for key, item in value.items()}
    )


def _read_object(view: type[View], value: Any, place: str) -> View:
    if not isinstance(value, dict):
        raise _mismatch(value, place, "an object")
    return view(value, place)


def _read_scalar(kind: type, value: Any, place: str) -> Any:
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    names = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}
    raise _mismatch(value, place, names[kind])


def _mismatch(value: Any, place: str, wanted: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{place} must be {wanted}, not {shown[:60]}{'…' * (len(shown) > 60)}")
