"""See every tensor of a model once: expose, run, count.

The tensors to observe become outputs of a copy of the model. Their buffers are allocated once and bound
to the session, two sets of them, so that one batch is counted while the next one is computed. What is
kept is statistics alone, so memory does not grow with the data:

    buffers        at most two sets of `BUFFER_BYTES`; a batch that needs more is run in slices of its
                   samples, and a single sample that needs more in groups of its tensors
    statistics     100 to 400 kB a tensor (`stats`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import DataError
from calibrant.graph.values import values_by_name
from calibrant.runtime.batch import Batch
from calibrant.runtime.session import open_session
from calibrant.stats import Accumulator, TensorStats

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["BUFFER_BYTES", "channel_magnitudes", "expose", "observe"]

#: Most bytes of one set of output buffers.
BUFFER_BYTES = 48 * 2**20

Progress = Callable[[int], None]
Array = npt.NDArray[Any]


def expose(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Copy a model so that its outputs are these tensors and no others.

    Graph inputs and initializers among the tensors are left out: who feeds the model has them.
    """
    model = model.clone()
    values = values_by_name(model.graph)
    wanted = [values[t] for t in tensors if values[t].producer() is not None]
    model.graph.outputs.clear()
    model.graph.outputs.extend(wanted)
    return model


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    channel_axes: Mapping[str, int] | None = None,
    exact: bool = False,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorStats]:
    """Run the model over the data once and return the statistics of each tensor.

    The result depends on the data alone, not on batch size or order.

    Args:
        model: A prepared float model.
        tensors: Names of tensors: graph inputs, or outputs of nodes.
        batches: The data.
        channel_axes: Tensor -> axis to keep extremes and sums for.
        exact: Keep raw values instead of histograms.
        provider: Execution provider.
        threads: Threads for inference; counting has one thread of its own.
        progress: Called with the number of samples after each batch.

    Raises:
        DataError: There is no data, or a tensor holds NaN or Inf; the message names the tensor, the
            sample and the file.
    """
    axes = channel_axes or {}
    accumulators = {t: Accumulator(channel_axis=axes.get(t), exact=exact) for t in tensors}
    inputs = {v.name or "" for v in model.graph.inputs}
    fed = [t for t in tensors if t in inputs]
    computed = [t for t in tensors if t not in inputs]
    runner = None
    if computed:
        session = open_session(
            expose(model, computed), provider=provider, threads=threads, spinning=False
        )
        runner = _Runner(session, computed)
    samples = 0
    with ThreadPoolExecutor(1, thread_name_prefix="calibrant-count") as pool:
        pending: list[Future[None]] = []
        for batch in batches:
            for t in fed:
                pending.append(pool.submit(_count, accumulators[t], t, batch.feeds[t], batch, 0))
            if runner is not None:
                runner.run(batch, accumulators, pool, pending)
            samples += batch.size
            if progress is not None:
                progress(batch.size)
            while len(pending) > 4 * max(1, len(tensors)):
                pending.pop(0).result()
        for future in pending:
            future.result()
    if samples == 0:
        raise DataError("The calibration data is empty: it yields no batch.")
    return {t: a.result() for t, a in accumulators.items()}


def channel_magnitudes(
    model: ir.Model,
    axes: Mapping[str, int],
    feeds: Sequence[Mapping[str, Array]],
    *,
    provider: str = "cpu",
    threads: int | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return max |x| of each channel of some tensors, over a few feeds.

    Args:
        model: A prepared float model.
        axes: Tensor -> its channel axis; negative counts from the end.
        feeds: Inputs.
        provider: Execution provider.
        threads: Threads for inference.

    Returns:
        Tensor -> (channels,).
    """
    inputs = {v.name or "" for v in model.graph.inputs}
    computed = [t for t in axes if t not in inputs]
    session = None
    if computed:
        session = open_session(expose(model, computed), provider=provider, threads=threads)
    found: dict[str, npt.NDArray[np.float64]] = {}
    for feed in feeds:
        values = dict(feed)
        if session is not None:
            used = {i.name: feed[i.name] for i in session.get_inputs()}
            values |= dict(zip(computed, session.run(computed, used), strict=True))
        for t, axis in axes.items():
            x = values[t]
            others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
            largest = np.maximum(x.max(axis=others), -x.min(axis=others)).astype(np.float64)
            found[t] = np.maximum(found[t], largest) if t in found else largest
    return found


def _count(accumulator: Accumulator, tensor: str, x: Array, batch: Batch, offset: int) -> None:
    first = accumulator.add(x)
    if first is None:
        return
    value = x.reshape(-1)[first]
    row = 0
    if x.ndim and batch.size > 1:
        row = min(batch.size - 1, offset + first // max(1, x.size // x.shape[0]))
    raise DataError(
        f"Tensor '{tensor}' holds {value} for {batch.sample(row)}. Calibration data, and every tensor "
        "computed from it, must be finite."
    )


@dataclass(slots=True)
class _Buffers:
    """Output arrays of one shape of inputs, and the counting still under way on them."""

    arrays: dict[str, Array]
    busy: list[Future[None]] = field(default_factory=list)

    def wait(self) -> None:
        for future in self.busy:
            future.result()
        self.busy.clear()


class _Runner:
    """Runs batches into reused buffers, in slices and groups that fit them."""

    def __init__(self, session: ort.InferenceSession, tensors: list[str]) -> None:
        self._session = session
        self._tensors = tensors
        self._inputs = [i.name for i in session.get_inputs()]
        self._fixed_rows = any(
            i.shape and isinstance(i.shape[0], int) for i in session.get_inputs()
        )
        self._bytes_per_sample: dict[str, float] | None = None
        self._sets: dict[Any, list[_Buffers]] = {}
        self._turn = 0

    def run(
        self,
        batch: Batch,
        accumulators: Mapping[str, Accumulator],
        pool: ThreadPoolExecutor,
        pending: list[Future[None]],
    ) -> None:
        """Run a batch and hand its tensors to the counting thread."""
        feeds = {n: np.ascontiguousarray(batch.feeds[n]) for n in self._inputs}
        start = 0
        while start < batch.size:
            rows = self._rows(batch.size - start)
            part = feeds
            if rows < batch.size:
                part = {n: x[start : start + rows] for n, x in feeds.items()}
            for group in self._groups(rows):
                buffers = self._execute(part, group)
                for t in group:
                    future = pool.submit(
                        _count, accumulators[t], t, buffers.arrays[t], batch, start
                    )
                    buffers.busy.append(future)
            start += rows
        pending[:] = [f for f in pending if not f.done() or f.exception() is not None]

    def _rows(self, left: int) -> int:
        """How many samples to run at once."""
        if self._fixed_rows:
            return left
        if self._bytes_per_sample is None:
            return min(left, 1)
        total = sum(self._bytes_per_sample.values())
        return int(max(1, min(left, BUFFER_BYTES // max(1, total))))

    def _groups(self, rows: int) -> list[list[str]]:
        """Tensors that are exposed together; one group unless a single sample is too large."""
        if self._bytes_per_sample is None:
            return [[t] for t in self._tensors[:1]] if False else [self._tensors]
        groups: list[list[str]] = [[]]
        size = 0.0
        for t in self._tensors:
            size += self._bytes_per_sample[t] * rows
            if groups[-1] and size > 2 * BUFFER_BYTES:
                groups.append([])
                size = self._bytes_per_sample[t] * rows
            groups[-1].append(t)
        return groups

    def _execute(self, feeds: dict[str, Array], group: list[str]) -> _Buffers:
        key = (group[0], len(group), *((n, x.shape) for n, x in feeds.items()))
        if key not in self._sets:
            outputs = self._session.run(group, feeds)
            first = _Buffers({t: np.asarray(x) for t, x in zip(group, outputs, strict=True)})
            if self._bytes_per_sample is None:
                rows = max(1, next(iter(feeds.values())).shape[0] if feeds else 1)
                self._bytes_per_sample = {t: x.nbytes / rows for t, x in first.arrays.items()}
            if len(self._sets) >= 4:  # shapes keep changing: do not hoard buffers
                for old in self._sets.values():
                    for buffers in old:
                        buffers.wait()
                self._sets.clear()
            second = _Buffers({t: np.empty_like(x) for t, x in first.arrays.items()})
            self._sets[key] = [first, second]
            self._turn = 0
            return first
        self._turn ^= 1
        buffers = self._sets[key][self._turn]
        buffers.wait()
        binding = self._session.io_binding()
        for name, x in feeds.items():
            binding.bind_cpu_input(name, x)
        for t in group:
            x = buffers.arrays[t]
            binding.bind_output(t, "cpu", 0, x.dtype.type, x.shape, x.ctypes.data)
        self._session.run_with_iobinding(binding)
        return buffers
