"""Layers that stand in the bodies of If, Loop and Scan nodes, which are not quantized: how many, and what helps.

An If gives way to a branch where its condition is known. The condition may hang on an input that is the same in
every use (a sampling rate, a flag): with such an input fixed, the layers of the branch stand in the main graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.bodies import bodies, dependencies
from calibrant.graph.ops import is_constant, rule_of
from calibrant.graph.targets import Target

__all__ = ["Inside", "layers_in_bodies"]


@dataclass(frozen=True, slots=True)
class Inside:
    """Layers in the bodies of one node of the main graph.

    Args:
        node: The node.
        op_type: Its operator.
        layers: How many layers its bodies hold.
        advice: How these come into the main graph, one sentence.
    """

    node: str
    op_type: str
    layers: int
    advice: str

    def __str__(self) -> str:
        """Return how many there are, and what helps."""
        are = "layer stands" if self.layers == 1 else "layers stand"
        return f"{self.layers} {are} in the bodies of node '{self.node}' ({self.op_type}). {self.advice}"


def layers_in_bodies(model: ir.Model, target: Target) -> list[Inside]:
    """Return the nodes of the main graph whose bodies hold layers that a target quantizes elsewhere."""
    found = []
    for node in model.graph:
        inner = [n for body in bodies(node) for n in body.all_nodes()]
        count = sum(n.op_type in target.anchors and rule_of(n).kind == "compute" for n in inner)
        if count:
            found.append(Inside(node.name or "", node.op_type, count, _advice(node, inner)))
    return found


def _advice(node: ir.Node, inner: list[ir.Node]) -> str:
    if any(n.op_type in ("Loop", "Scan") for n in (node, *inner)):
        return "Export the model with its loops unrolled, and their layers can be quantized."
    choosing = _Choosing.of(node.inputs[0])
    if choosing.data:
        return (
            f"The branch depends on the data (input {_named(choosing.data)}), so it cannot be fixed: export the "
            "branch that you need as a model of its own."
        )
    if choosing.shapes:
        return (
            f"The branch depends on the shape of input {_named(choosing.shapes)}: export the model with this shape "
            "fixed, and the branch takes the place of the If."
        )
    flags = choosing.flags
    if not flags:
        return "Export the branch that you need as a model of its own."
    fixes = " ".join(f"--fix {name}=VALUE" for name in flags)
    choose, it = ("s", "it") if len(flags) == 1 else ("", "them")
    return (
        f"Input {_named(flags)} choose{choose} the branch: fix {it} ({fixes}; in Python and in recipes 'fix'), and "
        "the branch takes the place of the If."
    )


def _named(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


@dataclass(slots=True)
class _Choosing:
    """Inputs of the model that a condition hangs on, by name.

    Args:
        flags: Inputs of one value, or a few whole numbers: the same in every use.
        data: Other inputs.
        shapes: Inputs whose shape alone matters.
    """

    flags: dict[str, None]
    data: dict[str, None]
    shapes: dict[str, None]

    @classmethod
    def of(cls, condition: ir.Value | None) -> _Choosing:
        found = cls({}, {}, {})
        waiting: list[tuple[ir.Value | None, bool]] = [(condition, False)]
        seen = set()
        while waiting:
            value, is_shape = waiting.pop(0)
            if value is None or (value, is_shape) in seen or is_constant(value):
                continue
            seen.add((value, is_shape))
            maker = value.producer()
            if maker is not None:
                behind_shape = is_shape or maker.op_type in ("Shape", "Size")
                waiting += [(v, behind_shape) for v in dependencies(maker)]
            elif is_shape:
                found.shapes[value.name or ""] = None
            elif _is_flag(value):
                found.flags[value.name or ""] = None
            else:
                found.data[value.name or ""] = None
        return found


def _is_flag(value: ir.Value) -> bool:
    if value.shape is None:
        return False
    if all(d == 1 for d in value.shape):
        return True
    whole = value.dtype is not None and not value.dtype.is_floating_point()
    return whole and len(value.shape) <= 1
