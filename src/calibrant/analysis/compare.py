"""Look at a quantized model node by node: types, thresholds, and how near each output is to the float one.

Source: horizon.md 11 (the two tables).
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.emit.nodes import node_types
from calibrant.graph.passes.half import as_float32
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.run import NodeFidelity, Run
from calibrant.runtime.measure import run
from calibrant.runtime.nodes import node_cosines, output_distances

__all__ = ["look_at_nodes"]


def look_at_nodes(
    float_model: ir.Model,
    deploy: ir.Model,
    plan: Plan,
    params: Parameters,
    probe: Probe | None,
    r: Run,
) -> None:
    """Fill the run's nodes and distances, where they are asked for; without a probe, nodes lack cosines.

    Args:
        float_model: The model that the plan belongs to.
        deploy: The quantized model.
        plan: Where quantizers stand.
        params: What they are.
        probe: Samples; the first one is compared node by node, all of them at the outputs.
        r: The run.
    """
    if not r.per_node:
        return
    cosines: dict[str, float] = {}
    if probe is not None:
        reference = as_float32(float_model, plan.half) if plan.half else float_model
        cosines = node_cosines(reference, deploy, probe.first, runtime=r.runtime)
        outputs = run(deploy, probe.feeds, runtime=r.runtime)
        sizes = [b.size for b in probe.small]
        r.distances = output_distances(probe.reference, outputs, sizes)
    r.nodes = [
        NodeFidelity(
            n.node,
            n.op_type,
            cosines.get(n.node),
            n.threshold,
            n.data_type,
            {str(i): t for i, t in n.thresholds.items()},
        )
        for n in node_types(float_model, plan, params)
    ]
