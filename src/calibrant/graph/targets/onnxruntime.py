"""What the x86-64 CPU kernels of ONNX Runtime run fast.

Its optimizer turns DequantizeLinear → operator → QuantizeLinear into one integer kernel, so a
convolution is fast only when its output is quantized too, and a chain of such operators never leaves
int8. Activations are uint8 and weights int8: with signed activations its kernels are slower than float (a
ResNet-20 runs at 0.8 of the speed of float signed, at 2.0 times unsigned; one thread, AVX512-VNNI). Relu and Clip vanish into the quantizer behind them. Gemm and MatMul have
kernels that answer in float, so a tensor that only float operators read is not quantized after them.
Operators without an integer kernel (ConvTranspose, HardSwish, PRelu, …) stay in float.
"""

from calibrant.graph.targets import Target

TARGET = Target(
    name="onnxruntime",
    description="ONNX Runtime on x86-64 CPUs: uint8 activations, int8 weights, whole chains in int8.",
    anchors=frozenset({"Conv", "Gemm", "MatMul"}),
    integer_outputs=frozenset({"Conv"}),
    followers=frozenset(
        {
            "Add",
            "Mul",
            "Concat",
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "LeakyRelu",
            "Sigmoid",
            "Reshape",
            "Flatten",
            "Transpose",
            "Squeeze",
            "Unsqueeze",
            "Resize",
            "Slice",
            "Split",
            "Pad",
            "DepthToSpace",
            "SpaceToDepth",
        }
    ),
    fused=frozenset({"Relu", "Clip"}),
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
            "Pad",
            "Resize",
            "DepthToSpace",
            "SpaceToDepth",
        }
    ),
    unsigned=True,
    activation_bits=(8, 16),
    equalize=True,
    measures_latency=True,
)
