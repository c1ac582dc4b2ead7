"""Compare two models node by node on one sample, and their outputs sample by sample.

Source: the table of nodes that Horizon's tools print (a node's output in the float and in the quantized model, on
the first sample); the metrics are those of docs/explanation/decisions.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import values_by_name
from calibrant.numerics.finite import finite_pairs
from calibrant.numerics.metrics import chebyshev, cosine, mae, mse
from calibrant.runtime.measure import Answered
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose

__all__ = ["OutputDistance", "node_cosines", "output_distances"]

Array = npt.NDArray[Any]

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True, slots=True)
class OutputDistance:
    """One output of the quantized model beside the float one, as a mean over samples.

    Args:
        name: Name of the output.
        cosine: Cosine similarity.
        l1: Mean absolute error.
        rmse: Root of the mean squared error.
        chebyshev: Largest absolute error.
        worst_sample: Index of the sample with the least cosine similarity.
        samples: How many samples were compared.
    """

    name: str
    cosine: float
    l1: float
    rmse: float
    chebyshev: float
    worst_sample: int
    samples: int


def node_cosines(
    float_model: ir.Model,
    quantized: ir.Model,
    feed: Mapping[str, Array],
    *,
    runtime: Runtime = CPU,
) -> dict[str, float]:
    """Return the cosine similarity of each node's first output, by node name.

    Each model runs once. In the quantized one the errors of all nodes before add up; where integers are
    written behind a node for all its readers, these are compared. A node without a floating point output, or that
    the quantized model lacks, is left out; so are positions where the float model is not finite.

    Args:
        float_model: A prepared model.
        quantized: The same with QuantizeLinear and DequantizeLinear; tensors have the same names.
        feed: One sample, or as many as the model insists on.
        runtime: Where it runs.
    """
    there = values_by_name(quantized.graph)
    pairs: dict[str, tuple[str, str]] = {}
    for node in float_model.graph:
        out = node.outputs[0]
        if out.name in there and out.dtype in _FLOATS:
            pairs[node.name or ""] = (out.name or "", _end(there[out.name]).name or "")
    reference = _values(float_model, [a for a, _ in pairs.values()], feed, runtime)
    found = _values(quantized, [b for _, b in pairs.values()], feed, runtime)
    return {
        name: cosine(*finite_pairs(reference[a], found[b]))
        for name, (a, b) in pairs.items()
        if reference[a].shape == found[b].shape and reference[a].size
    }


def _end(value: ir.Value) -> ir.Value:
    """Return a tensor, or, where a pair alone reads it, what the pair gives."""
    out = value
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        uses = tuple(out.uses())
        if out.is_graph_output() or len(uses) != 1 or uses[0].node.op_type != op_type:
            return value
        out = uses[0].node.outputs[0]
    return out


def _values(
    model: ir.Model,
    tensors: Sequence[str],
    feed: Mapping[str, Array],
    runtime: Runtime,
) -> dict[str, Array]:
    wanted = list(dict.fromkeys(tensors))
    if not wanted:
        return {}
    session = open_session(expose(model, wanted), runtime=runtime, integers=False)
    feeds = {i.name: feed[i.name] for i in session.get_inputs()}
    return dict(zip(wanted, infer(session, wanted, feeds), strict=True))


def output_distances(
    reference: Answered, outputs: Answered, sizes: Sequence[int]
) -> list[OutputDistance]:
    """Compare the floating point outputs of two models sample by sample.

    Outputs of other types, and ones whose shape depends on the data and came out differently, are left out.

    Args:
        reference: Outputs of the float model for each feed.
        outputs: Outputs of the quantized model.
        sizes: Samples in each feed. An output whose first axis has this length is taken apart; else the
            feed counts as one sample.
    """
    found = []
    for name, first in reference[0].items():
        pairs = [
            (np.asarray(a[name]), np.asarray(b[name]))
            for a, b in zip(reference, outputs, strict=True)
        ]
        if np.asarray(first).dtype.kind != "f" or any(
            a.shape != b.shape or not a.size for a, b in pairs
        ):
            continue
        rows = [
            row for pair, size in zip(pairs, sizes, strict=True) for row in _samples(*pair, size)
        ]
        each = np.array(
            [(cosine(a, b), mae(a, b), mse(a, b) ** 0.5, chebyshev(a, b)) for a, b in rows]
        )
        angle, l1, rmse, largest = (float(m) for m in each.mean(axis=0))
        worst = int(np.argmin(np.where(np.isfinite(each[:, 0]), each[:, 0], -np.inf)))
        found.append(OutputDistance(name, angle, l1, rmse, largest, worst, len(rows)))
    return found


def _samples(a: Array, b: Array, size: int) -> list[tuple[Array, Array]]:
    if a.ndim and a.shape[0] == size:
        return list(zip(a, b, strict=True))
    return [(a, b)]
