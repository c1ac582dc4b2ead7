"""Sums of products in int32 that what was seen could overflow.

An integer kernel adds q_w (q_x - z) over all products, and the bias. In units of the scales that is the layer's output:

    sum = y / (s_w s_x)                     for what was seen
    sum <= (sum over the products of one output of |q_w|) * max |q_x - z|       for anything in the range

2**31 is where it wraps around.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.diagnose.triage.finding import Finding
from calibrant.runtime.observe import channel_magnitudes
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.solved import Solved

__all__ = ["LIMIT", "check_overflow"]

Array = npt.NDArray[Any]

LIMIT = 2.0**31

#: Sums that were seen within this factor of the limit are likely to pass it on other samples.
_NEAR = 2.0


def check_overflow(
    solved: Solved, batches: Sequence[Batch], runtime: Runtime
) -> Iterator[Finding]:
    """Look at the accumulators of all layers with a weight.

    Args:
        solved: A solution.
        batches: Samples that the model takes as they are.
        runtime: Where the float model runs.
    """
    model, plan, params = solved.solution.model, solved.solution.plan, solved.solution.params
    bounds: dict[str, float] = {}
    scales: dict[str, Array] = {}
    outputs: dict[str, tuple[str, int]] = {}
    for w in plan.weights:
        read = plan.at((w.layer, 1 - w.input_index))
        if read is None or w.channel_axis is None:
            continue
        chosen, p = params.layers[w.layer], params.activations[read.id]
        others = tuple(i for i in range(chosen.stored.ndim) if i != w.channel_axis)
        sums = np.abs(chosen.stored.astype(np.float64)).sum(axis=others)
        most = np.maximum(p.zero_point - p.dtype.qmin, p.dtype.qmax - p.zero_point).max()
        bounds[w.layer] = float(sums.max()) * float(most)
        if bounds[w.layer] < LIMIT / _NEAR:
            continue
        scales[w.layer] = chosen.weight.scale.astype(np.float64) * float(p.scale.max())
        node = model.graph.node(w.layer)
        outputs[w.layer] = node.outputs[0].name or "", _axis(node)
    if not outputs:
        return
    seen = channel_magnitudes(model, dict(outputs.values()), batches, runtime=runtime)
    yield from _told(outputs, scales, seen, bounds)


def _told(
    outputs: Mapping[str, tuple[str, int]],
    scales: Mapping[str, Array],
    seen: Mapping[str, Array],
    bounds: Mapping[str, float],
) -> Iterator[Finding]:
    for layer, (tensor, _) in outputs.items():
        largest = float((seen[tensor] / scales[layer]).max()) if len(seen[tensor]) else 0.0
        if largest < LIMIT / _NEAR:
            continue
        over = largest >= LIMIT
        yield Finding(
            "overflow",
            "overflow",
            f"The sums of layer '{layer}' reach {largest:.3g} in steps of its accumulator, and int32 ends at {LIMIT:.3g}; its "
            f"weights and ranges allow {bounds[layer]:.3g}.",
            "Give the layer fewer bits for its weight or its input, or leave it in float.",
            0.98 if over else 0.6,
            (layer,),
        )


def _axis(node: ir.Node) -> int:
    return 1 if node.op_type in ("Conv", "ConvTranspose") else -1
