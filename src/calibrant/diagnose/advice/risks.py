"""The risk catalogue: places that quantization often hurts, as data (`risks.yaml`), and a matcher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import onnx_ir as ir
import yaml

from calibrant.diagnose.advice.units import Unit
from calibrant.graph.ops import is_depthwise

__all__ = ["Risk", "catalogue", "risk_of"]


@dataclass(frozen=True, slots=True)
class Risk:
    """One entry.

    Args:
        name: What the place is.
        ops: Operators of the node.
        advice: What helps.
        reason: Why.
        input: Which input of the node; None for any.
        kind: `activation`, `weight`, or empty for both.
        place: `depthwise`, `shared`, `first`, `last`, or empty for any.
    """

    name: str
    ops: tuple[str, ...]
    advice: str
    reason: str
    input: int | None = None
    kind: str = ""
    place: str = ""

    @property
    def text(self) -> str:
        """The entry in a sentence."""
        return f"{self.name}: {self.advice} ({self.reason})"

    def holds(self, unit: Unit, model: ir.Model) -> bool:
        """Whether a quantizer is of this kind."""
        if self.kind and unit.kind != self.kind:
            return False
        return any(
            (self.input is None or self.input == index)
            and (node := model.graph.node(name)).op_type in self.ops
            and self._stands(node, model)
            for name, index in unit.edges
        )

    def _stands(self, node: ir.Node, model: ir.Model) -> bool:
        if self.place == "depthwise":
            return node.op_type == "Conv" and is_depthwise(node)
        if self.place == "shared":
            weight = node.inputs[1] if len(node.inputs) > 1 else None
            constant = weight is not None and weight.const_value is not None
            return constant and weight is not None and len(list(weight.uses())) > 1
        if self.place == "first":
            return any(v in model.graph.inputs for v in node.inputs if v is not None)
        if self.place == "last":
            return any(v.is_graph_output() for v in node.outputs)
        return True


@cache
def catalogue() -> tuple[Risk, ...]:
    """Return all entries."""
    text = files("calibrant.diagnose.advice").joinpath("risks.yaml").read_text(encoding="utf-8")
    return tuple(
        Risk(
            entry["name"],
            tuple(entry["ops"]),
            entry["advice"],
            entry["reason"],
            entry.get("input"),
            entry.get("kind", ""),
            entry.get("is", ""),
        )
        for entry in yaml.safe_load(text)
    )


def risk_of(unit: Unit, model: ir.Model) -> Risk | None:
    """Return the first entry that a quantizer is of, or None."""
    return next((risk for risk in catalogue() if risk.holds(unit, model)), None)
