"""How much each layer loses: quantize one alone, and compare the model's outputs with the float model's.

The float model runs once; a layer costs what lies behind it (`runtime.downstream`).

Source: horizon.md 10.3 (kind `node`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.graph.input_channels import spread_over_weight
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.compensation import compensate
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.run import Run
from calibrant.runtime.downstream import Whole

__all__ = ["Sensitivity", "sensitivities"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one layer loses.

    Args:
        node: Its name.
        op_type: Its operator.
        score: Metric of the model's outputs with this layer alone quantized.
        macs: Its multiplications, over those of the model.
    """

    node: str
    op_type: str
    score: float
    macs: float


def sensitivities(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    names: Collection[str],
    judge: Judge,
    r: Run,
    progress: Callable[[int, int], None],
) -> list[Sensitivity]:
    """Measure layers, worst first.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
        names: Layers to measure.
        judge: The samples, and the metric.
        r: The run.
        progress: Called with layers done, and how many there are.
    """
    whole = Whole.of(model, judge.names, judge.feeds, runtime=r.runtime)
    judge = judge.against(whole.reference())
    grids: dict[str, dict[int, tuple[QuantParams, bool]]] = {}
    for d in plan.activations:
        for reader, index in d.users:
            grids.setdefault(reader, {})[index] = params.activations[d.id], d.compensation
    weights = {w.layer: w for w in plan.weights}
    total = max(1, sum(whole.macs_of(n.name or "") for n in model.graph))
    found = []
    for done, node in enumerate(n for n in model.graph if n.name in names):
        name = node.name or ""
        mine = grids.get(name, {})
        indices = [*mine, *([weights[name].input_index] if name in weights else [])]
        part = whole.part(name, indices)
        outputs = []
        for feed, known in enumerate(whole.values):
            changed: dict[int, Array] = {}
            for i, (p, twice) in mine.items():
                source = node.inputs[i]
                assert source is not None
                grid = compensate if twice else fake_quantize
                changed[i] = grid(known[source.name or ""], p).astype(np.float32)
            if name in weights:
                changed[weights[name].input_index] = _weight(node, plan, params, name)
            outputs.append(part.run(feed, changed))
        score = judge.judge(outputs).score
        found.append(Sensitivity(name, node.op_type, score, whole.macs_of(name) / total))
        progress(done + 1, len(names))
    order = judge.metric.worst_first(s.score for s in found)
    return [found[i] for i in order]


def _weight(node: ir.Node, plan: Plan, params: Parameters, name: str) -> Array:
    """Return a layer's weight as the integers have it, with scales of its input's channels taken out."""
    w = next(w for w in plan.weights if w.layer == name)
    value = params.layers[name].floats
    folded = next(
        (d for d in plan.activations if d.folded and (name, 1 - w.input_index) in d.users), None
    )
    if folded is None:
        return value
    p = params.activations[folded.id]
    relative = p.scale.astype(np.float64) / p.common_scale
    spread = spread_over_weight(node, value.shape, relative)
    weight: Array = (value / spread).astype(np.float32)
    return weight
