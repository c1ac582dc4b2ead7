"""What the forms of an AMCT configuration have in common: defaults, limits, and their words as settings.

    rules   nothing is quantized, but the types below     implied
            the vendor's defaults, for all                implied
            what the file says                            in its order

The device's limits stand beside the rules: where a general setting does not fit a layer it gives way with
a note, where a layer's own setting does not fit it is an error.

Source: docs/reference/ascend-configurations.md ("What holds for all of AMCT's files").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from calibrant.errors import ConfigValueError
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Force,
    LayerInput,
    Limit,
    Note,
    OpType,
    Rule,
    Settings,
)
from calibrant.text.schema import FieldsError

__all__ = [
    "CHANNELLED",
    "DEFAULT_ACTIVATION",
    "DEFAULT_WEIGHT",
    "FUSED",
    "GLOBAL_KEYS",
    "LAYER_LIMITS",
    "LIMITS",
    "NO_CHANNELS",
    "QUANTIZABLE",
    "RECURRENT",
    "TENSOR_TYPES",
    "TRAINING_FIELDS",
    "TRAINING_KEYS",
    "ada",
    "add_tensor",
    "base_rules",
    "check_search",
    "default_settings",
    "hfmg",
    "ifmr",
    "nuq",
]

#: Layers that are quantized. The core leaves recurrent ones in float, and says so.
RECURRENT = ("LSTM", "GRU")
QUANTIZABLE = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Linear",
    "AveragePool",
    *RECURRENT,
)

#: Those whose weights may have one scale for each output channel.
CHANNELLED = tuple(t for t in QUANTIZABLE if t not in ("Linear", "AveragePool"))

#: Operators that AMCT folds batch normalization into, so that its skip list may name them.
FUSED = ("Conv",)

#: Nodes of which one input may be quantized for its own sake.
TENSOR_TYPES = ("MaxPool", "Add")

GLOBAL_KEYS = (
    "version",
    "batch_num",
    "activation_offset",
    "joint_quant",
    "do_fusion",
    "skip_fusion_layers",
    "fakequant_precision_mode",
    "tensor_quantize",
)

#: Words of a layer in a configuration for training.
TRAINING_KEYS = frozenset(
    {
        "retrain_enable",
        "retrain_data_config",
        "retrain_weight_config",
        "regular_prune_enable",
        "regular_prune_config",
    }
)

#: Fields of the simplified configuration for training that the other one does not have.
TRAINING_FIELDS = frozenset(
    {
        "retrain_data_quant_config",
        "retrain_weight_quant_config",
        "prune_config",
        "regular_prune_skip_layers",
        "regular_prune_skip_types",
        "quant_skip_layers",
        "quant_skip_types",
    }
)

NO_CHANNELS = "AMCT gives this type one scale for the whole weight"
_NO_16 = "its activations do not run in 16 bits"
_ONLY_8 = "its activations run in 8 bits alone"
_WINOGRAD = "6 and 7 bits are for Conv2d alone"
_ROUNDED = "rounding is learned for Conv2d, ConvTranspose2d and Linear alone"
_RECURRENCE = "it does not run forward from a given state, with the GRU's reset behind its product"
_FLOAT = ("float32",)

#: What a layer has to be to be quantized at all; these come before what it may be set to.
LAYER_LIMITS = (
    Limit(
        OpType("Conv3d"), "compute", _FLOAT, "its filter is dilated in depth", "dilated in depth"
    ),
    Limit(OpType("Gemm"), "compute", _FLOAT, "its input is transposed", "transposed input"),
    *(
        limit
        for t in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        for limit in (
            Limit(
                OpType(t),
                "compute",
                _FLOAT,
                "its second input is no constant weight",
                "no constant weight",
            ),
            Limit(
                OpType(t),
                "compute",
                _FLOAT,
                "its weight belongs to another layer too",
                "shared weight",
            ),
        )
    ),
    *(Limit(OpType(t), "compute", _FLOAT, _RECURRENCE, "no plain recurrence") for t in RECURRENT),
)

LIMITS = (
    *LAYER_LIMITS,
    *(
        Limit(OpType(t), "weight_per_channel", (False,), NO_CHANNELS)
        for t in ("Linear", "AveragePool")
    ),
    Limit(OpType("Conv3d"), "activation_bits", (4, 8), _NO_16),
    Limit(OpType("AveragePool"), "activation_bits", (8,), _ONLY_8),
    Limit(OpType("Linear"), "activation_bits", (4, 8), f"without a bias {_NO_16}", "no bias"),
    Limit(OpType("Conv3d"), "activation_symmetric", (True,), "its activations are symmetric"),
    *(Limit(OpType(t), "weight_bits", (4, 8), _WINOGRAD) for t in QUANTIZABLE if t != "Conv2d"),
    Limit(OpType("AveragePool"), "balance", (0.0,), "it has no weight to move difficulty to"),
    *(Limit(OpType(t), "balance", (0.0,), "recurrent layers are not balanced") for t in RECURRENT),
    *(
        Limit(OpType(t), "weight", ("arq", "nuq"), _ROUNDED)
        for t in QUANTIZABLE
        if t not in ("Conv2d", "ConvTranspose2d", "Linear")
    ),
)


def ifmr(
    start: float = 0.7,
    end: float = 1.3,
    step: float = 0.01,
    max_percentile: float = 0.999999,
    min_percentile: float = 0.999999,
) -> AlgorithmChoice:
    """Return the search of the upper bound (`algorithms.activations.ifmr`)."""
    return AlgorithmChoice.of(
        "ifmr",
        {
            "search_range": (start, end),
            "search_step": step,
            "max_percentile": max_percentile,
            "min_percentile": min_percentile,
        },
    )


def hfmg(bins: int = 4096) -> AlgorithmChoice:
    """Return the search on a histogram (`algorithms.activations.hfmg`)."""
    return AlgorithmChoice.of("hfmg", {"bins": bins})


def nuq(steps: int = 32, iterations: int = 1) -> AlgorithmChoice:
    """Return non-uniform weights (`algorithms.weights.nuq`)."""
    return AlgorithmChoice.of("nuq", {"levels": steps, "rounds": iterations})


def ada(
    iterations: int, regularization: float, beta: Sequence[float], warm_start: float
) -> AlgorithmChoice:
    """Return adaptive rounding (`algorithms.weights.ada`)."""
    return AlgorithmChoice.of(
        "ada",
        {
            "iterations": iterations,
            "regularization": regularization,
            "beta_range": tuple(beta),
            "warm_start": warm_start,
        },
    )


DEFAULT_ACTIVATION = ifmr()
DEFAULT_WEIGHT = AlgorithmChoice("arq")


def default_settings(*, symmetric: bool) -> Settings:
    """Return what holds for a layer about which nothing is said."""
    return Settings(
        activation=DEFAULT_ACTIVATION,
        activation_bits=8,
        activation_symmetric=symmetric,
        weight=DEFAULT_WEIGHT,
        weight_bits=8,
        weight_per_channel=True,
        balance=0.0,
    )


def base_rules(
    source: str, *, offset: bool, offset_origin: str, types: Iterable[str] = ()
) -> list[Rule]:
    """Return the rules before those of the file.

    Args:
        source: Name of the file.
        offset: Its `activation_offset`.
        offset_origin: Where that stands, or an empty string.
        types: Types that are quantized unless something else is said.
    """
    force: Force = "implied"
    default = f"{source}: default"
    rules = [Rule(AllNodes(), Settings(compute="float32"), f"{source}: not asked for", force)]
    rules += [Rule(OpType(t), Settings(compute="int"), default, force) for t in types]
    rules.append(Rule(AllNodes(), default_settings(symmetric=not offset), default, force))
    if offset_origin:
        said = Settings(activation_symmetric=not offset)
        rules.append(Rule(AllNodes(), said, offset_origin, force))
    return rules


def check_search(start: float, end: float, step: float, *, pair: bool) -> None:
    """Check a search range; the step is compared in decimal, so that 0.6 fits into [0.7, 1.3].

    Args:
        start: Least ratio.
        end: Largest ratio.
        step: Distance of two ratios.
        pair: Whether the range is one field `search_range` or two, `search_range_start` and `_end`.

    Raises:
        FieldsError: The range is empty or begins at or below 0, or the step does not fit into it.
    """
    if not 0 < start < end:
        if pair:
            raise FieldsError(
                "it is [start, end] with 0 < start < end", "search_range", [start, end]
            )
        if not start > 0:
            raise FieldsError("it is above 0", "search_range_start", start)
        raise FieldsError(
            f"it is above search_range_start, which is {start}", "search_range_end", end
        )
    width = Decimal(str(end)) - Decimal(str(start))
    if not 0 < Decimal(str(step)) <= width:
        raise FieldsError(f"it lies in (0, {width}]", "search_step", step)


def add_tensor(
    rules: dict[tuple[str, int], Rule],
    notes: list[Note],
    where: LayerInput,
    settings: Settings,
    origin: str,
) -> None:
    """Add a tensor to those that are quantized for their own sake.

    Args:
        rules: Those so far, by node and input.
        notes: Gets a note where one stands twice.
        where: The node and the input.
        settings: What holds for it.
        origin: File, line and field.

    Raises:
        ConfigValueError: Another input of the same node is quantized already.
    """
    other = next((i for name, i in rules if name == where.name and i != where.index), None)
    if other is not None:
        raise ConfigValueError(
            f"{origin} asks for input {where.index} after input {other}; only one input of a node can "
            "be quantized."
        )
    key = (where.name, where.index)
    if key in rules:
        notes.append(
            Note(
                origin,
                f"{rules[key].origin} is for the same input; the last one counts.",
                honoured=True,
            )
        )
    rules[key] = Rule(where, settings, origin, "required")
