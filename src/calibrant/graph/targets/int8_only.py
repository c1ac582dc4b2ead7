"""Devices that run 8 bits and nothing else, at the places of `generic`; a wider request is lowered, and noted.

Source: horizon.md 7.3.
"""

from calibrant.graph.targets import Target, WidthLimit
from calibrant.graph.targets.generic import TARGET as GENERIC

TARGET = Target(
    name="int8-only",
    description="Devices that run int8 alone, at the inputs of Conv, ConvTranspose, Gemm, MatMul.",
    anchors=GENERIC.anchors,
    fused=GENERIC.fused,
    shared=GENERIC.shared,
    limits=(WidthLimit(None, None, (8,)),),
    activation_bits=(8,),
    weight_bits=(8,),
)
