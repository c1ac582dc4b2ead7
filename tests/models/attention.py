"""Attention: masks that must never enter a range, products of two activations, token ids.

Shapes: N samples, 6 positions, 2 heads of 8 channels; `mask` is int64, 1 where a token is.
"""

from __future__ import annotations

import numpy as np

from tests.models._text import Array, Feeds, Model, Weights, build, scalar

_BODY = """
    ids_q = MatMul (h, wq)
    q1 = Add (ids_q, bq)
    ids_k = MatMul (h, wk)
    k1 = Add (ids_k, bk)
    v1 = MatMul (h, wv)
    q2 = Reshape (q1, heads)
    k2 = Reshape (k1, heads)
    v2 = Reshape (v1, heads)
    q = Transpose <perm = [0,2,1,3]> (q2)
    k = Transpose <perm = [0,2,3,1]> (k2)
    v = Transpose <perm = [0,2,1,3]> (v2)
    product = MatMul (q, k)
    scaled = Mul (product, root)
"""

_TAIL = """
    weight = Softmax <axis = -1> (masked)
    mix = MatMul (weight, v)
    mix1 = Transpose <perm = [0,2,1,3]> (mix)
    mix2 = Reshape (mix1, merged)
    out = MatMul (mix2, wo)
    sum1 = Add (out, h)
    norm = LayerNormalization <axis = -1> (sum1, gain, shift)
    fc1 = MatMul (norm, w1)
    e1 = Div (fc1, sqrt2)
    e2 = Erf (e1)
    e3 = Add (e2, one)
    e4 = Mul (fc1, e3)
    gelu = Mul (e4, half)
    fc2 = MatMul (gelu, w2)
    y = Add (fc2, norm)
"""


def _weights(seed: int) -> dict[str, Array]:
    w = Weights(seed)
    weights = {name: w.dense(16, 16) for name in ("wq", "wk", "wv", "wo")}
    weights |= {
        "bq": w.vector(16),
        "bk": w.vector(16),
        "gain": w.positive(16),
        "shift": w.vector(16),
    }
    weights |= {"w1": w.dense(16, 32), "w2": w.dense(32, 16), "table": w.dense(50, 16, 1)}
    weights |= {
        "heads": np.array([0, 0, 2, 8]),
        "merged": np.array([0, 0, 16]),
        "root": scalar(8**-0.5),
        "sqrt2": scalar(2**0.5),
        "one": scalar(1),
        "half": scalar(0.5),
        "axes": np.array([1, 2]),
    }
    return weights


def _feeds(name: str, vocabulary: int | None) -> Feeds:
    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        length = rng.integers(2, 7, batch)
        mask = (np.arange(6) < length[:, None]).astype(np.int64)  # (batch, 6)
        if vocabulary:
            x: Array = rng.integers(0, vocabulary, (batch, 6))
        else:
            x = rng.normal(size=(batch, 6, 16)).astype(np.float32)
        return {name: x, "mask": mask}

    return feeds


def attention_where() -> Model:
    """One block on float inputs; padding becomes -inf through Where."""
    weights = _weights(30)
    weights |= {"minus_inf": scalar(-np.inf)}
    return build(
        """net (float[N,6,16] h, int64[N,6] mask) => (float[N,6,16] y) {"""
        + _BODY
        + """
            keep1 = Cast <to = 9> (mask)
            keep = Unsqueeze (keep1, axes)
            masked = Where (keep, scaled, minus_inf)"""
        + _TAIL
        + "}",
        {k: v for k, v in weights.items() if k != "table"},
        _feeds("h", None),
    )


def attention_add() -> Model:
    """One block on token ids (Gather); padding becomes -1e9 through Add."""
    weights = _weights(31)
    weights |= {"minus_billion": scalar(-1e9)}
    return build(
        """net (int64[N,6] ids, int64[N,6] mask) => (float[N,6,16] y) {
            h = Gather (table, ids)"""
        + _BODY
        + """
            keep1 = Cast <to = 1> (mask)
            keep2 = Unsqueeze (keep1, axes)
            drop = Sub (one, keep2)
            bias = Mul (drop, minus_billion)
            masked = Add (scaled, bias)"""
        + _TAIL
        + "}",
        weights,
        _feeds("ids", 50),
    )
