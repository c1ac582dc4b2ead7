"""The messages of AMCT's simplified configuration: each class is one, with the vendor's names.

| Class | Message |
|---|---|
| `AMCTConfig` | the whole file |
| `CalibrationConfig` | a block: one algorithm for weights, one for activations, balancing |
| `ARQuantize`, `NUQuantize`, `ADAquantize` | weights: uniform, few levels, learned rounding |
| `FMRQuantize`, `HFMGQuantize` | activations: a search of the upper bound, a search on a histogram |
| `DMQBalancer` | balancing between activations and weights |
| `OverrideLayerType`, `OverrideLayer`, `TensorQuantize`, `NuqConfig` | where blocks and algorithms hold |

Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from calibrant.dialects.amct.common import ada, check_search, hfmg, ifmr, nuq
from calibrant.recipe import AlgorithmChoice, Settings
from calibrant.text.fields import interval, one_of, unique
from calibrant.text.schema import FieldsError
from calibrant.text.textproto_schema import Enum, Int32, Message, UInt32

__all__ = [
    "AMCTConfig",
    "CalibrationConfig",
    "FMRQuantize",
    "HFMGQuantize",
    "NUQuantize",
    "OverrideLayer",
    "OverrideLayerType",
]

Name = Annotated[str, Field(min_length=1)]
Percentile = Annotated[float, interval("(0.5, 1]")]
DataType = Annotated[str, Enum({"INT8": 1, "INT16": 2})]
WIDTHS = {"INT8": 8, "INT16": 16}
Positive = Annotated[float, interval("(0, inf)")]
Part = Annotated[float, interval("(0, 1)")]
Names = Annotated[list[str], AfterValidator(unique)]


def _without_offset(value: bool) -> bool:
    if value:
        raise ValueError("it is false: weights have no offset")
    return value


def _same(message: Message, field: str, other: str, of_other: object) -> None:
    """Refuse two fields for one width that say different things."""
    value = getattr(message, field)
    if {field, other} <= message.model_fields_set and value != of_other:
        text = f"{other} says {of_other}, and the two mean the same"
        raise FieldsError(text, field, value)


class ARQuantize(Message):
    """Uniform weights; `num_bits` is how the edition for small chips writes `quant_bits`."""

    channel_wise: bool | None = None
    quant_bits: Annotated[UInt32, one_of(4, 6, 7, 8)] | None = None
    num_bits: Annotated[UInt32, one_of(4, 6, 7, 8)] | None = None

    @model_validator(mode="after")
    def _one_width(self) -> ARQuantize:
        _same(self, "num_bits", "quant_bits", self.quant_bits)
        return self

    def settings(self) -> Settings:
        """Return what is written as settings."""
        return Settings(
            weight=AlgorithmChoice("arq"),
            weight_bits=self.num_bits if self.quant_bits is None else self.quant_bits,
            weight_per_channel=self.channel_wise,
        )


class NUQuantize(Message):
    """Non-uniform weights."""

    num_steps: Annotated[UInt32, one_of(16, 32)] = 32
    num_of_iteration: Annotated[UInt32, one_of(0, 1, 2, 3, 4, 5)] = 1

    def settings(self) -> Settings:
        """Return what is written as settings; the levels are those of 8 bits."""
        return Settings(weight=nuq(self.num_steps, self.num_of_iteration), weight_bits=8)


class ADAquantize(Message):
    """Adaptive rounding of weights."""

    num_iteration: UInt32 = 10000
    reg_param: Part = 0.01
    beta_range_start: Positive = 20.0
    beta_range_end: Positive = 2.0
    warm_start: Part = 0.2
    channel_wise: bool | None = None

    @model_validator(mode="after")
    def _falls(self) -> ADAquantize:
        if not self.beta_range_start > self.beta_range_end:
            raise FieldsError(
                f"it is above beta_range_end, which is {self.beta_range_end}",
                "beta_range_start",
                self.beta_range_start,
            )
        return self

    def settings(self) -> Settings:
        """Return what is written as settings."""
        beta = (self.beta_range_start, self.beta_range_end)
        return Settings(
            weight=ada(self.num_iteration, self.reg_param, beta, self.warm_start),
            weight_per_channel=self.channel_wise,
        )


class ActivationQuantize(Message):
    """What both algorithms for activations say; `num_bits` is how the edition for small chips writes `dst_type`."""

    asymmetric: bool | None = None
    dst_type: DataType = "INT8"
    num_bits: Annotated[UInt32, one_of(4, 8, 16)] | None = None

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        _same(self, "num_bits", "dst_type", WIDTHS[self.dst_type])
        return self

    def bits(self) -> int | None:
        """Return the width, where one is written."""
        return WIDTHS[self.dst_type] if "dst_type" in self.model_fields_set else self.num_bits


class FMRQuantize(ActivationQuantize):
    """Activations by search of the upper bound."""

    search_range_start: float = 0.7
    search_range_end: float = 1.3
    search_step: float = 0.01
    max_percentile: Percentile = 0.999999
    min_percentile: Percentile = 0.999999

    @model_validator(mode="after")
    def _range(self) -> FMRQuantize:
        check_search(self.search_range_start, self.search_range_end, self.search_step, pair=False)
        return self

    def choice(self) -> AlgorithmChoice:
        """Return the algorithm."""
        return ifmr(
            self.search_range_start,
            self.search_range_end,
            self.search_step,
            self.max_percentile,
            self.min_percentile,
        )


class HFMGQuantize(ActivationQuantize):
    """Activations by search on a histogram."""

    num_of_bins: Annotated[UInt32, one_of(1024, 2048, 4096, 8192)] = 4096

    def choice(self) -> AlgorithmChoice:
        """Return the algorithm."""
        return hfmg(self.num_of_bins)


class DMQBalancer(Message):
    """Balance between activations and weights."""

    migration_strength: Annotated[float, interval("[0.2, 0.8]")] = 0.5


_ACTIVATION = ("ifmr_quantize", "hfmg_quantize")


class CalibrationConfig(Message):
    """What holds for some layers."""

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "weight": ("arq_quantize", "nuq_quantize", "ada_quantize"),
        "activation": _ACTIVATION,
        "balancer": ("dmq_balancer",),
    }
    EXCLUSIVE: ClassVar[tuple[str, ...]] = ("activation",)

    arq_quantize: ARQuantize | None = None
    nuq_quantize: NUQuantize | None = None
    ada_quantize: ADAquantize | None = None
    ifmr_quantize: FMRQuantize | None = None
    hfmg_quantize: HFMGQuantize | None = None
    dmq_balancer: DMQBalancer | None = None

    def activation(self) -> FMRQuantize | HFMGQuantize | None:
        """Return the section about activations, if there is one."""
        return self.ifmr_quantize or self.hfmg_quantize

    def settings(self) -> Settings:
        """Return what is written as settings."""
        weight = self.arq_quantize or self.nuq_quantize or self.ada_quantize
        said = weight.settings() if weight is not None else Settings()
        if self.dmq_balancer is not None:
            said = Settings(balance=self.dmq_balancer.migration_strength).over(said)
        return of_activation(self.activation()).over(said)


def of_activation(section: FMRQuantize | HFMGQuantize | None) -> Settings:
    """Return what a section about activations says as settings."""
    if section is None:
        return Settings()
    return Settings(
        activation=section.choice(),
        activation_bits=section.bits(),
        activation_symmetric=None if section.asymmetric is None else not section.asymmetric,
    )


class NuqConfig(Message):
    """Non-uniform weights of the layers that a mapping file names."""

    mapping_file: Name
    nuq_quantize: NUQuantize = NUQuantize()


class OverrideLayerType(Message):
    """What holds for a type."""

    layer_type: Name
    calibration_config: CalibrationConfig


class OverrideLayer(Message):
    """What holds for a layer."""

    layer_name: Name
    calibration_config: CalibrationConfig


class TensorQuantize(Message):
    """An input that is quantized for its own sake."""

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {"activation": _ACTIVATION}
    EXCLUSIVE: ClassVar[tuple[str, ...]] = ("activation",)

    layer_name: Name
    input_index: UInt32
    ifmr_quantize: FMRQuantize | None = None
    hfmg_quantize: HFMGQuantize | None = None


class AMCTConfig(Message):
    """The whole file.

    `conv_calibration_config` and `fc_calibration_config` are the blocks of the older edition; `quant_skip_layers` and
    `quant_skip_layer_types` are how files for distillation write `skip_layers` and `skip_layer_types`.
    """

    batch_num: Annotated[UInt32, interval("[1, inf)")] = 1
    activation_offset: bool = True
    weight_offset: Annotated[bool, AfterValidator(_without_offset)] = False
    joint_quant: bool = False
    skip_layers: Names = Field(default=[])
    skip_layer_types: Names = Field(default=[])
    skip_approximation_layers: list[str] = Field(default=[])
    fakequant_precision_mode: Annotated[str, Enum({"DEFAULT": 0, "FORCE_FP16_QUANT": 1})] = (
        "DEFAULT"
    )
    nuq_config: NuqConfig | None = None
    conv_calibration_config: CalibrationConfig | None = None
    fc_calibration_config: CalibrationConfig | None = None
    quant_skip_layers: Names = Field(default=[])
    quant_skip_layer_types: Names = Field(default=[])
    common_config: CalibrationConfig = CalibrationConfig()
    override_layer_types: list[OverrideLayerType] = Field(default=[])
    override_layer_configs: list[OverrideLayer] = Field(default=[])
    do_fusion: bool = True
    skip_fusion_layers: Names = Field(default=[])
    tensor_quantize: list[TensorQuantize] = Field(default=[])
    version: Annotated[Int32, one_of(1)] = 1
