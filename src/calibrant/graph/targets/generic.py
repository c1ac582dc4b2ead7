"""The arithmetic that NPUs and compilers for them (OpenVINO, with zero point 0 TensorRT) share.

Quantizers stand at the inputs of operators that multiply and accumulate. A convolution, the batch
normalization and the activation function behind it are one operation on such devices, with a wide
accumulator inside, so nothing between them is quantized. Additions and the operators that only move
values take what their neighbours have; where a moved tensor is quantized on both sides, both sides
share one range.

A depthwise convolution multiplies each channel by itself, so its input may have one scale a channel: that
scale goes into the weight of the channel, and the arithmetic stays what it is.

Devices that know no zero point (TensorRT) want `--symmetric`.
"""

from calibrant.graph.ops import ACTIVATION_FUNCTIONS
from calibrant.graph.targets import Target

TARGET = Target(
    name="generic",
    description="NPUs, OpenVINO and their like: int8 at the inputs of Conv, ConvTranspose, Gemm, MatMul.",
    anchors=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    fused=ACTIVATION_FUNCTIONS,
    shared=frozenset(
        {
            "MaxPool",
            "Reshape",
            "Flatten",
            "Transpose",
            "Squeeze",
            "Unsqueeze",
            "Slice",
            "Split",
            "Expand",
            "Tile",
            "DepthToSpace",
            "SpaceToDepth",
            "Identity",
            "Gather",
            "Pad",
        }
    ),
    channel_scales=True,
)
