"""The calibration file of the older Ascend converter: protobuf text.

    device: USE_CPU
    quantize_algo: HALF_OFFSET
    weight_type: VECTOR_TYPE
    bin: 150
    type: KL
    start_ratio: 0.7   end_ratio: 1.3   step_ratio: 0.01
    max_percentile: PERCENTILE_MID
    batch_count: 10
    exclude_op: "conv1"
    preprocess_parameter: { input_type: IMAGE image_format: BGR input_file_path: "calib/" mean_value: 104.0 }

| Field | Means |
|---|---|
| `quantize_algo`, `weight_type` | activations with a zero point or without; one weight scale or one a filter |
| `type`, `bin` | the divergence, and the bins of its histogram |
| `start_ratio`, `end_ratio`, `step_ratio`, `max_percentile` | the largest values that are tried |
| `batch_count`, `preprocess_parameter` | the data |
| `exclude_op` | layers that stay in float |

Convolutions and fully connected layers are quantized, 8 bits. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from calibrant.dialects.dialect import Dialect
from calibrant.errors import ConfigValueError
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Layer,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Source,
)
from calibrant.text.fields import interval, unique
from calibrant.text.json_text import is_json
from calibrant.text.schema import FieldsError
from calibrant.text.textproto import field_names, origin_of, parse
from calibrant.text.textproto_schema import Enum, Message, Named, UInt32
from calibrant.text.yaml_text import Document

__all__ = ["DIALECT"]

#: Layers that the converter quantizes.
_TYPES = ("Conv1d", "Conv2d", "Conv3d", "Linear")

_PERCENTILES = {"PERCENTILE_HIGH": 1.0, "PERCENTILE_MID": 0.99999, "PERCENTILE_LOW": 0.9999}
_DEFAULT_BINS = 150

Positive = Annotated[float, interval("(0, inf)")]
Finite = Annotated[float, interval("(-inf, inf)")]


class PreprocessParameter(Message):
    """Data of one network input."""

    input_type: Annotated[str, Enum({"IMAGE": 0, "BINARY": 1})]
    image_format: Annotated[str, Enum({"RGB": 0, "BGR": 1, "GRAY": 2})] | None = None
    input_file_path: Annotated[str, Field(min_length=1)]
    mean_value: list[Finite] = Field(default=[])
    standard_deviation: list[Positive] = Field(default=[])

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessParameter:
        channels = {"RGB": 3, "BGR": 3, "GRAY": 1, None: None}[self.image_format]
        for name in ("mean_value", "standard_deviation"):
            count = len(getattr(self, name))
            if channels is not None and count not in (0, 1, channels):
                raise FieldsError(
                    f"it has one value, or one for each of {channels} channels",
                    name,
                    getattr(self, name),
                )
        if self.input_type == "BINARY" and self.image_format is not None:
            raise FieldsError(
                "it is for input_type IMAGE alone", "image_format", self.image_format
            )
        return self

    def source(self) -> Source:
        """Return the data as a recipe names it."""
        image = self.input_type == "IMAGE"
        color = {"RGB": "RGB", "BGR": "BGR", "GRAY": "gray", None: "RGB" if image else None}
        return Source(
            path=self.input_file_path,
            kind="images" if image else "numbers",
            color=color[self.image_format],
            mean=tuple(self.mean_value),
            std=tuple(self.standard_deviation),
        )


class CalibrationFile(Message):
    """The whole file."""

    device: Annotated[str, Enum({"USE_CPU": 0})]
    quantize_algo: Annotated[str, Enum({"NON_OFFSET": 0, "HALF_OFFSET": 1, "FULL_OFFSET": 2})]
    weight_type: Annotated[str, Enum({"SCALAR_TYPE": 0, "VECTOR_TYPE": 1})]
    preprocess_parameter: list[PreprocessParameter] = Field(min_length=1)
    bin: UInt32 = 0
    type: Annotated[str, Enum({"KL": 0, "SYMKL": 1, "JSD": 2})] = "KL"
    start_ratio: Positive = 0.7
    end_ratio: Positive = 1.3
    step_ratio: Positive = 0.01
    max_percentile: Annotated[float, Named(_PERCENTILES), interval("(0.5, 1]")] = 1.0
    batch_count: Annotated[UInt32, interval("[1, inf)")] | None = None
    exclude_op: Annotated[list[str], AfterValidator(unique)] = Field(default=[])

    @model_validator(mode="after")
    def _consistent(self) -> CalibrationFile:
        if 0 < self.bin < 16:
            raise FieldsError(f"it is 16 or more, or 0 for {_DEFAULT_BINS}", "bin", self.bin)
        if not self.start_ratio < self.end_ratio:
            raise FieldsError(
                f"it is above start_ratio, which is {self.start_ratio}",
                "end_ratio",
                self.end_ratio,
            )
        if round(self.step_ratio, 9) > round(self.end_ratio - self.start_ratio, 9):
            width = round(self.end_ratio - self.start_ratio, 9)
            raise FieldsError(
                f"it is at most end_ratio - start_ratio, which is {width}",
                "step_ratio",
                self.step_ratio,
            )
        return self


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text has fields that this dialect alone has."""
    own = {
        "device",
        "quantize_algo",
        "weight_type",
        "preprocess_parameter",
        "exclude_op",
        "batch_count",
    }
    ratios = {"start_ratio", "end_ratio", "step_ratio"}
    return not is_json(text) and bool(field_names(text) & (own | ratios))


def load(text: str, path: Path | None) -> Recipe:
    """Read a calibration file.

    Raises:
        ConfigValueError: No valid text, an unknown or missing field, or a value that is not allowed.
        ConfigTypeError: A value of the wrong type.
    """
    content, document, notes = parse(text, path, CalibrationFile)
    if content.quantize_algo == "FULL_OFFSET":
        raise ConfigValueError(
            f"{document.where(('quantize_algo',))}: quantize_algo is FULL_OFFSET, which is not defined: "
            "weights have no offset. It is HALF_OFFSET (activations have one) or NON_OFFSET."
        )
    return Recipe(
        rules=(*_rules(content, document), *_excluded(content, document)),
        target="layers-only",
        tiny_scales="one",
        calibration=Calibration(
            batch_size=1,
            batch_num=content.batch_count,
            behind="weights",
            sources=tuple(p.source() for p in content.preprocess_parameter),
        ),
        bias_correction="off",
        equalize="off",
        notes=(*notes, *_notes(content, document)),
    )


def _rules(content: CalibrationFile, document: Document) -> list[Rule]:
    name = Path(document.source).name
    default = f"{name}: default"
    options = {
        "bins": content.bin or _DEFAULT_BINS,
        "start_ratio": content.start_ratio,
        "end_ratio": content.end_ratio,
        "step_ratio": content.step_ratio,
        "max_percentile": content.max_percentile,
    }
    activation = Settings(activation=AlgorithmChoice.of(content.type.lower(), options))
    at = next((f for f in ("type", "bin", "start_ratio") if f in content.model_fields_set), "")
    return [
        Rule(AllNodes(), Settings(compute="float32"), f"{name}: not asked for", "implied"),
        *(Rule(OpType(t), Settings(compute="int"), default, "implied") for t in _TYPES),
        Rule(
            AllNodes(),
            Settings(activation_bits=8, weight=AlgorithmChoice("arq"), weight_bits=8),
            default,
            "implied",
        ),
        Rule(AllNodes(), activation, origin_of(document, at) if at else default),
        Rule(
            AllNodes(),
            Settings(activation_symmetric=content.quantize_algo == "NON_OFFSET"),
            origin_of(document, "quantize_algo"),
        ),
        Rule(
            AllNodes(),
            Settings(weight_per_channel=content.weight_type == "VECTOR_TYPE"),
            origin_of(document, "weight_type"),
        ),
    ]


def _excluded(content: CalibrationFile, document: Document) -> list[Rule]:
    return [
        Rule(Layer(n), Settings(compute="float32"), origin_of(document, "exclude_op", i, f"'{n}'"))
        for i, n in enumerate(content.exclude_op)
    ]


def _notes(content: CalibrationFile, document: Document) -> list[Note]:
    notes = []
    if content.batch_count == 1:
        place = document.where(("batch_count",))
        notes.append(
            Note(place, "One image is little data; 10, 20 or 50 are advised.", honoured=True)
        )
    return notes


DIALECT = Dialect(
    "ascend", "calibration file of the older Ascend converter, protobuf text", recognises, load
)
