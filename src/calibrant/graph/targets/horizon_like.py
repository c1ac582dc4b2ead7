"""What the public documents of Horizon's chain say of its devices: nearly all operators in int8, some in int16.

The inputs of operators that multiply, add up, average, bring tensors together or sample are quantized, with
zero point 0. A convolution or product, its batch normalization and the activation function behind it are one
operation, so nothing stands between. Operators that only move values have no type of their own: whoever reads
what they move says it, and the range is that of what they moved.

Under int16 everywhere these stay in 8 bits: the weights of Conv and ConvTranspose, all of Resize and
GridSample, the second input of a MatMul, constant or not. Each is noted. The inputs of a Concat all take the
widest type that is asked for one of them. Softmax, normalizations and activation functions that stand alone stay
in float: nothing public says how they are computed, and the masks in front of a Softmax ruin 8 bits.

Source: horizon.md 7.2 and 7.3.
"""

from calibrant.graph.ops import ACTIVATION_FUNCTIONS
from calibrant.graph.targets import Target, WidthLimit
from calibrant.graph.targets.generic import TARGET as GENERIC

TARGET = Target(
    name="horizon-like",
    description="Devices of Horizon: int8 and int16 activations, zero point 0, 8 bits where int16 is too wide.",
    anchors=GENERIC.anchors
    | {
        "Add",
        "AveragePool",
        "Concat",
        "GlobalAveragePool",
        "GridSample",
        "Mul",
        "ReduceMean",
        "Resize",
        "Sub",
    },
    fused=ACTIVATION_FUNCTIONS,
    shared=GENERIC.shared,
    widest=frozenset({"Concat"}),
    limits=(
        WidthLimit("Conv", 1, (8,)),
        WidthLimit("ConvTranspose", 1, (8,)),
        WidthLimit("MatMul", 1, (8,)),
        WidthLimit("Resize", None, (8,)),
        WidthLimit("GridSample", None, (8,)),
    ),
    symmetric=True,
    weight_bits=(8, 16),
)
