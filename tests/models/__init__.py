"""Small networks for tests: each function returns a model and its feeds.

    model, feeds = NETS["residual"]()
    outputs = session.run(None, feeds(batch=8, seed=1))

`NETS` holds every float network that can be quantized, by name; the odd ones stand in `structure`.
`trained_attention()` is a real one, trained by scripts/train_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.models import attention, bodies, convolution, linear, structure
from tests.models._text import IR_VERSION, Array, Feeds, Model, Weights, build, normal
from tests.models.structure import OPSETS, with_external_data
from tests.models.trained import TrainedCase, trained_attention

__all__ = [
    "IR_VERSION",
    "NETS",
    "OPSETS",
    "Array",
    "Feeds",
    "Model",
    "TrainedCase",
    "Weights",
    "attention",
    "bodies",
    "build",
    "convolution",
    "linear",
    "normal",
    "structure",
    "trained_attention",
    "with_external_data",
]

NETS: dict[str, Callable[[], Model]] = {
    f.__name__: f
    for f in (
        convolution.conv_bn_relu,
        convolution.depthwise_leaky,
        convolution.residual,
        convolution.conv_transpose,
        convolution.grouped,
        convolution.pools,
        convolution.resize,
        convolution.activations,
        convolution.shared_weight,
        convolution.concat_branches,
        linear.gemm_mlp,
        linear.gemm_scaled,
        linear.matmul_mlp,
        linear.fixed_batch,
        linear.two_in_two_out,
        attention.attention_where,
        attention.attention_add,
        structure.unnamed_nodes,
        structure.if_subgraph,
        structure.constant_weight,
        bodies.if_hands_on,
        bodies.if_in_if,
        bodies.loop,
        bodies.scan,
    )
} | {f"opset{n}": partial(structure.of_opset, n) for n in OPSETS}
