"""Which nodes a rule is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AllNodes",
    "AllOf",
    "EndLayers",
    "InputOf",
    "Layer",
    "LayerInput",
    "MappedLayers",
    "OpType",
    "Subgraph",
    "Where",
]


@dataclass(frozen=True, slots=True)
class AllNodes:
    """Every node."""

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class OpType:
    """Nodes of one type, in any edition's spelling: `Conv`, `Conv2d`, `Convolution`, `Linear`."""

    name: str

    def __str__(self) -> str:
        return f"op {self.name}"


@dataclass(frozen=True, slots=True)
class Layer:
    """Nodes whose name equals `name`; with `*`, `?` or `[…]` in it, nodes that match the pattern."""

    name: str

    def __str__(self) -> str:
        return f"layer {self.name}"


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One input of one node, counted from 0.

    Args:
        name: The node.
        index: The input.
        types: What the node may be; another operator is an error. Empty for any.
    """

    name: str
    index: int
    types: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"input {self.index} of {self.name}"


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Nodes on any path from `inputs` to `outputs`, each a node or tensor name, both ends included.

    Args:
        name: For messages.
        inputs: Where the paths begin.
        outputs: Where they end.
        exclusive: Another exclusive subgraph that shares a node with this one must not say otherwise.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    exclusive: bool = False

    def __str__(self) -> str:
        return f"subgraph {self.name}"


@dataclass(frozen=True, slots=True)
class EndLayers:
    """Layers at one end of the network: those that read an input, or those that give an output.

    Args:
        which: `first` or `last`.
    """

    which: Literal["first", "last"]

    def __str__(self) -> str:
        return f"{self.which} layers"


@dataclass(frozen=True, slots=True)
class InputOf:
    """One input, counted from 0, of every node of a type, a subgraph or an end that has so many."""

    nodes: OpType | Subgraph | EndLayers
    index: int

    def __str__(self) -> str:
        return f"input {self.index} of {self.nodes}"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Nodes that each of several selections has; none at all is no mistake."""

    parts: tuple[OpType | Subgraph | Layer | EndLayers, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class MappedLayers:
    """The nodes that a file about the compiled model names; names that the model lacks are passed over.

    Args:
        file: The file, as it was asked for.
        names: What it names; None where it was not found when the recipe was read.
    """

    file: str
    names: tuple[str, ...] | None

    def __str__(self) -> str:
        return f"layers of {self.file}"


Where = (
    AllNodes | OpType | Layer | LayerInput | Subgraph | EndLayers | InputOf | AllOf | MappedLayers
)
