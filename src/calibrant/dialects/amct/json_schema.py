"""The tables of AMCT's `config.json`: each class is one, with the vendor's names.

| Class | Table |
|---|---|
| `ConfigDocument` | the global keys |
| `LayerParams` | the object of a layer |
| `ActivationParams` | `activation_quant_params` |
| `WeightParams` | `weight_quant_params` |
| `TensorQuantize` | an element of `tensor_quantize` |

Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from calibrant.dialects.amct.common import ada, check_search, hfmg, ifmr, nuq
from calibrant.recipe import AlgorithmChoice, Settings
from calibrant.text.fields import Section, interval, one_of, unique
from calibrant.text.schema import FieldsError

__all__ = ["ActivationParams", "ConfigDocument", "LayerParams", "TensorQuantize", "WeightParams"]

_IFMR = ("max_percentile", "min_percentile", "search_range", "search_step")
_HFMG = ("num_of_bins",)
_ADA = ("num_iteration", "reg_param", "beta_range", "warm_start")
_NUQ = ("num_steps", "num_of_iteration")

Percentile = Annotated[float, interval("(0.5, 1]")]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


def _not_an_integer(value: Any) -> Any:
    """Refuse `1` for `1.0`, as the vendor does for this key."""
    if isinstance(value, int):
        raise PydanticCustomError("float_type", "it is a number with a point")
    return value


#: Migration strength of the balancer.
Strength = Annotated[float, BeforeValidator(_not_an_integer), interval("[0.2, 0.8]")]


def _beta(value: list[float]) -> list[float]:
    if not value[0] > value[1] > 0:
        raise ValueError("it is [start, end] with start > end > 0")
    return value


class ActivationParams(Section):
    """`activation_quant_params`."""

    num_bits: Annotated[int, one_of(4, 8, 16)] | None = None
    max_percentile: Percentile | None = None
    min_percentile: Percentile | None = None
    search_range: Pair | None = None
    search_step: float | None = None
    act_algo: Annotated[str, one_of("ifmr", "hfmg")] | None = None
    asymmetric: bool | None = None
    num_of_bins: Annotated[int, one_of(1024, 2048, 4096, 8192)] | None = None

    @model_validator(mode="after")
    def _one_algorithm(self) -> ActivationParams:
        said = self.model_fields_set
        of_ifmr = [k for k in _IFMR if k in said] + ["act_algo"] * (self.act_algo == "ifmr")
        of_hfmg = [k for k in _HFMG if k in said] + ["act_algo"] * (self.act_algo == "hfmg")
        if of_ifmr and of_hfmg:
            raise FieldsError(
                f"has keys of ifmr ({', '.join(of_ifmr)}) and keys of hfmg ({', '.join(of_hfmg)}), which "
                "exclude each other"
            )
        if self.search_range is not None or self.search_step is not None:
            check_search(*self._search(), pair=True)
        return self

    def _search(self) -> tuple[float, float, float]:
        start, end = self.search_range or (0.7, 1.3)
        return start, end, 0.01 if self.search_step is None else self.search_step

    def choice(self) -> AlgorithmChoice | None:
        """Return the algorithm that is asked for, or None where nothing says which."""
        if self.act_algo == "hfmg" or self.num_of_bins is not None:
            return hfmg(4096 if self.num_of_bins is None else self.num_of_bins)
        if self.act_algo is None and not self.model_fields_set & set(_IFMR):
            return None
        top = 0.999999 if self.max_percentile is None else self.max_percentile
        bottom = 0.999999 if self.min_percentile is None else self.min_percentile
        return ifmr(*self._search(), top, bottom)

    def settings(self) -> Settings:
        """Return what is said as settings."""
        return Settings(
            activation=self.choice(),
            activation_bits=self.num_bits,
            activation_symmetric=None if self.asymmetric is None else not self.asymmetric,
        )


class WeightParams(Section):
    """`weight_quant_params`."""

    num_bits: Annotated[int, one_of(4, 6, 7, 8)] | None = None
    wts_algo: Annotated[str, one_of("arq_quantize", "ada_quantize", "nuq_quantize")] = (
        "arq_quantize"
    )
    channel_wise: bool | None = None
    num_iteration: Annotated[int, interval("[0, inf)")] = 10000
    reg_param: Annotated[float, interval("(0, 1)")] = 0.01
    beta_range: Annotated[Pair, AfterValidator(_beta)] = Field(default=[20.0, 2.0])
    warm_start: Annotated[float, interval("(0, 1)")] = 0.2
    num_steps: Annotated[int, one_of(16, 32)] = 32
    num_of_iteration: Annotated[int, one_of(0, 1, 2, 3, 4, 5)] = 1

    @model_validator(mode="after")
    def _one_algorithm(self) -> WeightParams:
        others = {"ada_quantize": _ADA, "nuq_quantize": _NUQ}
        for algorithm, keys in others.items():
            stray = [k for k in keys if k in self.model_fields_set]
            if stray and self.wts_algo != algorithm:
                raise FieldsError(
                    f"it is for {algorithm}, and wts_algo is {self.wts_algo}",
                    stray[0],
                    getattr(self, stray[0]),
                )
        if self.wts_algo != "arq_quantize" and self.num_bits not in (None, 8):
            raise FieldsError(f"it is 8 with {self.wts_algo}", "num_bits", self.num_bits)
        return self

    def settings(self) -> Settings:
        """Return what is said as settings."""
        choice = None
        if self.wts_algo == "ada_quantize":
            choice = ada(self.num_iteration, self.reg_param, self.beta_range, self.warm_start)
        elif self.wts_algo == "nuq_quantize":
            choice = nuq(self.num_steps, self.num_of_iteration)
        elif "wts_algo" in self.model_fields_set:
            choice = AlgorithmChoice("arq")
        return Settings(
            weight=choice, weight_bits=self.num_bits, weight_per_channel=self.channel_wise
        )


class LayerParams(Section):
    """The object of one layer; the two sections are checked by themselves."""

    quant_enable: bool = False
    dmq_balancer_param: Strength | None = None
    activation_quant_params: dict[str, Any] | None = None
    weight_quant_params: dict[str, Any] | None = None


class TensorQuantize(Section):
    """One element of `tensor_quantize`."""

    layer_name: Annotated[str, Field(min_length=1)]
    input_index: Annotated[int, interval("[0, inf)")]
    activation_quant_params: dict[str, Any] | None = None


class ConfigDocument(Section):
    """The global keys; layers stand beside them."""

    version: Annotated[int, one_of(1)] = 1
    batch_num: Annotated[int, interval("[1, inf)")] = 1
    activation_offset: bool = True
    joint_quant: bool = False
    do_fusion: bool = True
    skip_fusion_layers: Annotated[list[str], AfterValidator(unique)] = Field(default=[])
    fakequant_precision_mode: Annotated[str, one_of("DEFAULT", "FORCE_FP16_QUANT")] = "DEFAULT"
    tensor_quantize: list[dict[str, Any]] = Field(default=[])
