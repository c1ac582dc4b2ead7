"""The messages of AMCT's simplified configuration for training: each class is one, with the vendor's names.

| Class | Message |
|---|---|
| `AMCTRetrainConfig` | the whole file |
| `RetrainDataQuantConfig`, `ActULQquantize`, `ClipMaxMin` | activations: a clip range that is learned |
| `RetrainWeightQuantConfig`, `ARQRetrain`, `WtsULQRetrain` | weights |
| `RetrainOverrideLayer`, `RetrainOverrideLayerType` | a layer, a type |
| `PruneConfig` and those inside it | pruning, which is read and not done |

Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from calibrant.dialects.amct.training import BITS, WEIGHTS, ulq
from calibrant.recipe import Settings
from calibrant.text.fields import interval
from calibrant.text.textproto_schema import Enum, Message, UInt32

__all__ = ["AMCTRetrainConfig", "Override"]

Name = Annotated[str, Field(min_length=1)]
DataType = Annotated[str, Enum({"INT4": 0, "INT8": 1, "INT16": 2})]


class ClipMaxMin(Message):
    """Bounds that training starts from."""

    clip_max: Annotated[float, interval("(0, inf)")]
    clip_min: Annotated[float, interval("(-inf, 0)")]


class ActULQquantize(Message):
    """Learned clip range."""

    clip_max_min: ClipMaxMin | None = None
    fixed_min: bool | None = None
    dst_type: DataType = "INT8"


class RetrainDataQuantConfig(Message):
    """What holds for activations."""

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {"algo": ("ulq_quantize",)}

    ulq_quantize: ActULQquantize = ActULQquantize()

    def settings(self) -> Settings:
        """Return what is written as settings."""
        clips, fixed = self.ulq_quantize.clip_max_min, self.ulq_quantize.fixed_min
        choice = (
            ulq(None, None, fixed) if clips is None else ulq(clips.clip_max, clips.clip_min, fixed)
        )
        return Settings(activation=choice, activation_bits=BITS[self.ulq_quantize.dst_type])


class ARQRetrain(Message):
    """Weights; the algorithm is the name of the field."""

    dst_type: DataType = "INT8"
    channel_wise: bool | None = None


class WtsULQRetrain(Message):
    """Weights with a learned scale."""

    dst_type: DataType = "INT8"
    channel_wise: bool | None = None


class RetrainWeightQuantConfig(Message):
    """What holds for weights."""

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {"algo": ("arq_retrain", "ulq_retrain")}

    arq_retrain: ARQRetrain | None = None
    ulq_retrain: WtsULQRetrain | None = None

    def settings(self) -> Settings:
        """Return what is written as settings.

        Raises:
            ValueError: Weights in INT16.
        """
        section = self.arq_retrain or self.ulq_retrain or ARQRetrain()
        if section.dst_type == "INT16":
            raise ValueError("dst_type of weights is INT16; it is INT4 or INT8")
        return Settings(
            weight=WEIGHTS["ulq_retrain" if self.ulq_retrain is not None else "arq_retrain"],
            weight_bits=BITS[section.dst_type],
            weight_per_channel=section.channel_wise,
        )


class BalancedL2NormFilterPruner(Message):
    """Pruning of filters."""

    prune_ratio: Annotated[float, interval("(0, 1)")]
    ascend_optimized: bool = True


class L1SelectivePruner(Message):
    """Pruning of two values in four."""

    n_out_of_m_type: Annotated[str, Enum({"M4N2": 0})] = "M4N2"
    update_freq: UInt32 = 0


class FilterPruner(Message):
    """Pruning of filters."""

    balanced_l2_norm_filter_prune: BalancedL2NormFilterPruner | None = None


class NOutOfMPruner(Message):
    """Pruning by pattern."""

    l1_selective_prune: L1SelectivePruner | None = None


class PruneConfig(Message):
    """Pruning; read and checked, not done."""

    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prune": ("filter_pruner", "n_out_of_m_pruner")
    }

    filter_pruner: FilterPruner | None = None
    n_out_of_m_pruner: NOutOfMPruner | None = None


class Override(Message):
    """What a block for some layers may hold."""

    retrain_data_quant_config: RetrainDataQuantConfig | None = None
    retrain_weight_quant_config: RetrainWeightQuantConfig | None = None
    prune_config: PruneConfig | None = None


class RetrainOverrideLayer(Override):
    """What holds for a layer."""

    layer_name: Name


class RetrainOverrideLayerType(Override):
    """What holds for a type."""

    layer_type: Name


class AMCTRetrainConfig(Message):
    """The whole file."""

    batch_num: Annotated[UInt32, interval("[1, inf)")] = 1
    retrain_data_quant_config: RetrainDataQuantConfig | None = None
    retrain_weight_quant_config: RetrainWeightQuantConfig | None = None
    skip_layers: list[str] = Field(default=[])
    override_layer_configs: list[RetrainOverrideLayer] = Field(default=[])
    skip_layer_types: list[str] = Field(default=[])
    override_layer_types: list[RetrainOverrideLayerType] = Field(default=[])
    prune_config: PruneConfig | None = None
    regular_prune_skip_layers: list[str] = Field(default=[])
    regular_prune_skip_types: list[str] = Field(default=[])
    quant_skip_layers: list[str] = Field(default=[])
    quant_skip_types: list[str] = Field(default=[])
    fakequant_precision_mode: Annotated[str, Enum({"DEFAULT": 0, "FORCE_FP16_QUANT": 1})] = (
        "DEFAULT"
    )
