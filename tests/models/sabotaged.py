"""Networks with one thing wrong in them, so that who looks for it can be tested: what is wrong is named by each function."""

from __future__ import annotations

import numpy as np

from tests.models._text import Array, Feeds, Model, Weights, build, scalar
from tests.models.convolution import IMAGE

__all__ = ["hostile_channels", "masked_scores", "shared_unlike", "smooth_images"]


def _chain(weights: dict[str, Array]) -> Model:
    """Return four convolutions with a Sigmoid gate between them, over which no channel can be rescaled."""
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            gate1 = Sigmoid (conv1)
            act1 = Mul (conv1, gate1)
            conv2 = Conv <pads = [1,1,1,1]> (act1, w2, b2)
            gate2 = Sigmoid (conv2)
            act2 = Mul (conv2, gate2)
            conv3 = Conv <pads = [1,1,1,1]> (act2, w3, b3)
            gate3 = Sigmoid (conv3)
            act3 = Mul (conv3, gate3)
            y = Conv (act3, w4, b4)
        }""",
        weights,
        IMAGE,
    )


def _weights(seed: int) -> dict[str, Array]:
    w = Weights(seed)
    found = {
        "w1": w.conv(16, 3),
        "w2": w.conv(16, 16),
        "w3": w.conv(16, 16),
        "w4": w.conv(4, 16, 1),
    }
    return found | {"b1": w.vector(16), "b2": w.vector(16), "b3": w.vector(16), "b4": w.vector(4)}


def hostile_channels(times: float = 200.0) -> Model:
    """conv3 reads 2 of 16 channels that are so many times as large as the others; its weight makes up for it."""
    weights = _weights(70)
    gain = np.ones(16, dtype=np.float32)
    gain[[3, 9]] = times
    weights["w2"] = weights["w2"] * gain[:, None, None, None]
    weights["b2"] = weights["b2"] * gain
    weights["w3"] = weights["w3"] / gain[None, :, None, None]
    return _chain(weights)


def masked_scores(value: float = -1e9) -> Model:
    """Attention scores to which a mask is added (0 or `value`), and then a bias of position: the sum holds the mask."""
    w = Weights(72)
    weights = {"wq": w.dense(16, 16), "wk": w.dense(16, 16), "wv": w.dense(16, 16)}
    weights |= {
        "wo": w.dense(16, 8),
        "bo": w.vector(8),
        "root": scalar(0.25),
        "place": w.dense(8, 8),
    }

    def feeds(*, batch: int, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        length = rng.integers(3, 9, size=batch)
        mask = np.where(np.arange(8)[None, None] < length[:, None, None], 0, value)
        return {
            "h": rng.normal(size=(batch, 8, 16)).astype(np.float32),
            "mask": mask.astype(np.float32),
        }

    return build(
        """net (float[N,8,16] h, float[N,1,8] mask) => (float[N,8,8] y) {
            q = MatMul (h, wq)
            k = MatMul (h, wk)
            v = MatMul (h, wv)
            kt = Transpose <perm = [0,2,1]> (k)
            product = MatMul (q, kt)
            scaled = Mul (product, root)
            masked = Add (scaled, mask)
            placed = Add (masked, place)
            weight = Softmax <axis = -1> (placed)
            mix = MatMul (weight, v)
            out = MatMul (mix, wo)
            y = Add (out, bo)
        }""",
        weights,
        feeds,
    )


def shared_unlike(times: float = 100.0) -> Model:
    """conv2 and conv3 share one weight; conv3 reads values so many times as large, which are scaled back behind it."""
    weights = _weights(73)
    del weights["w3"]
    weights |= {"up": scalar(times), "down": scalar(1 / times)}
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            gate1 = Sigmoid (conv1)
            act1 = Mul (conv1, gate1)
            conv2 = Conv <pads = [1,1,1,1]> (act1, w2, b2)
            gate2 = Sigmoid (conv2)
            act2 = Mul (conv2, gate2)
            large = Mul (act2, up)
            conv3 = Conv <pads = [1,1,1,1]> (large, w2)
            small = Mul (conv3, down)
            y = Conv (small, w4, b4)
        }""",
        {k: x for k, x in weights.items() if k != "b3"},
        IMAGE,
    )


def smooth_images(side: int = 16) -> Feeds:
    """Feeds of `x` like photographs, in [0, 1]: neighbours are alike, and the three colours differ in mean."""

    def feeds(*, batch: int, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        coarse = rng.random((batch, 3, 4, 4))
        x = coarse.repeat(side // 4, axis=2).repeat(side // 4, axis=3)
        x = x * 0.4 + np.array([0.45, 0.3, 0.15])[None, :, None, None]
        x = x + rng.normal(scale=0.01, size=x.shape)
        return {"x": np.clip(x, 0, 1).astype(np.float32)}

    return feeds
