"""The preprocessing file: from stored images or arrays to what the model takes.

    resize: 256                   # short side, or [height, width] exactly
    interpolation: bilinear       # nearest, bilinear, bicubic, lanczos, box
    crop: 224                     # centre, or [height, width]
    color: RGB                    # RGB, BGR, gray
    scale: 1/255                  # value = (pixel * scale - mean) / std
    mean: [0.485, 0.456, 0.406]   # one number, or one a channel in the order of `color`
    std: [0.229, 0.224, 0.225]
    dtype: float32
    layout: NCHW                  # NCHW, NHWC
    source_layout: NHWC           # of stored arrays; images have none
    source_dtype: uint8           # of bare .bin files
    inputs:                       # per model input, over what is said above
      image: {crop: 192}

It is YAML or JSON; it stands in the data folder as `preprocess.yaml` or is given by hand. It holds for
images, arrays and raw files alike, and for the inputs named under `inputs` alone where that is all it says. An input
without dimensions takes its number as it is, unless `inputs` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.errors import ConfigValueError, DataError, did_you_mean

__all__ = ["PREPROCESS_FILES", "Layout", "Preprocess", "Steps", "check_fits", "layout_of"]

#: Names under which a data folder may hold its preprocessing file.
PREPROCESS_FILES = ("preprocess.yaml", "preprocess.yml", "preprocess.json")


def _fraction(value: object) -> object:
    """Read `1/255`, which YAML leaves as text."""
    if isinstance(value, str) and value.count("/") == 1:
        over, under = (part.strip() for part in value.split("/"))
        try:
            return float(over) / float(under)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_fraction), Field(allow_inf_nan=False)]
Numbers = Number | tuple[Number, ...]
Side = Annotated[int, Field(gt=0, strict=True)]
Size = Annotated[Side | tuple[Side, Side], BeforeValidator(_pair)]
Layout = Literal["NCHW", "NHWC"]


class Steps(BaseModel):
    """Preprocessing of one input; see the head of this file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Size | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    crop: Size | None = None
    color: Literal["RGB", "BGR", "gray"] = "RGB"
    scale: Number | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "int32", "int64"] | None = (
        None
    )
    layout: Layout | None = None
    source_layout: Layout | None = None
    source_dtype: (
        Literal["float32", "float16", "uint8", "int8", "int16", "int32", "int64"] | None
    ) = None

    @property
    def works_on_images(self) -> bool:
        """Resizing, cropping or another colour order is asked for."""
        return self.resize is not None or self.crop is not None or self.color != "RGB"

    @property
    def scales(self) -> bool:
        """Values are to be changed: by scale, mean or std."""
        return any(v is not None for v in (self.scale, self.mean, self.std))

    def numbers(
        self, x: AnyArray, info: InputInfo, *, source_layout: Layout, layout: Layout
    ) -> AnyArray:
        """Apply scale, mean, std, dtype and layout.

        Args:
            x: Samples, (samples, …) in `source_layout`.
            info: The input they are for.
            source_layout: Where `x` has its channels.
            layout: Where the result has them.

        Returns:
            The samples in `layout` and `dtype` (the input's type where the file names none); floats
            that become integers are rounded to the nearest and clipped to what the type holds.

        Raises:
            DataError: Integers do not fit an integer type.
            ConfigValueError: Mean or std has another number of entries than there are channels, std
                has a zero, or a layout is asked of an array that has not four dimensions.
        """
        axis = x.ndim - 1 if source_layout == "NHWC" else 1
        if self.scales:
            y = x.astype(np.float32)
            if self.scale is not None:
                y *= np.float32(self.scale)
            if self.mean is not None:
                y -= self._by_channel("mean", self.mean, y, axis, info)
            if self.std is not None:
                y /= self._by_channel("std", self.std, y, axis, info)
            x = y
        dtype = np.dtype(self.dtype) if self.dtype is not None else info.dtype
        if x.dtype.kind == "f" and dtype.kind in "iu":
            x = np.clip(np.rint(x), np.iinfo(dtype).min, np.iinfo(dtype).max)
        elif x.dtype.kind in "iu" and dtype.kind in "iu":
            check_fits(x, dtype, info)
        if layout != source_layout:
            if x.ndim != 4:
                raise ConfigValueError(
                    f"preprocessing of input '{info.name}': layout {layout} needs four dimensions, "
                    f"the data has {x.ndim}."
                )
            x = x.transpose(0, 3, 1, 2) if layout == "NCHW" else x.transpose(0, 2, 3, 1)
        return x.astype(dtype, copy=False)

    def _by_channel(
        self, key: str, value: float | tuple[float, ...], x: AnyArray, axis: int, info: InputInfo
    ) -> AnyArray:
        values = np.atleast_1d(np.asarray(value, np.float32))  # (channels,) or (1,)
        if key == "std" and not values.all():
            raise ConfigValueError(
                f"preprocessing of input '{info.name}': std is {value}; 0 divides by zero."
            )
        if len(values) not in (1, x.shape[axis]):
            raise ConfigValueError(
                f"preprocessing of input '{info.name}': {key} has {len(values)} values "
                f"for {x.shape[axis]} channels; give one, or one a channel."
            )
        return values.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def check_fits(x: AnyArray, dtype: np.dtype[Any], info: InputInfo) -> None:
    """Raise unless an integer type holds all values.

    Raises:
        DataError: It does not; the message shows the values, and says what to do.
    """
    limits = np.iinfo(dtype)
    low, high = x.min(initial=0), x.max(initial=0)
    if low < limits.min or high > limits.max:
        raise DataError(
            f"preprocessing of input '{info.name}': values from {low:g} to {high:g} ({x.dtype}, "
            f"{8 * x.dtype.itemsize} bits) do not fit {dtype}; give a scale (1/257 brings 16 bits to 8)."
        )


def layout_of(info: InputInfo) -> Layout:
    """Tell from the model's shape where its channels are; NCHW where it does not say."""
    last = info.dims[-1] if len(info.dims) == 4 else None
    return "NHWC" if last in (1, 3, 4) and info.dims[1] not in (1, 3, 4) else "NCHW"


class Preprocess:
    """A preprocessing file: the steps of each input.

    Raises:
        ConfigValueError: The file cannot be read, or says what is not allowed.
    """

    def __init__(self, content: Any, source: str, inputs: Sequence[InputInfo]) -> None:
        """Check the content of a file against the schema and the model's inputs."""
        if not isinstance(content, dict):
            raise ConfigValueError(
                f"{source}: a preprocessing file is a mapping of keys, such as 'mean: 127.5'."
            )
        common = {k: v for k, v in content.items() if k != "inputs"}
        sections = content.get("inputs", {})
        if not isinstance(sections, dict):
            raise ConfigValueError(
                f"{source}: inputs is {sections!r}; it maps input names to steps."
            )
        names = [i.name for i in inputs]
        for name in sections:
            if name not in names:
                raise ConfigValueError(
                    f"{source}: inputs names '{name}', which the model does not have. "
                    f"Its inputs: {', '.join(names)}." + did_you_mean(str(name), names)
                )
            if not isinstance(sections[name], dict):
                raise ConfigValueError(
                    f"{source}: inputs.{name} is {sections[name]!r}; it is a mapping."
                )
        self.source = source
        _steps(common, source, "")
        numbers = {i.name for i in inputs if i.own.is_number}
        self._steps = {
            name: _steps({**common, **sections.get(name, {})}, source, f"inputs.{name}.")
            for name in names
            if name in sections or (common and name not in numbers)
        }

    @classmethod
    def load(cls, path: Path, inputs: Sequence[InputInfo]) -> Preprocess:
        """Read a preprocessing file in YAML or JSON (which is YAML)."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise ConfigValueError(
                f"The preprocessing file '{path}' cannot be read: {e.strerror}."
            ) from e
        except (ValueError, yaml.YAMLError, RecursionError) as e:
            raise ConfigValueError(f"{path} is not valid YAML: {' '.join(str(e).split())}.") from e
        return cls(content, str(path), inputs)

    def of(self, name: str) -> Steps | None:
        """Return the steps of an input; None where the file says nothing about it."""
        return self._steps.get(name)


def _steps(content: dict[str, Any], source: str, prefix: str) -> Steps:
    try:
        return Steps.model_validate(content)
    except ValidationError as e:
        error = e.errors()[0]
        key = str(error["loc"][0]) if error["loc"] else ""
        known = list(Steps.model_fields)
        if error["type"] == "extra_forbidden":
            text = f"'{prefix}{key}' is not known. Known: {', '.join([*known, 'inputs'])}."
            raise ConfigValueError(f"{source}: {text}{did_you_mean(key, known)}") from e
        text = error["msg"][0].lower() + error["msg"][1:]
        raise ConfigValueError(f"{source}: {prefix}{key} is {content.get(key)!r}; {text}.") from e
