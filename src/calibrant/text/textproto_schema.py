"""A pydantic model as the schema of protobuf text: one schema, not two.

    class Arq(Message):
        channel_wise: bool | None = None
        quant_bits: UInt32 | None = None

    class Config(Message):
        ONEOFS = {"weight": ("arq", "nuq")}
        arq: Arq | None = None
        names: list[str] = []
        type: Annotated[str, Enum({"KL": 0, "JSD": 1})] = "KL"

becomes a descriptor at run time. Nothing is required there, since pydantic says what is missing, with its
place. A number that also has names (`max_percentile: PERCENTILE_MID`) is `Annotated[float, Named({…})]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pydantic import BaseModel, ConfigDict

from calibrant.text.yaml_text import KeyPath

__all__ = [
    "Enum",
    "FieldType",
    "Int32",
    "Message",
    "Named",
    "UInt32",
    "field_types",
    "message_class",
    "type_at",
]

_PROTO = descriptor_pb2.FieldDescriptorProto

#: Wire type of a whole number that may be negative.
SIGNED: int = _PROTO.TYPE_INT32


@dataclass(frozen=True, slots=True, eq=False)
class Enum:
    """The names that an enumeration has, with their numbers."""

    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Numbers that may be written by name."""

    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Scalar:
    proto: int


UInt32 = Annotated[int, _Scalar(_PROTO.TYPE_UINT32)]
Int32 = Annotated[int, _Scalar(_PROTO.TYPE_INT32)]

_SCALARS: dict[type, int] = {
    bool: _PROTO.TYPE_BOOL,
    str: _PROTO.TYPE_STRING,
    float: _PROTO.TYPE_FLOAT,
    int: _PROTO.TYPE_INT32,
}


class Message(BaseModel):
    """One message; a field that was not written keeps its default.

    Of the fields of one of `ONEOFS` the last one written counts, as protobuf has it, with a note; where its name is
    among `EXCLUSIVE`, two of them are an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    EXCLUSIVE: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class FieldType:
    """What a field is on the wire.

    Args:
        repeated: Whether it may stand several times.
        message: Its message, or None for a scalar.
        enum: Names and numbers of its enumeration, or none.
        named: Numbers it may be by name.
        proto: Its scalar type.
    """

    repeated: bool
    message: type[Message] | None
    enum: Mapping[str, int]
    named: Mapping[str, float]
    proto: int


@cache
def field_types(model: type[Message]) -> dict[str, FieldType]:
    """Return the wire type of each field."""
    return {
        name: _field_type(
            Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        )
        for name, info in model.model_fields.items()
    }


def _field_type(annotation: Any) -> FieldType:
    repeated = False
    marks: list[Any] = []
    while True:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            annotation, marks = args[0], [*marks, *args[1:]]
        elif origin in (Union, UnionType):
            annotation = next(a for a in args if a is not type(None))
        elif origin is list:
            annotation, repeated = args[0], True
        else:
            break
    enum = next((m.numbers for m in marks if isinstance(m, Enum)), {})
    named = next((m.numbers for m in marks if isinstance(m, Named)), {})
    if issubclass(annotation, Message):
        return FieldType(repeated, annotation, {}, {}, _PROTO.TYPE_MESSAGE)
    scalar = next((m.proto for m in marks if isinstance(m, _Scalar)), _SCALARS[annotation])
    return FieldType(repeated, None, enum, named, _PROTO.TYPE_ENUM if enum else scalar)


def type_at(model: type[Message], path: KeyPath) -> FieldType | None:
    """Return the wire type of the field at a path, or None where the message has none."""
    kind: FieldType | None = None
    current: type[Message] | None = model
    for key in path:
        if isinstance(key, str):
            kind = field_types(current).get(key) if current is not None else None
            current = kind.message if kind is not None else None
    return kind


@cache
def message_class(model: type[Message]) -> type:
    """Return the protobuf class of a message."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{model.__module__}.{model.__name__}.proto", package="calibrant", syntax="proto2"
    )
    _describe(model, file, set())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"calibrant.{_name(model)}")
    )
    return made


def _name(model: type[Message]) -> str:
    return model.__name__.lstrip("_")


def _describe(model: type[Message], file: Any, done: set[type[Message]]) -> None:
    done.add(model)
    message = file.message_type.add(name=_name(model))
    for oneof in model.ONEOFS:
        message.oneof_decl.add(name=oneof)
    members = {name: i for i, names in enumerate(model.ONEOFS.values()) for name in names}
    for number, (name, kind) in enumerate(field_types(model).items(), 1):
        field = message.field.add(name=name, number=number, type=kind.proto)
        field.label = _PROTO.LABEL_REPEATED if kind.repeated else _PROTO.LABEL_OPTIONAL
        if name in members:
            field.oneof_index = members[name]
        if kind.enum:
            enum = message.enum_type.add(name=f"{name}_type")
            for label, value in kind.enum.items():
                enum.value.add(name=label, number=value)
            field.type_name = f".calibrant.{_name(model)}.{name}_type"
        if kind.message is not None:
            field.type_name = f".calibrant.{_name(kind.message)}"
            if kind.message not in done:
                _describe(kind.message, file, done)
