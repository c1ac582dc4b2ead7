"""What the Ascend tools quantize: the inputs of layers with weights, and of average pooling.

Source: ascend.md 10.8.
"""

from calibrant.graph.ops import ACTIVATION_FUNCTIONS
from calibrant.graph.targets import Target

TARGET = Target(
    name="layers-only",
    description="Inputs of Conv, ConvTranspose, Gemm, MatMul and AveragePool alone (Ascend).",
    anchors=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool"}),
    fused=ACTIVATION_FUNCTIONS,
)
