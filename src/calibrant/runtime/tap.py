"""Tap a model: run it on batches and hand out the values of inner tensors while the next batch runs.

The tapped tensors are made outputs. Their values land in pages of memory that are used again, two in turn,
so that one can be read while the other is filled. A batch whose values do not fit a page is run in slices of
its samples. Of a single sample that does not fit, the model is run stretch by stretch (`runtime.stretches`), or, where
it cannot be cut, several times, each time with another group of tensors exposed: a runtime keeps every exposed tensor
until the end of a run.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.errors import ModelError
from calibrant.graph.values import values_by_name
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.stretches import Stretch, stretches

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["BUFFER_BYTES", "GROUP_BYTES", "Tap", "expose", "with_outputs"]

#: Bytes of a page that several samples share: few, so that values are read while they are in a cache.
BUFFER_BYTES = 12 * 2**20

#: Bytes of a page that one sample fills; a sample of more is run in stretches.
GROUP_BYTES = 64 * 2**20

#: Domain of ONNX's own operators, in both spellings: of these a runtime infers types and shapes.
STANDARD = frozenset({"", "ai.onnx"})

#: Distance of arrays in a page, in bytes: a line of the processor's cache.
_ALIGNMENT = 64

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class Busy(Protocol):
    """A reader that is still at work."""

    def result(self) -> None:
        """Wait for it, and raise what it raised."""


#: Called with tensors by name, their batch, and the first and number of its samples that they belong to.
#: The values are valid until the reader is done.
Use = Callable[[Mapping[str, Array], Batch, int, int], Busy]


def expose(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Copy a model so that its outputs are these tensors and no others.

    Graph inputs and initializers among the tensors are left out: who feeds the model has them.
    """
    return with_outputs(model.clone(), tensors)


def with_outputs(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Do what `expose` does to a model that nobody else has; return it.

    Shapes and types of what lies between are taken out: a runtime infers its own, and writing them down for it takes as
    long as writing the nodes.
    """
    values = values_by_name(model.graph)
    wanted = [values[t] for t in tensors if values[t].producer() is not None]
    model.graph.outputs.clear()
    model.graph.outputs.extend(wanted)
    for node in model.graph:
        for value in node.outputs:
            if node.domain in STANDARD and not value.is_graph_output():
                value.shape = value.type = None
    return model


#: Type and shape of an array.
_Form = tuple[np.dtype[Any], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _SampleForm:
    """Type and shape of a tensor before its number of samples is known, which is None in the shape."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def of(self, samples: int) -> _Form:
        return self.dtype, tuple(samples if d is None else d for d in self.shape)


@dataclass(slots=True)
class _Page:
    """Memory for the tensors of one run, and the reader that is still busy with them."""

    memory: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    busy: Busy | None = None

    def wait(self) -> None:
        if self.busy is not None:
            self.busy.result()
            self.busy = None

    def lay_out(self, forms: Sequence[_Form]) -> list[Array]:
        """Return uninitialised arrays, one behind the other."""
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in forms]
        steps = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        if sum(steps) > self.memory.nbytes:
            self.memory = np.empty(sum(steps), dtype=np.uint8)
        starts = itertools.accumulate(steps, initial=0)
        return [
            self.memory[start : start + size].view(dtype).reshape(shape)
            for (dtype, shape), size, start in zip(forms, sizes, starts, strict=False)
        ]


@dataclass(slots=True)
class _Group:
    """Tensors that are exposed together.

    Args:
        tensors: Their names.
        session: A session whose outputs they are.
        hands_on: Outputs of the session that sessions behind it read, and nobody looks at.
        read_behind: What sessions behind it read.
        forms: Shapes of the inputs -> forms of the outputs.
    """

    tensors: list[str]
    session: ort.InferenceSession
    hands_on: tuple[str, ...] = ()
    read_behind: frozenset[str] = frozenset()
    forms: dict[tuple[tuple[int, ...], ...], list[_Form]] = field(default_factory=dict)


class Tap:
    """Hands out the values of some tensors of a model, batch by batch."""

    def __init__(self, model: ir.Model, tensors: Sequence[str], *, runtime: Runtime) -> None:
        """Expose the tensors, in stretches where one sample of all of them is too much.

        Args:
            model: A prepared model; it is not changed.
            tensors: Names of node outputs.
            runtime: Where it runs.
        """
        self._model, self._tensors = model, list(tensors)
        self._runtime = runtime
        self._whole_batches = any(_has_fixed_rows(v) for v in model.graph.inputs)
        self._inferred = _inferred_forms(model, tensors)
        self._sample_bytes: dict[str, float] | None = None
        if self._inferred is not None:
            one = {t: form.of(1) for t, form in self._inferred.items()}
            self._sample_bytes = {
                t: dt.itemsize * math.prod(shape) for t, (dt, shape) in one.items()
            }
        self._has_run = False
        self._has_fixed_shapes = True
        self._pages = itertools.cycle((_Page(), _Page()))
        self._groups = self._open()

    def run(self, batch: Batch, use: Use) -> None:
        """Run a batch and give the tensors to `use`, all at once or in parts.

        Raises:
            ModelError: The model does not run on this batch.
        """
        try:
            self._run(batch, use)
        except ModelError:
            if self._has_run or self._whole_batches or batch.size == 1:
                raise
            self._whole_batches = True  # somewhere inside, the model insists on its batch size
            self._run(batch, use)

    def close(self) -> None:
        """Wait until all values have been used, and raise what a reader raised."""
        for page in itertools.islice(self._pages, 2):
            page.wait()

    def _run(self, batch: Batch, use: Use) -> None:
        start = 0
        while start < batch.size:
            rows = batch.size if batch.whole else self._rows(batch.size - start)
            part = batch.part(start, start + rows)
            measured: dict[str, float] = {}
            between: dict[str, Array] = {}
            for group in self._groups:
                names = [i.name for i in group.session.get_inputs()]
                feeds = {
                    n: np.asarray(between[n] if n in between else part.feeds[n], order="C")
                    for n in names
                }
                page, arrays = self._execute(group, feeds, rows)
                looked_at = len(group.tensors)
                values = dict(zip(group.tensors, arrays[:looked_at], strict=True))
                between |= {t: np.array(x) for t, x in values.items() if t in group.read_behind}
                between |= dict(zip(group.hands_on, arrays[looked_at:], strict=True))
                between = {t: x for t, x in between.items() if t in group.read_behind}
                page.busy = use(values, batch, start, rows)
                measured |= {t: x.nbytes / rows for t, x in values.items()}
            if not self._has_run:
                self._has_run = True
                self._sample_bytes = measured
                if len(self._grouped()) > len(self._groups):
                    self._groups = self._open()
            start += rows

    def _rows(self, left: int) -> int:
        """How many samples to run at once: all that are left, or equal parts of them that fit a page."""
        if self._whole_batches:
            return left
        if self._sample_bytes is None:
            return 1
        parts = math.ceil(left * sum(self._sample_bytes.values()) / BUFFER_BYTES)
        return math.ceil(left / max(1, parts))

    def _open(self) -> list[_Group]:
        grouped = self._grouped()
        if len(grouped) > 1 and self._sample_bytes is not None:
            found = stretches(self._model, self._sample_bytes, GROUP_BYTES)
            if found is not None:
                return self._stretches(found)
        return [
            _Group(names, open_session(expose(self._model, names), runtime=self._runtime))
            for names in grouped
        ]

    def _stretches(self, found: Sequence[Stretch]) -> list[_Group]:
        groups = []
        for i, stretch in enumerate(found):
            behind = (v.name or "" for s in found[i + 1 :] for v in s.model.graph.inputs)
            read_behind = frozenset(behind)
            names = (*stretch.tensors, *stretch.hands_on)
            session = open_session(with_outputs(stretch.model, names), runtime=self._runtime)
            groups.append(_Group([*stretch.tensors], session, stretch.hands_on, read_behind))
        return groups

    def _grouped(self) -> list[list[str]]:
        """Tensors that are exposed together: all of them, unless a single sample is too large."""
        if self._sample_bytes is None:
            return [self._tensors]
        groups: list[list[str]] = [[]]
        size = 0.0
        for t in self._tensors:
            size += self._sample_bytes[t]
            if groups[-1] and size > GROUP_BYTES:
                groups.append([])
                size = self._sample_bytes[t]
            groups[-1].append(t)
        return groups

    def _execute(
        self, group: _Group, feeds: dict[str, Array], rows: int
    ) -> tuple[_Page, list[Array]]:
        """Run one group, into a page where the shapes of the outputs are known or inferred."""
        page = next(self._pages)
        page.wait()
        names = [*group.tensors, *group.hands_on]
        key = tuple(x.shape for x in feeds.values())
        forms = group.forms.get(key)
        expected = forms
        if expected is None and self._inferred is not None and not group.hands_on:
            expected = [self._inferred[t].of(rows) for t in group.tensors]
        if expected is not None and self._has_fixed_shapes:
            looked_at = len(group.tensors)
            arrays = page.lay_out(expected[:looked_at])
            arrays += [np.empty(shape, dtype) for dtype, shape in expected[looked_at:]]
            if _run_into(group.session, feeds, names, arrays):
                group.forms[key] = expected
                return page, arrays
            if forms is not None:
                self._has_fixed_shapes = False  # they depend on the data
        arrays = infer(group.session, names, feeds)
        group.forms[key] = [(x.dtype, x.shape) for x in arrays]
        return page, arrays


def _run_into(
    session: ort.InferenceSession, feeds: Feeds, names: Sequence[str], arrays: Sequence[Array]
) -> bool:
    """Run a session into arrays; answer whether their shapes were right. Texts cannot be bound."""
    if any(x.dtype.kind == "U" for x in feeds.values()):
        return False
    binding = session.io_binding()
    for name, x in feeds.items():
        binding.bind_cpu_input(name, x)
    for name, x in zip(names, arrays, strict=True):
        binding.bind_output(name, "cpu", 0, x.dtype.type, x.shape, x.ctypes.data)
    try:
        session.run_with_iobinding(binding)
    except Exception:
        logger.debug("outputs have other shapes than expected", exc_info=True)
        return False
    return True


def _has_fixed_rows(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[0], int)


def _inferred_forms(model: ir.Model, tensors: Sequence[str]) -> dict[str, _SampleForm] | None:
    """Return the form of each tensor, where all shapes are known but for the samples; else None."""
    values = values_by_name(model.graph)
    found = {}
    for t in tensors:
        shape, dtype = values[t].shape, values[t].dtype
        if shape is None or dtype is None:
            return None
        first = [d if isinstance(d, int) else None for d in shape[:1]]
        rest = [d for d in shape[1:] if isinstance(d, int)]
        if len(rest) != len(shape[1:]):
            return None
        found[t] = _SampleForm(dtype.numpy(), (*first, *rest))
    return found
