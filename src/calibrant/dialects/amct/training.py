"""What the two forms of AMCT's configuration for training have in common.

| Of | Algorithm | Means |
|---|---|---|
| activations | `ulq_quantize` | a clip range that is learned |
| weights | `arq_retrain` | the range of ARQ, anew at every step |
| weights | `ulq_retrain` | a scale that is learned |

Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from calibrant.dialects.amct.common import LAYER_LIMITS, NO_CHANNELS, QUANTIZABLE
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Limit,
    Note,
    OpType,
    Rule,
    Settings,
)

__all__ = [
    "BITS",
    "TRAINING_LIMITS",
    "TRAINING_TYPES",
    "WEIGHTS",
    "check_pair",
    "default_training",
    "pruning_note",
    "split",
    "training_rules",
    "ulq",
]

#: Layers that training quantizes.
TRAINING_TYPES = tuple(t for t in QUANTIZABLE if t != "AveragePool")

BITS = {"INT4": 4, "INT8": 8, "INT16": 16}
WEIGHTS = {"arq_retrain": AlgorithmChoice("arq"), "ulq_retrain": AlgorithmChoice("ulq")}

#: Widths of (activation, weight) that go together.
PAIRS = ((8, 8), (4, 4), (16, 8), (8, 4))

TRAINING_LIMITS = (
    *LAYER_LIMITS,
    Limit(OpType("AveragePool"), "compute", ("float32",), "training does not quantize it"),
    Limit(OpType("Linear"), "weight_per_channel", (False,), NO_CHANNELS),
    Limit(
        AllNodes(),
        "weight_bits",
        (8,),
        "4 bits need one group and an even number of input channels",
        "grouped or odd inputs",
    ),
)


def ulq(
    clip_max: float | None = None, clip_min: float | None = None, fixed_min: bool | None = None
) -> AlgorithmChoice:
    """Return a learned clip range; what is None is found from the first batches or from the graph."""
    said = {"clip_max": clip_max, "clip_min": clip_min, "fixed_min": fixed_min}
    return AlgorithmChoice.of("ulq", {k: v for k, v in said.items() if v is not None})


def default_training() -> Settings:
    """Return what holds for a layer about which nothing is said."""
    return Settings(
        activation=ulq(),
        activation_bits=8,
        activation_symmetric=False,
        weight=WEIGHTS["arq_retrain"],
        weight_bits=8,
        weight_per_channel=True,
    )


def training_rules(source: str, types: tuple[str, ...] = ()) -> list[Rule]:
    """Return the rules before those of the file; `types` are quantized unless something else is said."""
    default = f"{source}: default"
    rules = [
        Rule(AllNodes(), Settings(compute="float32"), f"{source}: not asked for", "implied"),
        *(Rule(OpType(t), Settings(compute="int"), default, "implied") for t in types),
    ]
    rules.append(Rule(AllNodes(), default_training(), default, "implied"))
    return rules


def split(rule: Rule) -> list[Rule]:
    """Return a required rule in two: 4 bits give way with a note where a layer cannot have them."""
    bits = rule.settings.weight_bits
    if bits != 4:
        return [rule]
    others = Settings(**{k: v for k, v in rule.settings.items() if k != "weight_bits"})
    return [
        Rule(rule.where, others, rule.origin, rule.force),
        Rule(rule.where, Settings(weight_bits=bits), rule.origin, "wished"),
    ]


def check_pair(activation: int | None, weight: int | None) -> None:
    """Check that two widths go together; None is 8.

    Raises:
        ValueError: They do not.
    """
    pair = (activation or 8, weight or 8)
    if pair not in PAIRS:
        known = ", ".join(f"INT{a} with INT{w}" for a, w in PAIRS)
        raise ValueError(
            f"activations in INT{pair[0]} and weights in INT{pair[1]} do not go together; {known} do"
        )


def pruning_note(where: str) -> Note:
    """Return the note about a request to prune."""
    return Note(where, "Pruning is not done: weights are quantized as they are.")
