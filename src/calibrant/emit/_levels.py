"""Store a weight of few levels as indices: int8 = levels[index], with four bits an index.

ONNX Runtime computes it once, when the model is loaded, and then runs the kernels of an int8 weight.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import Names, add_constant
from calibrant.numerics.levels import indices

__all__ = ["gather_levels"]


def gather_levels(
    graph: ir.Graph,
    names: Names,
    name: str,
    values: npt.NDArray[np.int32],
    levels: tuple[int, ...],
) -> list[ir.Node]:
    """Return the nodes that make an int8 weight of 4-bit indices and its levels.

    Args:
        graph: Gets the constants.
        names: Names that are free.
        name: Head of the new names.
        values: The weight on the grid; each is one of `levels`.
        levels: At most 16 values of the 8-bit grid, sorted. Opset 21 has the type of the indices.
    """
    packed = indices(values, levels).astype(np.uint8).astype(ml_dtypes.uint4)
    index = add_constant(graph, names.fresh(f"{name}_indices"), packed)
    table = add_constant(graph, names.fresh(f"{name}_levels"), np.array(levels, dtype=np.int8))
    cast = ir.Node(
        "",
        "Cast",
        [index],
        [ir.AttrInt64("to", ir.DataType.INT32)],
        name=names.fresh(f"{name}_unpack"),
    )
    cast.outputs[0].name = names.fresh(f"{name}_unpacked")
    gather = ir.Node("", "Gather", [table, cast.outputs[0]], name=names.fresh(f"{name}_look_up"))
    gather.outputs[0].name = names.fresh(f"{name}_looked_up")
    return [cast, gather]
