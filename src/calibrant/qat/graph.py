"""A model of ONNX as a `torch.fx.GraphModule`: the same operators in the same order, with parameters that learn.

    ir.Model ─► one call a node, by `operators.OPERATORS` ─► GraphModule

What a layer multiplies with, adds and normalizes with are parameters; all other constants are buffers. Where the
model has quantizers that somebody else makes (`Parts`), their modules are called in the place of these nodes. The
branches of an If are modules of their own, with constants that do not learn; one is called in each run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from calibrant.errors import UnsupportedError
from calibrant.graph.bodies import captured
from calibrant.graph.ops import bias_of
from calibrant.qat.operators import OPERATORS
from calibrant.qat.operators.registry import Operator

__all__ = [
    "LEARNED",
    "Explaining",
    "Parts",
    "explained",
    "explaining",
    "item_of",
    "key_of",
    "to_torch",
]

#: Operator -> inputs that are parameters where the model has them as constants.
LEARNED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}

_ANY = nn.Module()


@dataclass(frozen=True, slots=True)
class Parts:
    """Modules that stand for quantizers in a model that is converted.

    Args:
        activations: Name of the scale that a QuantizeLinear reads -> path of the module that stands for the pair.
        weights: Name of a value -> path of the module that gives a weight and its scale.
        biases: Name of a value -> paths of the module that gives a bias, of that of its weight, and of the quantizer
            of what the weight is multiplied with (None where there is none).
        modules: Path -> module.
    """

    activations: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, tuple[str, str, str | None]] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)


def key_of(name: str) -> str:
    """Return a name as a part of a module's path: letters, digits and underscores.

    What a module of torch has as an attribute gets an underscore behind it.

    Example:
        >>> key_of("/layer1/conv1/Conv"), key_of("3x"), key_of("half")
        ('layer1_conv1_Conv', '_3x', 'half_')
    """
    key = re.sub(r"\W+", "_", name).strip("_") or "unnamed"
    key = f"_{key}" if key[0].isdigit() else key
    return f"{key}_" if hasattr(_ANY, key) else key


def to_torch(model: ir.Model, parts: Parts | None = None) -> GraphModule:
    """Return a model as a module of torch.

    It is called with the inputs of the model in their order, and returns its output, or a tuple of its outputs.
    Parameters are `learned.KEY`, where KEY is the name of the initializer (`key_of`).

    Args:
        model: A model that is prepared (`graph.load`).
        parts: Modules in the place of quantizers.

    Raises:
        UnsupportedError: Nodes whose operator, attribute or number of inputs is not known; all are named.
    """
    return _Converter(model, parts if parts is not None else Parts()).run()


class _Converter:
    """One conversion."""

    def __init__(self, model: ir.Model, parts: Parts, body: ir.Graph | None = None) -> None:
        self.model, self.parts = model, parts
        self.source = model.graph if body is None else body
        self.root, self.graph = nn.Module(), Graph()
        self.nodes: dict[ir.Value, Any] = {}
        self.quantized: dict[ir.Value, tuple[Node, str]] = {}
        self.called: dict[str, Node] = {}
        self.given: dict[str, Node] = {}
        self.taken: dict[str, int] = {}
        self.opset = model.opset_imports.get("", 0)
        self.learned = self._learned() if body is None else set()
        for path, module in parts.modules.items():
            self._attach(path, module)

    def run(self, outer: Sequence[ir.Value] = ()) -> GraphModule:
        self._check()
        for value in (*outer, *self.source.inputs):
            if value.name not in self.source.initializers:
                self.nodes[value] = self.graph.placeholder(self._fresh(key_of(value.name or "")))
        for node in self.source:
            self._convert(node)
        found = [self._tensor(v) for v in self.source.outputs]
        self.graph.output(found[0] if len(found) == 1 else tuple(found))
        module = GraphModule(self.root, self.graph, class_name="QuantizedGraph")
        module.graph.lint()
        return module

    # ------------------------------------------------------------------------------------------ checks

    def _check(self) -> None:
        """Refuse what is not known, all of it in one sentence."""
        wrong = []
        for node in self.source:
            if (
                self._is_pair(node) or node.op_type == "If"
            ):  # branches are checked when they are converted
                continue
            why = _unknown(node)
            if why:
                wrong.append(f"node '{node.name}' ({node.op_type}): {why}")
        if wrong:
            shown = "; ".join(wrong[:20]) + ("; …" if len(wrong) > 20 else "")
            raise UnsupportedError(
                f"The model cannot be trained: {shown}. Leave these nodes out of the model, or replace them."
            )

    def _is_pair(self, node: ir.Node) -> bool:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        scale = node.inputs[1]
        return scale is not None and scale.name in self.parts.activations

    # ------------------------------------------------------------------------------------------ values

    def _fresh(self, name: str) -> str:
        count = self.taken.get(name, 0)
        self.taken[name] = count + 1
        return name if count == 0 else f"{name}__{count}"

    def _attach(self, path: str, module: nn.Module) -> None:
        *folders, last = path.split(".")
        at = self.root
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, nn.Module())
            at = getattr(at, folder)
        at.add_module(last, module)

    def _folder(self, name: str) -> nn.Module:
        if not hasattr(self.root, name):
            self.root.add_module(name, nn.Module())
        found: nn.Module = getattr(self.root, name)
        return found

    def _learned(self) -> set[ir.Value]:
        found: set[ir.Value] = set()
        for node in self.model.graph:
            for index in LEARNED.get(node.op_type, ()):
                if index < len(node.inputs) and (value := node.inputs[index]) is not None:
                    found.add(value)
            bias = bias_of(node) if node.op_type == "MatMul" else None
            if bias is not None and (value := bias[0].inputs[bias[1]]) is not None:
                found.add(value)
        return found

    def _tensor(self, value: ir.Value) -> Any:
        """Return the node of a value, which reads a parameter or a buffer where it is a constant."""
        if value in self.nodes:
            return self.nodes[value]
        name = value.name or ""
        if name in self.parts.weights:
            made = self._weight(self.parts.weights[name])
        elif name in self.parts.biases:
            made = self._bias(*self.parts.biases[name])
        else:
            made = self._constant(value)
        self.nodes[value] = made
        return made

    def _call(self, path: str, *args: Any) -> Node:
        return self.graph.call_module(path, args)

    def _weight(self, path: str) -> Node:
        self._called(path)
        if path not in self.given:
            self.given[path] = self._item(self.called[path], 0)
        return self.given[path]

    def _called(self, path: str) -> Node:
        """Return the call that gives a weight and its scale; there is one."""
        if path not in self.called:
            self.called[path] = self._call(path)
        return self.called[path]

    def _item(self, node: Node, index: int) -> Node:
        return self.graph.call_function(_item, (node, index))

    def _bias(self, path: str, weight: str, read: str | None) -> Node:
        scale = self._item(self._called(weight), 1)
        of_input = None
        if read is not None:
            of_input = self._item(self._call(read), 0)
        return self._call(path, of_input, scale)

    def _constant(self, value: ir.Value) -> Node:
        tensor = _as_tensor(_array(value))
        key = self._fresh(key_of(value.name or ""))
        if value in self.learned and tensor.is_floating_point():
            self._folder("learned").register_parameter(key, nn.Parameter(tensor))
            return self.graph.get_attr(f"learned.{key}")
        self._folder("constants").register_buffer(key, tensor, persistent=False)
        return self.graph.get_attr(f"constants.{key}")

    # ------------------------------------------------------------------------------------------- nodes

    def _convert(self, node: ir.Node) -> None:
        if self._is_pair(node):
            self._pair(node)
            return
        if node.op_type == "Constant":
            return
        if node.op_type == "If":
            self._branches(node)
            return
        row = OPERATORS[node.op_type]
        args = [self._argument(row, i, v) for i, v in enumerate(node.inputs)]
        kwargs: dict[str, Any] = {n: self._attribute(node, a) for n, a in node.attributes.items()}
        if row.wants_opset:
            kwargs["opset"] = self.opset
        if row.wants_outputs:
            kwargs["outputs"] = len(node.outputs)
        made = self.graph.call_function(row.function, tuple(args), kwargs)
        made.meta["onnx"] = f"node '{node.name}' ({node.op_type})"
        made.meta["node"] = node.name or ""
        if row.several:
            for i, output in enumerate(node.outputs):
                self.nodes[output] = self._item(made, i)
        else:
            self.nodes[node.outputs[0]] = made

    def _branches(self, node: ir.Node) -> None:
        """Call the branch that a condition chooses, with all that both of them read from outside."""
        condition, outer = node.inputs[0], captured(node)
        assert condition is not None
        made = [
            _Converter(self.model, Parts(), node.attributes[name].as_graph()).run(outer)
            for name in ("then_branch", "else_branch")
        ]
        path = f"branches.{self._fresh(key_of(node.name or ''))}"
        self._attach(path, _Branches(*made))
        called = self._call(path, self._tensor(condition), *map(self._tensor, outer))
        called.meta["onnx"] = f"node '{node.name}' ({node.op_type})"
        for i, output in enumerate(node.outputs):
            self.nodes[output] = self._item(called, i)

    def _pair(self, node: ir.Node) -> None:
        source, scale = node.inputs[0], node.inputs[1]
        assert source is not None
        assert scale is not None
        path = self.parts.activations[scale.name or ""]
        if node.op_type == "QuantizeLinear":
            self.quantized[node.outputs[0]] = self._tensor(source), path
            return
        read, _ = self.quantized[source]
        self.nodes[node.outputs[0]] = self._call(path, read)

    def _argument(self, row: Operator, index: int, value: ir.Value | None) -> Any:
        if value is None:
            return None
        if index in row.static and _is_constant(value):
            array = _array(value)
            if array.ndim == 0:
                return array.item()
            if array.ndim == 1:
                return tuple(array.tolist())
        return self._tensor(value)

    def _attribute(self, node: ir.Node, attribute: Any) -> Any:
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            key = self._fresh(key_of(f"{node.name}_{attribute.name}"))
            tensor = _as_tensor(value.numpy())
            self._folder("constants").register_buffer(key, tensor, persistent=False)
            return self.graph.get_attr(f"constants.{key}")
        if isinstance(value, list | tuple):
            return tuple(value)
        return value


def item_of(node: Any) -> Node | None:
    """Return the call of a module whose first answer a node is; None where it is something else."""
    if not isinstance(node, Node) or node.target is not _item or node.args[1] != 0:
        return None
    call = node.args[0]
    return call if isinstance(call, Node) and call.op == "call_module" else None


class _Branches(nn.Module):
    """Two networks, of which a condition chooses one."""

    def __init__(self, then: GraphModule, other: GraphModule) -> None:
        super().__init__()
        self.then, self.other = then, other

    def forward(self, condition: torch.Tensor, *values: torch.Tensor) -> tuple[Any, ...]:
        found = (self.then if bool(condition) else self.other)(*values)
        return found if isinstance(found, tuple) else (found,)


def _item(values: Any, index: int) -> Any:
    """Return one of several outputs."""
    return values[index]


def _unknown(node: ir.Node) -> str:
    """Say what is not known of a node; nothing where all is."""
    if node.op_type == "Constant":
        return ""
    if node.domain not in ("", "ai.onnx"):
        return f"an operator of the domain '{node.domain}'"
    row = OPERATORS.get(node.op_type)
    if row is None:
        return "no operator that training knows"
    missing = [n for n in node.attributes if n not in row.attributes]
    if missing:
        return f"the attribute '{missing[0]}' is not known"
    if row.inputs is not None and len(node.inputs) > row.inputs:
        return f"{len(node.inputs)} inputs, of which {row.inputs} are known"
    used = [o for o in node.outputs if o.name and (o.uses() or o.is_graph_output())]
    if not row.several and any(o is not node.outputs[0] for o in used):
        return "an output behind the first is read"
    return ""


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None:
        return producer.op_type == "Constant"
    return value.const_value is not None and not value.is_graph_input()


def _array(value: ir.Value) -> np.ndarray[Any, Any]:
    producer = value.producer()
    held: Any = value.const_value
    if held is None and producer is not None and producer.op_type == "Constant":
        name, attribute = next(iter(producer.attributes.items()))
        held = attribute.value
        if name != "value":
            return np.asarray(held, dtype=np.int64 if "int" in name else np.float32)
    if held is None:
        raise UnsupportedError(f"The value '{value.name}' has no producer and no constant.")
    array: np.ndarray[Any, Any] = held.numpy()
    return array


def _as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        return torch.from_numpy(
            np.array(array)
        )  # a copy: the model's own weights stay as they are
    except TypeError as e:
        raise UnsupportedError(
            f"A constant of type {array.dtype} cannot be trained through."
        ) from e


class Explaining(Interpreter):
    """Runs a graph call by call, and says which node of the model fails."""

    def __init__(self, module: GraphModule) -> None:
        """Leave out what torch would add of its own graph."""
        super().__init__(module)
        self.extra_traceback = False

    def run_node(self, n: Node) -> Any:
        """Run a node.

        Raises:
            UnsupportedError: It cannot be computed as the model says.
        """
        with explaining(n.meta.get("onnx")):
            return super().run_node(n)


@contextmanager
def explaining(where: str | None) -> Iterator[None]:
    """Say in every error that comes from inside where it comes from.

    Args:
        where: What computes inside; None leaves errors as they are.

    Raises:
        UnsupportedError: It cannot be computed as the model says.
    """
    try:
        yield
    except Exception as e:
        if where is None:
            raise
        text = " ".join(str(e).split())
        raise UnsupportedError(f"The model cannot be trained: {where}: {text}") from e


def explained(module: GraphModule, *inputs: torch.Tensor) -> Any:
    """Run a graph; where a node fails, the error names the node of the model.

    Raises:
        UnsupportedError: A node cannot be computed as the model says.
    """
    return Explaining(module).run(*inputs)
