"""Learned rounding (ADA) of every layer that asks for it, from the input to the output of the model.

Each layer learns from what the model before it gives it, already quantized and already learned, and answers
for what the float model makes there, behind the activation function that follows. An output channel keeps what
was learned where that lowers its squared error on the samples; otherwise it is rounded to nearest.

Both models are walked side by side, layer by layer: each runs once, however many layers learn.

Rows are drawn from all positions of all samples with a fixed seed, as many as 64 MB hold. Rows that are not finite
in either model are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.algorithms import RoundingAlgorithm, RoundingProblem
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigValueError
from calibrant.graph.ops import bias_of, is_constant
from calibrant.numerics import dequantize
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.refine._biases import output_of
from calibrant.refine._functions import FUNCTIONS
from calibrant.refine._layer_inputs import layer_inputs
from calibrant.refine._rows import LayerRows
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.walk import walk

__all__ = ["Learned", "learn_rounding"]

Array = npt.NDArray[Any]

#: Values of the rows that a layer learns from.
ROW_VALUES = 16_000_000


@dataclass(frozen=True, slots=True)
class Learned:
    """What happened to the weight of one layer.

    Args:
        layer: Node name.
        nearest: Mean squared error of the layer's output, rounded to nearest [output units squared].
        learned: The same with what is kept.
        changed: Share of the weights that are rounded another way.
        kept: Share of the output channels that keep what was learned.
        reason: Why nothing was learned, or an empty string.
    """

    layer: str
    nearest: float
    learned: float
    changed: float
    kept: float
    reason: str = ""


def learn_rounding(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Parameters, list[Learned]]:
    """Learn the rounding of the weights whose algorithm learns it (`algorithms.RoundingAlgorithm`).

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are, weights rounded to nearest.
        feeds: Calibration samples.
        runtime: Where it runs.
        progress: Called with the layers that are done, and how many there are.

    Returns:
        New parameters, and one entry a layer.
    """
    asked = [w for w in plan.weights if w.rounding is not None]
    reasons = {w.layer: _unfit(model.graph.node(w.layer), w) for w in asked}
    report = {n: Learned(n, 0.0, 0.0, 0.0, 0.0, why) for n, why in reasons.items() if why}
    todo = {w.layer: w for w in asked if not reasons[w.layer]}
    weights = {n: float_weight(model, plan, w, params.activations) for n, w in todo.items()}
    simulated = emit_simulated(model, plan, params)
    wanted = _Outputs(model, todo.values(), feeds, runtime)
    layers = dict(params.layers)
    for done, (name, inputs) in enumerate(layer_inputs(simulated, list(todo), feeds, runtime)):
        layers[name], report[name] = _learned(
            model, todo[name], weights[name], layers[name], inputs, wanted.of(name)
        )
        # the rest of the walk goes on with the weight as it is now
        weight = simulated.graph.node(name).inputs[1]
        assert weight is not None
        values = dequantize(layers[name].values, layers[name].weight)
        weight.const_value = ir.tensor(values, name=weight.name)
        if progress is not None:
            progress(done + 1, len(todo))
    return replace(params, layers=layers), [report[w.layer] for w in asked]


class _Outputs:
    """What layers answer in the float model, worked out in one walk that goes as far as was asked."""

    def __init__(
        self,
        model: ir.Model,
        layers: Iterable[WeightDecision],
        feeds: Sequence[Mapping[str, Array]],
        runtime: Runtime,
    ) -> None:
        self._tensors = {w.layer: output_of(model, w) for w in layers}
        self._walk = walk(model, list(self._tensors.values()), feeds, runtime=runtime)
        self._ahead: dict[str, list[Array]] = {}  # of layers that are asked for later

    def of(self, layer: str) -> list[Array]:
        """Return the output of a layer with its bias, one array a feed; it can be asked for once."""
        tensor = self._tensors[layer]
        while tensor not in self._ahead:
            name, values = next(self._walk)
            self._ahead[name] = values
        return self._ahead.pop(tensor)


def _unfit(node: ir.Node, w: WeightDecision) -> str:
    """Say why the rounding of a layer is not learned; empty where it is."""
    if w.compensation:
        return "error compensation stores what rounding leaves, whichever way it goes"
    if w.input_index != 1:
        return "its weight is the left operand"
    if node.op_type in ("Gemm", "MatMul") and len(node.inputs[1].shape or ()) != 2:  # type: ignore[union-attr]
        return "its weight is a stack of matrices"
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return f"a {node.op_type} does not learn its rounding"
    third = node.inputs[2] if len(node.inputs) > 2 else None
    if third is not None and not is_constant(third):
        return "its third operand is computed"
    return ""


def _learned(
    model: ir.Model,
    w: WeightDecision,
    weight: npt.NDArray[np.float32],
    layer: LayerParameters,
    inputs: Sequence[Array],
    floats: Sequence[Array],
) -> tuple[LayerParameters, Learned]:
    node = model.graph.node(w.layer)
    shape = tuple(layer.stored.shape)
    rows = LayerRows(node, shape)
    problem = _problem(model, node, w, weight, layer, rows, inputs, floats)
    if not problem.x.shape[1]:
        return layer, Learned(w.layer, 0.0, 0.0, 0.0, 0.0, "none of its rows is finite")
    assert w.rounding is not None
    steps = _on_the_grid(w.rounding, w, problem)
    before = rows.weight(layer.stored.astype(np.float32))
    nearest, learned = problem.errors(before), problem.errors(steps)  # (groups, out)
    better = learned < nearest
    steps = np.where(better[:, :, None], steps, before)
    layer = replace(layer, stored=rows.unweight(steps).astype(np.int32))
    return layer, Learned(
        w.layer,
        float(nearest.mean()),
        float(np.minimum(learned, nearest).mean()),
        float(np.mean(steps != before)),
        float(better.mean()),
    )


def _on_the_grid(
    algorithm: RoundingAlgorithm, w: WeightDecision, problem: RoundingProblem
) -> Array:
    """Return what an algorithm learns.

    Raises:
        ConfigValueError: It is no weight on the grid.
    """
    steps = algorithm.learn(problem)
    grid = problem.dtype
    whole = steps.shape == problem.weight.shape and bool((steps == np.rint(steps)).all())
    if not whole or steps.min() < grid.qmin or steps.max() > grid.qmax:
        raise ConfigValueError(
            f"Weight algorithm '{w.algorithm.name}' learned no weight on the grid for layer '{w.layer}': it "
            f"returns whole numbers in [{grid.qmin}, {grid.qmax}] of shape {problem.weight.shape}."
        )
    return steps


def _problem(
    model: ir.Model,
    node: ir.Node,
    w: WeightDecision,
    weight: npt.NDArray[np.float32],
    layer: LayerParameters,
    rows: LayerRows,
    inputs: Sequence[Array],
    floats: Sequence[Array],
) -> RoundingProblem:
    """Draw rows from all samples, and bring weight, scale and bias into their form."""
    scale = layer.weight.scale
    if layer.weight.axis is not None and scale.ndim:
        axis = layer.weight.axis
        scale = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    matrix = rows.weight(weight)
    counts = [rows.count(y) for y in floats]
    wanted = max(1, ROW_VALUES // (rows.groups * (matrix.shape[1] + matrix.shape[2])))
    rng = np.random.default_rng(0)
    each = [min(n, -(-wanted * n // sum(counts))) for n in counts]
    chosen = [np.sort(rng.choice(n, m, replace=False)) for n, m in zip(counts, each, strict=True)]
    x = np.concatenate([rows.inputs(v, c) for v, c in zip(inputs, chosen, strict=True)], axis=1)
    z = np.concatenate([rows.outputs(v, c) for v, c in zip(floats, chosen, strict=True)], axis=1)
    known = np.isfinite(x).all(axis=(0, 2)) & np.isfinite(z).all(axis=(0, 2))  # (rows,)
    if not known.all():
        x, z = x[:, known], z[:, known]
    function = _function(node, rows.groups)
    return RoundingProblem(
        x,
        function(z)[0],
        matrix,
        rows.weight(np.broadcast_to(scale, weight.shape).astype(np.float32)),
        _bias(model, node, w, layer, z.shape[-1] * rows.groups).reshape(rows.groups, 1, -1),
        layer.weight.dtype,
        function,
    )


def _bias(
    model: ir.Model, node: ir.Node, w: WeightDecision, layer: LayerParameters, size: int
) -> npt.NDArray[np.float32]:
    bias = layer.bias
    if bias is None and w.bias is not None:
        const = model.graph.initializers[w.bias].const_value
        assert const is not None
        bias = const.numpy().astype(np.float32)
    if bias is None:
        return np.zeros(size, np.float32)
    beta = node.attributes.get("beta")
    factor = np.float32(beta.as_float() if beta is not None and node.op_type == "Gemm" else 1)
    return np.broadcast_to(bias * factor, (size,)).astype(np.float32)


def _function(node: ir.Node, groups: int) -> Callable[[Array], tuple[Array, Array]]:
    """Return the activation function that alone reads a layer's output, or the identity."""
    out = (place[0] if (place := bias_of(node)) else node).outputs[0]
    uses = tuple(out.uses())
    if len(uses) != 1 or out.is_graph_output():
        return partial(_apply, FUNCTIONS[""], {})
    reader = uses[0].node
    options: dict[str, Any] = {}
    constants = [v for v in reader.inputs[1:] if v is not None]
    beside = reader.op_type in FUNCTIONS and reader.graph is node.graph
    if not beside or not all(is_constant(v) for v in constants):
        return partial(_apply, FUNCTIONS[""], {})
    if reader.op_type == "LeakyRelu":
        alpha = reader.attributes.get("alpha")
        options["alpha"] = alpha.as_float() if alpha is not None else 0.01
    elif reader.op_type == "PRelu":
        slope = constants[0].const_value.numpy()  # type: ignore[union-attr]
        options["alpha"] = slope if slope.size == 1 else slope.reshape(groups, 1, -1)
    elif reader.op_type == "Clip":
        for i, (key, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
            bound = reader.inputs[i] if len(reader.inputs) > i else None
            options[key] = (
                default if bound is None else np.float32(bound.const_value.numpy())  # type: ignore[union-attr]
            )
    return partial(_apply, FUNCTIONS[reader.op_type], options)


def _apply(
    function: Callable[[Array, dict[str, Any]], tuple[Array, Array]],
    options: dict[str, Any],
    z: Array,
) -> tuple[Array, Array]:
    return function(z, options)
