"""Errors of a pydantic schema, told with file, line, key path, value, what is allowed and a near name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from calibrant.errors import (
    ConfigError,
    ConfigTypeError,
    ConfigValueError,
    Problems,
    did_you_mean,
    together,
)
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["FieldsError", "config_error", "config_errors", "validated", "value_text"]

M = TypeVar("M", bound=BaseModel)


class FieldsError(ValueError):
    """What a validator of several fields finds.

    Args:
        text: What is allowed, for a field; otherwise all that is wrong, as what follows the key path.
        field: The field that is to blame, if it is one.
        value: Its value, given or by default.
    """

    def __init__(self, text: str, field: str | None = None, value: Any = None) -> None:
        """Keep what is wrong, and where."""
        super().__init__(text)
        self.field, self.value = field, value


_WRONG_TYPE = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
}


def config_error(
    error: ValidationError, schema: type[BaseModel], document: Document, at: KeyPath = ()
) -> ConfigError:
    """Return the problems of a document, or of its section `at`, as one error."""
    return together(config_errors(error, schema, document, at))


def config_errors(
    error: ValidationError, schema: type[BaseModel], document: Document, at: KeyPath = ()
) -> list[ConfigError]:
    """Return the problems of a document, or of its section `at`: a sentence each, in their order in the file.

    A key that is missing and has a line is left out: it stands there, and the reader of the text told what is wrong
    with it.
    """
    found: dict[KeyPath, ConfigError] = {}  # of the members of a union, the first alone speaks
    for problem in error.errors():
        path = _keys((*at, *problem["loc"]), document)
        place, told = _of_one(problem, path, schema, document, len(at))
        if problem["type"] != "missing" or place not in document.lines:
            found.setdefault(place, told)
    return [found[p] for p in sorted(found, key=lambda p: _position(p, document))]


def validated(schema: type[M], document: Document, problems: Problems) -> M | None:
    """Return a document as its schema has it; None where it does not fit, and `problems` gets why."""
    try:
        return schema.model_validate(document.content)
    except ValidationError as e:
        problems.add(*config_errors(e, schema, document))
        return None


def _position(path: KeyPath, document: Document) -> tuple[int, int]:
    """Return line and column of a key, or of what is around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in document.lines:
            return document.lines[path[:end]], document.columns.get(path[:end], 0)
    return 0, 0


def _of_one(
    problem: Mapping[str, Any],
    path: KeyPath,
    schema: type[BaseModel],
    document: Document,
    depth: int,
) -> tuple[KeyPath, ConfigError]:
    """Return where a problem stands, and its sentence; `depth` keys of the path lead to the schema's section."""
    found = problem.get("ctx", {}).get("error")
    if isinstance(found, FieldsError):
        at = path if found.field is None else (*path, found.field)
        return at, _of_several(found, path, document)
    where = f"{document.where(path)}: {path_text(path) or 'the recipe'}"
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = list(_schema_at(schema, path[depth:-1]).model_fields)
        return path, ConfigValueError(
            f"{where} is not known. Known: {', '.join(known)}."
            + did_you_mean(str(path[-1]), known)
        )
    if kind == "missing":
        return path, ConfigValueError(f"{where} is missing.")
    value = problem["input"]
    shown = value_text(value)
    if kind in _WRONG_TYPE:
        return path, ConfigTypeError(f"{where} is {shown}; it is {_WRONG_TYPE[kind]}.")
    if kind in ("too_short", "too_long"):
        length = problem["ctx"]["min_length" if kind == "too_short" else "max_length"]
        least = "at least" if kind == "too_short" else "at most"
        return path, ConfigValueError(f"{where} is {shown}; it has {least} {_counted(length)}.")
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it has to be")
    near = ""
    if kind == "literal_error" and isinstance(value, str):
        allowed = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        near = did_you_mean(value, allowed)
    end = "" if text.endswith("?") else "."
    return path, ConfigValueError(f"{where} is {shown}; {text}{end}{near}")


def _of_several(problem: FieldsError, path: KeyPath, document: Document) -> ConfigError:
    at = path if problem.field is None else (*path, problem.field)
    where = f"{document.where(at)}: {path_text(at) or 'the recipe'}"
    if problem.field is None:
        return ConfigValueError(f"{where} {problem}.")
    return ConfigValueError(f"{where} is {value_text(problem.value)}; {problem}.")


def value_text(value: Any) -> str:
    """Return a value as a file has it: texts in quotes, true and false in small letters."""
    if isinstance(value, dict):
        return "a mapping with " + (", ".join(map(str, value)) or "nothing")
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _counted(length: int) -> str:
    return "1 element" if length == 1 else f"{length} elements"


def _keys(loc: tuple[int | str, ...], document: Document) -> KeyPath:
    """Keep of pydantic's location what is a key or an index of the document.

    A missing or unknown key comes last; a step that names a member of a union is no key.
    """
    path: list[str | int] = []
    content: Any = document.content
    for i, step in enumerate(loc):
        inside = (isinstance(content, dict) and step in content) or (
            isinstance(content, list) and isinstance(step, int) and step < len(content)
        )
        if inside:
            content = content[step]
            path.append(step)
        elif i == len(loc) - 1 and isinstance(content, dict):
            path.append(step)
    return tuple(path)


def _schema_at(schema: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    for key in path:
        if isinstance(key, str):
            schema = next(_models(schema.model_fields[key].annotation))
    return schema


def _models(annotation: Any) -> Any:
    """Yield the pydantic models in an annotation such as `list[Rule] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
