"""The tables of Horizon's `quant_config`: each class is one, with the vendor's names.

| Class | Table |
|---|---|
| `ModelConfig` | `model_config` |
| `Activation`, `Weight`, `BiasCorrection` | `activation`, `weight` and its `bias_correction` |
| `SearchConfig` | `modelwise_search`, `layerwise_search` |
| `SearchSection`, `LayerSearch` | `search.layer` |
| `FineConfig`, `SubgraphConfig` | an entry of `op_config` or `node_config`, and of `subgraph_config` |

Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from calibrant.numerics.metrics import METRICS
from calibrant.text.fields import Section, interval, one_of
from calibrant.text.schema import FieldsError

__all__ = [
    "FINE_FIELDS",
    "METHODS",
    "PAIRED",
    "TARGET",
    "Activation",
    "BiasCorrection",
    "FineConfig",
    "ModelConfig",
    "SearchConfig",
    "SubgraphConfig",
]

#: Operators with two operands that `dual-int16` and `int16-ec` are for.
PAIRED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: What the vendor's devices take (`graph.targets`).
TARGET = "horizon-like"

METHODS = ("max", "kl", "min-max", "percentile", "mix", "load", "default", "skip", "mse")
ALONE = ("mix", "load", "default", "skip")
RESERVED = ("int4", "mxint8", "mxint16", "mxint4", "mxfp8", "mxfp4", "nvfp4")
NODE_TYPES = ("int8", "int16", "float16", "float32")
QTYPES = (*NODE_TYPES, "ec", "dual-int16", "int16-ec")

#: Fields of an entry of op_config, subgraph_config or node_config, beside `inputN`.
FINE_FIELDS = ("qtype", "activation", "weight")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _distinct(values: list[Any]) -> list[Any]:
    return [v for i, v in enumerate(values) if v not in values[:i]]


Metric = Annotated[str, one_of(*METRICS)]
Count = Annotated[int, interval("[1, inf)")]
Flags = Annotated[list[bool], BeforeValidator(_as_list), Field(min_length=1)]
Method = Annotated[str, one_of(*METHODS)]


class Activation(Section):
    """`activation`; a list makes candidates."""

    calibration_type: (
        Annotated[list[Method], BeforeValidator(_as_list), Field(min_length=1)] | None
    ) = None
    num_bin: Annotated[list[Count], BeforeValidator(_as_list), Field(min_length=1)] | None = None
    max_num_bin: Count | None = None
    max_percentile: (
        Annotated[
            list[Annotated[float, interval("[0.5, 1]")]],
            BeforeValidator(_as_list),
            Field(min_length=1),
        ]
        | None
    ) = None
    per_channel: Flags | None = None
    asymmetric: Flags | None = None

    @model_validator(mode="after")
    def _alone(self) -> Activation:
        methods = self.calibration_type or []
        alone = next((m for m in methods if m in ALONE), None)
        if alone is not None and len(methods) > 1:
            raise FieldsError(f"{alone} stands alone, not in a list", "calibration_type", methods)
        return self

    def over(self, base: Activation) -> Activation:
        """Return `base` with what is said here in its place, field by field."""
        said = {k: getattr(self, k) for k in self.model_fields_set}
        return base.model_copy(update=said)

    def values(self, name: str, default: list[Any]) -> list[Any]:
        """Return the values of a field without repetitions."""
        found = getattr(self, name)
        return default if found is None else _distinct(found)


class BiasCorrection(Section):
    """`weight.bias_correction`."""

    num_sample: Count = 1
    metric: Metric = "cosine-similarity"


class Weight(Section):
    """`weight`."""

    bias_correction: BiasCorrection | None = None


class SearchConfig(Section):
    """`modelwise_search` and `layerwise_search`."""

    metric: Metric = "cosine-similarity"
    num_sample: Count = 1
    aggregate: Annotated[str, one_of("worst", "mean")] = "worst"
    early_stop: float | None = None


class LayerSearch(Section):
    """`search.layer`: automatic mixed precision."""

    topk: Count | None = None
    threshold: float | None = None
    budget: Annotated[float, interval("(0, 1]")] | None = None
    qtype: Annotated[str, one_of("int16", "float16", "float32")] = "int16"
    metric: Metric = "cosine-similarity"

    @model_validator(mode="after")
    def _one_measure(self) -> LayerSearch:
        said = [k for k in ("topk", "threshold", "budget") if getattr(self, k) is not None]
        if len(said) != 1:
            given = " and ".join(said) or "none of them"
            raise FieldsError(f"has one of topk, threshold and budget, not {given}")
        return self


class SearchSection(Section):
    """`search`."""

    layer: LayerSearch


class ModelConfig(Section):
    """`model_config`."""

    all_node_type: Annotated[str, one_of(*NODE_TYPES)] = "int8"
    model_output_type: Annotated[str, one_of(*NODE_TYPES)] = "float32"
    activation: Activation = Activation()
    weight: Weight = Weight()
    modelwise_search: SearchConfig | None = None
    layerwise_search: SearchConfig | None = None
    search: SearchSection | None = None


class FineConfig(Section):
    """An entry of `op_config` or `node_config`; `inputN` are taken out before."""

    qtype: Annotated[str, one_of(*QTYPES)] | None = None
    activation: Activation = Activation()
    weight: Weight = Weight()


class SubgraphConfig(FineConfig):
    """An entry of `subgraph_config`."""

    inputs: Annotated[list[str], Field(min_length=1)]
    outputs: Annotated[list[str], Field(min_length=1)]


SECTIONS: tuple[Literal["op_config", "subgraph_config", "node_config"], ...] = (
    "op_config",
    "subgraph_config",
    "node_config",
)
