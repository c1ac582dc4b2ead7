"""Read a parameter record: protobuf text or JSON, written here, by AMCT, or by hand.

    record {
      key: "conv1"
      value { scale_d: 0.041 offset_d: -3 scale_w: 0.0068 offset_w: 0 act_type: "INT8" wts_type: "INT8" }
    }

A field that stands twice counts as last written. Comments that begin with `# calibrant: ` hold what the
record has no field for (`record.extras_write`).

Source: AMCT's record; docs/how-to/records.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from calibrant.errors import (
    ConfigRuntimeError,
    ConfigTypeError,
    ConfigValueError,
    UnsupportedError,
    did_you_mean,
)
from calibrant.record.entries import EXTRAS_KEY
from calibrant.record.extras import Extras
from calibrant.text.fields import one_of
from calibrant.text.json_text import read_json
from calibrant.text.schema import config_error
from calibrant.text.textproto import parse
from calibrant.text.textproto_schema import Int32, Message, UInt32
from calibrant.text.yaml_text import Document, KeyPath

__all__ = ["Entry", "Record", "read_record"]

#: A comment of calibrant's, however it is spaced.
_MARK = re.compile(r"\s*#+\s*calibrant\s*:\s*(.*?)\s*", re.IGNORECASE)

ActType = Annotated[str, one_of("INT4", "INT8", "INT16")]
WeightType = Annotated[str, one_of("INT4", "INT6", "INT7", "INT8", "INT16")]


class Value(Message):
    """One entry."""

    scale_d: list[float] = Field(default=[])
    offset_d: list[Int32] = Field(default=[])
    scale_w: list[float] = Field(default=[])
    offset_w: list[Int32] = Field(default=[])
    shift_bit: list[UInt32] = Field(default=[])
    tensor_balance_factor: list[float] = Field(default=[])
    skip_fusion: bool = False
    dst_type: ActType | None = None
    act_type: ActType | None = None
    wts_type: WeightType | None = None
    fakequant_precision_mode: str | None = None
    cluster: list[Int32] = Field(default=[])
    is_tensor_quantize: bool = False
    # of other editions: what a layer looked like, passed over
    op_data_type: str | None = None
    channels: UInt32 | None = None
    height: UInt32 | None = None
    width: UInt32 | None = None
    # of recurrent layers
    scale_h: float | None = None
    offset_h: Int32 | None = None
    scale_r: float | None = None
    offset_r: Int32 | None = None


class KvCache(Message):
    """The cache of an attention."""

    scale: list[float] = Field(default=[])
    offset: list[Int32] = Field(default=[])


class Item(Message):
    """One record: a key and its value."""

    key: str = ""
    value: Value = Value()
    kv_cache_value: KvCache | None = None


class RecordFile(Message):
    """The whole file."""

    record: list[Item] = Field(default=[])


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, and where it stands.

    Args:
        key: Layer, or `layer:input`.
        value: Its fields.
        where: File and line, for messages.
        places: Field -> file and line.
    """

    key: str
    value: Value
    where: str
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def act_bits(self) -> int:
        """Width of the activation; 8 where nothing is said. `act_type` goes before the older `dst_type`."""
        return int((self.value.act_type or self.value.dst_type or "INT8")[3:])

    @property
    def wts_bits(self) -> int:
        """Width of the weight; 8 where nothing is said."""
        return int((self.value.wts_type or "INT8")[3:])

    @property
    def kept(self) -> dict[str, Any]:
        """Fields that go into the next record as they are."""
        names = ("shift_bit", "dst_type", "fakequant_precision_mode")
        return {n: v for n in names if (v := getattr(self.value, n))}


@dataclass(frozen=True, slots=True)
class Record:
    """A record.

    Args:
        source: File, for messages.
        entries: By key.
        extras: What the entries leave out.
    """

    source: str
    entries: Mapping[str, Entry]
    extras: Extras


def read_record(source: str | Path) -> Record:
    """Read a record.

    Args:
        source: A path; or the text itself, a string with a line break or a brace in it.

    Raises:
        ConfigValueError: The file cannot be read, is no record, or says what is not allowed.
        ConfigTypeError: A value of the wrong type.
        ConfigRuntimeError: It has no entry.
    """
    text, path = _text(source)
    name = str(path) if path is not None else "the record"
    if text.lstrip().startswith("{"):
        record = _from_json(text, path, name)
    else:
        record = _from_text(text, path, name)
    if not record.entries and record.extras == Extras():
        raise ConfigRuntimeError(
            f"{name} has no entry: there are no layers to be quantized. A record is written when calibration "
            "is finished."
        )
    return record


def _text(source: str | Path) -> tuple[str, Path | None]:
    if isinstance(source, str) and ("\n" in source or "{" in source):
        return source, None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8-sig"), path
    except UnicodeDecodeError as e:
        raise ConfigValueError(f"The record '{path}' is not a text file in UTF-8.") from e
    except OSError as e:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigValueError(
            f"The record '{path}' cannot be read: {e.strerror}." + did_you_mean(path.name, near)
        ) from e


def _from_text(text: str, path: Path | None, name: str) -> Record:
    message, document, _ = parse(text, path, RecordFile)
    entries: dict[str, Entry] = {}
    for i, item in enumerate(message.record):
        where = _place(document, ("record", i), name)
        if not item.key:
            raise ConfigValueError(f"{where}: this record has no key; it is the name of a layer.")
        if item.kv_cache_value is not None:
            raise UnsupportedError(
                f"{where}: '{item.key}' is the cache of an attention, which calibrant does not quantize."
            )
        places = {
            str(at[3]): _place(document, at, name)
            for at in document.lines
            if len(at) >= 4 and at[:3] == ("record", i, "value")
        }
        entries[item.key] = Entry(item.key, item.value, where, places)
    extras = [
        (_extra(found[1], f"{name}:{number}"), f"{name}:{number}")
        for number, line in enumerate(text.splitlines(), 1)
        if (found := _MARK.fullmatch(line))
    ]
    return Record(name, entries, Extras.of(extras))


def _extra(text: str, where: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ConfigValueError(
            f"{where}: this comment of calibrant's is no JSON ({e}). It says what the record has no field for; "
            "leave it as it was written, or leave it out."
        ) from e
    if not isinstance(content, dict):
        raise ConfigTypeError(f"{where}: this comment of calibrant's is no JSON object.")
    return content


def _from_json(text: str, path: Path | None, name: str) -> Record:
    document = read_json(text, path)
    content = document.content
    if not isinstance(content, dict):
        raise ConfigTypeError(f"{name}: a record is a JSON object.")
    entries: dict[str, Entry] = {}
    for key, value in content.items():
        if key == EXTRAS_KEY:
            continue
        where = _place(document, (key,), name)
        if not isinstance(value, dict):
            raise ConfigTypeError(f"{where}: the record of '{key}' is {value!r}; it is an object.")
        listed = {
            k: [v] if k in ("scale_d", "offset_d") and not isinstance(v, list) else v
            for k, v in value.items()
        }
        floats = ("scale_d", "scale_w", "tensor_balance_factor")
        listed |= {
            k: [
                float(x) if isinstance(x, int) and not isinstance(x, bool) else x
                for x in listed[k]
            ]
            for k in floats
            if isinstance(listed.get(k), list)
        }
        try:
            checked = Value.model_validate(listed)
        except ValidationError as e:
            part = Document({key: listed}, document.source, document.lines, document.columns)
            raise config_error(e, Value, part) from e
        entries[key] = Entry(key, checked, where)
    extras = content.get(EXTRAS_KEY, [])
    if not isinstance(extras, list) or not all(isinstance(e, dict) for e in extras):
        raise ConfigTypeError(f"{name}: {EXTRAS_KEY} is a list of objects.")
    return Record(name, entries, Extras.of((e, name) for e in extras))


def _place(document: Document, at: KeyPath, name: str) -> str:
    line = document.lines.get(at)
    return f"{name}:{line}" if line is not None else name
