"""One small model with a layer of every kind that the vendors' documents speak of."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.plan import Plan, explain, resolve
from calibrant.plan.explain import Explanation
from calibrant.recipe import Recipe
from tests.models._text import Array, build

__all__ = ["LAYERS", "explained", "planned", "prepared", "zoo"]

GRAPH = """zoo (float[2,4,16,16] x, float[2,4,16] s, float[2,4,4,8,8] v, float[5,2,4] t)
    => (float[2,4,32,32] up, float[2,6,16] seq_end, float[2,6,4,8,8] vol_end, float[2,6] logits,
        float[2,8,4,4] soft, float[5,1,2,3] lstm_y, float[5,1,2,3] gru_y, float[2,4,16,16] share_sum,
        float[2,4,8,8] big) {
    conv = Conv <pads = [1,1,1,1]> (x, w_conv, b8)
    bn = BatchNormalization (conv, bn_g, bn_b, bn_m, bn_v)
    relu = Relu (bn)
    dw = Conv <pads = [1,1,1,1], group = 8> (relu, w_dw)
    grouped = Conv <pads = [1,1,1,1], group = 2> (dw, w_grouped, b8)
    dilated = Conv <pads = [2,2,2,2], dilations = [2,2]> (grouped, w_dilated, b8)
    point = Conv (relu, w_point, b8)
    add = Add (dilated, point)
    maxp = MaxPool <kernel_shape = [2,2], strides = [2,2]> (add)
    pool = AveragePool <kernel_shape = [2,2], strides = [2,2]> (maxp)
    soft = Softmax (pool)
    up = ConvTranspose <strides = [2,2], kernel_shape = [2,2]> (add, w_up, b4)
    gpool = GlobalAveragePool (pool)
    flat = Flatten (gpool)
    fc = Gemm <transB = 1> (flat, w_fc, b8)
    fc_bare = Gemm (fc, w_bare)
    mm = MatMul (fc_bare, w_mm)
    mm_bias = Add (mm, b8)
    turned = Transpose <perm = [1,0]> (mm_bias)
    logits = Gemm <transA = 1> (turned, w_turned)
    seq = Conv <pads = [1,1]> (s, w_seq, b6)
    seq_end = ConvTranspose <pads = [1,1]> (seq, w_seq_up, b6)
    vol = Conv <pads = [1,1,1,1,1,1]> (v, w_vol, b6)
    vol_end = Conv <pads = [2,1,1,2,1,1], dilations = [2,1,1]> (vol, w_vol_dilated, b6)
    lstm_y, lstm_h, lstm_c = LSTM <hidden_size = 3> (t, w_lstm, r_lstm, b_lstm, , h0, h0)
    gru_y, gru_h = GRU <hidden_size = 3, linear_before_reset = 1> (t, w_gru, r_gru, b_gru, , h0)
    share1 = Conv <pads = [1,1,1,1]> (x, w_share, b4)
    share2 = Conv <pads = [1,1,1,1]> (share1, w_share, b4)
    share_sum = Add (share1, share2)
    left = Slice (share_sum, cut_start, cut_end, cut_axes)
    big = MatMul (left, left)
}"""

#: Node -> its type as PyTorch calls it, for the layers that a configuration may name.
LAYERS = {
    "conv": "Conv2d",
    "dw": "Conv2d",
    "grouped": "Conv2d",
    "dilated": "Conv2d",
    "point": "Conv2d",
    "pool": "AvgPool2d",
    "up": "ConvTranspose2d",
    "fc": "Linear",
    "fc_bare": "Linear",
    "mm": "Linear",
    "seq": "Conv1d",
    "seq_end": "ConvTranspose1d",
    "vol": "Conv3d",
    "lstm_y": "LSTM",
    "gru_y": "GRU",
}


@cache
def zoo() -> onnx.ModelProto:
    """Return the model."""
    rng = np.random.default_rng(7)

    def w(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    weights = {
        "w_conv": w(8, 4, 3, 3),
        "w_dw": w(8, 1, 3, 3),
        "w_grouped": w(8, 4, 3, 3),
        "w_dilated": w(8, 8, 3, 3),
        "w_point": w(8, 8, 1, 1),
        "w_up": w(8, 4, 2, 2),
        "w_fc": w(8, 8),
        "w_bare": w(8, 8),
        "w_mm": w(8, 8),
        "w_turned": w(8, 6),
        "w_seq": w(6, 4, 3),
        "w_seq_up": w(6, 6, 3),
        "w_vol": w(6, 4, 3, 3, 3),
        "w_vol_dilated": w(6, 6, 3, 3, 3),
        "w_lstm": w(1, 12, 4),
        "r_lstm": w(1, 12, 3),
        "b_lstm": w(1, 24),
        "w_gru": w(1, 9, 4),
        "r_gru": w(1, 9, 3),
        "b_gru": w(1, 18),
        "h0": w(1, 2, 3),
        "w_share": w(4, 4, 3, 3),
        "b4": w(4),
        "b6": w(6),
        "b8": w(8),
        "bn_g": np.abs(w(8)) + 0.5,
        "bn_b": w(8),
        "bn_m": w(8),
        "bn_v": np.abs(w(8)) + 0.5,
        "cut_start": np.array([0, 0], np.int64),
        "cut_end": np.array([8, 8], np.int64),
        "cut_axes": np.array([2, 3], np.int64),
    }

    def feeds(batch: int = 2, seed: int = 0) -> dict[str, Array]:
        data = np.random.default_rng(seed)
        shapes = {"x": (2, 4, 16, 16), "s": (2, 4, 16), "v": (2, 4, 4, 8, 8), "t": (5, 2, 4)}
        return {k: data.normal(size=s).astype(np.float32) for k, s in shapes.items()}

    return build(GRAPH, weights, feeds)[0]


def prepared(recipe: Recipe) -> ir.Model:
    model = prepare(load(zoo()))
    if recipe.fusion.batch_norm:
        fuse_batchnorm(model, skip=recipe.fusion.skip, check=False)
    return model


def planned(recipe: Recipe) -> Plan:
    """Return the plan of the model, as it is built before anything is run."""
    return resolve(recipe, prepared(recipe))


def explained(recipe: Recipe) -> Explanation:
    """Return what the recipe means for the model, whether or not all of it can be run."""
    return explain(recipe, prepared(recipe))
