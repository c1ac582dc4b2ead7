"""Networks of matrix products; inputs are (N, 24) unless said otherwise."""

from __future__ import annotations

import numpy as np

from tests.models._text import Model, Weights, build, normal


def gemm_mlp() -> Model:
    """Gemm with transB = 1, Gemm with transB = 0 and no bias, and BatchNormalization behind one."""
    w = Weights(20)
    weights = {"w1": w.dense(32, 24, 24), "b1": w.vector(32), "w2": w.dense(32, 16)}
    weights |= w.batch_norm("n1", 32) | {"w3": w.dense(16, 6), "b3": w.vector(6)}
    return build(
        """net (float[N,24] x) => (float[N,6] y) {
            fc1 = Gemm <transB = 1> (x, w1, b1)
            bn1 = BatchNormalization (fc1, n1_g, n1_b, n1_m, n1_v)
            relu1 = Relu (bn1)
            fc2 = Gemm (relu1, w2)
            relu2 = Relu (fc2)
            y = Gemm <transB = 0> (relu2, w3, b3)
        }""",
        weights,
        normal(24),
    )


def gemm_scaled() -> Model:
    """Gemm with alpha, beta and transA away from their defaults; the batch lies on axis 1."""
    w = Weights(21)
    weights = {"w1": w.dense(24, 8), "b1": w.vector(8)}

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {"x": rng.normal(size=(24, batch)).astype(np.float32)}

    return build(
        """net (float[24,N] x) => (float[N,8] y) {
            y = Gemm <transA = 1, alpha = 0.5, beta = 2.0> (x, w1, b1)
        }""",
        weights,
        feeds,
    )


def matmul_mlp() -> Model:
    """MatMul with a constant, alone and followed by an Add that is its bias, over a sequence."""
    w = Weights(22)
    weights = {
        "w1": w.dense(24, 32),
        "b1": w.vector(32),
        "w2": w.dense(32, 24),
        "w3": w.dense(24, 6),
    }
    weights |= {"b3": w.vector(6)}
    return build(
        """net (float[N,5,24] x) => (float[N,5,6] y) {
            fc1 = MatMul (x, w1)
            bias1 = Add (fc1, b1)
            relu1 = Relu (bias1)
            fc2 = MatMul (relu1, w2)
            skip = Add (fc2, x)
            fc3 = MatMul (skip, w3)
            y = Add (b3, fc3)
        }""",
        weights,
        normal(5, 24),
    )


def fixed_batch() -> Model:
    """A Gemm whose input has a fixed batch of 2."""
    w = Weights(23)
    weights = {"w1": w.dense(8, 24, 24), "b1": w.vector(8)}

    def feeds(batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {"x": rng.normal(size=(2, 24)).astype(np.float32)}

    return build(
        """net (float[2,24] x) => (float[2,8] y) {
            y = Gemm <transB = 1> (x, w1, b1)
        }""",
        weights,
        feeds,
    )


def two_in_two_out() -> Model:
    """Two inputs of different shape and two outputs, one of them also used inside."""
    w = Weights(24)
    weights = {"w1": w.dense(24, 16), "w2": w.dense(7, 16), "w3": w.dense(16, 3)}

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(batch, 24)).astype(np.float32)
        return {"a": a, "b": rng.normal(size=(batch, 7)).astype(np.float32)}

    return build(
        """net (float[N,24] a, float[N,7] b) => (float[N,16] hidden, float[N,3] score) {
            left = MatMul (a, w1)
            right = MatMul (b, w2)
            total = Add (left, right)
            hidden = Relu (total)
            score = MatMul (hidden, w3)
        }""",
        weights,
        feeds,
    )
