"""Targets as text: YAML that becomes a `Target`, and a `Target` as the mapping that such a text holds.

    calibrant_target: 1                   # the form of this file
    name: my-npu
    description: My NPU, int8 with zero point 0.
    like: generic                         # what is not said here is as there; a name or a file
    anchors: [Conv, Gemm]
    integer_outputs: [Conv]
    followers: [Add, MaxPool]
    feeders: [AveragePool]
    residuals: []
    fused: [Relu, Clip]
    shared: [MaxPool]
    widest: []
    limits:
      - {op: Conv, input: 1, bits: [8]}   # without op or input: all of them
    unsigned: false
    symmetric: true
    zero_points: true
    integer_bias: true
    activation_bits: [8]
    weight_bits: [8]
    equalize: true
    channel_scales: false
    one_quantizer: false
    pairs_in_16_bits: false
    narrow_sums: ignore                   # or try, or fit
    quantize_moved: true
    matmul_as_gemm: false
    measures_latency: false

The first three keys are required, and `anchors` where `like` is not given. A list that is given replaces the one
of `like` as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.targets.schema import TargetDocument
from calibrant.graph.targets.target import Target, WidthLimit
from calibrant.text.schema import config_error, value_text
from calibrant.text.yaml_text import Document, read

__all__ = ["read_target", "target_of", "to_mapping"]

#: Keys whose values are names, which stay as they are written.
_NAMES = (
    "name",
    "description",
    "like",
    "op",
    *(
        "anchors",
        "integer_outputs",
        "followers",
        "feeders",
        "residuals",
        "fused",
        "shared",
        "widest",
    ),
)

#: Returns the target of another name, or of another file, for `like`.
Look = Callable[[str], Target]


def read_target(path: Path, look: Look) -> Target:
    """Read a target's file.

    Args:
        path: The file.
        look: Finds the target that `like` names.

    Raises:
        ConfigValueError: The file cannot be read, or says what is not allowed; with file, line and key.
        ConfigTypeError: A value has the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigValueError(f"The target '{path}' is not a text file in UTF-8.") from e
    except OSError as e:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigValueError(
            f"The target '{path}' cannot be read: {e.strerror}." + did_you_mean(path.name, near)
        ) from e
    return target_of(_parsed(text, path), look)


@lru_cache(maxsize=16)
def _parsed(text: str, path: Path) -> Document:
    """Parse once what a search asks for again and again."""
    return read(text, path, names=_NAMES)


def target_of(document: Document, look: Look) -> Target:
    """Return the target that a text describes; errors as for `read_target`."""
    said = document.content
    if not isinstance(said, dict):
        raise ConfigTypeError(
            f"{document.where(())}: a target is a mapping of keys; this is {value_text(said)}."
        )
    if "calibrant" in said and "calibrant_target" not in said:
        raise ConfigValueError(
            f"{document.where(('calibrant',))}: this is a recipe; a target begins with 'calibrant_target: 1'."
        )
    said = {key: value for key, value in said.items() if value is not None}
    whole = Document({**_base(document, said, look), **said}, document.source, document.lines)
    try:
        content = TargetDocument.model_validate(whole.content)
    except ValidationError as e:
        raise config_error(e, TargetDocument, whole) from e
    values = content.model_dump(exclude={"calibrant_target", "like", "limits"})
    limits = tuple(
        WidthLimit(s.op, s.input, tuple(s.bits), tuple(s.granted)) for s in content.limits
    )
    return Target(**{key: _frozen(key, value) for key, value in values.items()}, limits=limits)


def _base(document: Document, said: Mapping[str, Any], look: Look) -> dict[str, Any]:
    """Return what `like` says of everything but name and description."""
    like = said.get("like")
    if not isinstance(like, str):
        return {}
    try:
        found = to_mapping(look(like))
    except ConfigError as e:
        raise type(e)(f"{document.where(('like',))}: like: {e}") from e
    own = ("calibrant_target", "name", "description")
    return {key: value for key, value in found.items() if key not in own}


def _frozen(key: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(value) if key.endswith("_bits") else frozenset(value)


def to_mapping(target: Target) -> dict[str, Any]:
    """Return a target as the content of a file; what is at its default is left out.

    Example:
        >>> to_mapping(Target("my-npu", "My NPU.", frozenset({"Gemm", "Conv"}), symmetric=True))["anchors"]
        ['Conv', 'Gemm']
    """
    content: dict[str, Any] = {"calibrant_target": 1}
    for field in fields(Target):
        value = getattr(target, field.name)
        if field.default is MISSING or value != field.default:
            content[field.name] = _plain(value)
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_limit(v) if isinstance(v, WidthLimit) else v for v in value]
    return value


def _limit(limit: WidthLimit) -> dict[str, Any]:
    said = {
        "op": limit.op_type,
        "input": limit.input,
        "bits": list(limit.bits),
        "granted": list(limit.granted) or None,
    }
    return {key: value for key, value in said.items() if value is not None}
