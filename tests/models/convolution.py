"""Convolutional networks of two to eight layers; inputs are (N, 3, 16, 16) unless said otherwise."""

from __future__ import annotations

import numpy as np

from tests.models._text import Model, Weights, build, normal

IMAGE = normal(3, 16, 16)


def conv_bn_relu() -> Model:
    """Conv + BatchNormalization + Relu three times, then pooling and a classifier."""
    w = Weights()
    weights = {"w1": w.conv(8, 3), "w2": w.conv(16, 8), "w3": w.conv(16, 16)}
    weights |= w.batch_norm("n1", 8) | w.batch_norm("n2", 16) | w.batch_norm("n3", 16)
    weights |= {"b3": w.vector(16), "wf": w.dense(10, 16, 16), "bf": w.vector(10)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,10] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            bn1 = BatchNormalization (conv1, n1_g, n1_b, n1_m, n1_v)
            relu1 = Relu (bn1)
            conv2 = Conv <pads = [1,1,1,1], strides = [2,2]> (relu1, w2)
            bn2 = BatchNormalization <epsilon = 0.001> (conv2, n2_g, n2_b, n2_m, n2_v)
            relu2 = Relu (bn2)
            conv3 = Conv <pads = [1,1,1,1]> (relu2, w3, b3)
            bn3 = BatchNormalization (conv3, n3_g, n3_b, n3_m, n3_v)
            relu3 = Relu (bn3)
            pool = GlobalAveragePool (relu3)
            flat = Flatten (pool)
            y = Gemm <transB = 1> (flat, wf, bf)
        }""",
        weights,
        IMAGE,
    )


def depthwise_leaky(spread: float = 3.0) -> Model:
    """Depthwise separable convolutions with LeakyRelu; channels spread over `spread` decades."""
    w = Weights(1)
    gain = (10.0 ** np.linspace(-spread / 2, spread / 2, 16)).astype(np.float32)
    weights = {
        "w1": w.conv(16, 3),
        "d1": w.conv(16, 1) * gain[:, None, None, None],
        "p1": w.conv(16, 16, 1) / gain[None, :, None, None],
        "d2": w.conv(16, 1),
        "p2": w.conv(8, 16, 1),
        "b1": w.vector(16),
        "b2": w.vector(8),
    }
    return build(
        """net (float[N,3,16,16] x) => (float[N,8,8,8] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            act1 = LeakyRelu <alpha = 0.1> (conv1)
            depth1 = Conv <group = 16, pads = [1,1,1,1]> (act1, d1)
            act2 = LeakyRelu <alpha = 0.1> (depth1)
            point1 = Conv (act2, p1, b1)
            act3 = LeakyRelu <alpha = 0.1> (point1)
            depth2 = Conv <group = 16, pads = [1,1,1,1], strides = [2,2]> (act3, d2)
            act4 = LeakyRelu <alpha = 0.1> (depth2)
            y = Conv (act4, p2, b2)
        }""",
        weights,
        IMAGE,
    )


def residual() -> Model:
    """Two residual blocks; the sum of the first feeds both the second's branch and its skip."""
    w = Weights(2)
    weights = {f"w{i}": w.conv(8, 3 if i == 0 else 8) for i in range(5)}
    weights |= {f"b{i}": w.vector(8) for i in range(5)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,8,16,16] y) {
            conv0 = Conv <pads = [1,1,1,1]> (x, w0, b0)
            relu0 = Relu (conv0)
            conv1 = Conv <pads = [1,1,1,1]> (relu0, w1, b1)
            relu1 = Relu (conv1)
            conv2 = Conv <pads = [1,1,1,1]> (relu1, w2, b2)
            add1 = Add (relu0, conv2)
            relu2 = Relu (add1)
            conv3 = Conv <pads = [1,1,1,1]> (relu2, w3, b3)
            relu3 = Relu (conv3)
            conv4 = Conv <pads = [1,1,1,1]> (relu3, w4, b4)
            y = Add (conv4, relu2)
        }""",
        weights,
        IMAGE,
    )


def conv_transpose() -> Model:
    """A strided Conv, then ConvTranspose with and without groups, each with its normalization."""
    w = Weights(3)
    weights = {"w1": w.conv(8, 3), "t1": w.conv(8, 6, 2), "t2": w.conv(6, 2, 2)}
    weights |= w.batch_norm("n1", 6) | {"b2": w.vector(4)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,32,32] y) {
            conv1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)
            relu1 = Relu (conv1)
            up1 = ConvTranspose <strides = [2,2]> (relu1, t1)
            bn1 = BatchNormalization (up1, n1_g, n1_b, n1_m, n1_v)
            relu2 = Relu (bn1)
            y = ConvTranspose <strides = [2,2], group = 2> (relu2, t2, b2)
        }""",
        weights,
        IMAGE,
    )


def grouped() -> Model:
    """A grouped convolution (4 groups of 2) with its normalization, between two dense ones."""
    w = Weights(4)
    weights = {"w1": w.conv(8, 3), "w2": w.conv(12, 2), "w3": w.conv(4, 12, 1)}
    weights |= w.batch_norm("n2", 12) | {"b1": w.vector(8)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            relu1 = Relu (conv1)
            conv2 = Conv <group = 4, pads = [1,1,1,1]> (relu1, w2)
            bn2 = BatchNormalization (conv2, n2_g, n2_b, n2_m, n2_v)
            relu2 = Relu (bn2)
            y = Conv (relu2, w3)
        }""",
        weights,
        IMAGE,
    )


def pools() -> Model:
    """MaxPool, AveragePool and GlobalAveragePool between convolutions."""
    w = Weights(5)
    weights = {"w1": w.conv(8, 3), "w2": w.conv(8, 8), "w3": w.conv(8, 8), "b1": w.vector(8)}
    weights |= {"wf": w.dense(5, 8, 8), "bf": w.vector(5)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,5] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            relu1 = Relu (conv1)
            max1 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (relu1)
            conv2 = Conv <pads = [1,1,1,1]> (max1, w2)
            relu2 = Relu (conv2)
            avg1 = AveragePool <kernel_shape = [2,2], strides = [2,2]> (relu2)
            conv3 = Conv <pads = [1,1,1,1]> (avg1, w3)
            relu3 = Relu (conv3)
            gap = GlobalAveragePool (relu3)
            flat = Flatten (gap)
            y = Gemm <transB = 1> (flat, wf, bf)
        }""",
        weights,
        IMAGE,
    )


def resize() -> Model:
    """A convolution, Resize by two (nearest), and a second convolution: a detector's neck."""
    w = Weights(6)
    weights = {"w1": w.conv(8, 3), "w2": w.conv(4, 8), "b2": w.vector(4)}
    weights["scales"] = np.array([1, 1, 2, 2], dtype=np.float32)
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)
            relu1 = Relu (conv1)
            up1 = Resize <mode = "nearest"> (relu1, , scales)
            y = Conv <pads = [1,1,1,1]> (up1, w2, b2)
        }""",
        weights,
        IMAGE,
    )


def activations() -> Model:
    """One convolution before each of SiLU, HardSwish, Clip with inputs, PRelu, Sigmoid and Tanh."""
    w = Weights(7)
    weights = {f"w{i}": w.conv(8, 3 if i == 1 else 8) for i in range(1, 7)}
    weights |= {f"b{i}": w.vector(8) for i in range(1, 7)}
    weights["low"] = np.array(0, dtype=np.float32)
    weights["high"] = np.array(6, dtype=np.float32)
    weights["slope"] = np.abs(w.vector(8))[:, None, None]
    return build(
        """net (float[N,3,16,16] x) => (float[N,8,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            gate1 = Sigmoid (conv1)
            silu1 = Mul (conv1, gate1)
            conv2 = Conv <pads = [1,1,1,1]> (silu1, w2, b2)
            hard2 = HardSwish (conv2)
            conv3 = Conv <pads = [1,1,1,1]> (hard2, w3, b3)
            clip3 = Clip (conv3, low, high)
            conv4 = Conv <pads = [1,1,1,1]> (clip3, w4, b4)
            prelu4 = PRelu (conv4, slope)
            conv5 = Conv <pads = [1,1,1,1]> (prelu4, w5, b5)
            tanh5 = Tanh (conv5)
            conv6 = Conv <pads = [1,1,1,1]> (tanh5, w6, b6)
            y = Sigmoid (conv6)
        }""",
        weights,
        IMAGE,
    )


def shared_weight() -> Model:
    """Two convolutions that use one initializer, on the same and on different inputs."""
    w = Weights(8)
    weights = {"w1": w.conv(3, 3), "b1": w.vector(3)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,3,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            relu1 = Relu (conv1)
            conv2 = Conv <pads = [1,1,1,1]> (relu1, w1, b1)
            y = Add (conv2, relu1)
        }""",
        weights,
        IMAGE,
    )


def concat_branches() -> Model:
    """Two branches of very different range joined by Concat, then a convolution."""
    w = Weights(9)
    weights = {"w1": w.conv(4, 3), "w2": 20 * w.conv(4, 3, 1), "w3": w.conv(4, 8, 1)}
    weights |= {"b3": w.vector(4)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            relu1 = Relu (conv1)
            conv2 = Conv (x, w2)
            relu2 = Relu (conv2)
            join = Concat <axis = 1> (relu1, relu2)
            y = Conv (join, w3, b3)
        }""",
        weights,
        IMAGE,
    )
