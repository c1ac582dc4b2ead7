"""What a format writes: models and texts by file name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from calibrant.solution import CALIBRATION

__all__ = ["Files", "as_json", "merged", "named", "plain"]

#: How names of models end in which nothing is quantized.
FLOAT_MODEL = "float_model.onnx"


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """The files of one format.

    Args:
        models: Model by file name.
        texts: Content by file name.
    """

    models: Mapping[str, ir.Model] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def marked(self, calibration: str) -> Files:
        """Return the files with a word on the calibration: in quantized models' metadata, in place, and in JSON."""
        for name, model in self.models.items():
            if not name.endswith(FLOAT_MODEL):
                model.metadata_props[CALIBRATION] = calibration
        texts = {
            name: as_json({**json.loads(text), "calibration": calibration})
            for name, text in self.texts.items()
        }
        return Files(self.models, texts)


def named(prefix: str, name: str) -> str:
    """Return a file's name with its prefix; without one there is no underscore.

    Example:
        >>> named("run", "deploy_model.onnx"), named("", "deploy_model.onnx")
        ('run_deploy_model.onnx', 'deploy_model.onnx')
    """
    return f"{prefix}_{name}" if prefix else name


def merged(texts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Bring the texts of several formats together; JSON files of one name become one, with the keys of all.

    Example:
        >>> one, two = {"a.json": '{"version": 1, "x": 2}'}, {"a.json": '{"version": 1}'}
        >>> merged([one, two])["a.json"].split()
        ['{', '"version":', '1,', '"x":', '2', '}']
    """
    found: dict[str, str] = {}
    for files in texts:
        for name, text in files.items():
            if name in found:
                text = as_json(json.loads(found[name]) | json.loads(text))
            found[name] = text
    return found


def as_json(value: Any) -> str:
    """Write plain values as JSON text."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Numbers that JSON does not have become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
