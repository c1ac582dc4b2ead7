"""Run two models side by side and hand out the tensors that belong together, sample by sample, in bounded memory.

A runtime keeps every tensor that it is asked for until the end of a run. So they are asked for in groups of at most 128 MB
a run, or of 16 tensors whose shapes are not known. Data that can be read but once is run batch by batch through all groups,
other data group by group.

Beside both models runs a third one: the second, cut at each layer so that it reads the first one's tensors. It shows what
a layer loses by itself. All three compute as their graphs say; how fast kernels round is seen at the outputs.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.analysis.compare.births import Births
from calibrant.analysis.compare.mapping import Mapped
from calibrant.data.batch import Batch
from calibrant.data.open import Batches
from calibrant.errors import ModelError
from calibrant.graph.inferred import infer_shapes
from calibrant.graph.quiet import quiet
from calibrant.graph.values import Names, own_copy, values_by_name
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose

__all__ = ["GROUP_BYTES", "Cut", "Pair", "Streams", "taken"]

Array = npt.NDArray[Any]

#: Bytes of tensors that are asked for at once, of both models together.
GROUP_BYTES = 128 * 2**20

#: Tensors of unknown shape that are asked for at once.
_UNKNOWN_IN_GROUP = 16

logger = logging.getLogger(__name__)

#: Called with a layer, a sample's name, the tensor of the second model, that of the first, and that of the cut model.
Use = Callable[[Mapped, str, Array, Array, "Array | None"], None]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two models that are compared.

    Args:
        truth: The first one, opened.
        mine: The second one, opened.
        inputs: Input of the first -> input of the second.
        runtimes: Where each runs.
    """

    truth: ir.Model
    mine: ir.Model
    inputs: Mapping[str, str]
    runtimes: tuple[Runtime, Runtime] = (CPU, CPU)

    def feeds(self, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return a batch as each model takes it."""
        first = dict(batch.feeds)
        return first, {self.inputs[n]: x for n, x in first.items() if n in self.inputs}


class Streams:
    """The runs of a comparison.

    Args:
        pair: Two models.
        layers: What belongs together.
        births: Run the cut model as well, and walk each layer; None for neither.
    """

    def __init__(
        self, pair: Pair, layers: Sequence[Mapped], *, births: Births | None = None
    ) -> None:
        """Cut the second model, where that is asked for."""
        self.pair, self.layers, self.births = pair, layers, births
        self.cut = Cut(pair.mine, layers) if births is not None else None
        self.notes: list[str] = []

    def run(
        self, batches: Batches, samples: int | None, use: Use, each: Callable[[Batch], None]
    ) -> None:
        """Run samples, all or the first ones.

        Args:
            batches: Data.
            samples: How many to take; None for all.
            use: Called for each layer and sample.
            each: Called with each batch once.

        Raises:
            ModelError: A model does not run.
        """
        stream = taken(batches, samples)
        first = next(stream, None)
        if first is None:
            return
        factor = 1 if self.births is None else 2  # what layers read is asked for as well
        groups = list(_groups(_sized(self.pair.truth, first), self.layers, factor * first.size))
        if batches.once or len(groups) < 2:
            sessions = [_Group(self, g) for g in groups] if len(groups) < 2 else None
            for batch in itertools.chain([first], stream):
                each(batch)
                for session in (_Group(self, g) for g in groups) if sessions is None else sessions:
                    session.run(batch, use)
            return
        for i, group in enumerate(groups):
            session = _Group(self, group)
            for batch in taken(batches, samples):
                if i == 0:
                    each(batch)
                session.run(batch, use)


class _Group:
    """Sessions that give the tensors of some layers."""

    def __init__(self, streams: Streams, layers: Sequence[Mapped]) -> None:
        self._streams, self._layers = streams, layers
        pair, (first, second) = streams.pair, streams.pair.runtimes
        self._cut: Any = None  # a session
        self._given: dict[str, str] = {}
        if streams.cut is not None:
            try:
                cut, self._given = streams.cut.of(layers)
                self._cut = open_session(cut, runtime=second, integers=False)
            except ModelError as e:
                self._leave_out(e)
        wanted = dict.fromkeys([x.truth for x in layers] + list(self._given.values()))
        other = dict.fromkeys(x.mine for x in layers)
        for here, there in map(streams.births.needs, layers) if streams.births is not None else ():
            wanted |= dict.fromkeys(here)
            other |= dict.fromkeys(there)
        self._truth = _Tensors(pair.truth, list(wanted), first)
        self._mine = _Tensors(pair.mine, list(other), second)

    def run(self, batch: Batch, use: Use) -> None:
        """Run a batch, and hand out its tensors."""
        feeds, other = self._streams.pair.feeds(batch)
        truth, mine = self._truth.run(feeds), self._mine.run(other)
        alone = self._alone(truth, other)
        for layer in self._layers:
            if self._streams.births is not None:
                self._streams.births.add(layer, truth, mine)
            x, y, z = mine[layer.mine], truth[layer.truth], alone.get(layer.mine)
            for offset in range(batch.size if _has_rows(batch, x, y) else 1):
                if _has_rows(batch, x, y):
                    rows = x[offset], y[offset], z[offset] if z is not None else None
                    use(layer, batch.sample(offset), *rows)
                else:
                    use(layer, str(batch), x, y, z)

    def _alone(self, truth: Mapping[str, Array], feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._cut is None:
            return {}
        given = {}
        for i in self._cut.get_inputs():
            x = truth[self._given[i.name]] if i.name in self._given else feeds[i.name]
            given[i.name] = x.astype(np.float16) if i.type == "tensor(float16)" else x
        names = [o.name for o in self._cut.get_outputs()]
        try:
            return dict(zip(names, infer(self._cut, names, given), strict=True))
        except ModelError as e:
            self._leave_out(e)
            return {}

    def _leave_out(self, error: ModelError) -> None:
        self._cut, self._given = None, {}
        note = f"What layers lose by themselves was not looked at: {error}"
        logger.info("%s", note)
        if note not in self._streams.notes:
            self._streams.notes.append(note)


class _Tensors:
    """A session that gives some tensors of a model; its inputs are among them."""

    def __init__(self, model: ir.Model, tensors: Sequence[str], runtime: Runtime) -> None:
        values = values_by_name(model.graph)
        self._wanted = tensors
        self._computed = [t for t in dict.fromkeys(tensors) if values[t].producer() is not None]
        self._session = None
        if self._computed:
            exposed = expose(model, self._computed)
            self._session = open_session(exposed, runtime=runtime, integers=False)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(feeds)
        if self._session is not None:
            used = {i.name: feeds[i.name] for i in self._session.get_inputs()}
            values = infer(self._session, self._computed, used)
            found |= dict(zip(self._computed, values, strict=True))
        return {t: np.asarray(found[t]) for t in self._wanted}


class Cut:
    """A model whose layers each read given tensors, in the place of what the layers in front of them make.

    Args:
        model: The model; it is not changed.
        layers: Where it is cut.
    """

    def __init__(self, model: ir.Model, layers: Sequence[Mapped]) -> None:
        """Put an input in the place of each tensor."""
        self._model = own_copy(model)
        values = values_by_name(self._model.graph)
        names = Names(self._model.graph)
        self._given: dict[str, str] = {}
        for layer in layers:
            places = [values[n] for n in (layer.mine, *layer.copies)]
            given = ir.Value(
                name=names.fresh(f"{layer.mine}__given"),
                type=places[0].type or ir.TensorType(ir.DataType.FLOAT),
                shape=places[0].shape,
            )
            uses = [use for place in places for use in tuple(place.uses())]
            for use in uses:
                use.node.replace_input_with(use.idx, given)
            if uses:
                self._model.graph.inputs.append(given)
                self._given[given.name or ""] = layer.truth

    def of(self, layers: Sequence[Mapped]) -> tuple[ir.Model, dict[str, str]]:
        """Return the model of some layers alone, and which tensor of the true model each new input is given."""
        wanted = dict.fromkeys(x.mine for x in layers)
        model = expose(self._model, list(wanted))
        common.RemoveUnusedNodesPass()(model)
        used = [v for v in model.graph.inputs if v.uses()]
        model.graph.inputs.clear()
        model.graph.inputs.extend(used)
        given = {
            n: t for v in used if (n := v.name or "") in self._given for t in [self._given[n]]
        }
        return model, given


def taken(batches: Batches, samples: int | None) -> Iterator[Batch]:
    """Yield the first samples, or all."""
    left = samples if samples is not None else -1
    for batch in batches:
        if left == 0:
            return
        if 0 < left < batch.size and not batch.whole and batches.batch_size is None:
            batch = batch.part(0, left)
        yield batch
        left = max(0, left - batch.size) if samples is not None else -1


def _has_rows(batch: Batch, x: Array, y: Array) -> bool:
    """Whether the first axis of two tensors holds the samples of a batch."""
    return batch.size > 1 and x.shape[:1] == y.shape[:1] == (batch.size,)


def _sized(model: ir.Model, batch: Batch) -> Mapping[str, ir.Value]:
    """Return the tensors of a model, with their shapes on a batch where these follow from it."""
    values = values_by_name(model.graph)
    if all(_is_known(v) for node in model.graph for v in node.outputs):
        return values
    copy = model.clone()
    for value in copy.graph.inputs:
        fed = batch.feeds.get(value.name or "")
        if fed is not None:
            value.shape = ir.Shape(fed.shape)
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    with quiet("onnx_ir", "onnxscript"):
        infer_shapes(copy)
    found = values_by_name(copy.graph)
    return {n: found[n] if n in found and _is_known(found[n]) else v for n, v in values.items()}


def _is_known(value: ir.Value) -> bool:
    """Whether a shape is known, but for the first axis."""
    shape = value.shape
    return shape is not None and all(isinstance(d, int) for d in list(shape)[1:])


def _groups(
    values: Mapping[str, ir.Value], layers: Sequence[Mapped], rows: int
) -> Iterator[Sequence[Mapped]]:
    """Yield groups whose tensors are not too large together."""
    group: list[Mapped] = []
    size = 0
    for layer in layers:
        more = _bytes(values[layer.truth], rows)
        if group and size + more > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(layer)
        size += more
    if group:
        yield group


def _bytes(value: ir.Value, rows: int) -> int:
    """Return what a tensor takes in both models, its first axis taken for samples where its length is free."""
    if value.shape is None or value.dtype is None:
        return GROUP_BYTES // _UNKNOWN_IN_GROUP
    dims = [d if isinstance(d, int) else None for d in value.shape]
    if dims and dims[0] is None:
        dims[0] = rows
    known = [d for d in dims if d is not None]
    if len(known) != len(dims):
        return GROUP_BYTES // _UNKNOWN_IN_GROUP
    return int(2 * math.prod(known) * value.dtype.itemsize)
