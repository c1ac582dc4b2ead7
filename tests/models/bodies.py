"""Networks with graphs inside graphs: the branches of Ifs, and the bodies of a Loop and a Scan."""

from __future__ import annotations

import numpy as np

from tests.models._text import Array, Feeds, Model, Weights, build, normal, scalar
from tests.models.convolution import IMAGE

FRAMES = normal(6, 8)


def if_hands_on() -> Model:
    """An If of which one branch hands an outer value on, and one of which both do."""
    w = Weights(60)
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            largest = ReduceMax <keepdims = 0> (x)
            bright = Greater (largest, zero)
            chosen = If (bright) <
                then_branch = yes () => (float[N,4,16,16] same) { same = Identity (conv1) },
                else_branch = no () => (float[N,4,16,16] other) { other = Relu (conv1) }
            >
            y = If (bright) <
                then_branch = yes () => (float[N,4,16,16] same) { same = Identity (chosen) },
                else_branch = no () => (float[N,4,16,16] same) {
                    first = Identity (chosen)
                    same = Identity (first)
                }
            >
        }""",
        {"w1": w.conv(4, 3), "zero": scalar(0)},
        IMAGE,
    )


def if_in_if() -> Model:
    """An If in an If: inner bodies with constants and initializers that read values of both graphs around them.

    The main graph and a body share one weight, names are used twice in different bodies, and a branch answers
    with a constant.
    """
    w = Weights(61)
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            relu1 = Relu (conv1)
            largest = ReduceMax <keepdims = 0> (x)
            bright = Greater (largest, zero)
            glaring = Greater (largest, limit)
            inner, f = If (bright) <
                then_branch = yes () => (float[N,4,16,16] a, float[4,1,1] b) <float k = {2.0}> {
                    half = Constant <value = float {0.5}> ()
                    scaled = Mul (relu1, half)
                    dropped = Dropout (scaled)
                    a = If (glaring) <
                        then_branch = yes () => (float[N,4,16,16] c) {
                            t = Conv <pads = [1,1,1,1]> (x, w1)
                            c = Mul (t, k)
                        },
                        else_branch = no () => (float[N,4,16,16] c) {
                            t = Add (dropped, relu1)
                            c = Dropout (t)
                        }
                    >
                    b = Constant <value = float[4,1,1] {1.0, 0.5, 1.0, 2.0}> ()
                },
                else_branch = no () => (float[N,4,16,16] a, float[4,1,1] b) <float[4,1,1] b = {1.5, 1.0, 0.5, 1.0}> {
                    half = Constant <value = float {0.25}> ()
                    a = Mul (relu1, half)
                }
            >
            tinted = Mul (inner, f)
            y = Conv (tinted, w2)
        }""",
        {"w1": w.conv(4, 3), "w2": w.conv(4, 4, 1), "zero": scalar(0), "limit": scalar(0.02)},
        IMAGE,
    )


def loop() -> Model:
    """A Loop that multiplies by a matrix of the main graph three times, between two layers."""
    w = Weights(62)
    return build(
        """net (float[N,24] x) => (float[N,5] y) {
            fc1 = MatMul (x, w1)
            turned = Loop (times, yes, fc1) <
                body = step (int64 i, bool before, float[N,8] state) => (bool after, float[N,8] next) {
                    after = Identity (before)
                    one = Constant <value = float {1.0}> ()
                    m = MatMul (state, w2)
                    scaled = Mul (m, one)
                    next = Tanh (scaled)
                }
            >
            y = MatMul (turned, w3)
        }""",
        {
            "w1": w.dense(24, 8),
            "w2": w.dense(8, 8),
            "w3": w.dense(8, 5),
            "times": scalar(3, np.int64),
            "yes": np.array(True),
        },
        normal(24),
    )


def scan() -> Model:
    """A Scan over the frames of each sample, with a layer before it and one behind."""
    w = Weights(63)
    return build(
        """net (float[N,6,8] x) => (float[N,6,4] y) {
            fc1 = MatMul (x, w1)
            frames = Transpose <perm = [1,0,2]> (fc1)
            first = Gather <axis = 0> (frames, zero)
            start = Mul (first, nothing)
            last, sums = Scan (start, frames) <
                num_scan_inputs = 1,
                body = step (float[N,8] sum, float[N,8] frame) => (float[N,8] next, float[N,8] out) {
                    kept = Mul (sum, decay)
                    next = Add (kept, frame)
                    out = Identity (next)
                }
            >
            back = Transpose <perm = [1,0,2]> (sums)
            y = MatMul (back, w2)
        }""",
        {
            "w1": w.dense(8, 8),
            "w2": w.dense(8, 4),
            "zero": scalar(0, np.int64),
            "nothing": scalar(0),
            "decay": scalar(0.5),
        },
        FRAMES,
    )


def shifted(feeds: Feeds, by: float, *, batch: int = 4, seed: int = 0) -> dict[str, Array]:
    """Return feeds whose mean is moved, so that an If on it takes the other branch."""
    return {name: x + np.float32(by) for name, x in feeds(batch=batch, seed=seed).items()}
