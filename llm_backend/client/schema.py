"""What an answer is to look like, how that is asked for, and how an answer is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, Self, TypeVar, runtime_checkable

from llm_backend.client.nulls import fill_nullable, fill_optional
from llm_backend.errors import InvalidJSON, InvalidRequest, StructuredOutputInvalid
from llm_backend.wire import JSONObject, decode, encode, shown

T = TypeVar("T")

_FENCE: Final = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_PROBLEMS_SHOWN: Final = 5


@runtime_checkable
class ModelClass(Protocol):
    """A class as pydantic's `BaseModel` makes them: it knows its schema and reads JSON."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema."""
        ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self:
        """Return the value that the JSON stands for; raise a ValueError where it is none."""
        ...


M = TypeVar("M", bound=ModelClass)

Schema = type[ModelClass] | Mapping[str, Any] | None
"""A pydantic model, a JSON schema, or None for any JSON object."""


@dataclass(frozen=True, slots=True)
class Shape(Generic[T]):
    """What an answer is to look like.

    Attributes:
        response_format: Makes the engine write nothing else.
        instruction: Tells the model.
        validate: Turns a decoded answer into its value; raises ValueError where it is wrong.
    """

    response_format: JSONObject
    instruction: str
    validate: Callable[[Any], T]

    def read(self, text: str) -> T:
        """Return the value of an answer.

        Raises:
            StructuredOutputInvalid: it has another shape; says what is wrong.
        """
        try:
            return self.validate(decode(_json_of(text).encode()))
        except InvalidJSON as error:
            what = "The answer is empty." if not text.strip() else error.message
            raise StructuredOutputInvalid(what.replace("The body", "It"), answer=text) from None
        except (ValueError, RecursionError) as error:
            problems = "; ".join(_problems(error))
            raise StructuredOutputInvalid(
                f"The answer does not match the schema: {problems}.", answer=text
            ) from error


def shape_of(schema: Schema) -> Shape[Any]:
    """Return the shape that a schema stands for.

    Raises:
        InvalidRequest: it is none.
    """
    if schema is None:
        return Shape({"type": "json_object"}, _JSON_MODE, _object)
    if isinstance(schema, Mapping):
        return _of_schema(dict(schema))
    if isinstance(schema, type) and isinstance(schema, ModelClass):
        return _of_class(schema)
    raise InvalidRequest(
        f"schema must be a pydantic model class, a JSON schema or None, not {schema!r:.80}.",
        hint="A list of models is a model too: pydantic.RootModel[list[...]].",
        param="schema",
    )


_JSON_MODE: Final = "Answer with one JSON object, and nothing else."


def _object(value: Any) -> JSONObject:
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, not {shown(value)}")  # noqa: TRY004  # see read
    return value


def _of_class(model: type[M]) -> Shape[M]:
    try:
        schema = model.model_json_schema()
    except (NameError, RuntimeError) as error:  # pydantic's own are some of these
        what = str(error).partition("\n")[0]
        raise InvalidRequest(
            f"There is no JSON schema of {model.__name__}: {what}.", param="schema"
        ) from error

    def validate(value: Any) -> M:
        return model.model_validate_json(encode(fill_nullable(value, schema)))

    return Shape(_response_format(schema, model.__name__), _instruction(schema), validate)


def _of_schema(schema: JSONObject) -> Shape[Any]:
    import jsonschema_rs  # noqa: PLC0415  # only JSON schemas need it

    try:
        validator = jsonschema_rs.validator_for(schema, validate_formats=True, offline=True)
    except ValueError as error:
        raise InvalidRequest(f"schema is no JSON schema: {error}", param="schema") from None

    def validate(value: Any) -> Any:
        value = fill_nullable(value, schema)
        problems = [_located(x.message, x.instance_path) for x in validator.iter_errors(value)]
        if problems:
            raise ValueError("; ".join(problems[:_PROBLEMS_SHOWN]))
        return fill_optional(value, schema)

    title = str(schema.get("title") or "answer")
    return Shape(_response_format(schema, title), _instruction(schema), validate)


def _response_format(schema: JSONObject, name: str) -> JSONObject:
    named = _NOT_IN_A_NAME.sub("_", name)[:64]
    return {"type": "json_schema", "json_schema": {"name": named, "schema": schema}}


def _instruction(schema: JSONObject) -> str:
    return (
        "Answer with JSON that matches this JSON schema, and nothing else. "
        "What is not known is null, where the schema allows it.\n"
        f"{encode(_without_titles(schema)).decode()}"
    )


def _without_titles(schema: Any) -> Any:
    """Leave out what pydantic puts into each field, and tells a model nothing."""
    if isinstance(schema, dict):
        kept = (k for k, v in schema.items() if k != "title" or not isinstance(v, str))
        return {key: _without_titles(schema[key]) for key in kept}
    return schema


def _json_of(text: str) -> str:
    """Return the JSON in an answer; engines that ignore the format let models fence it."""
    text = text.strip()
    fenced = None if text.startswith(("{", "[")) else _FENCE.search(text)
    return fenced[1] if fenced else text


def _problems(error: Exception) -> Iterator[str]:
    """Yield what is wrong, a line each; pydantic's own text has addresses of web pages in it."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        yield str(error)
        return
    for problem in listed()[:_PROBLEMS_SHOWN]:
        yield _located(problem["msg"], problem["loc"])


def _located(message: str, place: Any) -> str:
    where = ".".join(str(part) for part in place)
    return f"{where}: {message}" if where else message
