"""Which rule decided each setting of a layer, or of one of its inputs, and on which level it stands."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.targets import get
from calibrant.plan.decisions import LayerDecision
from calibrant.plan.effective import Effective
from calibrant.recipe import (
    AllNodes,
    AllOf,
    EndLayers,
    InputOf,
    Layer,
    LayerInput,
    MappedLayers,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
    Where,
)

__all__ = ["Decided", "Levels"]

NAMES: dict[type[Where], str] = {
    AllNodes: "model",
    OpType: "type",
    Subgraph: "subgraph",
    EndLayers: "subgraph",
    Layer: "layer",
    MappedLayers: "layer",
    LayerInput: "input",
    InputOf: "input",
}

#: How the dialects end the origin of what no line of a file says.
UNWRITTEN = (": default", ": not asked for")


@dataclass(frozen=True, slots=True)
class Decided:
    """One setting and what decided it.

    Args:
        value: The setting, within the limits of the device.
        level: `default`, `model`, `type`, `subgraph`, `layer` or `input`.
        rule: Where the rule stands; the target's or calibrant's default where there is none.
    """

    value: Any
    level: str
    rule: str


class Levels:
    """What decided each setting of a prepared model.

    Args:
        recipe: What is wanted.
        model: A prepared model; its names are those that rules see.
    """

    def __init__(self, recipe: Recipe, model: ir.Model) -> None:
        """Match every rule."""
        self._effective = Effective(recipe, model, get(recipe.target), [])
        self._target = recipe.target
        self._nodes = {node.name or "": node for node in model.graph}

    def of_layer(self, layer: LayerDecision) -> dict[str, Decided]:
        """Return every setting of a layer."""
        return self._decided(layer.settings, layer.origin, layer.node, None)

    def of_inputs(self, layer: LayerDecision) -> Iterator[tuple[int, str, dict[str, Decided]]]:
        """Yield index, tensor and settings of each input for which other things hold than for its layer.

        An input that is quantized on request, at a node that is not, has all its settings: those of its node are of
        no effect.
        """
        node = self._nodes[layer.node]
        for index, tensor in enumerate(node.inputs):
            if tensor is None:
                continue
            settings, origin = self._effective.of(node, index)
            own = dict(layer.settings.items())
            decided = self._decided(settings, origin, layer.node, index)
            other = {name: d for name, d in decided.items() if d.value != own.get(name)}
            if not layer.quantized and "compute" in other and settings.compute == "int":
                kind = "weight" if is_constant(tensor) else "activation"
                other = {n: d for n, d in decided.items() if n.startswith(kind) or n in other}
            if other:
                yield index, tensor.name or "", other

    def others(self, layers: Collection[LayerDecision]) -> Iterator[LayerDecision]:
        """Yield the nodes that a rule names or selects, beside the layers that a target quantizes."""
        known = {layer.node for layer in layers}
        said = {
            name
            for rule, edges in self._effective.matched
            for name, _ in edges
            if rule.force != "implied" and not isinstance(rule.where, AllNodes)
        }
        inputs = self._effective.extra_inputs()
        for name, node in self._nodes.items():
            if name in said - known:
                settings, origin = self._effective.of(node)
                reason = f"target '{self._target}' quantizes no {node.op_type}"
                if any(owner == name for owner, _ in inputs):
                    reason += ", but for inputs that a rule names"
                yield LayerDecision(name, node.op_type, settings, origin, False, reason)

    def _decided(
        self, settings: Settings, origin: Mapping[str, str], node: str, index: int | None
    ) -> dict[str, Decided]:
        found = {}
        for name, value in settings.items():
            rule = self._decider(name, node, index) if name in origin else None
            if rule is not None:
                found[name] = Decided(value, _level(rule), origin[name])
            else:
                by = f"target '{self._target}'" if name == "activation_symmetric" else "calibrant"
                found[name] = Decided(value, "default", by)
        return found

    def _decider(self, field: str, node: str, index: int | None) -> Rule | None:
        """Return the last rule that matches and says something of this field."""
        for rule, edges in reversed(self._effective.matched):
            hit = (node, None) in edges or (index is not None and (node, index) in edges)
            if hit and getattr(rule.settings, field) is not None:
                return rule
        return None


def _level(rule: Rule) -> str:
    """Return the level of a rule.

    An implied rule whose origin is no place in a file is a default of the vendor's. Others of that kind
    follow from a block that somebody wrote, and have its level.
    """
    if rule.force == "implied" and rule.origin.endswith(UNWRITTEN):
        return "default"
    where = rule.where
    return NAMES[type(where.parts[-1] if isinstance(where, AllOf) else where)]
