"""See every tensor of a model once: run, count.

One thread counts the tensors of a batch while the next batch is run (`runtime.tap`). What is kept is
statistics alone, 100 to 400 kB a tensor (`stats`), so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.errors import DataError
from calibrant.numerics.finite import finite_or_zero
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import Tap, expose
from calibrant.stats import Accumulator, TensorStats

__all__ = [
    "Ends",
    "Hearing",
    "Listener",
    "Observer",
    "channel_magnitudes",
    "channel_tops",
    "observe",
]

Progress = Callable[[int], None]
Array = npt.NDArray[Any]


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    per_channel: Mapping[str, Sequence[int]] | None = None,
    exact: bool = False,
    runtime: Runtime = CPU,
    progress: Progress | None = None,
    hearing: Hearing | None = None,
) -> dict[str, TensorStats]:
    """Run the model over the data once and return the statistics of each tensor.

    The result depends on the data alone, not on batch size or order.

    Args:
        model: A prepared float model.
        tensors: Names of tensors: graph inputs, or outputs of nodes.
        batches: The data.
        per_channel: Tensor -> axes to keep the distribution of each channel for (`stats.per_channel`).
        exact: Keep raw values instead of histograms.
        runtime: Where it runs.
        progress: Called with the number of samples after each batch.
        hearing: Who hears some tensors besides.

    Raises:
        DataError: There is no data, or an output of the model is not finite; the message names the output, the
            first tensor that was not finite, and the sample or its file. Where the outputs are finite, values of inner
            tensors that are not are left out and counted (`TensorStats.nonfinite`).
    """
    observer = Observer(
        model,
        tensors,
        per_channel=per_channel,
        exact=exact,
        runtime=runtime,
        beside=hearing.names if hearing is not None else (),
    )
    return observer.see(batches, progress, [hearing] if hearing is not None else [])


class Observer:
    """A model whose tensors are looked at as often as there is more data; what it opens stays open.

    Arguments are those of `observe`.
    """

    def __init__(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        *,
        per_channel: Mapping[str, Sequence[int]] | None = None,
        exact: bool = False,
        runtime: Runtime = CPU,
        beside: Sequence[str] = (),
    ) -> None:
        """Open the model; `beside` are tensors that are not counted, for who listens."""
        inputs = {v.name or "" for v in model.graph.inputs}
        self._tensors, self._exact = list(tensors), exact
        self._axes = dict(per_channel or {})
        self._fed = [t for t in tensors if t in inputs]
        computed = [t for t in dict.fromkeys([*tensors, *beside]) if t not in inputs]
        self._tap = Tap(model, computed, runtime=runtime) if computed else None
        self._outputs = _Outputs(model, runtime)

    def see(
        self,
        batches: Iterable[Batch],
        progress: Progress | None = None,
        listeners: Sequence[Listener] = (),
    ) -> dict[str, TensorStats]:
        """Return the statistics of each tensor for these batches alone; errors are those of `observe`.

        Args:
            batches: The data.
            progress: Called with the number of samples after each batch.
            listeners: Told the values of each tensor, too.
        """
        accumulators = {
            t: Accumulator(by_channel=self._axes.get(t, ()), exact=self._exact)
            for t in self._tensors
        }
        samples = 0
        with ThreadPoolExecutor(1, thread_name_prefix="calibrant-count") as pool:
            counting = _Counting(accumulators, pool, self._outputs, listeners)
            inputs_counted: Future[None] | None = None
            for batch in batches:
                if inputs_counted is not None:
                    inputs_counted.result()
                if self._fed:
                    values = {t: batch.feeds[t] for t in self._fed}
                    inputs_counted = counting.submit(values, batch, 0, batch.size)
                if self._tap is not None:
                    self._tap.run(batch, counting.submit)
                samples += batch.size
                if progress is not None:
                    progress(batch.size)
            if inputs_counted is not None:
                inputs_counted.result()
            if self._tap is not None:
                self._tap.close()
        if samples == 0:
            raise DataError("The calibration data is empty: it yields no batch.")
        return {t: a.result() for t, a in accumulators.items()}


def channel_magnitudes(
    model: ir.Model,
    axes: Mapping[str, int],
    batches: Iterable[Batch],
    *,
    runtime: Runtime = CPU,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return max |x| of each channel of some tensors, over a few batches.

    Values that are not finite are left out; a channel without any other has magnitude 0.

    Args:
        model: A prepared float model.
        axes: Tensor -> its channel axis; negative counts from the end.
        batches: The data, in batches that the model takes as they are.
        runtime: Where it runs.

    Returns:
        Tensor -> (channels,).
    """
    found = _ends_of(model, axes, batches, runtime)
    return {t: found.magnitudes(t, axis) for t, axis in axes.items()}


def channel_tops(
    model: ir.Model,
    axes: Mapping[str, int],
    batches: Iterable[Batch],
    *,
    runtime: Runtime = CPU,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return max x of each channel of some tensors; arguments and result are those of `channel_magnitudes`."""
    found = _ends_of(model, axes, batches, runtime)
    return {t: found.tops(t, axis) for t, axis in axes.items()}


def _ends_of(
    model: ir.Model, axes: Mapping[str, int], batches: Iterable[Batch], runtime: Runtime
) -> Ends:
    inputs = {v.name or "" for v in model.graph.inputs}
    computed = [t for t in axes if t not in inputs]
    found = Ends([*axes.items()])

    def look(values: Mapping[str, Array], *_: object) -> _Seen:
        for t in values:
            found.hear(t, values[t])
        return _Seen()

    tap = Tap(model, computed, runtime=runtime) if computed else None
    for batch in batches:
        look({t: batch.feeds[t] for t in axes if t in inputs})
        if tap is not None:
            tap.run(batch, look)
    return found


class Listener(Protocol):
    """Somebody who is told values while they are counted."""

    def hear(self, tensor: str, x: Array, batch: Batch, first: int) -> None:
        """Take values of a tensor: those of the samples of a batch from `first` on. They are valid until this returns."""


class Hearing(Listener, Protocol):
    """A listener that says which tensors it is to hear, counted or not."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors."""
        ...


class Ends:
    """The least and the largest value of each channel of some tensors, values that are not finite taken as 0.

    Args:
        wanted: Tensors, each with its channel axis; negative counts from the end. One tensor may have several.
    """

    def __init__(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Nothing is seen yet."""
        self._axes: dict[str, list[int]] = {}
        for tensor, axis in dict.fromkeys(wanted):
            self._axes.setdefault(tensor, []).append(axis)
        self._found: dict[tuple[str, int], tuple[Array, Array]] = {}

    def hear(self, tensor: str, x: Array, batch: Batch | None = None, first: int = 0) -> None:
        """Look at values of a tensor; whose they are does not matter."""
        axes = self._axes.get(tensor)
        if axes is None:
            return
        x = finite_or_zero(x)
        for axis in axes:
            others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
            low, high = x.min(others), x.max(others)
            before = self._found.get((tensor, axis))
            if before is not None:
                low, high = np.minimum(low, before[0]), np.maximum(high, before[1])
            self._found[tensor, axis] = low, high

    def holds(self, tensor: str, axis: int) -> bool:
        """Whether channels of a tensor were seen."""
        return (tensor, axis) in self._found

    def tops(self, tensor: str, axis: int) -> npt.NDArray[np.float64]:
        """Return the largest value of each channel (channels,)."""
        return np.asarray(self._found[tensor, axis][1], dtype=np.float64)

    def magnitudes(self, tensor: str, axis: int) -> npt.NDArray[np.float64]:
        """Return the largest magnitude of each channel (channels,)."""
        low, high = self._found[tensor, axis]
        return np.asarray(np.maximum(high, -low), dtype=np.float64)


class _Seen:
    """A reader that was done before it was asked."""

    def result(self) -> None:
        """Return at once."""


class _Counting:
    """Counts arrays on a thread of its own, in the order they come."""

    def __init__(
        self,
        accumulators: Mapping[str, Accumulator],
        pool: ThreadPoolExecutor,
        outputs: _Outputs,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._listeners = listeners
        self._accumulators = accumulators
        self._pool = pool
        self._outputs = outputs

    def submit(
        self, arrays: Mapping[str, Array], batch: Batch, first: int, size: int
    ) -> Future[None]:
        """Count arrays that hold `size` samples of a batch from `first` on."""
        return self._pool.submit(self._count, arrays, batch, first, size)

    def _count(self, arrays: Mapping[str, Array], batch: Batch, first: int, size: int) -> None:
        for tensor, x in arrays.items():
            counts = self._accumulators.get(tensor)
            bad = counts.add(x) if counts is not None else None
            if bad is not None:
                row = first + bad * size // x.size  # samples lie one behind the other
                self._outputs.check(batch, tensor, x.reshape(-1)[bad], row)
            for listener in self._listeners:
                listener.hear(tensor, x, batch, first)


class _Outputs:
    """The outputs of a model, looked at where an inner tensor is not finite."""

    def __init__(self, model: ir.Model, runtime: Runtime) -> None:
        self._model, self._runtime = model, runtime
        self._session: Any = None
        self._checked: Batch | None = None

    def check(self, batch: Batch, tensor: str, value: Any, row: int) -> None:
        """Raise unless all outputs for a batch are finite.

        Args:
            batch: The batch.
            tensor: A tensor that is not finite.
            value: What it holds.
            row: For which sample of the batch.

        Raises:
            DataError: One is not.
        """
        if self._checked is batch:
            return
        if self._session is None:
            names = [v.name or "" for v in self._model.graph.outputs]
            self._session = open_session(expose(self._model, names), runtime=self._runtime)
        names = [o.name for o in self._session.get_outputs() if o.type.startswith("tensor(")]
        feeds = {i.name: batch.feeds[i.name] for i in self._session.get_inputs()}
        for name, x in zip(names, infer(self._session, names, feeds), strict=True):
            if np.asarray(x).dtype.kind == "f" and not np.isfinite(x).all():
                where = batch.sample(row)
                seen = (
                    f"The float model's output '{name}' holds {value} for {where}."
                    if tensor == name
                    else f"Tensor '{tensor}' holds {value} for {where}, and the float model's output '{name}' is not "
                    "finite either."
                )
                raise DataError(
                    f"{seen} A model has to give finite outputs for its calibration data."
                )
        self._checked = batch
