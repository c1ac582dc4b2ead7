"""The comments of a record, checked: types, finite numbers, and names that the model has.

Source: `record.extras_write` says what each holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calibrant.errors import ConfigValueError, did_you_mean

__all__ = [
    "BalancedExtra",
    "BiasExtra",
    "EqualizedExtra",
    "Extras",
    "FixedExtra",
    "QuantizerExtra",
    "RoundingExtra",
    "WeightExtra",
]

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-3.4e38, le=3.4e38)]
Scale = Annotated[float, Field(allow_inf_nan=False, gt=0, le=3.4e38)]


class _Extra(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EqualizedExtra(_Extra):
    """Channels of a tensor that were divided by factors."""

    tensor: str
    factors: list[Annotated[float, Field(allow_inf_nan=False, gt=0)]] = Field(min_length=1)


class BalancedExtra(_Extra):
    """Layers behind one Mul."""

    tensor: str
    layers: list[str] = Field(min_length=1)
    asked: bool


class QuantizerExtra(_Extra):
    """A quantizer that the entries do not say, or not all of.

    `entries` are the entries that belong to it, with their inputs; their numbers go before its own.
    """

    id: str
    tensor: str
    users: list[tuple[str, int]]
    producer: str | None
    axis: Annotated[int, Field(ge=0)] | None = None
    folded: bool = False
    compensation: bool = False
    entries: dict[str, tuple[str, int]] = {}
    bits: Literal[4, 8, 16]
    scale: Scale | list[Scale]
    zero_point: int | list[int]

    @model_validator(mode="after")
    def _consistent(self) -> QuantizerExtra:
        scales = self.scale if isinstance(self.scale, list) else [self.scale]
        zeros = self.zero_point if isinstance(self.zero_point, list) else [self.zero_point]
        half = 1 << (self.bits - 1)
        if len(scales) != len(zeros) or (self.axis is None) != (not isinstance(self.scale, list)):
            raise ValueError("scale and zero_point are numbers, or lists for the channels of axis")
        if not all(-half <= z < half for z in zeros):
            raise ValueError(f"zero_point is {self.zero_point}; it is in [{-half}, {half - 1}]")
        return self


class _OfLayer(_Extra):
    layer: str


class WeightExtra(_OfLayer):
    """How a weight is stored."""

    storage: Literal["indices"]


class CompensatedExtra(_OfLayer):
    """A weight with a second 8-bit value beside the first."""


class RoundingExtra(_OfLayer):
    """Weights that are not rounded to nearest."""

    up: str
    down: str


class BiasExtra(_OfLayer):
    """A corrected bias."""

    values: list[Finite]


class FixedExtra(_Extra):
    """Inputs that became constants."""

    inputs: dict[str, Any] = Field(min_length=1)
    kept: bool = False


class Extras(_Extra):
    """All comments of a record, by kind."""

    target: list[str | dict[str, Any]] = []
    tiny_scales: list[Literal["one"]] = []
    fixed: list[FixedExtra] = []
    fold: list[Literal[False] | list[str]] = []
    half: list[list[str]] = []
    half_later: list[list[str]] = []
    saturates: list[dict[str, int]] = []
    outputs: list[Literal["float16"]] = []
    calibration: list[str] = []  # said to the reader alone
    equalized: list[EqualizedExtra] = []
    balanced: list[BalancedExtra] = []
    quantizer: list[QuantizerExtra] = []
    weight: list[WeightExtra] = []
    compensated: list[CompensatedExtra] = []
    rounding: list[RoundingExtra] = []
    bias: list[BiasExtra] = []

    @classmethod
    def of(cls, found: Iterable[tuple[Mapping[str, Any], str]]) -> Extras:
        """Check what was read.

        Args:
            found: Objects of one key each, with their places.

        Raises:
            ConfigValueError: An unknown kind, or one that lacks or contradicts something.
        """
        known = list(cls.model_fields)
        kinds: dict[str, list[Any]] = {}
        for extra, where in found:
            for kind, said in extra.items():
                if kind not in known:
                    raise ConfigValueError(
                        f"{where}: '{kind}' in a comment of calibrant's is not known. Known: "
                        f"{', '.join(known)}.{did_you_mean(kind, known)}"
                    )
                try:
                    checked = cls.model_validate({kind: [said]})
                except ValidationError as e:
                    raise ConfigValueError(
                        f"{where}: {_said(e, kind)} in a comment of calibrant's. Leave such comments as they were "
                        "written, or leave all of them out."
                    ) from e
                kinds.setdefault(kind, []).extend(getattr(checked, kind))
        return cls.model_validate(kinds)

    def check_layers(self, layers: Collection[str], source: str) -> None:
        """Refuse weights, roundings and biases of layers that the record does not quantize.

        Raises:
            ConfigValueError: There is one.
        """
        every: list[_OfLayer] = [
            *self.weight,
            *self.compensated,
            *self.rounding,
            *self.bias,
        ]
        for said in every:
            if said.layer not in layers:
                raise ConfigValueError(
                    f"{source}: a comment of calibrant's is about layer '{said.layer}', which has no entry with a "
                    f"weight.{did_you_mean(said.layer, layers)}"
                )


def _said(error: ValidationError, kind: str) -> str:
    first = error.errors()[0]
    at = ".".join(str(p) for p in first["loc"][2:] if isinstance(p, str | int))
    text = first["msg"].removeprefix("Value error, ")
    return f"{kind}{f'.{at}' if at else ''}: {text[0].lower()}{text[1:]}"
