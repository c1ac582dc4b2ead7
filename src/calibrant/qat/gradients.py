"""What the outputs lose when one layer alone is quantized, for all layers and precisions at once, from gradients.

A layer that reads quantized values gives answers that are off by d. To first order the outputs are then off by J d, where J are
the derivatives of the outputs by the answers of the layer. With a random v of independent signs over the outputs,

    |J d|**2 = mean over v of (g . d)**2,    g = v J,

and one backward pass gives g for all layers. So the energy of the error is the square of what the gradient sees of the error: no
layer's answer is carried on to the outputs, as partial runs do.

    float model, forward once     answers of all layers
    each layer, in each precision its own answer for what it reads there     d
    backward, a few v by sample   g

The diagonal form of it, 1/2 sum g**2 d**2 over single weights and activations, leaves out that the errors of one layer act together.

Sources: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", Communications
in Statistics 19, 1990. For the diagonal form as a sensitivity to quantization: Zandonati et al., "FIT: A Metric for Model
Sensitivity", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from calibrant.analysis.alone.feeds import Feeds
from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.graph.passes.half_nodes import rounded
from calibrant.graph.values import values_by_name
from calibrant.qat.graph import Explaining, explaining, to_torch
from calibrant.tuning.solved import Solved

__all__ = ["DRAWS", "Energies", "Measurement", "energies", "energies_of"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: Random v for each part of the outputs. With 16 samples they are 64 squares, whose mean lies 18 % off (one standard deviation).
DRAWS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Energies:
    """What layers lose alone.

    Args:
        parts: Names of the parts of the outputs.
        lost: Precision -> layer -> energy of the error over energy of the signal, by part (parts,).
        samples: Samples that it was seen on.
        passes: What all of it amounts to, in samples through the whole model; a backward pass counts as two.
    """

    parts: tuple[str, ...]
    lost: Mapping[str, Mapping[str, Floats]]
    samples: int
    passes: float


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """All layers in one precision, to be measured.

    Args:
        precision: Its name.
        model: The prepared float model.
        reading: What a layer reads.
        parts: Tensors that are compared, each with its parts.
    """

    precision: str
    model: ir.Model
    reading: Reading
    parts: Mapping[str, Sequence[Part]]

    @classmethod
    def of(cls, precision: str, solved: Solved) -> Measurement:
        """Return the measurement of a solution whose layers have the precision; of any for `float16`."""
        solution, probe = solved.solution, solved.probe
        assert probe is not None
        model = solution.model
        reading: Reading = QuantizedAlone(model, solution.plan, solution.params)
        if precision == "float16":
            reading = HalfAlone(model)
        parts = {
            n: parts_of(model, n, [r[n] for r in probe.parts_reference]) for n in probe.scored
        }
        return cls(precision, model, reading, parts)


def energies_of(
    asked: Sequence[Measurement], feeds: Feeds, layers: Sequence[str], *, draws: int = DRAWS
) -> Energies:
    """Return what each layer alone loses in several precisions; those of one float model share its passes.

    Args:
        asked: Precisions, at least one.
        feeds: Samples.
        layers: Names of nodes.
        draws: Random v for each part.

    Raises:
        UnsupportedError: The model has a node that torch is not told of, or that it cannot compute.
    """
    groups: list[list[Measurement]] = []
    for one in asked:
        alike = (g for g in groups if _equal(g[0].model, one.model))
        group = next(alike, None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    found = [
        energies(
            group[0].model,
            group[0].parts,
            feeds,
            {m.precision: m.reading for m in group},
            layers,
            draws=draws,
        )
        for group in groups
    ]
    lost = {p: of for e in found for p, of in e.lost.items()}
    return Energies(found[0].parts, lost, feeds.samples, sum(e.passes for e in found))


def energies(
    model: ir.Model,
    parts: Mapping[str, Sequence[Part]],
    feeds: Feeds,
    readings: Mapping[str, Reading],
    layers: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Energies:
    """Return what each layer alone loses in each precision.

    Args:
        model: The prepared float model.
        parts: Tensors that are compared, each with its parts (`analysis.parts`).
        feeds: Samples.
        readings: Precision -> what a layer reads in it.
        layers: Names of nodes.
        draws: Random v for each part.
        seed: Decides them.

    Raises:
        UnsupportedError: The model has a node that torch is not told of, or that it cannot compute.
    """
    graph = _scored_graph(model, tuple(parts))
    every = [(i, part) for i, of in enumerate(parts.values()) for part in of]
    names = tuple(
        v.name or "" for v in model.graph.inputs if v.name not in model.graph.initializers
    )
    nodes = {n.name or "": n for n in model.graph}
    constants = {p: {n: r.constants(n) for n in layers} for p, r in readings.items()}
    generator = np.random.default_rng(seed)
    signal: Floats = np.zeros(len(every))
    sums = {(p, n): np.zeros(len(every)) for p in readings for n in layers}
    for batch in feeds.batches:
        run = _Recorder(graph, frozenset(layers))
        outputs = run.answers(*(_tensor(batch.feeds[n]) for n in names))
        values = [o.detach().numpy() for o in outputs]
        off = {
            (p, n): _own_error(run, nodes[n], reading, constants[p][n])
            for p, reading in readings.items()
            for n in layers
        }
        for column, (index, part) in enumerate(every):
            signal[column] += _energy(part.take(values[index]))
            for signs in _signs(values[index], part, draws, generator):
                gradients = run.gradients(outputs[index], signs)
                for key, errors in off.items():
                    sums[key][column] += _seen(gradients[key[1]], errors, batch.size) / draws
    shares = {p: {n: _share(sums[p, n], signal) for n in layers} for p in readings}
    passes = (1 + len(readings) + 2 * draws * len(every)) * feeds.samples
    return Energies(tuple(p.name for _, p in every), shares, feeds.samples, float(passes))


def _equal(one: ir.Model, other: ir.Model) -> bool:
    """Whether two float models compute the same, maybe in another version of the operator set."""
    if one is other:
        return True
    if _reads(one) != _reads(other):
        return False
    mine, theirs = _floats(one), _floats(other)
    return mine.keys() == theirs.keys() and all(
        np.array_equal(x, theirs[name]) for name, x in mine.items()
    )


def _reads(model: ir.Model) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return name, operator and inputs of each node; numbers that a version has as inputs, and another as attributes, are left out."""
    numbers = set(model.graph.initializers) - set(_floats(model))
    return [
        (
            n.name or "",
            n.op_type,
            tuple(v.name or "" for v in n.inputs if v is not None and v.name not in numbers),
        )
        for n in model.graph
    ]


def _floats(model: ir.Model) -> dict[str, Array]:
    found = {n: _array(v) for n, v in model.graph.initializers.items()}
    return {n: x for n, x in found.items() if x.dtype.kind == "f"}


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    found: Array = value.const_value.numpy()
    return found


class _Recorder(Explaining):
    """Runs a graph, says which node of the model fails, and keeps what each layer was called with and what it gave.

    Args:
        module: The float network; its parameters have no gradients.
        layers: Names of nodes.
    """

    def __init__(self, module: GraphModule, layers: frozenset[str]) -> None:
        super().__init__(module)
        self.layers = layers
        self.called: dict[str, tuple[Node, tuple[Any, ...], dict[str, Any]]] = {}
        self.given: dict[str, tuple[Tensor, ...]] = {}

    def answers(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.run(*inputs)
        return found if isinstance(found, tuple) else (found,)

    def run_node(self, n: Node) -> Any:
        name = n.meta.get("node")
        if name not in self.layers:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self.called[name] = n, args, kwargs
        found = super().run_node(n)
        each = found if isinstance(found, tuple) else (found,)
        kept = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in each)
        self.given[name] = kept
        return kept if isinstance(found, tuple) else kept[0]

    def again(self, layer: str, other: Mapping[int, Array]) -> tuple[Array, ...]:
        """Return what a layer gives where some of its inputs are others."""
        node, args, kwargs = self.called[layer]
        function: Any = node.target
        changed = [_tensor(other[i]) if i in other else x for i, x in enumerate(args)]
        with torch.no_grad(), explaining(node.meta.get("onnx")):
            found = function(*changed, **kwargs)
        return tuple(x.numpy() for x in (found if isinstance(found, tuple) else (found,)))

    def gradients(self, output: Tensor, signs: Array) -> dict[str, tuple[Array | None, ...]]:
        """Return the gradients of signs times an output by the answers of all layers."""
        flat = [x for given in self.given.values() for x in given]
        if not output.requires_grad:
            found: list[Tensor | None] = [None] * len(flat)
        else:
            start = torch.from_numpy(signs)
            with explaining("its gradients"):
                found = list(
                    torch.autograd.grad(output, flat, start, retain_graph=True, allow_unused=True)
                )
        values = iter(found)
        return {
            n: tuple(None if (x := next(values)) is None else x.numpy() for _ in given)
            for n, given in self.given.items()
        }


def _scored_graph(model: ir.Model, scored: Sequence[str]) -> GraphModule:
    """Return the float network, which answers with the tensors that are compared."""
    other = model.clone()
    values = values_by_name(other.graph)
    other.graph.outputs[:] = [values[n] for n in scored]
    graph = to_torch(other).eval()
    graph.requires_grad_(False)
    return graph


def _own_error(
    run: _Recorder, node: ir.Node, reading: Reading, constants: Mapping[int, Array]
) -> tuple[Array, ...]:
    """Return by how much the answers of a layer are off that reads other values."""
    layer = node.name or ""
    _, args, _ = run.called[layer]
    known = {
        value.name or "": x.detach().numpy()
        for value, x in zip(node.inputs, args, strict=False)
        if value is not None and isinstance(x, Tensor)
    }
    mine = run.again(layer, {**constants, **reading.values(layer, known)})
    if reading.gives == "rounded":
        mine = tuple(np.asarray(rounded(x)) for x in mine)
    return tuple(x - y.detach().numpy() for x, y in zip(mine, run.given[layer], strict=True))


def _signs(
    value: Array, part: Part, draws: int, generator: np.random.Generator
) -> Iterator[Array]:
    """Yield random signs over a part of an output, 0 elsewhere."""
    places = part.take(np.arange(value.size).reshape(value.shape)).ravel()
    for _ in range(draws):
        signs = np.zeros(value.size, dtype=value.dtype)
        signs[places] = generator.choice(np.array([-1, 1], dtype=value.dtype), places.size)
        yield signs.reshape(value.shape)


def _seen(gradients: Sequence[Array | None], errors: Sequence[Array], samples: int) -> float:
    """Return the sum over samples of (g . d)**2; all samples are one where the first axis is none of samples."""
    total: Floats = np.zeros(samples)
    for g, d in zip(gradients, errors, strict=True):
        if g is None:
            continue
        each = np.multiply(g, d, dtype=np.float64)
        if each.ndim and each.shape[0] == samples:
            total += each.reshape(samples, -1).sum(axis=1)
        else:
            total[0] += each.sum()
    return float(np.square(total).sum())


def _energy(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _share(lost: Floats, signal: Floats) -> Floats:
    """Return energies over those of the signal; 0 where nothing is lost."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lost == 0, 0.0, lost / signal)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))
